"""The traversal without files, network or torch: numpy arrays answer."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model import oracles
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.choice import GumbelTopK, LocationSampler, RandomChoice, TopK
from tnet_cli.model.traversal import AllowedFunction, Look, Traversal, TraversalPlan, Wanted, traverse

Network = Callable[[Wanted], Look]
Choice = Literal["per_grid", "beam"]


def plan(
    grid: AttentionGrid,
    locations: tuple[int, ...],
    choice: Choice,
    sampler: LocationSampler | None = None,
    start: int = 0,
):
    return TraversalPlan(grid, start + len(locations) + 1, locations, choice, sampler or TopK(), start)


def run(
    roots: Sequence[Region],
    root_log_probs: Any,
    plan: TraversalPlan,
    answer: Network,
    allowed: AllowedFunction | None = None,
) -> Traversal:
    generator = traverse(roots, root_log_probs, plan, allowed)
    wanted = next(generator)
    while True:
        try:
            wanted = generator.send(answer(wanted))
        except StopIteration as end:
            traversal: Traversal = end.value
            return traversal


def masked_log_softmax(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    out = np.full(logits.shape, -np.inf)
    for row, open_cells in enumerate(allowed):
        if open_cells.any():
            out[row, open_cells] = np.log(oracles.softmax(logits[row, open_cells]))
    return out


def answering(seed: int) -> Network:
    """A network that answers the same for the same regions, whatever the order in which it is asked."""

    def answer(wanted: Wanted) -> Look:
        features = np.array([[r.x, r.y, r.width, r.height] for r in wanted.regions], dtype=np.float64)
        if wanted.allowed is None:
            return Look(features, None)
        seeds = [[seed, r.x + 9999, r.y + 9999, wanted.processing_level] for r in wanted.regions]
        logits = np.stack([np.random.default_rng(each).normal(0, 2, wanted.allowed.shape[1]) for each in seeds])
        return Look(features, masked_log_softmax(logits, wanted.allowed))

    return answer


def left_of(x: int) -> AllowedFunction:
    """Tissue lies left of a column."""
    return lambda regions, _: np.array([region.x < x for region in regions])


grids = st.sampled_from([AttentionGrid(2, 0.5), AttentionGrid(3, 1 / 3), AttentionGrid(4, 0.25)])
overlapping = st.sampled_from([AttentionGrid(3, 0.5), AttentionGrid(5, 0.35), AttentionGrid(2, 0.75)])
samplers = st.sampled_from(["top", "gumbel", "random"])


def made_chooser(name: str, seed: int) -> LocationSampler:
    rng = np.random.default_rng(seed)
    known: dict[str, LocationSampler] = {"top": TopK(), "gumbel": GumbelTopK(rng), "random": RandomChoice(rng)}
    return known[name]


@st.composite
def traversed_slides(draw: st.DrawFn, any_grid: bool = False):
    """A plan, its roots side by side, and where tissue ends."""
    grid = draw(grids | overlapping if any_grid else grids)
    steps = draw(st.integers(0, 3))
    locations = tuple(draw(st.lists(st.integers(1, 6), min_size=steps, max_size=steps)))
    choice: Choice = "per_grid" if not grid.tiles_the_region else draw(st.sampled_from(["per_grid", "beam"]))
    seed = draw(st.integers(0, 1000))
    side = draw(st.integers(grid.n ** (steps + 1), 700))
    roots = [Region(number * side - 50, -20, side, side) for number in range(draw(st.integers(1, 3)))]
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(roots)))
    edge = draw(st.integers(-60, 3 * side))
    sampler = made_chooser(draw(samplers), seed)
    steps_down = plan(grid, locations, choice, sampler, draw(st.integers(0, 2)))
    return steps_down, roots, np.log(shares), left_of(edge), seed


@given(traversed_slides(any_grid=True))
def test_what_is_recorded_is_consistent(traversed):
    plan, roots, root_log_probs, allowed, seed = traversed
    traversal = run(roots, root_log_probs, plan, answering(seed), allowed)
    first = traversal.levels[0]
    assert first.regions == tuple(roots)
    assert (first.parents == -1).all()
    assert first.processing_level == plan.start
    assert (first.positions == [0, 0, plan.start]).all()
    np.testing.assert_array_equal(first.path_log_probs, root_log_probs)
    for parent, record in zip(traversal.levels, traversal.levels[1:], strict=False):
        assert record.processing_level == parent.processing_level + 1
        assert parent.allowed is not None
        assert parent.cell_log_probs is not None
        order = record.parents * plan.grid.cell_count + record.cells
        assert (np.diff(order) > 0).all()
        for index, region in enumerate(record.regions):
            up, cell = int(record.parents[index]), int(record.cells[index])
            assert region == plan.grid.cells(parent.regions[up])[cell]
            assert parent.allowed[up, cell]
            assert allowed([region], np.zeros(1, int))[0]
            assert record.location_log_probs[index] == parent.cell_log_probs[up, cell]
            assert record.path_log_probs[index] == parent.path_log_probs[up] + record.location_log_probs[index]
            y, x, scale = parent.positions[up]
            row, column = divmod(cell, plan.grid.n)
            assert record.positions[index].tolist() == [y * plan.grid.n + row, x * plan.grid.n + column, scale + 1]
    # Roots count where nothing lies below them.
    uncounted = len(roots) if plan.locations else 0
    assert traversal.location_count == sum(len(record.regions) for record in traversal.levels) - uncounted


@given(traversed_slides())
def test_tiling_grids_lead_nowhere_twice_and_stay_inside(traversed):
    plan, roots, root_log_probs, allowed, seed = traversed
    traversal = run(roots, root_log_probs, plan, answering(seed), allowed)
    for record in traversal.levels:
        assert len(set(record.regions)) == len(record.regions)
        assert np.exp(record.path_log_probs).sum() <= 1 + 1e-9
    for parent, record in zip(traversal.levels, traversal.levels[1:], strict=False):
        for region, up in zip(record.regions, record.parents, strict=True):
            assert parent.regions[up].contains(region)


@given(traversed_slides(any_grid=True))
def test_the_budget_is_spent_and_never_overspent(traversed):
    plan, roots, root_log_probs, allowed, seed = traversed
    traversal = run(roots, root_log_probs, plan, answering(seed), allowed)
    for number, record in enumerate(traversal.levels[:-1]):
        assert record.allowed is not None
        k, open_cells = plan.locations[number], record.allowed.sum(axis=1)
        expected = min(k, open_cells.sum()) if plan.choice == "beam" else np.minimum(k, open_cells).sum()
        assert len(traversal.levels[number + 1].regions) == expected
    last = traversal.levels[-1]
    ended_early = len(traversal.levels) < plan.processing_levels - plan.start
    if ended_early:
        assert last.allowed is not None
        assert not last.allowed.any()
    else:
        assert last.allowed is None


@given(traversed_slides(any_grid=True))
def test_top_k_takes_the_oracles_path(traversed):
    drawn, roots, root_log_probs, allowed, seed = traversed
    best = plan(drawn.grid, drawn.locations, drawn.choice)
    traversal = run(roots, root_log_probs, best, answering(seed), allowed)
    boxes = [
        oracles.Box(r.x, r.y, r.width, r.height, (0, 0, 0), float(p))
        for r, p in zip(roots, root_log_probs, strict=True)
    ]
    for number, record in enumerate(traversal.levels[1:]):
        before = traversal.levels[number]
        assert before.cell_log_probs is not None
        probs = list(np.exp(before.cell_log_probs))
        n, fraction = best.grid.n, best.grid.cell_fraction
        boxes = oracles.expand(boxes, probs, n, fraction, best.locations[number], best.choice)
        assert [(r.x, r.y, r.width, r.height) for r in record.regions] == [
            (box.x, box.y, box.width, box.height) for box in boxes
        ]
        assert record.positions.tolist() == [list(box.position) for box in boxes]
        np.testing.assert_allclose(record.path_log_probs, [box.path for box in boxes], atol=1e-9)


def fixed(log_probs: np.ndarray) -> Network:
    def answer(wanted: Wanted) -> Look:
        features = np.zeros((len(wanted.regions), 1))
        return Look(features, None if wanted.allowed is None else np.tile(log_probs, (len(wanted.regions), 1)))

    return answer


def test_a_beam_spends_the_slides_budget_where_the_path_is_likely():
    roots = [Region(0, 0, 8, 8), Region(8, 0, 8, 8)]
    log_probs = np.log([0.4, 0.3, 0.2, 0.1])
    beam = run(roots, np.log([0.9, 0.1]), plan(AttentionGrid(2, 0.5), (4,), "beam"), fixed(log_probs))
    assert beam.levels[1].parents.tolist() == [0, 0, 0, 0]
    per_grid = run(roots, np.log([0.9, 0.1]), plan(AttentionGrid(2, 0.5), (2,), "per_grid"), fixed(log_probs))
    assert per_grid.levels[1].parents.tolist() == [0, 0, 1, 1]
    assert per_grid.levels[1].cells.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(np.exp(per_grid.levels[1].path_log_probs), [0.36, 0.27, 0.04, 0.03])


def test_a_region_without_allowed_cells_is_a_leaf_and_the_others_go_on():
    roots = [Region(0, 0, 8, 8), Region(8, 0, 8, 8), Region(16, 0, 8, 8)]
    outside = [roots[1].intersect, roots[2].intersect]
    allowed = lambda regions, _: np.array([outside[0](r) is None for r in regions])  # noqa: E731
    for choice in ("per_grid", "beam"):
        steps = plan(AttentionGrid(2, 0.5), (2, 4), choice)
        traversal = run(roots, np.log([0.01, 0.98, 0.01]), steps, answering(1), allowed)
        assert 1 not in traversal.levels[1].parents
        assert len(traversal.levels) == 3
        assert {region.x // 8 for region in traversal.levels[2].regions} <= {0, 2}


def test_a_network_that_favours_what_is_not_allowed_is_not_followed():
    half = lambda regions, _: np.array([region.x >= 4 for region in regions])  # noqa: E731
    for choice in ("per_grid", "beam"):
        steps = plan(AttentionGrid(2, 0.5), (2,), choice)
        traversal = run([Region(0, 0, 8, 8)], np.zeros(1), steps, fixed(np.log([0.4, 0.1, 0.4, 0.1])), half)
        assert traversal.levels[1].cells.tolist() == [1, 3]


def test_nothing_allowed_ends_the_traversal_at_the_roots():
    steps = plan(AttentionGrid(2, 0.5), (2, 2), "beam")
    nothing = lambda regions, _: np.zeros(len(regions), dtype=bool)  # noqa: E731
    traversal = run([Region(0, 0, 8, 8)], np.zeros(1), steps, answering(1), nothing)
    assert len(traversal.levels) == 1
    assert traversal.location_count == 0


@pytest.mark.parametrize("start", [0, 2])
def test_roots_of_the_finest_processing_level_want_no_cells_and_are_attended_locations(start):
    steps = plan(AttentionGrid(2, 0.5), (), "beam", start=start)
    generator = traverse([Region(0, 0, 8, 8)], np.zeros(1), steps)
    assert next(generator).allowed is None
    with pytest.raises(StopIteration) as end:
        generator.send(Look(np.zeros((1, 2)), None))
    assert end.value.value.location_count == 1
    assert [record.processing_level for record in end.value.value.levels] == [start]


def test_the_test_of_cells_is_told_in_which_root_they_lie():
    """As far down as the traversal goes, and whatever parents were chosen."""
    roots, told = [Region(0, 0, 64, 64), Region(40, 0, 64, 64)], list[tuple[int, int]]()

    def noted(cells, root_of):
        told.extend((cell.x, int(root)) for cell, root in zip(cells, root_of, strict=True))
        return np.ones(len(cells), dtype=bool)

    run(roots, np.log([0.5, 0.5]), plan(AttentionGrid(4, 0.25), (7, 9), "beam"), answering(3), noted)
    # The roots' cells begin at multiples of 16 and at 40 and 8 more than these; those of their cells at multiples of 4.
    assert len(told) == 32 + 7 * 16
    assert all((x >= 40 if root else x < 64) for x, root in told)
    assert {root for _, root in told[32:]} == {0, 1}


@pytest.mark.parametrize(("start", "levels"), [(-1, 2), (2, 2), (1, 3)])
def test_a_plan_has_a_number_for_each_processing_level_below_the_roots(start, levels):
    with pytest.raises(ValueError, match="numbers of locations"):
        TraversalPlan(AttentionGrid(2, 0.5), levels, (1, 1), "beam", TopK(), start)


def test_gumbel_samples_the_joint_probabilities_of_a_whole_slide():
    """Two roots, two grids of four: the beam's inclusion is that of drawing the eight paths without replacement."""
    roots, shares, cells = (
        [Region(0, 0, 8, 8), Region(8, 0, 8, 8)],
        np.array([0.7, 0.3]),
        np.array([0.5, 0.3, 0.2, 0.0]),
    )
    with np.errstate(divide="ignore"):
        answer = fixed(np.log(cells))
    expected = oracles.sequential_inclusion(np.outer(shares, cells).ravel(), 3)
    sampler, counts, runs = GumbelTopK(np.random.default_rng(7)), np.zeros(8), 4000
    for _ in range(runs):
        level = run(roots, np.log(shares), plan(AttentionGrid(2, 0.5), (3,), "beam", sampler), answer).levels[1]
        counts[level.parents * 4 + level.cells] += 1
    # Four standard deviations of a share of 4000 runs are at most 0.032.
    np.testing.assert_allclose(counts / runs, expected, atol=0.032)
    assert counts[[3, 7]].sum() == 0


def test_gradients_flow_through_the_paths_and_only_through_those_taken():
    logits = torch.zeros(3, 4, requires_grad=True)
    seen = [logits[:1], logits[1:]]

    def answer(wanted: Wanted) -> Look:
        features = torch.zeros(len(wanted.regions), 2)
        if wanted.allowed is None:
            return Look(features, None)
        return Look(features, torch.log_softmax(seen[wanted.processing_level], dim=1))

    steps = plan(AttentionGrid(2, 0.5), (2, 1), "per_grid")
    traversal = run([Region(0, 0, 8, 8)], np.zeros(1), steps, answer)
    last = traversal.levels[2].path_log_probs
    assert last.tolist() == pytest.approx([2 * np.log(0.25)] * 2)
    last[0].backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad[0], [0.75, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(logits.grad[1], [0.75, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(logits.grad[2], [0, 0, 0, 0])


@pytest.mark.parametrize("roots_kind", ["numpy", "tensor"])
@pytest.mark.parametrize("looks_kind", ["numpy", "tensor"])
def test_arrays_and_tensors_may_meet(roots_kind, looks_kind):
    shares = np.log([0.25, 0.75])
    root_log_probs = shares if roots_kind == "numpy" else torch.from_numpy(shares).float()

    def answer(wanted: Wanted) -> Look:
        look = answering(3)(wanted)
        if looks_kind == "numpy" or look.cell_log_probs is None:
            return look
        return Look(torch.from_numpy(look.features), torch.from_numpy(look.cell_log_probs).float())

    steps = plan(AttentionGrid(2, 0.5), (3, 3), "beam")
    traversal = run([Region(0, 0, 8, 8), Region(8, 0, 8, 8)], root_log_probs, steps, answer)
    expected = run([Region(0, 0, 8, 8), Region(8, 0, 8, 8)], shares, steps, answering(3))
    for record, plain in zip(traversal.levels, expected.levels, strict=True):
        assert record.regions == plain.regions
        assert isinstance(record.path_log_probs, np.ndarray if looks_kind == "numpy" else torch.Tensor)
        np.testing.assert_allclose(np.asarray(record.path_log_probs), plain.path_log_probs, atol=1e-6)


ROOT = [Region(0, 0, 8, 8)]
STEPS = plan(AttentionGrid(2, 0.5), (2,), "beam")


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (Look(np.zeros((2, 3)), np.zeros((2, 4))), "1 regions were wanted, 2 were looked at"),
        (Look(np.zeros((1, 3)), np.zeros((1, 9))), "do not fit cells of"),
        (Look(np.zeros((1, 3)), np.array([[-1.0, np.nan, -1, -1]])), "NaN"),
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(look, message):
    generator = traverse(ROOT, np.zeros(1), STEPS)
    next(generator)
    with pytest.raises(ValueError, match=message):
        generator.send(look)


def test_roots_and_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="0 roots"):
        next(traverse([], np.zeros(0), STEPS))
    with pytest.raises(ValueError, match="1 roots with 2 log-probabilities"):
        next(traverse(ROOT, np.zeros(2), STEPS))
    with pytest.raises(ValueError, match="from 0 to 3 processing levels it is 2 numbers"):
        TraversalPlan(AttentionGrid(2, 0.5), 3, (2,), "beam", TopK())


def test_the_traversal_needs_no_torch():
    code = "import sys, tnet_cli.model.traversal; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
