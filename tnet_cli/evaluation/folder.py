"""An evaluation on disk: tables, metrics and plots, each file written whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.evaluation.arms import ARMS
from tnet_cli.evaluation.judge import ArmSummary, JudgedSlide
from tnet_cli.evaluation.localisation import LOCALISATION_COLUMNS
from tnet_cli.files import table_text, write_json, write_text_whole, written_whole
from tnet_cli.metrics.discrimination import ClassFigures
from tnet_cli.metrics.estimate import rounded
from tnet_cli.results.layout import prediction_columns

METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"
RUN = "run.json"
MODEL = "model.safetensors"
CURVE_COLUMNS = (
    *("arm", "budget", "judged", "failed", "no_tissue"),
    *("accuracy", "accuracy_low", "accuracy_high", "auroc", "locations"),
)
ARM_COLUMNS = (
    *("arm", "judged", "failed", "no_tissue"),
    *("accuracy", "accuracy_low", "accuracy_high", "auroc", "auroc_low", "auroc_high"),
    *("locations", "fraction_read", "seconds_per_slide"),
)
CLASS_COLUMNS = (
    *("class", "support", "called", "precision", "precision_low", "precision_high"),
    *("recall", "recall_low", "recall_high", "f1", "auroc", "average_precision"),
)
PLOTS = ("roc.png", "precision_recall.png", "confusion_matrix.png", "reliability.png", "accuracy_by_locations.png")
TABLES = ("per_class.csv", "arms.csv", "curve.csv", "localisation.csv")


def predictions_name(arm: str, first: str) -> str:
    """Return the table of an arm: ``predictions.csv`` for the first, ``predictions_ARM.csv`` for the others."""
    return PREDICTIONS if arm == first else f"predictions_{arm}.csv"


FILES = frozenset({METRICS, PREDICTIONS, RUN, *TABLES, *PLOTS, *(f"predictions_{arm}.csv" for arm in ARMS)})
"""Every name that an evaluation writes, but for the calibrated model, which is not removed once it is there."""


class EvaluationDirectory:
    """The folder an evaluation writes into. Nothing in it that tnet did not write is touched.

    Args:
        path: The folder; made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[str] = []

    def refuse_if_taken(self, *, overwrite: bool) -> None:
        """Protect what another run has written.

        Raises:
            UsageError: the path is a file, or the folder holds results and may not be written over.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file; give a folder with --out")
        taken = [name for name in (METRICS, PREDICTIONS, RUN) if (self.path / name).exists()]
        if taken and not overwrite:
            raise UsageError(
                f"{self.path}: holds the results of another run ({', '.join(taken)}); "
                "give another folder with --out, or replace them with --overwrite"
            )

    def make(self) -> None:
        """Make the folder.

        Raises:
            UsageError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(f"{self.path}: cannot be made: {exc.strerror or exc}; give a folder with --out") from exc

    def note_model(self, target: Path) -> None:
        """Take note of the calibrated model and its card, where they are in the folder."""
        if target.resolve().parent == self.path.resolve():
            self.written.extend([target.name, target.with_suffix(".md").name])

    def write_predictions(self, name: str, slides: Sequence[JudgedSlide], class_names: Sequence[str]) -> None:
        """Write one arm's table: the columns of ``tnet classify``, then label, patient and split."""
        columns = [*prediction_columns(class_names), "label", "patient", "split"]
        self._write_table(name, columns, [slide.row() for slide in slides])

    def write_classes(self, classes: Sequence[ClassFigures]) -> None:
        """Write ``per_class.csv``."""
        rows = [
            {
                "class": each.name,
                "support": each.support,
                "called": each.called,
                **each.precision.cells("precision"),
                **each.recall.cells("recall"),
                "f1": rounded(each.f1.value),
                "auroc": rounded(each.auroc.value),
                "average_precision": rounded(each.average_precision.value),
            }
            for each in classes
        ]
        self._write_table("per_class.csv", CLASS_COLUMNS, rows)

    def write_arms(self, summaries: Sequence[ArmSummary]) -> None:
        """Write ``arms.csv``."""
        self._write_table("arms.csv", ARM_COLUMNS, [_only(ARM_COLUMNS, each.cells()) for each in summaries])

    def write_curve(self, summaries: Sequence[ArmSummary]) -> None:
        """Write ``curve.csv``."""
        self._write_table("curve.csv", CURVE_COLUMNS, [_only(CURVE_COLUMNS, each.cells()) for each in summaries])

    def write_run(self, record: dict[str, Any]) -> None:
        """Write ``run.json``: what the evaluation was."""
        write_json(self.path / RUN, record)
        self.written.append(RUN)

    def write_localisation(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write ``localisation.csv``."""
        self._write_table("localisation.csv", LOCALISATION_COLUMNS, rows)

    def write_plot(self, name: str, picture: bytes | None) -> None:
        """Write a PNG; nothing when there is none."""
        if picture is None:
            return
        with written_whole(self.path / name) as draft:
            draft.write_bytes(picture)
        self.written.append(name)

    def write_metrics(self, document: dict[str, Any]) -> dict[str, Any]:
        """Write ``metrics.json``, which names all files, and remove what an evaluation before has written and this not.

        Returns:
            The document as written.
        """
        earlier = self._written_before()
        complete = document | {"files": sorted([*self.written, METRICS])}
        write_json(self.path / METRICS, complete)
        # A curve of other weights beside the new figures would mislead.
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
        write_text_whole(self.path / name, table_text(columns, list(rows)))
        if name not in self.written:
            self.written.append(name)


def _only(columns: Sequence[str], cells: dict[str, Any]) -> dict[str, Any]:
    return {column: cells[column] for column in columns}
