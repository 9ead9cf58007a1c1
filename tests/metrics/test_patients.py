"""One answer for a patient of several slides."""

import numpy as np
import pytest

from tnet_cli.errors import UsageError
from tnet_cli.metrics.patients import by_patient, combined, patient_rule
from tnet_cli.metrics.predictions import Predictions

THREE = np.array([[0.7, 0.2, 0.1], [0.2, 0.1, 0.7], [0.5, 0.4, 0.1]])


def test_the_rules():
    np.testing.assert_allclose(combined(THREE, "max"), [0.2, 0.1, 0.7])
    np.testing.assert_allclose(combined(THREE, "mean"), THREE.mean(axis=0))
    two = np.array([[0.9, 0.1], [0.3, 0.7]])
    assert combined(two, "max")[1] == two[:, 1].max()
    with pytest.raises(UsageError, match="--patient-rule median: expected max or mean"):
        patient_rule("median")


def test_predictions_of_patients_have_one_label_or_are_left_out():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    slides = Predictions(
        class_names=("normal", "a", "b"),
        truth=np.array([0, 1, 0, 1, 2]),
        called=probabilities.argmax(axis=1),
        probabilities=probabilities,
        logits=np.log(probabilities),
        patients=("P1", "P1", "P2", "P3", "P3"),
    )
    found, left_out = by_patient(slides, "max")
    assert (found.patients, found.truth.tolist(), found.called.tolist()) == (("P1", "P2"), [1, 0], [1, 0])
    assert left_out == ["P3"]
    mean, _ = by_patient(slides, "mean")
    np.testing.assert_allclose(mean.probabilities[0], [0.55, 0.375, 0.075])
    assert mean.called.tolist() == [0, 0]


def test_of_no_slides_there_are_no_patients():
    empty = np.zeros((0, 2))
    none = Predictions(("no", "yes"), np.zeros(0, int), np.zeros(0, int), empty, empty, ())
    found, left_out = by_patient(none, "max")
    assert (len(found), found.probabilities.shape, left_out) == (0, (0, 2), [])
