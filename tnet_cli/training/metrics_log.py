"""The figures of a run while it goes: ``metrics.csv``, one row a report, and TensorBoard where it is installed.

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

from tnet_cli.files import table_text, write_text_whole
from tnet_cli.training.fitting import StepReport

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
