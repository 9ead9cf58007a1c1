"""Choosing locations: ties, masks, order, and that Gumbel top-k is sampling without replacement."""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2

from tests.model import oracles
from tnet_cli.model.choice import GumbelTopK, LocationSampler, RandomChoice, TopK

PROBS = np.array([0.3, 0.02, 0.1, 0.08, 0.2, 0.05, 0.12, 0.0, 0.13])
"""A 3 x 3 grid; one cell is not allowed."""


def log(probs: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probs))


def test_top_k_takes_the_most_probable_in_ascending_order():
    assert TopK()(log(PROBS), 3).tolist() == [0, 4, 8]


def test_of_equals_the_first_is_taken():
    assert TopK()(np.log([0.1, 0.3, 0.1, 0.3, 0.1, 0.1]), 3).tolist() == [0, 1, 3]
    assert TopK()(np.zeros(5), 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    "sampler", [TopK(), GumbelTopK(np.random.default_rng(0)), RandomChoice(np.random.default_rng(0))]
)
def test_nothing_is_taken_of_nothing_and_all_of_too_few(sampler: LocationSampler):
    assert sampler(np.full(9, -np.inf), 4).tolist() == []
    assert sampler(log(np.array([0, 0.5, 0, 0.5])), 4).tolist() == [1, 3]
    assert sampler(np.zeros(3), 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="at least one location"):
        sampler(np.zeros(3), 0)


values = st.floats(-60, 0) | st.just(-np.inf)


@given(
    arrays(np.float64, st.integers(1, 40), elements=values),
    st.integers(1, 45),
    st.sampled_from(["top", "gumbel", "random"]),
    st.integers(0, 99),
)
def test_whatever_is_chosen_is_allowed_distinct_ascending_and_enough(log_probs, k, name, seed):
    rng = np.random.default_rng(seed)
    known: dict[str, LocationSampler] = {"top": TopK(), "gumbel": GumbelTopK(rng), "random": RandomChoice(rng)}
    chosen = known[name](log_probs, k)
    assert np.isfinite(log_probs[chosen]).all()
    assert (np.diff(chosen) > 0).all()
    assert len(chosen) == min(k, int(np.isfinite(log_probs).sum()))
    if name == "top":
        assert chosen.tolist() == oracles.most_probable(list(log_probs), k)


def subsets_by_enumeration(probs: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """Probability of every set of k drawn one after the other without replacement."""
    chances: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(np.flatnonzero(probs).tolist(), k):
        chance, left = 1.0, float(probs.sum())
        for index in order:
            chance *= probs[index] / left
            left -= probs[index]
        key = tuple(sorted(order))
        chances[key] = chances.get(key, 0.0) + chance
    return chances


def agrees(drawn: Sequence[Hashable], chances: Mapping[Any, float]) -> bool:
    """Chi-squared test at 0.1 %, rare sets joined so that each class expects at least five."""
    observed: list[float] = []
    expected: list[float] = []
    rest_observed = rest_expected = 0.0
    for key, chance in chances.items():
        if chance * len(drawn) >= 5:
            observed.append(drawn.count(key))
            expected.append(chance * len(drawn))
        else:
            rest_observed += drawn.count(key)
            rest_expected += chance * len(drawn)
    assert set(drawn) <= set(chances)
    if rest_expected:
        observed.append(rest_observed)
        expected.append(rest_expected)
    gaps = (np.array(observed) - expected) ** 2 / np.array(expected)
    return bool(gaps.sum() < chi2.ppf(0.999, len(observed) - 1))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_gumbel_top_k_samples_a_grid_without_replacement(k):
    sampler = GumbelTopK(np.random.default_rng(20 + k))
    drawn = [tuple(sampler(log(PROBS), k).tolist()) for _ in range(6000)]
    chances = subsets_by_enumeration(PROBS, k)
    assert sum(chances.values()) == pytest.approx(1)
    assert agrees(drawn, chances)
    # The test can tell: the same sample does not pass for one without preference.
    assert not agrees(drawn, subsets_by_enumeration((PROBS > 0) / 8, k))


def test_a_random_choice_has_no_preference():
    sampler = RandomChoice(np.random.default_rng(30))
    drawn = [tuple(sampler(log(PROBS), 2).tolist()) for _ in range(6000)]
    assert agrees(drawn, subsets_by_enumeration((PROBS > 0) / 8, 2))


def test_the_inclusion_by_enumeration_is_that_of_the_subsets():
    by_subset = np.zeros(9)
    for key, chance in subsets_by_enumeration(PROBS, 2).items():
        by_subset[list(key)] += chance
    np.testing.assert_allclose(oracles.sequential_inclusion(PROBS, 2), by_subset)
