"""Reliability, ECE, temperature and bias, by hand and by what they must recover."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.metrics import brier_score_loss, log_loss

from tnet_cli.metrics.calibration import (
    Calibration,
    brier_score,
    expected_calibration_error,
    fit_calibration,
    negative_log_likelihood,
    reliability,
    stated_and_true,
)
from tnet_cli.metrics.predictions import softmax


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


@pytest.mark.parametrize(("temperature", "bias"), [(0.4, (0, 0, 0)), (1.0, (0.5, -0.2, -0.3)), (3.0, (-1, 0.4, 0.6))])
def test_temperature_and_bias_are_recovered(rng, temperature, bias):
    logits = rng.normal(size=(20_000, 3)) * 2
    cumulative = np.exp(log_softmax(logits + np.array(bias), axis=1)).cumsum(axis=1)
    truth = (rng.random((20_000, 1)) > cumulative).sum(axis=1).clip(max=2)
    fitted = fit_calibration(logits * temperature, truth, "abc", Calibration())
    assert (fitted.temperature_kept, fitted.bias_kept) == (None, None)
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    assert fitted.bias == pytest.approx(bias, abs=0.06)
    assert sum(fitted.bias) == pytest.approx(0, abs=1e-9)

    def at(x: np.ndarray) -> float:
        return negative_log_likelihood(logits * temperature, truth, float(x[0]), (float(x[1]), float(x[2]), 0.0))

    best = minimize(at, [1.0, 0.0, 0.0], bounds=[(0.05, 20), (None, None), (None, None)])
    found = negative_log_likelihood(logits * temperature, truth, fitted.temperature, fitted.bias)
    assert found == pytest.approx(best.fun, abs=1e-6)


def test_a_bias_does_what_a_threshold_would(rng):
    # Called benign half of the time that it is a lesion: the best threshold is far below a half.
    logit = np.concatenate([rng.normal(-3, 1, 500), rng.normal(-1, 1, 500)])
    truth = np.repeat([0, 1], 500)
    logits = np.stack([np.zeros(1000), logit], axis=1)
    fitted = fit_calibration(logits, truth, ("benign", "lesion"), Calibration())
    called = softmax(logits, fitted.temperature, fitted.bias).argmax(axis=1)
    assert np.mean(softmax(logits, 1.0).argmax(axis=1) == truth) < 0.7
    assert np.mean(called == truth) > 0.8
    # As ECE sees it the probabilities now mean what they say.
    stated = softmax(logits, fitted.temperature, fitted.bias)[:, 1]
    assert (expected_calibration_error(reliability(stated, truth == 1)).value or 0) < 0.05


@pytest.mark.parametrize(
    ("logits", "truth", "reason"),
    [
        ([[3.0, 0.0], [0.0, 2.0]], [0, 1], "told apart without error"),
        # Some bias tells them apart, though all are called the first.
        ([[6.0, 0.0], [5.0, 0.0], [3.0, 0.0], [2.0, 0.0]], [0, 0, 1, 1], "told apart without error"),
        ([[3.0, 0.0], [0.0, 2.0]], [1, 0], "say nothing"),
        (np.zeros((0, 2)), [], "no slide"),
    ],
)
def test_slides_that_fix_no_temperature_keep_the_models(logits, truth, reason):
    table, labels = np.array(logits), np.array(truth, dtype=int)
    kept = fit_calibration(table, labels, "ab", Calibration(temperature=1.3))
    assert kept.temperature == 1.3
    assert reason in str(kept.temperature_kept)
    # What remains to be fitted is.
    if len(truth):
        assert negative_log_likelihood(table, labels, 1.3, kept.bias) <= negative_log_likelihood(table, labels, 1.3)


def test_a_class_without_slides_keeps_the_models_bias():
    own = Calibration(temperature=2.0, bias=(0.2, -0.2))
    kept = fit_calibration(np.array([[1.0, 0.0], [0.0, 0.5]]), np.array([0, 0]), ("a", "b"), own)
    assert kept.bias == own.bias
    assert kept.bias_kept == "no slide of the calibration split is labelled 'b'"
