"""An evaluation on disk: tables, metrics, plots and what is kept to go on from, each written whole or not at all."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tnet_cli.errors import UsageError
from tnet_cli.evaluation.arms import ARMS
from tnet_cli.evaluation.judge import JudgedSlide
from tnet_cli.evaluation.metrics import Metrics
from tnet_cli.evaluation.plots import PLOTS
from tnet_cli.files import STATE, FolderKind, read_record, table_text, write_bytes_whole, write_json, write_text_whole
from tnet_cli.results.layout import OF_EVERY_RUN, PATIENTS, PREDICTIONS, RUN_RECORD, RunDirectory
from tnet_cli.results.result import prediction_columns

METRICS = "metrics.json"
TABLES = {
    "per_class.csv": (
        *("class", "support", "called", "precision", "precision_low", "precision_high"),
        *("recall", "recall_low", "recall_high", "f1", "auroc", "average_precision"),
    ),
    "arms.csv": (
        *("arm", "judged", "abstained", "failed", "no_tissue", "coverage"),
        *("accuracy", "accuracy_low", "accuracy_high", "accuracy_anyway", "auroc", "auroc_low", "auroc_high"),
        *("locations", "fraction_read", "seconds_per_slide"),
    ),
    "curve.csv": (
        *("arm", "budget", "judged", "abstained", "failed", "no_tissue", "coverage"),
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


FILES = frozenset(
    {METRICS, PATIENTS, PREDICTIONS, RUN_RECORD, *TABLES, *PLOTS, *(predictions_name(arm, "") for arm in ARMS)}
)
"""Every name that an evaluation writes, but for the calibrated model, which is not removed once it is there."""

FEATURES = f"{STATE}/features"


def _wrote_unclaimed(folder: Path) -> bool:
    of_run = {"version", "finished", "model", "calibrated_model", "intended_use", "manifest", "options", "arms"}
    of_metrics = {"model", "manifest", "split", "options", "slides", "decision", "arms", "files"}
    return of_run <= read_record(folder / RUN_RECORD).keys() or of_metrics <= read_record(folder / METRICS).keys()


EVALUATION = FolderKind("evaluate", tuple(sorted({*OF_EVERY_RUN, *FILES, f"{FEATURES}/"})), _wrote_unclaimed)


class EvaluationFolder:
    """The files of an evaluation in the folder of its run.

    Attributes:
        written: Names of the files that were written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = RunDirectory(path, EVALUATION)
        self.written: set[str] = set()
        self._features = path / FEATURES

    def refuse_if_taken(self, *, overwrite: bool) -> None:
        """Refuse a folder that is another command's, or holds an evaluation that cannot be gone on with.

        Raises:
            UsageError: it does, and may not be written over.
        """
        self.directory.check()
        if (self.path / METRICS).exists() and not self.directory.has_ledger and not overwrite:
            raise UsageError(
                f"{self.path}: holds the results of another run ({METRICS}), and not what to go on from; "
                "give another folder with --out, or replace them with --overwrite"
            )

    def has_written(self, model: Path) -> bool:
        """Whether the evaluation in the folder, finished or not, says that it writes that calibrated model."""
        said = read_record(self.path / RUN_RECORD).get("calibrated_model")
        if not isinstance(said, str) or not self.directory.has_ledger:
            return False
        # The folder may be reached by another path than before.
        return said == str(model) or (self._is_inside(model) and Path(said).name == model.name)

    def remove_what_is_stale(self) -> None:
        """Remove what an evaluation before has written and this one has not: beside new metrics it would mislead."""
        files = read_record(self.path / METRICS).get("files")
        stale = set(map(str, files)) & FILES - self.written if isinstance(files, list) else set()
        # Last of all the one that names the others.
        for name in sorted(stale, key=lambda name: name == METRICS):
            (self.path / name).unlink(missing_ok=True)

    def note_model(self, target: Path) -> None:
        """Take note of the calibrated model and its card, where they are in the folder."""
        if self._is_inside(target):
            self.written |= {target.name, target.with_suffix(".md").name}

    def write_predictions(self, name: str, slides: Sequence[JudgedSlide], class_names: Sequence[str]) -> None:
        """Write one arm's table: the columns of ``tnet classify``, then label, patient and split."""
        of_classify = prediction_columns(class_names, [slide.row.values for slide in slides])
        columns = [*of_classify, "label", "patient", "split"]
        self._write_table(name, columns, [slide.cells() for slide in slides])

    def write_tables_and_plots(self, metrics: Metrics) -> None:
        """Write all tables but those of the predictions, and all plots, where there is something in them."""
        rows = {
            "per_class.csv": [each.cells() for each in metrics.classes],
            "arms.csv": [each.cells() for each in metrics.arms],
            "curve.csv": [each.cells() for each in metrics.curve],
            "localisation.csv": [slide.lesion_row(arm.arm) for arm in metrics.arms for slide in arm.run.lesions],
        }
        for name, columns in TABLES.items():
            if rows[name]:
                self._write_table(name, columns, [{column: row[column] for column in columns} for row in rows[name]])
        if metrics.patients is not None:
            self._write_table(PATIENTS, metrics.patients.columns, metrics.patients.rows)
        for name, draw in PLOTS.items():
            if (png := draw(metrics)) is not None:
                write_bytes_whole(self.path / name, png)
                self.written.add(name)

    def write_records(self, run: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
        """Write ``metrics.json``, which names all files, and, last of all, ``run.json``: the evaluation has ended.

        Returns:
            ``metrics.json`` as written.
        """
        self.written |= {METRICS, RUN_RECORD}
        complete = metrics | {"files": sorted(self.written)}
        self.remove_what_is_stale()
        write_json(self.path / METRICS, complete)
        self.directory.write_run(run)
        return complete

    def keep_features(self, slide: str, features: Mapping[int, np.ndarray]) -> None:
        """Keep a slide's features, to calibrate on: processing level -> float32 (N, D)."""
        blob = save({str(number): np.ascontiguousarray(each) for number, each in features.items()})
        write_bytes_whole(self._features_file(slide), blob)

    def features_of(self, slide: str) -> dict[int, np.ndarray] | None:
        """Return the features that were kept of a slide; None where there are none, or they are damaged."""
        try:
            return {int(number): each for number, each in load(self._features_file(slide).read_bytes()).items()}
        except (OSError, SafetensorError):
            return None

    def _is_inside(self, file: Path) -> bool:
        return file.resolve().parent == self.path.resolve()

    def _features_file(self, slide: str) -> Path:
        # A slide's name may be longer than that of a file.
        return self._features / f"{hashlib.sha256(slide.encode()).hexdigest()[:32]}.safetensors"

    def _write_table(self, name: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
        write_text_whole(self.path / name, table_text(columns, rows))
        self.written.add(name)
