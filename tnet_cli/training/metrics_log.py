"""The metrics of a run while it goes: ``metrics.csv``, one row a report, ``curves.png``, and TensorBoard if installed.

The table is written whole with every report, a torn last row is dropped when it is opened again, and a resumed run
that reports a step again takes the place of the rows from that step on.
"""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.files import table_text, write_text_whole, written_whole
from tnet_cli.inference.progress import VALIDATION, Progress, StepReport
from tnet_cli.report.colours import OKABE_ITO
from tnet_cli.training.folder import BOARD, CURVES, METRICS

WIDTH_IN, HEIGHT_IN, DPI = 9, 6, 130
# Okabe and Ito's colours, which colour-blind readers can tell apart, and three of Tol's: as many as there are terms.
COLOURS = (*OKABE_ITO.values(), "#999999", "#882255", "#332288", "#999933")
Curve = list[tuple[float, float]]

FIXED_COLUMNS = ("time", "stage", "step", "steps")


class MetricsLog(Progress):
    """``metrics.csv``: time, stage, step, steps, and a column for each term that any report has.

    Args:
        folder: Of the run; a table that is there goes on.
        title: Of the curves, which are drawn after each stage; None for no curves.
        other: Is told everything too.
    """

    def __init__(self, folder: Path, title: str | None = None, other: Progress | None = None) -> None:
        self._folder, self._title, self._other = folder, title, other or Progress()
        self._rows = _read_rows(folder / METRICS)
        self._stage: str | None = None
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / BOARD)

    def note(self, text: str) -> None:
        """Pass a sentence on."""
        self._other.note(text)

    def step(self, report: StepReport) -> None:
        """Write a report, in the place of what an interrupted run wrote of the same steps and later ones."""
        if self._stage not in {None, report.trained_stage}:
            self.draw()
        self._stage = report.trained_stage
        same = (row["stage"] == report.stage and int(row["step"]) >= report.step for row in self._rows)
        del self._rows[next((number for number, is_same in enumerate(same) if is_same), len(self._rows)) :]
        row = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": report.stage,
            "step": str(report.step),
            "steps": str(report.steps),
        }
        self._rows.append(row | {term: f"{value:.6g}" for term, value in report.terms.items()})
        columns = dict.fromkeys(column for row in self._rows for column in row)
        write_text_whole(self._folder / METRICS, table_text(list(columns), self._rows))
        if self._board is not None:
            for term, value in report.terms.items():
                self._board.add_scalar(f"{report.stage}/{term}", value, report.step)
        self._other.step(report)

    def reports(self) -> list[StepReport]:
        """Return everything the table holds, in order."""
        return [_report_of(row) for row in self._rows]

    def draw(self) -> None:
        """Draw what has been reported."""
        if self._title is not None:
            draw_curves(self.reports(), self._folder / CURVES, self._title)

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table that may end in the middle of a row.

    Raises:
        UsageError: it is no table of metrics.
    """
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8", errors="ignore")  # a torn row may end in half a character
        table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        columns, read = set(table.fieldnames or ()), list(table)
    except (OSError, csv.Error) as exc:
        raise UsageError(f"{path}: cannot be read ({exc}); move it away to go on without") from exc
    if columns and not set(FIXED_COLUMNS) <= columns:
        raise UsageError(
            f"{path}: is not the table of metrics that a run goes on with, which begins with "
            f"{', '.join(FIXED_COLUMNS)}; move it away to go on without"
        )
    rows = []
    for row in read:
        given = {column: value for column, value in row.items() if column and value}
        with suppress(ValueError):  # of a row that was torn
            if set(FIXED_COLUMNS) <= set(given) and None not in row:
                _report_of(given)
                rows.append(given)
    return rows


def _report_of(row: dict[str, str]) -> StepReport:
    return StepReport(
        stage=row["stage"],
        step=int(row["step"]),
        steps=int(row["steps"]),
        terms={term: float(value) for term, value in row.items() if term not in FIXED_COLUMNS},
    )


def draw_curves(reports: Sequence[StepReport], path: Path, title: str) -> None:
    """Draw what the reports, in the order they were made, say into a PNG of two panels."""
    # matplotlib takes most of a second to import. Figure alone draws without any window system.
    from matplotlib.figure import Figure

    starts = _starts(reports)
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    curves = _curves(reports, starts)
    colours: dict[str, str] = {}
    for name, pieces in sorted(curves.items()):
        panel = lower if "accuracy" in name else upper
        is_validation = name.startswith(VALIDATION)
        colour = colours.setdefault(name.removeprefix(VALIDATION), COLOURS[len(colours) % len(COLOURS)])
        for number, piece in enumerate(pieces):
            panel.plot(
                *zip(*piece, strict=True),
                color=colour,
                linestyle="--" if is_validation else "-",
                marker="o" if is_validation or len(piece) == 1 else None,
                markersize=4,
                linewidth=1.4,
                label=None if number else name.replace("_", " "),
            )
    _furnish(upper, "loss, by term", starts)
    _furnish(lower, "accuracy", starts, named=False)
    lower.set_ylim(-0.03, 1.03)
    lower.set_xlabel("steps since the start, all stages")
    figure.suptitle(title, fontsize=11)
    with written_whole(path) as draft:
        figure.savefig(draft, format="png")


def _starts(reports: Sequence[StepReport]) -> dict[str, int]:
    """Return how many steps were done before each stage of training."""
    starts: dict[str, int] = {}
    done = 0
    for report in reports:
        if report.trained_stage not in starts:
            starts[report.trained_stage] = done
            done += report.steps
    return starts


def _curves(reports: Sequence[StepReport], starts: dict[str, int]) -> dict[str, list[Curve]]:
    """Return the pieces of every curve by name, one piece a stage; a validation's pieces hang together."""
    curves: dict[str, list[Curve]] = {}
    latest: dict[str, str] = {}
    for report in reports:
        stage = report.trained_stage
        for term, value in report.terms.items():
            if term == "baseline":
                continue
            name = VALIDATION + term if report.is_validation else term
            pieces = curves.setdefault(name, [])
            if not pieces or (latest[name] != stage and not report.is_validation):
                pieces.append([])
            latest[name] = stage
            pieces[-1].append((starts[stage] + report.step, value))
    return curves


def _furnish(panel: Any, label: str, starts: dict[str, int], *, named: bool = True) -> None:
    panel.set_ylabel(label)
    panel.grid(visible=True, color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    for stage, start in starts.items():
        panel.axvline(start, color="#888888", linewidth=0.8, linestyle=":")
        if named:
            panel.annotate(
                stage, (start, 1), xycoords=("data", "axes fraction"), xytext=(3, 2), textcoords="offset points",
                fontsize=8, color="#555555",
            )  # fmt: skip
    if panel.get_legend_handles_labels()[0]:
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
