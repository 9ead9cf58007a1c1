"""The metrics of a run while it goes: ``metrics.csv``, one row a report, ``curves.png``, and TensorBoard if installed.

The table survives being killed: each row is flushed, a torn last row is dropped when the table is opened again, and a
resumed run that reports a step again takes the place of the rows from that step on.
"""

import csv
import io
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tnet_cli.files import table_text, write_text_whole, written_whole
from tnet_cli.inference.progress import VALIDATION, Progress, StepReport
from tnet_cli.report.colours import OKABE_ITO

WIDTH_IN, HEIGHT_IN, DPI = 9, 6, 130
# Okabe and Ito's colours, which colour-blind readers can tell apart, and three of Tol's: as many as there are terms.
COLOURS = (*OKABE_ITO.values(), "#999999", "#882255", "#332288", "#999933")
Curve = list[tuple[float, float]]

FIXED_COLUMNS = ("time", "stage", "step", "steps")


class MetricsLog:
    """``metrics.csv``: time, stage, step, steps, and a column for each term that any report has.

    Args:
        path: The table; read if it is there, made on the first report.
        board: Folder for TensorBoard, or None for none.
    """

    def __init__(self, path: Path, board: Path | None = None) -> None:
        self._path = path
        self._rows = _read_rows(path)
        self._terms = list(dict.fromkeys(term for row in self._rows for term in row if term not in FIXED_COLUMNS))
        self._reached = _reached(self._rows)
        self._is_whole = False  # whether the file is known to hold exactly the rows
        self._board = _open_board(board) if board is not None else None

    def add(self, report: StepReport) -> None:
        """Write a report, in the place of what an interrupted run wrote of the same steps and later ones."""
        if report.step <= self._reached.get(report.stage, -1):
            again = (row["stage"] == report.stage and int(row["step"]) >= report.step for row in self._rows)
            del self._rows[list(again).index(True) :]
            self._reached = _reached(self._rows)
            self._is_whole = False
        self._reached[report.stage] = report.step
        new_terms = [term for term in report.terms if term not in self._terms]
        self._terms += new_terms
        row = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": report.stage,
            "step": str(report.step),
            "steps": str(report.steps),
        } | {term: f"{value:.6g}" for term, value in report.terms.items()}
        self._rows.append(row)
        if self._is_whole and not new_terms:
            self._append(row)
        else:
            write_text_whole(self._path, table_text(self._columns, self._rows))
            self._is_whole = True
        if self._board is not None:
            for term, value in report.terms.items():
                self._board.add_scalar(f"{report.stage}/{term}", value, report.step)

    def reports(self) -> list[StepReport]:
        """Return everything the table holds, in order."""
        return [
            StepReport(
                stage=row["stage"],
                step=int(row["step"]),
                steps=int(row["steps"]),
                terms={term: float(row[term]) for term in self._terms if row.get(term)},
            )
            for row in self._rows
        ]

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()

    @property
    def _columns(self) -> Sequence[str]:
        return (*FIXED_COLUMNS, *self._terms)

    def _append(self, row: dict[str, str]) -> None:
        line = io.StringIO(newline="")
        csv.DictWriter(line, fieldnames=self._columns, lineterminator="\n").writerow(row)
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(line.getvalue())
            file.flush()
            os.fsync(file.fileno())


def _reached(rows: Sequence[dict[str, str]]) -> dict[str, int]:
    """Return the last step of each stage."""
    return {row["stage"]: int(row["step"]) for row in rows}


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table that may end in the middle of a row."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for row in csv.DictReader(io.StringIO(whole, newline="")):
        given = {column: value for column, value in row.items() if column and value}
        if set(FIXED_COLUMNS) <= set(given) and None not in row:
            rows.append(given)
    return rows


def _open_board(folder: Path) -> Any:
    """Open a writer for TensorBoard; None where it is not installed."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


class RunRecorder(Progress):
    """Writes every report of a run down, draws the curves after each stage, and tells another."""

    def __init__(self, log: MetricsLog, curves: Path, title: str, other: Progress) -> None:
        self._log, self._curves, self._title, self._other = log, curves, title, other
        self._stage: str | None = None

    def note(self, text: str) -> None:
        """Pass a sentence on."""
        self._other.note(text)

    def step(self, report: StepReport) -> None:
        """Take a report."""
        if self._stage not in {None, report.trained_stage}:
            self.draw()
        self._stage = report.trained_stage
        self._log.add(report)
        self._other.step(report)

    def draw(self) -> None:
        """Draw what has been reported."""
        draw_curves(self._log.reports(), self._curves, self._title)


def draw_curves(reports: Sequence[StepReport], path: Path, title: str) -> None:
    """Draw what the reports say into a PNG of two panels.

    Args:
        reports: In the order they were made.
        path: The PNG to write or replace.
        title: Above the panels.
    """
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
