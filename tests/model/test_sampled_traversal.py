"""Sampled traversals of 3 x 3 grids, step by step, against enumeration."""

import itertools

import numpy as np

from tests.model.test_choice import PROBS, agrees, log, subsets_by_enumeration
from tests.model.test_traversal import fixed, plan, run
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.choice import GumbelTopK

GRID = AttentionGrid(3, 1 / 3)
ROOTS = [Region(0, 0, 27, 27), Region(27, 0, 27, 27)]
SHARES = np.array([0.8, 0.2])
FEW = np.array([0, 0.5, 0, 0, 0.15, 0, 0, 0, 0.35])
"""Few cells, so that every set of paths occurs often enough to be counted."""


def test_per_grid_samples_every_grid_without_replacement_and_on_its_own():
    sampler = GumbelTopK(np.random.default_rng(40))
    steps = plan(GRID, (2,), "per_grid", sampler)
    pairs: list[list[tuple[int, ...]]] = [[], []]
    for _ in range(4000):
        level = run(ROOTS, np.log(SHARES), steps, fixed(log(PROBS))).levels[1]
        for root in (0, 1):
            pairs[root].append(tuple(level.cells[level.parents == root].tolist()))
    chances = subsets_by_enumeration(PROBS, 2)
    # A root's share changes nothing in its own grid.
    assert agrees(pairs[0], chances)
    assert agrees(pairs[1], chances)
    together = [first + tuple(9 + cell for cell in second) for first, second in zip(*pairs, strict=True)]
    apart = {
        first + tuple(9 + cell for cell in second): chances[first] * chances[second]
        for first, second in itertools.product(chances, repeat=2)
    }
    assert agrees(together, apart)


def paths_step_by_step(k: int) -> dict[tuple[int, ...], float]:
    """Probability of every set of paths: k of the first step's, then k of those that go on from them."""
    first = np.outer(SHARES, FEW).ravel()
    chances: dict[tuple[int, ...], float] = {}
    for reached, chance in subsets_by_enumeration(first, k).items():
        second = np.zeros((len(first), len(FEW)))
        second[list(reached)] = np.outer(first[list(reached)], FEW)
        for paths, share in subsets_by_enumeration(second.ravel(), k).items():
            chances[paths] = chances.get(paths, 0.0) + chance * share
    return chances


def test_a_beam_samples_the_joint_probabilities_of_what_each_step_has_reached():
    sampler = GumbelTopK(np.random.default_rng(41))
    steps = plan(GRID, (2, 2), "beam", sampler)
    drawn = []
    for _ in range(4000):
        middle, last = run(ROOTS, np.log(SHARES), steps, fixed(log(FEW))).levels[1:]
        before = middle.parents * 9 + middle.cells
        drawn.append(tuple(sorted((before[last.parents] * 9 + last.cells).tolist())))
    chances = paths_step_by_step(2)
    assert abs(sum(chances.values()) - 1) < 1e-9
    assert agrees(drawn, chances)
    # Noise is drawn anew at every step, so it is not one sample of all whole paths.
    whole = subsets_by_enumeration(np.multiply.outer(np.outer(SHARES, FEW), FEW).ravel(), 2)
    assert not agrees(drawn, whole)


def test_a_single_location_is_drawn_with_the_probability_of_its_path():
    sampler = GumbelTopK(np.random.default_rng(42))
    steps = plan(GRID, (1, 1), "beam", sampler)
    drawn: list[tuple[int, ...]] = []
    for _ in range(1500):
        middle, last = run(ROOTS, np.log(SHARES), steps, fixed(log(FEW))).levels[1:]
        drawn.append((int((middle.parents[0] * 9 + middle.cells[0]) * 9 + last.cells[0]),))
    whole = np.multiply.outer(np.outer(SHARES, FEW), FEW).ravel()
    assert agrees(drawn, {(int(path),): float(whole[path]) for path in np.flatnonzero(whole)})
