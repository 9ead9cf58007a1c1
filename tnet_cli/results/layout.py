"""A run's folder: what its files are called, what "finished" means, and how they are written, whole or not at all.

Besides what a user reads there is ``.tnet``: the ledger, the lock, and drafts of what is being written.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.files import (
    STATE,
    FolderKind,
    claim,
    held_by_command,
    is_sha256,
    json_text,
    read_record,
    remove_drafts,
    remove_folder_drafts,
    table_text,
    write_folder_whole,
    write_json,
    write_text_whole,
)
from tnet_cli.inputs.names import GEOJSON, OVERLAY, REGIONS, RESULT, SLIDE_FILES
from tnet_cli.report.geojson import regions_geojson
from tnet_cli.results.result import SlideResult, SlideRow, prediction_columns, region_row

RUN_RECORD = "run.json"
PREDICTIONS = "predictions.csv"
FAILURES = "failures.csv"
PATIENTS = "patients.csv"
REPORT = "report.html"
SLIDES = "slides"
"""Holds a folder for each slide, with ``inputs.names.SLIDE_FILES``."""

LEDGER, LOCK, HOLDER, DRAFTS = f"{STATE}/ledger.jsonl", f"{STATE}/lock", f"{STATE}/holder.json", f"{STATE}/drafts"
OF_EVERY_RUN = (RUN_RECORD, PREDICTIONS, LEDGER, LOCK, HOLDER, f"{DRAFTS}/")
"""What every run with rows and a ledger writes, whatever its command; of a folder ``/`` is the end."""


def _wrote_unclaimed(folder: Path) -> bool:
    record, holder = read_record(folder / RUN_RECORD), read_record(folder / HOLDER)
    is_record = {"version", "finished", "model", "intended_use", "options", "machine", "slides"} <= record.keys()
    model = record.get("model")
    is_of_a_model = isinstance(model, dict) and is_sha256(model.get("sha256"))
    return (is_record and is_of_a_model) or (holder.keys() == {"process", "host", "since"} and not record)


CLASSIFICATION = FolderKind("classify", (*OF_EVERY_RUN, FAILURES, PATIENTS, REPORT, f"{SLIDES}/"), _wrote_unclaimed)


def is_finished(record: Mapping[str, Any]) -> bool:
    """Tell from ``run.json`` whether a run came to its end: it is there, and tells when, only then."""
    return bool(record.get("finished"))


class RunDirectory:
    """The folder a run writes into. Nothing in it that tnet did not write is touched.

    Args:
        path: The folder; made on the first write.
        kind: What the run writes there.
    """

    def __init__(self, path: Path, kind: FolderKind = CLASSIFICATION) -> None:
        self.path = path
        self.kind = kind
        self._drafts = path / DRAFTS

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is."""
        return self.path / LEDGER

    @property
    def lock_path(self) -> Path:
        """Where the lock is."""
        return self.path / LOCK

    @property
    def holder_path(self) -> Path:
        """Where it is written who holds the lock, or held it last."""
        return self.path / HOLDER

    @property
    def has_ledger(self) -> bool:
        """Whether a run has kept rows here."""
        return self.ledger_path.is_file()

    def check(self) -> bool:
        """Refuse a folder that is not this command's and cannot become it, before anything else is done.

        Returns:
            Whether it is the command's.

        Raises:
            UsageError: see ``files.held_by_command``.
        """
        return held_by_command(self.path, self.kind)

    def make(self) -> None:
        """Make the folder, and claim it for the command.

        Raises:
            UsageError: it is not this command's and cannot become it, or cannot be written.
            OSError: it cannot be written.
        """
        claim(self.path, self.kind)
        self._drafts.mkdir(exist_ok=True)

    def clear_drafts(self) -> None:
        """Remove what a run that was killed had begun to write; only for whoever holds the lock."""
        remove_folder_drafts(self._drafts)
        for name in self.kind.names:
            if not name.endswith("/"):
                remove_drafts(self.path / name)

    def refuse_if_it_holds_another_run(self, paths: Iterable[str]) -> None:
        """Protect the rows of an earlier run that this one would not write again, where only the table tells of them.

        Raises:
            UsageError: the folder's table lists slides that are not among ``paths``, or is no table any more.
        """
        table = self.path / PREDICTIONS
        try:
            with table.open(newline="", encoding="utf-8") as file:
                earlier = {row.get("path") or "" for row in csv.DictReader(file)}
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, csv.Error) as exc:
            raise UsageError(
                f"{table}: is not the table that tnet {self.kind.command} wrote there ({exc}); "
                "give another folder with --out, or replace everything in this one with --overwrite"
            ) from exc
        refuse_to_lose(self.path, sorted(earlier - set(paths)))

    def slide_folder(self, name: str) -> Path:
        """Return the folder of one slide's results."""
        return self.path / SLIDES / name

    def overlay_of(self, row: SlideRow) -> Path | None:
        """Return where a slide's overlay is, or None where there is none."""
        return self.slide_folder(row.values["slide"]) / OVERLAY if OVERLAY in row.files else None

    def has_files(self, row: SlideRow) -> bool:
        """Whether a slide's files are there, as long as they were."""
        folder = self.slide_folder(row.values["slide"])
        try:
            return all((folder / name).stat().st_size == size for name, size in row.files.items())
        except OSError:
            return False

    def write_slide(self, result: SlideResult, pictures: Mapping[str, bytes]) -> SlideRow:
        """Write one slide's files: a new folder appears with all of them; in an old one they are replaced.

        Args:
            pictures: Name of a file, of ``inputs.names.SLIDE_FILES``, -> its bytes.

        Returns:
            The slide's row, with the files that were written.

        Raises:
            OSError: the disk is full or gone.
        """
        contents = _contents(result) | dict(pictures)
        folder = self.slide_folder(result.slide)
        write_folder_whole(folder, contents, drafts=self._drafts, within=self.path, names=SLIDE_FILES)
        files = {name: len(content) for name, content in contents.items()}
        kept = {} if result.score is None else {"score": result.score.words()}
        return SlideRow(values=result.row(), reasons=result.reasons, files=files, kept=kept)

    def write_predictions(self, rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> None:
        """Write ``predictions.csv``: one row for every input that has ended, in input order."""
        write_text_whole(self.path / PREDICTIONS, table_text(prediction_columns(class_names, rows), rows))

    def write_patients(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Write ``patients.csv``; without rows one that an earlier run wrote is removed."""
        table = self.path / PATIENTS
        if rows:
            write_text_whole(table, table_text(columns, rows))
        elif table.is_file() and table.read_text(errors="replace").startswith("patient,status,prediction,"):
            table.unlink()

    def write_failures(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Write ``failures.csv``: a manifest of the slides that failed, with the reason."""
        write_text_whole(self.path / FAILURES, table_text(columns, rows))

    def write_run(self, record: dict[str, Any]) -> None:
        """Write ``run.json``: what the run was."""
        write_json(self.path / RUN_RECORD, record)


def refuse_to_lose(out: Path, lost: Sequence[str]) -> None:
    """Protect the rows of slides that a run would not make again.

    Raises:
        UsageError: there are some.
    """
    if lost:
        raise UsageError(
            f"{out}: holds the results of another run ({len(lost)} slides not in this one, such as {lost[0]}); "
            "give another folder with --out, or replace them with --overwrite"
        )


def _contents(result: SlideResult) -> dict[str, bytes]:
    """Return what is written of a slide: name of a file -> its bytes."""
    details = result.row() | {
        "logits": list(result.logits),
        **({} if result.score is None else {"score": asdict(result.score)}),
        "width": result.size.width if result.size else None,
        "height": result.size.height if result.size else None,
        "bytes_read": result.bytes_read,
        "checks": [asdict(check) | ({} if check.failed else {"sentence": None}) for check in result.checks],
        "calibration_error": result.calibration_error and result.calibration_error.model_dump(),
        "notes": list(result.notes),
        "doubts": [asdict(doubt) for doubt in result.doubts],
    }
    texts = {RESULT: json_text(details)}
    if result.was_looked_at:
        rows = [region_row(region, result.class_names) for region in result.regions]
        texts |= {REGIONS: table_text(list(rows[0]), rows), GEOJSON: json_text(_geojson(result))}
    return {name: text.encode() for name, text in texts.items()}


def _geojson(result: SlideResult) -> dict[str, Any]:
    origin = (result.bounds.x, result.bounds.y) if result.bounds else (0, 0)
    return regions_geojson(result.regions, result.class_names, origin, reasons=result.reasons)
