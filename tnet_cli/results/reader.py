"""A run as it lies on disk: whatever is there, finished or not, is read; whatever is damaged is left out.

Nothing here trusts a run's folder: names may be hostile, tables half written by another program, slides moved, and a
pipe in place of a file, which would never end, is left out.
"""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.inputs.names import OVERLAY, REGIONS, RESULT
from tnet_cli.modelfile.card import CalibrationError, calibration_words
from tnet_cli.results.layout import PREDICTIONS, RUN_RECORD, SLIDES, is_finished
from tnet_cli.results.result import LOOKED_AT


class _Details(Mapping[str, Any]):
    """A document that is read when something in it is asked for: of thousands of slides the table tells most."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _read(self) -> dict[str, Any]:
        return _document(self._path)

    def __getitem__(self, key: str) -> Any:
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """One slide of a run.

    Attributes:
        slide: Its name in the run.
        row: Its row of ``predictions.csv``, or the same keys of its ``result.json``; empty cells are None.
        details: Its ``result.json``; empty where there is none.
        folder: Of its results, inside the run's folder; None where there is none, or its name leads elsewhere.
        overlay: Its overlay, where there is one.
    """

    slide: str
    row: dict[str, Any]
    details: Mapping[str, Any]
    folder: Path | None = None
    overlay: Path | None = None

    @property
    def path(self) -> str:
        """The slide's file, as the user gave it."""
        return self.text("path") or ""

    def text(self, key: str) -> str | None:
        """Return a value as text, or None where there is nothing."""
        value = self.row[key] if key in self.row else self.details.get(key)
        return None if value in (None, "") else str(value)

    @property
    def was_looked_at(self) -> bool:
        """Whether the network has run on it."""
        return self.text("status") in LOOKED_AT

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why its answer does not count, in sentences where these are kept; none where it counts."""
        if self.text("status") != "abstained":
            return ()
        checks = self.details.get("checks")
        failed = [check for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []
        sentences = [str(check["sentence"]) for check in failed if check.get("failed") and check.get("sentence")]
        return tuple(sentences) or tuple((self.text("qc") or "it does not say why").split(";"))

    @property
    def calibration(self) -> str:
        """How far its probabilities can be relied on, in a few words."""
        try:
            return calibration_words(CalibrationError.model_validate(self.details.get("calibration_error")))
        except ValueError:
            return calibration_words(None)

    def number(self, key: str) -> float | None:
        """Return a value as a finite number, or None where there is none."""
        return finite(self.text(key))


@dataclass(frozen=True, slots=True)
class RunOnDisk:
    """A run's folder.

    Attributes:
        record: ``run.json``, empty when there is none yet.
        slides: In the table's order; slides that have ended without a row come last.
        class_names: The model's classes, in its order.
    """

    path: Path
    record: dict[str, Any]
    slides: tuple[SlideRecord, ...]
    class_names: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        """Tell whether the run came to its end."""
        return is_finished(self.record)


def read_run(path: Path) -> RunOnDisk:
    """Read what a run has written so far.

    Raises:
        UsageError: the folder is none, or holds no run.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: is not a folder; expected the folder of a run, the --out of tnet classify")
    columns, rows = _table(path / PREDICTIONS)
    record = _document(path / RUN_RECORD)
    folders = _folders(path / SLIDES)
    slides = [_slide(path, row, folders) for row in rows]
    # Slides that have ended without a row, because the run was cut off before it was written, come last.
    unlisted = [_slide(path, {"slide": name}, folders) for name in sorted(set(folders) - {s.slide for s in slides})]
    slides.extend(replace(slide, row={}) for slide in unlisted if slide.details.get("status"))
    if not slides and not record and not columns:
        raise UsageError(f"{path}: holds no run; expected {PREDICTIONS} or {RUN_RECORD}, as tnet classify writes them")
    keys = columns or (list(slides[0].details) if slides else [])
    return RunOnDisk(path, record, tuple(slides), tuple(k.removeprefix("prob_") for k in keys if k.startswith("prob_")))


def finite(value: object) -> float | None:
    """Return a value as a finite number, or None where it is none."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_regions(slide: SlideRecord) -> list[dict[str, str]]:
    """Return the rows of a slide's ``regions.csv``; none where there is no such file."""
    return _table(slide.folder / REGIONS)[1] if slide.folder else []


def _folders(slides: Path) -> dict[str, list[str]]:
    """List the folders of slides, each with the names of its files, by one walk that follows no link."""
    above = len(str(slides)) + 1
    return {folder[above:].replace(os.sep, "/"): files for folder, _, files in os.walk(str(slides)) if files}


def _slide(run: Path, row: dict[str, str], folders: dict[str, list[str]]) -> SlideRecord:
    """Return what is known of a row's slide; its folder is one of those there are, wherever its name would lead."""
    name = row.get("slide") or PurePosixPath(row.get("path") or "").stem or "unnamed"
    files = folders.get(name)
    if files is None:
        return SlideRecord(name, dict(row), {})
    folder = run / SLIDES / name
    details = _Details(folder / RESULT) if RESULT in files else {}
    overlay = folder / OVERLAY
    return SlideRecord(name, dict(row), details, folder, overlay if OVERLAY in files and overlay.is_file() else None)


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.is_file():
        return [], []
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{key: value for key, value in row.items() if isinstance(key, str)} for row in reader]
            return list(reader.fieldnames or []), rows
    except (OSError, csv.Error):
        return [], []


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes().decode(errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
