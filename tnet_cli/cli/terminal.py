"""Two streams: answers on stdout, everything else on stderr."""

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tnet_cli.errors import printable
from tnet_cli.inference.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from tnet_cli.results.result import SlideRow

LINE_END = "\n"

OnAnswer = Callable[["SlideRow", str, Path | None], None]
"""Told of a slide's row as soon as it is there, how far its probability can be relied on, and where its overlay is."""


class _Lenient(io.FileIO):
    """What lies beneath a standard stream, and drops what cannot be written: no run ends because nobody reads it.

    Attributes:
        problem: Why the rest was dropped; None when all was written.
    """

    problem: OSError | None = None

    def write(self, data: Any) -> int:
        if self.problem is None:
            try:
                return super().write(data)
            except OSError as exc:
                self.problem = exc
        return memoryview(data).nbytes


@contextmanager
def lenient_streams() -> Iterator[Callable[[], OSError | None]]:
    """Write each line of the standard streams as it comes while the block runs, and drop what nobody takes.

    Yields:
        What tells why the answer is not whole. Whoever closes the pipe it is read from has had enough, so that is no
        reason.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # A standard stream was closed, and the next file would have taken its number.
    os.close(descriptor)
    replaced = {"stdout": sys.stdout, "stderr": sys.stderr}
    raw = {name: _Lenient(number, "w", closefd=False) for number, name in enumerate(replaced, start=1)}
    for name, stream in replaced.items():
        if stream is getattr(sys, f"__{name}__"):
            encoding, errors = (stream.encoding, stream.errors) if stream else ("utf-8", "backslashreplace")
            buffered = io.BufferedWriter(raw[name])
            setattr(sys, name, io.TextIOWrapper(buffered, encoding=encoding, errors=errors, line_buffering=True))

    def problem() -> OSError | None:
        sys.stdout.flush()
        found = raw["stdout"].problem
        return None if found is None or found.errno == errno.EPIPE else found

    try:
        yield problem
    finally:
        for name, stream in replaced.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)


def answer(text: str) -> None:
    """Print one line of the answer on stdout."""
    sys.stdout.write(f"{printable(text)}\n")


def answer_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of ``--json`` on stdout."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(f"{printable(text, keep=LINE_END)}\n")


def note(text: str) -> None:
    """Print a line that is not part of the answer on stderr."""
    sys.stderr.write(f"{printable(text)}\n")


def note_above(bar: "Bar", text: str) -> None:
    """Print a line above a bar that is shown on stderr."""
    bar.console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True)


class SlideProgress(Progress):
    """The bar of ``tnet classify``: slides done, current processing level, regions looked at.

    Args:
        bar: Where it is shown.
        task: The line of the bar.
        on_answer: Prints a slide's answer; None where it is not wanted as it comes.
    """

    def __init__(self, bar: "Bar", task: "TaskID", on_answer: OnAnswer | None = None) -> None:
        self._bar = bar
        self._task = task
        self._on_answer = on_answer
        self._regions = 0

    def start(self, slides: int, introduction: str) -> None:
        """Set the number of slides; say which model it is and what it is for."""
        self._bar.update(self._task, total=slides)
        note_above(self._bar, introduction)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        note_above(self._bar, text)

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

    def answer(self, row: "SlideRow", calibration: str, overlay: Path | None) -> None:
        """Print the answer."""
        if self._on_answer is not None:
            self._on_answer(row, calibration, overlay)


@contextmanager
def slide_progress(on_answer: OnAnswer | None = None) -> Iterator[SlideProgress]:
    """Show progress on stderr while the block runs; leaves nothing behind.

    Args:
        on_answer: Prints a slide's answer as soon as it is there.
    """
    with _bar("slides", "{task.description}") as bar:
        yield SlideProgress(bar, bar.add_task("opening", total=None), on_answer)


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
    # What goes to stdout meanwhile is put above the bar only where both are on one terminal.
    one_terminal = sys.stdout.isatty()
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=one_terminal) as bar:
        yield bar
