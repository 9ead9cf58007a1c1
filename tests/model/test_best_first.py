"""Best-first traversal against a greedy search written out plainly, and what its record says."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.best_first import BestFirstPlan, traverse_best_first
from tnet_cli.model.traversal import Look, Traversal, Wanted

GRID = AttentionGrid(2, 0.5)
ROOTS = (Region(0, 0, 64, 64), Region(64, 0, 64, 64))
LevelAndRegion = tuple[int, Region]


def plan(budget: int, *, at_once: int = 1, levels: int = 4) -> BestFirstPlan:
    return BestFirstPlan(grid=GRID, processing_levels=levels, budget=budget, at_once=at_once)


def log_probs_of(region: Region) -> np.ndarray:
    """The network of these tests: log-probabilities that depend on the region alone."""
    logits = np.random.default_rng([region.x, region.y, region.width]).normal(scale=2, size=4)
    return np.asarray(logits - np.log(np.exp(logits).sum()))


def run(
    steps: object, log_probs: Callable[[Region], np.ndarray] = log_probs_of
) -> tuple[Traversal, list[LevelAndRegion]]:
    """Answer what a traversal wants; return it and what was looked at, in that order. Features are x, y, width."""
    looked_at: list[LevelAndRegion] = []
    wanted = next(steps)  # type: ignore[call-overload]
    while True:
        assert isinstance(wanted, Wanted)
        looked_at += [(wanted.processing_level, region) for region in wanted.regions]
        features = torch.tensor([[region.x, region.y, region.width] for region in wanted.regions])
        cells = None if wanted.allowed is None else torch.tensor(np.stack([log_probs(r) for r in wanted.regions]))
        try:
            wanted = steps.send(Look(features, cells))  # type: ignore[attr-defined]
        except StopIteration as end:
            return end.value, looked_at


def greedy(budget: int, levels: int, *, allowed: Callable[[Region], bool] = lambda _: True) -> list[LevelAndRegion]:
    """The search in plain words: of all cells offered and not attended, the most probable path is next."""
    found: list[LevelAndRegion] = [(0, root) for root in ROOTS]
    offered: list[tuple[float, LevelAndRegion]] = []

    def offer(level: int, region: Region, path: float) -> None:
        if level < levels - 1:
            for cell, value in zip(GRID.cells(region), log_probs_of(region), strict=True):
                if allowed(cell):
                    offered.append((path + value, (level + 1, cell)))

    for root in ROOTS:
        offer(0, root, float(np.log(0.5)))
    while offered and len(found) - len(ROOTS) < budget:
        best = max(offered, key=lambda each: each[0])
        offered.remove(best)
        found.append(best[1])
        offer(*best[1], best[0])
    return found


HALVES = torch.tensor([0.5, 0.5]).log()


@pytest.mark.parametrize("budget", [1, 5, 17, 60])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_it_attends_what_a_plain_greedy_search_attends(budget, levels):
    _, looked_at = run(traverse_best_first(ROOTS, HALVES, plan(budget, levels=levels)))
    assert looked_at == greedy(budget, levels)


def test_it_comes_back_up():
    _, looked_at = run(traverse_best_first(ROOTS, HALVES, plan(30)))
    levels = [level for level, _ in looked_at]
    assert any(later < earlier for earlier, later in pairwise(levels))


def test_cells_that_are_not_allowed_are_left_out():
    def on_the_left(cells, _):
        return np.array([cell.x < 64 for cell in cells])

    _, looked_at = run(traverse_best_first(ROOTS, HALVES, plan(1000), on_the_left))
    assert looked_at[: len(ROOTS)] == [(0, root) for root in ROOTS]
    assert all(region.x < 64 for _, region in looked_at[2:])
    assert set(looked_at) == set(greedy(1000, 4, allowed=lambda cell: cell.x < 64))


def test_the_record_says_how_each_region_was_reached():
    traversal, looked_at = run(traverse_best_first(ROOTS, HALVES, plan(40, at_once=7)))
    assert traversal.location_count == 40
    assert traversal.order is not None
    in_record = [(record.processing_level, region) for record in traversal.levels for region in record.regions]
    assert in_record == [looked_at[number] for number in traversal.order]
    assert sorted(traversal.order) == list(range(len(looked_at)))
    for above, below in pairwise(traversal.levels):
        reached = list(zip(below.parents, below.cells, strict=True))
        assert reached == sorted(reached)
        for row, (parent, cell) in enumerate(reached):
            assert below.regions[row] == GRID.cells(above.regions[parent])[cell]
            assert below.location_log_probs[row] == pytest.approx(log_probs_of(above.regions[parent])[cell])
            assert below.path_log_probs[row] == pytest.approx(
                above.path_log_probs[parent] + below.location_log_probs[row]
            )
            y, x, scale = above.positions[parent]
            assert tuple(below.positions[row]) == (2 * y + cell // 2, 2 * x + cell % 2, scale + 1)
        features = [(region.x, region.y, region.width) for region in below.regions]
        assert [tuple(each) for each in below.features.tolist()] == features
    assert traversal.levels[-1].cell_log_probs is None


def test_it_ends_when_the_answer_stands_still_and_asks_only_at_the_finest():
    asked: list[int] = []

    class ThirdTime:
        def update(self, features, closest):
            assert len(closest) == len(features)
            asked.append(len(features))
            return len(asked) == 3

    traversal, looked_at = run(traverse_best_first(ROOTS, HALVES, plan(60, at_once=4), stopping=ThirdTime()))
    assert len(looked_at) == asked[-1]
    assert asked == [asked[0], asked[0] + 4, asked[0] + 8]
    before_asked = [level for level, _ in looked_at[: asked[0]]]
    assert 3 in before_asked
    assert 3 not in before_asked[:-4]
    assert len(traversal.levels) == 4


def test_it_ends_where_nothing_is_open():
    traversal, _ = run(traverse_best_first(ROOTS, HALVES, plan(10**6, at_once=9)))
    assert traversal.location_count == 2 * (4 + 16 + 64)
    only_roots, _ = run(traverse_best_first(ROOTS, HALVES, plan(5), lambda cells, _: np.zeros(len(cells), dtype=bool)))
    assert only_roots.location_count == 0
    assert only_roots.order is not None


def test_what_cannot_be_traversed():
    with pytest.raises(ValueError, match="0 roots"):
        next(traverse_best_first((), torch.empty(0), plan(3)))
    with pytest.raises(ValueError, match="at least 1"):
        plan(0)
    with pytest.raises(ValueError, match="NaN"):
        run(traverse_best_first(ROOTS, HALVES, plan(3)), lambda _: np.full(4, np.nan))
    steps = traverse_best_first(ROOTS, HALVES, plan(3))
    next(steps)
    with pytest.raises(ValueError, match="2 regions were wanted, 1 were looked at"):
        steps.send(Look(torch.zeros(1, 3), torch.zeros(1, 4)))
