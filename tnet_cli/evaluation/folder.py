"""An evaluation on disk: tables, metrics and plots, each file written whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.evaluation.arms import ARMS
from tnet_cli.evaluation.judge import JudgedSlide
from tnet_cli.evaluation.metrics import Metrics
from tnet_cli.evaluation.plots import PLOTS
from tnet_cli.files import (
    FolderKind,
    claim,
    held_by_command,
    read_record,
    table_text,
    write_bytes_whole,
    write_json,
    write_text_whole,
)
from tnet_cli.results.layout import OF_EVERY_RUN, PREDICTIONS, RUN_RECORD
from tnet_cli.results.result import prediction_columns

METRICS = "metrics.json"
TABLES = {
    "per_class.csv": (
        *("class", "support", "called", "precision", "precision_low", "precision_high"),
        *("recall", "recall_low", "recall_high", "f1", "auroc", "average_precision"),
    ),
    "arms.csv": (
        *("arm", "judged", "failed", "no_tissue"),
        *("accuracy", "accuracy_low", "accuracy_high", "auroc", "auroc_low", "auroc_high"),
        *("locations", "fraction_read", "seconds_per_slide"),
    ),
    "curve.csv": (
        *("arm", "budget", "judged", "failed", "no_tissue"),
        *("accuracy", "accuracy_low", "accuracy_high", "auroc", "locations"),
    ),
    "localisation.csv": (
        *("arm", "slide", "label", "patient", "prediction"),
        *("finest_locations", "on_lesion", "share_on_lesion", "hit"),
    ),
}
"""File -> its columns."""


def predictions_name(arm: str, first: str) -> str:
    """Return the table of an arm: ``predictions.csv`` for the first, ``predictions_ARM.csv`` for the others."""
    return PREDICTIONS if arm == first else f"predictions_{arm}.csv"


FILES = frozenset({METRICS, PREDICTIONS, RUN_RECORD, *TABLES, *PLOTS, *(predictions_name(arm, "") for arm in ARMS)})
"""Every name that an evaluation writes, but for the calibrated model, which is not removed once it is there."""


def _wrote_unclaimed(folder: Path) -> bool:
    of_run = {"version", "finished", "model", "calibrated_model", "intended_use", "manifest", "options", "arms"}
    of_metrics = {"model", "manifest", "split", "options", "slides", "decision", "arms", "files"}
    return of_run <= read_record(folder / RUN_RECORD).keys() or of_metrics <= read_record(folder / METRICS).keys()


EVALUATION = FolderKind("evaluate", tuple(sorted({*OF_EVERY_RUN, *FILES})), _wrote_unclaimed)


class EvaluationFolder:
    """The folder an evaluation writes into. Nothing in it that tnet did not write is touched.

    Args:
        path: Made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[str] = []

    def refuse_if_taken(self, *, overwrite: bool) -> None:
        """Protect what another run has written.

        Raises:
            UsageError: the folder is another's, or holds results and may not be written over.
        """
        held_by_command(self.path, EVALUATION)
        taken = [name for name in (METRICS, PREDICTIONS, RUN_RECORD) if (self.path / name).exists()]
        if taken and not overwrite:
            raise UsageError(
                f"{self.path}: holds the results of another run ({', '.join(taken)}); "
                "give another folder with --out, or replace them with --overwrite"
            )

    def make(self) -> None:
        """Make the folder, and claim it.

        Raises:
            UsageError: it cannot be made, or is another's.
        """
        claim(self.path, EVALUATION)

    def note_model(self, target: Path) -> None:
        """Take note of the calibrated model and its card, where they are in the folder."""
        if target.resolve().parent == self.path.resolve():
            self.written.extend([target.name, target.with_suffix(".md").name])

    def write_predictions(self, name: str, slides: Sequence[JudgedSlide], class_names: Sequence[str]) -> None:
        """Write one arm's table: the columns of ``tnet classify``, then label, patient and split."""
        columns = [*prediction_columns(class_names), "label", "patient", "split"]
        self._write_table(name, columns, [slide.row() for slide in slides])

    def write_tables_and_plots(self, metrics: Metrics, threshold: float) -> None:
        """Write all tables but those of the predictions, and all plots, where there is something in them.

        Args:
            metrics: What they show.
            threshold: Of the decision, marked in some plots.
        """
        rows = {
            "per_class.csv": [each.cells() for each in metrics.classes],
            "arms.csv": [each.cells() for each in metrics.arms],
            "curve.csv": [each.cells() for each in metrics.curve],
            "localisation.csv": [slide.lesion_row(arm.arm) for arm in metrics.arms for slide in arm.run.lesions],
        }
        for name, columns in TABLES.items():
            if rows[name]:
                self._write_table(name, columns, [{column: row[column] for column in columns} for row in rows[name]])
        for name, draw in PLOTS.items():
            if (png := draw(metrics, threshold)) is not None:
                write_bytes_whole(self.path / name, png)
                self.written.append(name)

    def write_run(self, record: dict[str, Any]) -> None:
        """Write ``run.json``: what the evaluation was."""
        write_json(self.path / RUN_RECORD, record)
        self.written.append(RUN_RECORD)

    def write_metrics(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write ``metrics.json``, which names all files, and remove what an evaluation before has written and this not.

        Returns:
            The record as written.
        """
        earlier = self._written_before()
        complete = record | {"files": sorted([*self.written, METRICS])}
        write_json(self.path / METRICS, complete)
        # A curve of other weights beside the new metrics would mislead.
        for name in (earlier & FILES) - set(complete["files"]):
            (self.path / name).unlink(missing_ok=True)
        return complete

    def _written_before(self) -> set[str]:
        try:
            files = json.loads((self.path / METRICS).read_text(encoding="utf-8"))["files"]
            return {name for name in files if isinstance(name, str)}
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    def _write_table(self, name: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
        write_text_whole(self.path / name, table_text(columns, rows))
        self.written.append(name)
