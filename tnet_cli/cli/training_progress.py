"""The progress of ``tnet train`` on stderr: a bar in a terminal, lines in a log file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 30


class Report(Protocol):
    """What is shown of a ``StepReport``."""

    @property
    def stage(self) -> str: ...  # noqa: D102
    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def terms(self) -> dict[str, float]: ...  # noqa: D102


class TrainingProgress:
    """One bar a stage, with its steps, the time left, and the latest figures.

    Args:
        console: stderr.
        bar: Where the bars are shown.
    """

    def __init__(self, console: "Console", bar: "Progress") -> None:
        self._console = console
        self._bar = bar
        self._stage = ""
        self._texts: dict[str, str] = {}
        self._task = bar.add_task("reading the slides", total=None, figures="")
        self._last_line = time.monotonic()

    def step(self, report: Report) -> None:
        """Show the figures of some steps."""
        stage = report.stage.removeprefix("validation ")
        if stage == report.stage and stage != self._stage:
            self._stage = stage
            self._texts.clear()
            self._bar.reset(self._task, description=stage, total=report.steps)
        self._texts[report.stage] = figures(report)
        if stage == report.stage:
            self._bar.update(self._task, completed=report.step)
        self._bar.update(self._task, figures="; ".join(self._texts.values()))
        if not self._console.is_terminal:
            self._line(report)

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _line(self, report: Report) -> None:
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or report.step == report.steps:
            self._last_line = now
            self.note(f"{report.stage} {report.step}/{report.steps}: {figures(report)}")


def figures(report: Report) -> str:
    """Return the loss and the accuracy of a report; the loss is its total, or the sum of its terms."""
    terms = {name: value for name, value in report.terms.items() if "accuracy" not in name and name != "baseline"}
    loss = terms.get("total", terms.get("loss", sum(terms.values())))
    parts = [f"loss {loss:.3f}"] if terms else []
    parts += [f"{name} {value:.3f}" for name, value in report.terms.items() if "accuracy" in name]
    text = ", ".join(parts)
    return f"validation {text}" if report.stage.startswith("validation ") else text


@contextmanager
def training_progress() -> Iterator[TrainingProgress]:
    """Show progress on stderr while the block runs; bars leave nothing behind."""
    # Here and not above: rich would double the time `tnet --help` takes.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield TrainingProgress(console, bar)
