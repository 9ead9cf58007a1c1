"""Reliability, ECE, temperature and threshold, by hand and by what they must recover."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.metrics import brier_score_loss, log_loss

from tnet_cli.metrics.calibration import (
    brier_score,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    stated_and_true,
)


def test_reliability_and_ece_by_hand():
    stated = np.array([0.0, 0.05, 0.1, 0.75, 0.8, 1.0])
    came_true = np.array([False, False, True, True, False, True])
    bins = reliability(stated, came_true)
    assert [each.count for each in bins] == [3, 0, 0, 0, 0, 0, 0, 2, 0, 1]
    assert bins[0].mean_probability == pytest.approx(0.05)
    assert bins[0].observed.value == pytest.approx(1 / 3)
    assert bins[1].mean_probability is None
    expected = (3 * abs(1 / 3 - 0.05) + 2 * abs(0.5 - 0.775) + 0) / 6
    assert expected_calibration_error(bins).value == pytest.approx(expected)


def test_what_calibration_is_about(make_predictions):
    two = make_predictions([0, 1], probabilities=[0.2, 0.4])
    stated, came_true = stated_and_true(two)
    assert stated == pytest.approx([0.2, 0.4])
    assert came_true.tolist() == [False, True]
    three = make_predictions([0, 1], logits=np.log([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]), classes=("a", "b", "c"))
    stated, came_true = stated_and_true(three)
    assert stated == pytest.approx([0.7, 0.5])
    assert came_true.tolist() == [True, False]


def test_brier_and_likelihood_against_scikit_learn(make_predictions, rng):
    truth = rng.integers(0, 2, 50)
    predictions = make_predictions(list(truth), probabilities=rng.uniform(0.05, 0.95, 50), temperature=1.7)
    # Brier's own form sums over both classes.
    assert brier_score(predictions).value == pytest.approx(2 * brier_score_loss(truth, predictions.probabilities[:, 1]))
    assert negative_log_likelihood(predictions.logits, truth, 1.7) == pytest.approx(
        log_loss(truth, predictions.probabilities[:, 1])
    )


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_recovered(rng, temperature):
    logits = rng.normal(size=(20_000, 3)) * 2
    cumulative = np.exp(log_softmax(logits, axis=1)).cumsum(axis=1)
    truth = (rng.random((20_000, 1)) > cumulative).sum(axis=1).clip(max=2)
    fitted = fit_temperature(logits * temperature, truth, otherwise=1.0)
    assert fitted.reason is None
    assert fitted.value == pytest.approx(temperature, rel=0.05)

    def at(t: np.ndarray) -> float:
        return negative_log_likelihood(logits * temperature, truth, float(t[0]))

    best = minimize(at, [1.0], bounds=[(0.05, 20)])
    assert fitted.value == pytest.approx(best.x[0], rel=1e-2)


@pytest.mark.parametrize(
    ("logits", "truth", "reason"),
    [
        ([[3.0, 0.0], [0.0, 2.0]], [0, 1], "every slide is right"),
        ([[3.0, 0.0], [0.0, 2.0]], [1, 0], "say nothing"),
        # The best temperature is about 0.01, below any that is looked for.
        ([[0.1, 0.0]] * 999 + [[0.0, 0.01]], [0] * 1000, "fix no temperature"),
        (np.zeros((0, 2)), [], "no slide"),
    ],
)
def test_slides_that_fix_no_temperature_keep_the_models(logits, truth, reason):
    kept = fit_temperature(np.array(logits), np.array(truth, dtype=int), otherwise=1.3)
    assert kept.value == 1.3
    assert reason in str(kept.reason)


def test_threshold_by_hand():
    lesion = np.array([0.1, 0.2, 0.3, 0.35, 0.6])
    truth = np.array([0, 0, 1, 0, 1])
    # Between 0.2 and 0.3: both lesions, two of three benign right, J = 2/3. Between 0.35 and 0.6: J = 1/2.
    chosen = choose_threshold(np.stack([1 - lesion, lesion], axis=1), truth, otherwise=0.5)
    assert chosen.value == pytest.approx(0.25)
    assert chosen.reason is None


def test_of_equal_thresholds_the_nearest_to_a_half():
    lesion = np.array([0.1, 0.5, 0.7, 0.9])
    truth = np.array([0, 1, 0, 1])
    # 0.3 and 0.8 both give J = 1/2.
    chosen = choose_threshold(np.stack([1 - lesion, lesion], axis=1), truth, otherwise=0.4)
    assert chosen.value == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("lesion", "truth", "reason"),
    [
        ([0.2, 0.4], [1, 1], "all of one class"),
        ([0.4, 0.4], [0, 1], "the same probability"),
        ([0.9, 0.1], [0, 1], "tells the classes"),
    ],
)
def test_no_threshold_to_choose(lesion, truth, reason):
    probabilities = np.stack([1 - np.array(lesion), np.array(lesion)], axis=1)
    kept = choose_threshold(probabilities, np.array(truth), otherwise=0.37)
    assert kept.value == 0.37
    assert reason in str(kept.reason)


def test_more_classes_have_no_threshold():
    kept = choose_threshold(np.full((4, 3), 1 / 3), np.array([0, 1, 2, 0]), otherwise=0.5)
    assert "two classes" in str(kept.reason)
