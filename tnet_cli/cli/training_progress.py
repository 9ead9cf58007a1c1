"""The progress of ``tnet train`` on stderr: a bar in a terminal, lines in a log file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tnet_cli.cli.terminal import note_above
from tnet_cli.inference.progress import Progress, StepReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 30


class TrainingProgress(Progress):
    """One bar a stage, with its steps, the time left, and the latest metrics.

    Args:
        console: stderr.
        bar: Where the bars are shown.
    """

    def __init__(self, console: "Console", bar: "Bar") -> None:
        self._console = console
        self._bar = bar
        self._stage = ""
        self._texts: dict[str, str] = {}
        self._task = bar.add_task("reading the slides", total=None, metrics="")
        self._last_line = time.monotonic()

    def step(self, report: StepReport) -> None:
        """Show the metrics of some steps."""
        if not report.is_validation and report.stage != self._stage:
            self._stage = report.stage
            self._texts.clear()
            self._bar.reset(self._task, description=report.stage, total=report.steps)
        self._texts[report.stage] = describe_metrics(report)
        if not report.is_validation:
            self._bar.update(self._task, completed=report.step)
        self._bar.update(self._task, metrics="; ".join(self._texts.values()))
        if not self._console.is_terminal:
            self._line(report)

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        note_above(self._bar, text)

    def _line(self, report: StepReport) -> None:
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or report.step == report.steps:
            self._last_line = now
            self.note(f"{report.stage} {report.step}/{report.steps}: {describe_metrics(report)}")


def describe_metrics(report: StepReport) -> str:
    """Return the loss and the accuracy of a report; the loss is its total, or the sum of its terms."""
    terms = {name: value for name, value in report.terms.items() if "accuracy" not in name and name != "baseline"}
    loss = terms.get("total", terms.get("loss", sum(terms.values())))
    parts = [f"loss {loss:.3f}"] if terms else []
    parts += [f"{name} {value:.3f}" for name, value in report.terms.items() if "accuracy" in name]
    text = ", ".join(parts)
    return f"validation {text}" if report.is_validation else text


@contextmanager
def training_progress() -> Iterator[TrainingProgress]:
    """Show progress on stderr while the block runs; bars leave nothing behind."""
    # Here and not above: rich would double the time `tnet --help` takes.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield TrainingProgress(console, bar)
