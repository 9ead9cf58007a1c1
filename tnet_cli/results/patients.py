"""``patients.csv``: an answer for each patient, from the slides whose answers count, and which slides gave none."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tnet_cli.files import rounded
from tnet_cli.metrics.patients import PatientRule, combined
from tnet_cli.results.result import SlideRow

WITHOUT_ANSWER = ("abstained", "failed", "no_tissue")


def patient_columns(class_names: Sequence[str]) -> list[str]:
    """Return the columns of ``patients.csv``; that of a status without answer has the names of the slides."""
    answer = ["patient", "status", "prediction", "probability", *(f"prob_{name}" for name in class_names)]
    return [*answer, "rule", "slides", "counted", *WITHOUT_ANSWER]


def patient_rows(
    rows: Iterable[tuple[str | None, SlideRow]], class_names: Sequence[str], rule: PatientRule
) -> list[dict[str, Any]]:
    """Return a row for each patient, in the order in which they come first.

    Args:
        rows: Patient and row of each slide that has ended; one without a patient is of none.

    Returns:
        Rows with ``patient_columns``. The status is ``ok`` where a slide has an answer that counts, else the first of
        ``WITHOUT_ANSWER`` that a slide has; slides without an answer are named, and not averaged away.
    """
    slides_of: dict[str, list[SlideRow]] = defaultdict(list)
    for patient, row in rows:
        if patient is not None:
            slides_of[patient].append(row)
    return [_row(patient, slides, class_names, rule) for patient, slides in slides_of.items()]


def _row(patient: str, slides: Sequence[SlideRow], class_names: Sequence[str], rule: PatientRule) -> dict[str, Any]:
    counted = [[float(row.values[f"prob_{name}"]) for name in class_names] for row in slides if row.status == "ok"]
    named = {
        status: ";".join(str(row.values["slide"]) for row in slides if row.status == status)
        for status in WITHOUT_ANSWER
    }
    answer: dict[str, Any] = {"status": next((status for status in WITHOUT_ANSWER if named[status]), "failed")}
    if counted:
        found = combined(np.array(counted), rule)
        called = int(found.argmax())
        answer = {"status": "ok", "prediction": class_names[called], "probability": rounded(float(found[called]))}
        answer |= {f"prob_{name}": rounded(float(p)) for name, p in zip(class_names, found, strict=True)}
    about = {"patient": patient, "rule": rule, "slides": len(slides), "counted": len(counted)} | named
    return dict.fromkeys(patient_columns(class_names)) | answer | about
