"""An evaluation by patient: what the model says of patients, from the slides of each, against their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tnet_cli.evaluation.judge import ArmRun, JudgedSlide
from tnet_cli.files import rounded
from tnet_cli.metrics.bootstrap import resample_patients
from tnet_cli.metrics.discrimination import accuracy, auroc, average_precision, balanced_accuracy, confusion_matrix
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.metrics.patients import PatientRule, by_patient
from tnet_cli.metrics.predictions import Predictions
from tnet_cli.results.patients import patient_columns, patient_rows
from tnet_cli.results.result import SlideRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientMetrics:
    """What the first arm comes to over patients; slides that name none are left out.

    Attributes:
        predictions: One for each patient with an answer that counts and one label.
        left_out: Patients with slides of several labels beside the first class.
        rows: Of ``patients.csv``, with ``label`` at the end.
        accuracy: With Wilson's interval; the others with the bootstrap interval.
    """

    rule: PatientRule
    predictions: Predictions
    left_out: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    accuracy: Estimate
    balanced_accuracy: Estimate
    auroc: Estimate
    average_precision: Estimate

    def record(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json``."""
        statuses = [row["status"] for row in self.rows]
        return {
            "rule": self.rule,
            "patients": {
                "listed": len(self.rows),
                "judged": len(self.predictions),
                "without_answer": len(statuses) - statuses.count("ok"),
                "left_out": list(self.left_out),
            },
            "accuracy": self.accuracy.record(),
            "balanced_accuracy": self.balanced_accuracy.record(),
            "auroc": self.auroc.record(),
            "average_precision": self.average_precision.record(),
            "confusion_matrix": {
                "rows": "label",
                "columns": "called",
                "counts": confusion_matrix(self.predictions).tolist(),
            },
        }


def patient_metrics(
    run: ArmRun, predictions: Predictions, class_names: Sequence[str], rule: PatientRule, *, draws: int, seed: int
) -> PatientMetrics:
    """Judge patients in place of slides.

    Args:
        run: Of the first arm.
        predictions: Of its judged slides, in their order, decided by the card's calibration.
        rule: What makes one answer of those of a patient's slides.
        draws: Of the bootstrap; 0 for none.
        seed: Names the draws.
    """
    of_patients, left_out = by_patient(_named(run, predictions), rule)
    resampling = resample_patients(of_patients.truth, of_patients.patients, count=draws, seed=seed)
    rows = patient_rows(_decided(run, predictions), class_names, rule)
    labels = {
        name: class_names[int(truth)] for name, truth in zip(of_patients.patients, of_patients.truth, strict=True)
    }
    return PatientMetrics(
        rule=rule,
        predictions=of_patients,
        left_out=tuple(left_out),
        columns=(*patient_columns(class_names), "label"),
        rows=tuple(row | {"label": labels.get(row["patient"])} for row in rows),
        accuracy=accuracy(of_patients),
        balanced_accuracy=balanced_accuracy(of_patients, resampling),
        auroc=auroc(of_patients, resampling),
        average_precision=average_precision(of_patients, resampling),
    )


def _named(run: ArmRun, predictions: Predictions) -> Predictions:
    """Return the predictions of slides whose patient is named."""
    kept = [number for number, slide in enumerate(run.judged) if slide.entry.patient]
    return Predictions(
        class_names=predictions.class_names,
        truth=predictions.truth[kept],
        called=predictions.called[kept],
        probabilities=predictions.probabilities[kept],
        logits=predictions.logits[kept],
        patients=tuple(predictions.patients[number] for number in kept),
    )


def _decided(run: ArmRun, predictions: Predictions) -> list[tuple[str | None, SlideRow]]:
    """Return patient and row of each slide, with the probabilities of the card that decides."""
    of_slide = dict(zip(map(id, run.judged), predictions.probabilities.tolist(), strict=True))

    def row(slide: JudgedSlide) -> SlideRow:
        found = of_slide.get(id(slide))
        if found is None:
            return slide.row
        probabilities = {
            f"prob_{name}": rounded(each) for name, each in zip(predictions.class_names, found, strict=True)
        }
        return SlideRow(slide.row.values | probabilities)

    return [(slide.entry.patient, row(slide)) for slide in run.slides]
