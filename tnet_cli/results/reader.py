"""A run as it lies on disk: whatever is there, finished or not, is read; whatever is damaged is left out.

Nothing here trusts a run's folder: names may be hostile, tables half written by another program, slides moved.
"""

import csv
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.inputs.names import OVERLAY, REGIONS, RESULT
from tnet_cli.results.layout import PREDICTIONS, RUN_RECORD, SLIDES, is_finished


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """One slide of a run.

    Attributes:
        slide: Its name in the run.
        row: Its row of ``predictions.csv``, or the same keys of its ``result.json``; empty cells are None.
        details: Its ``result.json``; empty where there is none.
        folder: Of its results, inside the run's folder; None when its name leads elsewhere.
    """

    slide: str
    row: dict[str, Any]
    details: dict[str, Any]
    folder: Path | None

    @property
    def path(self) -> str:
        """The slide's file, as the user gave it."""
        return self.text("path") or ""

    @property
    def overlay(self) -> Path | None:
        """Its overlay, where there is one."""
        path = self.folder / OVERLAY if self.folder else None
        return path if path and path.is_file() else None

    def text(self, key: str) -> str | None:
        """Return a value as text, or None where there is nothing."""
        value = self.row.get(key)
        value = self.details.get(key) if value in (None, "") else value
        return None if value in (None, "") else str(value)

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
    slides = [_slide(path, row) for row in rows]
    listed = {slide.folder for slide in slides}
    slides.extend(_slides_without_row(path, listed))
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


def _slide(run: Path, row: dict[str, str]) -> SlideRecord:
    name = row.get("slide") or PurePosixPath(row.get("path") or "").stem or "unnamed"
    folder = _folder_inside(run, name)
    return SlideRecord(name, dict(row), _document(folder / RESULT) if folder else {}, folder)


def _folder_inside(run: Path, name: str) -> Path | None:
    """Return the folder of a slide's results, or None for a name that leads out of the run."""
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name or name.startswith("/") or ".." in parts:
        return None
    folder = run / SLIDES / name
    try:
        return folder if folder.resolve().is_relative_to((run / SLIDES).resolve()) else None
    except OSError:
        return None


def _slides_without_row(run: Path, listed: Collection[Path | None]) -> Iterator[SlideRecord]:
    """Find results whose row is not in the table, because the run was cut off before it was written."""
    for file in sorted((run / SLIDES).rglob(RESULT)):
        details = {} if file.parent in listed else _document(file)
        if details.get("status"):
            name = file.parent.relative_to(run / SLIDES).as_posix()
            yield SlideRecord(name, {}, details, run / SLIDES / name)


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{key: value for key, value in row.items() if isinstance(key, str)} for row in reader]
            return list(reader.fieldnames or []), rows
    except (OSError, csv.Error):
        return [], []


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
