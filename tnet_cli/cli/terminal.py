"""Two streams: answers on stdout, everything else on stderr."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

COLUMN_WHEN_PIPED = 200


def answer(text: str) -> None:
    """Print one line of the answer on stdout, never wrapped and never coloured."""
    Console(soft_wrap=True, highlight=False, markup=False, color_system=None).print(text)


def answer_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of ``--json`` on stdout."""
    answer(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Print a line that is not part of the answer on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


@dataclass(slots=True)
class SlideProgress:
    """The bar of ``tnet classify``: slides done, current processing level, regions looked at."""

    bar: Progress
    task: TaskID
    regions: int = 0

    def start(self, slides: int, intended_use: str) -> None:
        """Set the number of slides; say what the model is for."""
        self.bar.update(self.task, total=slides)
        self.bar.console.print(intended_use, style="dim", highlight=False, markup=False)

    def look(self, processing_level: int, patches: int) -> None:
        """Count the regions of one batch."""
        self.regions += patches
        self.bar.update(self.task, description=f"processing level {processing_level}, {self.regions} regions looked at")

    def reduce(self, done: int, total: int) -> None:
        """Show how far the reduction of a slide without a pyramid is."""
        self.bar.update(
            self.task, description=f"no pyramid in the file: reducing it once, {100 * done // max(1, total)} %"
        )

    def slide_done(self) -> None:
        """Move the bar on by one slide."""
        self.bar.advance(self.task)


@contextmanager
def slide_progress() -> Iterator[SlideProgress]:
    """Show progress on stderr while the block runs; leaves nothing behind."""
    columns = (
        TextColumn("slides"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield SlideProgress(bar, bar.add_task("opening", total=None))


@contextmanager
def counting(what: str) -> Iterator["Counter"]:
    """Show a plain counter on stderr while the block runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Counter(bar, bar.add_task(what, total=None))


@dataclass(slots=True)
class Counter:
    """A bar that is told how many of how many are done."""

    bar: Progress
    task: TaskID

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        self.bar.update(self.task, completed=done, total=total)
