"""Two streams: answers on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tnet_cli.inference.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


def answer(text: str) -> None:
    """Print one line of the answer on stdout."""
    sys.stdout.write(f"{text}\n")


def answer_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of ``--json`` on stdout."""
    answer(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Print a line that is not part of the answer on stderr."""
    sys.stderr.write(f"{text}\n")


class SlideProgress(Progress):
    """The bar of ``tnet classify``: slides done, current processing level, regions looked at.

    Args:
        bar: Where it is shown.
        task: The line of the bar.
    """

    def __init__(self, bar: "Bar", task: "TaskID") -> None:
        self._bar = bar
        self._task = task
        self._regions = 0

    def start(self, slides: int, introduction: str) -> None:
        """Set the number of slides; say which model it is and what it is for."""
        self._bar.update(self._task, total=slides)
        self._bar.console.print(introduction, highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def look(self, processing_level: int, patches: int) -> None:
        """Count the regions of one batch."""
        self._regions += patches
        text = f"processing level {processing_level}, {self._regions} regions looked at"
        self._bar.update(self._task, description=text)

    def reduce(self, done: int, total: int) -> None:
        """Show how far the reduction of a slide without a pyramid is."""
        text = f"no pyramid in the file: reducing it once, {100 * done // max(1, total)} %"
        self._bar.update(self._task, description=text)

    def slide_done(self, row: Mapping[str, Any]) -> None:  # noqa: ARG002 (the bar counts)
        """Move the bar on by one slide."""
        self._bar.advance(self._task)


@contextmanager
def slide_progress() -> Iterator[SlideProgress]:
    """Show progress on stderr while the block runs; leaves nothing behind."""
    with _bar("slides", "{task.description}") as bar:
        yield SlideProgress(bar, bar.add_task("opening", total=None))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how many of how many are done, while the block runs."""
    with _bar(what) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show


@contextmanager
def _bar(title: str, *texts: str) -> Iterator["Bar"]:
    # Here and not above: rich would double the time `tnet --help` takes.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn(title), MofNCompleteColumn(), BarColumn(), *map(TextColumn, texts), TimeElapsedColumn()]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar
