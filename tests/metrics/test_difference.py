"""The difference estimator: what it is without a sample, with all of one, and how often its interval holds."""

import numpy as np
import pytest

from benchmarks.interval_coverage import PREDICTIONS, covered
from tnet_cli.metrics.difference import difference_estimate, top_mean


def test_with_every_cell_known_there_is_nothing_to_estimate():
    attended, rest = np.array([0.9, 0.7]), np.array([0.1, 0.0, 0.3])
    found = difference_estimate(attended, np.full(3, 0.5), np.array([2, 0, 1]), rest[[2, 0, 1]])
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))


def test_without_a_sample_the_interval_is_all_that_is_possible():
    found = difference_estimate(np.array([1.0]), np.full(9, 0.2), np.array([], dtype=int), np.array([]))
    assert (found.value, found.low, found.high) == pytest.approx((0.28, 0.1, 1.0))


def test_the_estimate_is_the_sum_of_predictions_corrected_by_the_sample():
    rng = np.random.default_rng(0)
    predicted, responses = rng.random(40) * 0.5, rng.random(40)
    sample = rng.choice(40, size=10, replace=False)
    found = difference_estimate(np.array([0.9, 0.8]), predicted, sample, responses[sample])
    correction = (responses[sample] - predicted[sample]).mean()
    assert found.value == pytest.approx((1.7 + predicted.sum() + 40 * correction) / 42)
    assert found.low < found.value < found.high


def test_a_sample_without_a_positive_still_allows_some():
    # Of 1000 cells 25 were drawn and none is positive: by the exact bound 12 of 100 others may be.
    found = difference_estimate(np.zeros(10), np.zeros(1000), np.arange(25), np.zeros(25))
    assert found.low == 0
    assert found.high == pytest.approx((1 - 0.04 ** (1 / 25)) * 975 / 1010)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.3])
def test_the_interval_holds(kind, share):
    rng = np.random.default_rng(1)
    hits = [covered(rng, 400, share, kind, 25, binary=number % 2 == 0)[0] for number in range(200)]
    assert np.mean(hits) >= 0.93


def test_values_that_are_no_shares_are_refused():
    with pytest.raises(ValueError, match="must lie in"):
        difference_estimate(np.array([1.2]), np.zeros(3), np.array([0]), np.array([0.0]))
    with pytest.raises(ValueError, match="cannot be estimated"):
        difference_estimate(np.array([]), np.array([]), np.array([], dtype=int), np.array([]))


def test_the_mean_of_the_highest():
    assert top_mean(np.array([0.1, 0.9, 0.5]), 2) == pytest.approx(0.7)
    assert top_mean(np.array([0.1, 0.9]), 5) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no mean"):
        top_mean(np.array([]), 3)
