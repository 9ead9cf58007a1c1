"""A run's folder: what its files are called, what "finished" means, and how they are written, whole or not at all.

Besides what a user reads there is ``.tnet``: the ledger, the lock, and drafts of what is being written.
"""

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.files import folder_written_whole, table_text, write_bytes_whole, write_json, write_text_whole
from tnet_cli.inputs.names import GEOJSON, OVERLAY, REGIONS, RESULT, SLIDE_FILES
from tnet_cli.report.geojson import regions_geojson
from tnet_cli.results.result import SlideResult, SlideRow, prediction_columns, region_row

RUN_RECORD = "run.json"
PREDICTIONS = "predictions.csv"
FAILURES = "failures.csv"
REPORT = "report.html"
SLIDES = "slides"
"""Holds a folder for each slide, with ``inputs.names.SLIDE_FILES``."""


def is_finished(record: Mapping[str, Any]) -> bool:
    """Tell from ``run.json`` whether a run came to its end: it is there, and tells when, only then."""
    return bool(record.get("finished"))


class RunDirectory:
    """The folder a run writes into. Nothing in it that tnet did not write is touched.

    Args:
        path: The folder; made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path / ".tnet"
        self._drafts = self._state / "drafts"

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is."""
        return self._state / "ledger.jsonl"

    @property
    def lock_path(self) -> Path:
        """Where the lock is."""
        return self._state / "lock"

    @property
    def holder_path(self) -> Path:
        """Where it is written who holds the lock, or held it last."""
        return self._state / "holder.json"

    @property
    def has_ledger(self) -> bool:
        """Whether a run has kept rows here."""
        return self.ledger_path.is_file()

    def make(self) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be made or written.
        """
        self._drafts.mkdir(parents=True, exist_ok=True)

    def clear_drafts(self) -> None:
        """Remove what a run that was killed had begun to write; only for whoever holds the lock."""
        for left in self._drafts.iterdir():
            shutil.rmtree(left, ignore_errors=True)

    def refuse_a_file(self) -> None:
        """Refuse a path that cannot be a folder.

        Raises:
            UsageError: it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file; give a folder with --out")

    def refuse_if_it_holds_another_run(self, paths: Iterable[str]) -> None:
        """Protect the rows of an earlier run that this one would not write again.

        Raises:
            UsageError: the folder's table lists slides that are not among ``paths``.
        """
        table = self.path / PREDICTIONS
        if not table.exists():
            return
        with table.open(newline="", encoding="utf-8") as file:
            earlier = {row.get("path") or "" for row in csv.DictReader(file)}
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

    def write_slide(self, result: SlideResult, overlay: bytes | None) -> SlideRow:
        """Write one slide's files: a new folder appears with all of them; in an old one they are replaced.

        Args:
            overlay: Its file, or None for none.

        Returns:
            The slide's row, with the files that were written.

        Raises:
            OSError: the disk is full or gone.
        """
        folder = self.slide_folder(result.slide)
        with folder_written_whole(folder, drafts=self._drafts, names=SLIDE_FILES) as draft:
            _write_files(draft, result, overlay)
            files = {path.name: path.stat().st_size for path in draft.iterdir()}
        return SlideRow(values=result.row(), notes=result.notes, files=files)

    def write_predictions(self, rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> None:
        """Write ``predictions.csv``: one row for every input that has ended, in input order."""
        write_text_whole(self.path / PREDICTIONS, table_text(prediction_columns(class_names), rows))

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


def _write_files(folder: Path, result: SlideResult, overlay: bytes | None) -> None:
    details = result.row() | {
        "logits": list(result.logits),
        "width": result.size.width if result.size else None,
        "height": result.size.height if result.size else None,
        "bytes_read": result.bytes_read,
        "notes": list(result.notes),
        "doubts": [asdict(doubt) for doubt in result.doubts],
    }
    write_json(folder / RESULT, details)
    if result.status == "ok":
        rows = [region_row(region, result.class_names) for region in result.regions]
        write_text_whole(folder / REGIONS, table_text(list(rows[0]), rows))
        write_json(folder / GEOJSON, _geojson(result))
    if overlay is not None:
        write_bytes_whole(folder / OVERLAY, overlay)


def _geojson(result: SlideResult) -> dict[str, Any]:
    origin = (result.bounds.x, result.bounds.y) if result.bounds else (0, 0)
    return regions_geojson(result.regions, result.class_names, origin)
