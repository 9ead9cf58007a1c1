"""One answer for a patient of several slides, and predictions by patient."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from tnet_cli.errors import UsageError
from tnet_cli.metrics.predictions import Predictions

PatientRule = Literal["max", "mean"]
PATIENT_RULES: tuple[PatientRule, ...] = get_args(PatientRule)
DEFAULT_RULE: PatientRule = "max"


def patient_rule(text: str | None) -> PatientRule:
    """Return the rule of a name, the default one where none is given.

    Raises:
        UsageError: there is none.
    """
    for rule in PATIENT_RULES:
        if rule == (text or DEFAULT_RULE):
            return rule
    raise UsageError(f"--patient-rule {text}: expected {' or '.join(PATIENT_RULES)}")


def combined(probabilities: np.ndarray, rule: PatientRule) -> np.ndarray:
    """Return the class probabilities of a patient from those of the slides.

    Args:
        probabilities: float64 (N, C), at least one row.
        rule: ``mean``, of every class; or ``max``, the slide that is least like the first class, which is the normal
            one where there is such: of two classes, that with the highest probability of the other.

    Returns:
        float64 (C,).
    """
    if rule == "mean":
        return np.asarray(probabilities.mean(axis=0))
    return np.asarray(probabilities[int(np.argmin(probabilities[:, 0]))])


def by_patient(predictions: Predictions, rule: PatientRule) -> tuple[Predictions, list[str]]:
    """Return predictions of patients in place of slides.

    A patient's label is that of a slide which is not of the first class, if there is one.

    Returns:
        The predictions, in the order in which patients come first; and the patients that are left out, because they
        have slides of several labels other than the first class. Logits are logarithms of probabilities.
    """
    slides_of: dict[str, list[int]] = defaultdict(list)
    for index, patient in enumerate(predictions.patients):
        slides_of[patient].append(index)
    labels = {patient: _labels(predictions.truth[slides]) for patient, slides in slides_of.items()}
    kept = [patient for patient, found in labels.items() if len(found) == 1]
    table = np.array([combined(predictions.probabilities[slides_of[patient]], rule) for patient in kept])
    table = table.reshape(len(kept), len(predictions.class_names))
    of_patients = Predictions(
        class_names=predictions.class_names,
        truth=np.array([labels[patient][0] for patient in kept], dtype=np.int64),
        called=table.argmax(axis=1).astype(np.int64),
        probabilities=table,
        logits=np.log(table.clip(1e-12)),
        patients=tuple(kept),
    )
    return of_patients, [patient for patient, found in labels.items() if len(found) > 1]


def _labels(truth: np.ndarray) -> Sequence[int]:
    """Return the labels of a patient's slides but the first class, or that alone where there is no other."""
    return sorted({int(label) for label in truth if label != 0}) or [0]
