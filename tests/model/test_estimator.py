"""REINFORCE over samples without replacement is the gradient of the expectation, by enumeration of all draws.

Every possible ordered draw of a small traversal is dictated in turn. Its probability is computed here with plain
products, and the sum of probability times the package's gradient is compared with the gradient of the expected reward.
Stochastic beam search has continuous values between its draws, so it is sampled, and the mean is compared within its
own confidence interval.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model.test_choice import agrees
from tests.model.test_traversal import Choice, plan, run
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model import sampling_log_probs as scheme_module
from tnet_cli.model.choice import GumbelTopK, LocationSampler, StochasticBeam, TopK
from tnet_cli.model.loss import ObjectiveInput, ObjectiveWeights, objective
from tnet_cli.model.sampling_log_probs import SamplingScheme, sampling_log_probs, sequential_log_probs
from tnet_cli.model.traversal import Look, Traversal, Wanted

ROOTS = (Region(0, 0, 36, 36), Region(36, 0, 36, 36))
SHARES = (0.65, 0.35)
BASELINE = 0.37
WEIGHTS = ObjectiveWeights(reinforce=1.0, slide_reinforce=1.0)
FEATURE_WEIGHTS = ObjectiveWeights(reinforce=1.0, slide_reinforce=0.0)


class Scripted:
    """A sampler that is told the order of every draw: for each call, for each row, cells or flat indices."""

    def __init__(self, script: Sequence[Sequence[Sequence[int]]], *, flat: bool) -> None:
        self.script, self.flat = iter(script), flat

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        raise NotImplementedError

    def perturb(self, log_probs: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        keys = np.where(np.isfinite(log_probs), -100.0, -np.inf)
        rows = [keys.ravel()] if self.flat else list(keys)
        for row, order in zip(rows, next(self.script), strict=True):
            row[list(order)] = -np.arange(len(order), dtype=float)
        return keys


class Game:
    """Two processing levels below two roots, with one logit for every cell, and rewards made up for what was drawn.

    Cells are named by root, cell and cell of the cell. One cell of the first root may not be attended.
    """

    def __init__(self, n: int, roots: int = 2) -> None:
        rng = np.random.default_rng(n)
        self.grid, self.cells, self.roots = AttentionGrid(n, 1 / n), n * n, roots
        self.logits = torch.from_numpy(rng.normal(0, 1, (roots, 1 + n * n, n * n))).requires_grad_()
        self.root_log_probs = torch.tensor(SHARES[:roots]).double().log() if roots > 1 else torch.zeros(1).double()
        self.forbidden = self.grid.cells(ROOTS[0])[1]

    def allowed(self, regions: Sequence[Region], _roots: np.ndarray) -> np.ndarray:
        return np.array([region != self.forbidden for region in regions])

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities in their grids of the first step's cells (R, G) and of the second's (R, G, G)."""
        open_cells = torch.ones(self.roots, 1 + self.cells, self.cells, dtype=torch.bool)
        open_cells[0, 0, 1] = False
        table = torch.log_softmax(self.logits.masked_fill(~open_cells, -1e9), dim=2)
        table = table.masked_fill(~open_cells, -torch.inf)
        return table[:, 0], table[:, 1:]

    def answer(self, wanted: Wanted) -> Look:
        features = torch.zeros(len(wanted.regions), 1)
        if wanted.allowed is None:
            return Look(features, None)
        first, second = self.log_probs()
        roots = [0 if region.x < 36 else 1 for region in wanted.regions]
        if wanted.processing_level == 0:
            return Look(features, first[roots])
        cells = [int(y * self.grid.n + x) for y, x, _ in wanted.positions]
        return Look(features, second[roots, cells])

    def traverse(self, sampler: LocationSampler, locations: tuple[int, ...], choice: Choice) -> Traversal:
        steps = plan(self.grid, locations, choice, sampler)
        return run(ROOTS[: self.roots], self.root_log_probs, steps, self.answer, self.allowed)

    def paths(self, traversal: Traversal) -> list[list[tuple[int, ...]]]:
        """Root, cell, cell of the cell: for each processing level after the first."""
        reached: list[tuple[int, ...]] = [(root,) for root in range(self.roots)]
        found = []
        for record in traversal.levels[1:]:
            reached = [(*reached[p], int(c)) for p, c in zip(record.parents, record.cells, strict=True)]
            found.append(reached)
        return found


def coin(what: object) -> float:
    """A reward of zero or one that is fixed for what it is given, however many draws made it."""
    return toss(str((what,)))


@cache
def toss(what: str) -> float:
    return float(np.random.default_rng(list(what.encode())).random() < 0.5)


def slide_reward(levels: Sequence[Sequence[tuple[int, ...]]]) -> float:
    return coin([sorted(level) for level in levels])


Sampled = tuple[Traversal, Sequence[Tensor]]
"""A traversal and the log-probabilities of its draws."""


def gradient(game: Game, sampled: Sequence[Sampled], weights: ObjectiveWeights) -> Tensor:
    """The gradient of the package's REINFORCE terms, the mean over some traversals."""
    right, wrong = [0.0, 1.0], [1.0, 0.0]
    paths = [game.paths(traversal) for traversal, _ in sampled]
    rewards = [[coin(path) for level in levels for path in level] for levels in paths]
    steps = [[1 + step for step, level in enumerate(levels) for _ in level] for levels in paths]
    said = ObjectiveInput(
        logits=torch.tensor([right if slide_reward(levels) else wrong for levels in paths]).double(),
        labels=torch.ones(len(sampled), dtype=torch.int64),
        feature_logits=[
            torch.tensor([right] * game.roots + [right if each else wrong for each in of_one]).double()
            for of_one in rewards
        ],
        location_log_probs=[torch.cat(list(log_probs)) for _, log_probs in sampled],
        processing_levels=[torch.tensor([0] * game.roots + of_one) for of_one in steps],
    )
    terms = objective(said, BASELINE, weights)
    loss = terms.reinforce if weights is WEIGHTS else terms.feature_reinforce
    return torch.autograd.grad(loss, game.logits, retain_graph=True)[0]


def one_after_the_other(probs: Tensor, order: Sequence[int]) -> Tensor:
    """Probability of each of the ordered draws given those before."""
    left, steps = probs.sum(), []
    for index in order:
        steps.append(probs[index] / left)
        left = left - probs[index]
    return torch.stack(steps)


def orders(probs: Tensor, k: int) -> Iterator[tuple[int, ...]]:
    return itertools.permutations(np.flatnonzero(probs.detach().numpy()).tolist(), k)


Draw = tuple[list[list[tuple[int, ...]]], list[Tensor]]
"""The script of a traversal: for each step, for each row an order; and the chance of each draw given those before."""


def per_grid_draws(game: Game, k: tuple[int, ...]) -> Iterator[Draw]:
    first, second = (each.exp() for each in game.log_probs())
    for tops in itertools.product(*(list(orders(first[root], k[0])) for root in range(game.roots))):
        chances = [one_after_the_other(first[root], order) for root, order in enumerate(tops)]
        if len(k) == 1:
            yield [list(tops)], chances
            continue
        reached = [(root, cell) for root, order in enumerate(tops) for cell in sorted(order)]
        for below in itertools.product(*(list(orders(second[at], k[1])) for at in reached)):
            lower = [one_after_the_other(second[at], order) for at, order in zip(reached, below, strict=True)]
            yield [list(tops), list(below)], chances + lower


def redrawn_draws(game: Game, k: tuple[int, ...]) -> Iterator[Draw]:
    first, second = (each.exp() for each in game.log_probs())
    joint = (game.root_log_probs.exp()[:, None] * first).flatten()
    for top in orders(joint, k[0]):
        chances = [one_after_the_other(joint, top)]
        if len(k) == 1:
            yield [[top]], chances
            continue
        reached = sorted(top)
        below = (joint[reached][:, None] * second.flatten(0, 1)[reached]).flatten()
        for order in orders(below, k[1]):
            yield [[top], [order]], [*chances, one_after_the_other(below, order)]


ENUMERATED = [
    pytest.param("per_grid", per_grid_draws, 3, 1, (2,), id="per_grid 3x3, two cells"),
    pytest.param("per_grid", per_grid_draws, 2, 1, (2, 1), id="per_grid 2x2, two steps"),
    pytest.param("per_grid", per_grid_draws, 2, 2, (2,), id="per_grid 2x2, two roots"),
    pytest.param("redrawn", redrawn_draws, 3, 1, (3,), id="beam 3x3, three cells"),
    pytest.param("redrawn", redrawn_draws, 2, 2, (1, 2), id="beam 2x2, two roots, one then two"),
    pytest.param("redrawn", redrawn_draws, 2, 2, (2, 1), id="beam 2x2, two roots, two then one"),
    pytest.param("beam_search", redrawn_draws, 3, 1, (2,), id="beam search over one step"),
]


@pytest.mark.parametrize(("scheme", "enumerate_draws", "n", "roots", "k"), ENUMERATED)
def test_the_mean_over_all_draws_is_the_gradient_of_the_expected_reward(scheme, enumerate_draws, n, roots, k):
    game = Game(n, roots)
    choice: Choice = "per_grid" if scheme == "per_grid" else "beam"
    whole, expected, estimated, estimated_greedy = 0.0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    greedy = torch.zeros(())
    for script, chances in enumerate_draws(game, k):
        traversal = game.traverse(Scripted(script, flat=choice == "beam"), k, choice)
        levels = game.paths(traversal)
        chance = torch.cat(chances).prod()
        whole += float(chance.detach())
        expected = expected - chance * slide_reward(levels)
        log_probs = sampling_log_probs(traversal, scheme)
        assert float(torch.cat(log_probs).detach().sum().exp()) == pytest.approx(float(chance.detach()))
        sampled = [(traversal, log_probs)]
        estimated = estimated + chance.detach() * gradient(game, sampled, WEIGHTS)
        estimated_greedy = estimated_greedy + chance.detach() * gradient(game, sampled, FEATURE_WEIGHTS)
        # Each draw's chance is varied for its own reward while all that was drawn before is held fixed.
        rewards = torch.tensor([coin(path) for path in drawn_in_order(levels, script, game, choice)])
        each = torch.cat(chances)
        greedy = greedy - chance.detach() * (each.log() * rewards).sum() / len(rewards)
    assert whole == pytest.approx(1)
    (exact,) = torch.autograd.grad(expected, game.logits, retain_graph=True)
    torch.testing.assert_close(estimated, exact, rtol=0, atol=1e-10)
    assert float(exact.abs().max()) > 1e-3
    (exact_greedy,) = torch.autograd.grad(greedy, game.logits)
    torch.testing.assert_close(estimated_greedy, exact_greedy, rtol=0, atol=1e-10)


def drawn_in_order(
    levels: Sequence[Sequence[tuple[int, ...]]], script: list[list[tuple[int, ...]]], game: Game, choice: Choice
) -> list[tuple[int, ...]]:
    """The paths in the order of their draws, from the script."""
    above: Sequence[tuple[int, ...]] = [(root,) for root in range(game.roots)]
    found: list[tuple[int, ...]] = []
    for rows, level in zip(script, levels, strict=True):
        for row, order in enumerate(rows):
            found += [
                (*above[index // game.cells], index % game.cells) if choice == "beam" else (*above[row], index)
                for index in order
            ]
        above = level
    assert sorted(found) == sorted(path for level in levels for path in level)
    return found


def test_the_cells_log_probabilities_are_no_score_of_several_draws():
    """The authors' sum of log-probabilities is exact for one location of a grid, and only for one."""
    game = Game(3, 1)
    for k, is_exact in ((1, True), (3, False)):
        expected, estimated = torch.zeros(()), torch.zeros(())
        for script, chances in per_grid_draws(game, (k,)):
            traversal = game.traverse(Scripted(script, flat=False), (k,), "per_grid")
            chance = torch.cat(chances).prod()
            expected = expected - chance * slide_reward(game.paths(traversal))
            cells = [record.location_log_probs for record in traversal.levels[1:]]
            estimated = estimated + chance.detach() * gradient(game, [(traversal, cells)], WEIGHTS)
        (exact,) = torch.autograd.grad(expected, game.logits)
        assert torch.allclose(estimated, exact, rtol=0, atol=1e-10) is is_exact


Outcome = tuple[tuple[tuple[int, ...], ...], ...]


def beam_search_outcomes(game: Game) -> dict[Outcome, Tensor]:
    """Chance of every pair of two cells and two paths, when whole paths are drawn one after the other.

    The cells kept are the first two that any path drawn goes through; the paths kept are the first two through them.
    """
    first, second = (each.exp() for each in game.log_probs())
    cells = {(r, c): SHARES[r] * first[r, c] for r in range(2) for c in range(game.cells) if (r, c) != (0, 1)}
    paths = {(*at, c): cells[at] * second[at][c] for at in cells for c in range(game.cells)}
    chances: dict[Outcome, Tensor] = {}
    for one, two in itertools.permutations(paths, 2):
        both = paths[one] * paths[two] / (1 - paths[one])
        home = one[:2]
        if two[:2] != home:
            ended = {(tuple(sorted((home, two[:2]))), tuple(sorted((one, two)))): both}
        else:
            ended = {
                (tuple(sorted((home, other))), tuple(sorted((one, two)))): both * cells[other] / (1 - cells[home])
                for other in cells
                if other != home
            }
        for outcome, chance in ended.items():
            chances[outcome] = chances.get(outcome, torch.zeros(())) + chance
    return chances


def outcome_of(game: Game, traversal: Traversal) -> Outcome:
    return tuple(tuple(sorted(level)) for level in game.paths(traversal))


@pytest.fixture(scope="module")
def searched() -> tuple[Game, list[Outcome], Tensor, Tensor]:
    """Many stochastic beam searches: what each found, the mean gradient of every ten, and its draws' scores."""
    game = Game(2)
    sampler = StochasticBeam(np.random.default_rng(77))
    sampled: list[Sampled] = []
    found, scores = [], []
    for number in range(2500):
        traversal = game.traverse(sampler, (2, 2), "beam")
        found.append(outcome_of(game, traversal))
        log_probs = sampling_log_probs(traversal, "beam_search")
        sampled.append((traversal, log_probs))
        if number < 1000:
            in_order = [each[draw] for each, draw in drawn_first(traversal, log_probs)]
            scores.append(
                torch.stack([torch.autograd.grad(each, game.logits, retain_graph=True)[0] for each in in_order])
            )
    gradients = [gradient(game, sampled[first : first + 10], WEIGHTS) for first in range(0, len(sampled), 10)]
    return game, found, torch.stack(gradients), torch.stack(scores)


def drawn_first(traversal: Traversal, log_probs: Sequence[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Each draw in the order in which it was made, as a processing level's log-probabilities and an index."""
    for record, each in zip(traversal.levels[1:], log_probs, strict=True):
        assert record.perturbed is not None
        for draw in np.argsort(-record.perturbed):
            yield each, int(draw)


def test_a_stochastic_beam_search_draws_whole_paths_without_replacement(searched):
    game, found, _, _ = searched
    chances = {outcome: float(chance.detach()) for outcome, chance in beam_search_outcomes(game).items()}
    assert sum(chances.values()) == pytest.approx(1)
    assert agrees(found, chances)
    # With noise drawn anew at each step the same test fails: paths of one cell come together too often.
    sampler = GumbelTopK(np.random.default_rng(78))
    anew = [outcome_of(game, game.traverse(sampler, (2, 2), "beam")) for _ in range(1500)]
    assert not agrees(anew, chances)


def test_the_best_value_below_a_region_is_the_regions_own():
    game = Game(2)
    values = np.log(np.random.default_rng(3).dirichlet(np.ones(4), 3))
    values[1, 2] = values[2, :] = -np.inf
    parents = np.array([0.3, -2.0, 1.0])
    keys = StochasticBeam(np.random.default_rng(4)).perturb(values, parents)
    np.testing.assert_array_equal(keys[:2].max(axis=1), parents[:2])
    np.testing.assert_array_equal(np.isfinite(keys), np.isfinite(values))
    traversal = game.traverse(StochasticBeam(np.random.default_rng(5)), (3, 3), "beam")
    middle, last = traversal.levels[1:]
    assert middle.perturbed is not None
    assert last.perturbed is not None
    assert (last.perturbed <= middle.perturbed[last.parents]).all()


def within_confidence(samples: Tensor, exact: Tensor) -> bool:
    """Whether every component's mean lies within 4.5 of its standard errors; one in 4000 of 36 would not by chance."""
    error = samples.std(dim=0) / math.sqrt(len(samples))
    return bool(((samples.mean(dim=0) - exact).abs() <= 4.5 * error + 1e-9).all())


def test_the_mean_over_beam_searches_is_the_gradient_of_the_expected_reward(searched):
    game, _, gradients, scores = searched
    chances = beam_search_outcomes(game)
    expected = -torch.stack([chance * slide_reward(outcome) for outcome, chance in chances.items()]).sum()
    (exact,) = torch.autograd.grad(expected, game.logits)
    assert within_confidence(gradients, exact)
    # The interval is narrow enough to tell: neither zero nor twice the gradient lies in it.
    assert not within_confidence(gradients, torch.zeros_like(exact))
    assert not within_confidence(gradients, 2 * exact)
    # Every draw's own score has no mean, so a baseline, and the rewards of other features, add none either.
    assert within_confidence(scores, torch.zeros_like(exact))


def test_the_density_of_one_race_is_that_of_its_order_when_waiting_times_are_their_means():
    """The density is linear in the waiting times, each of mean one over the rates that run: only order is left."""
    game = Game(3, 1)
    probs = game.log_probs()[0][0].exp().detach()
    for order in list(orders(probs, 3))[::25]:
        waits = [1 / (1 - float(probs[list(order[:draw])].sum())) for draw in range(3)]
        keys = np.full(9, -50.0)
        keys[list(order)] = -np.log(np.cumsum(waits))
        keys[1] = -np.inf
        timed = Timed(keys[None])
        traversal = game.traverse(timed, (3,), "beam")
        above, record = traversal.levels
        assert record.perturbed is not None
        race = scheme_module._race(above, record, record.perturbed)
        plain = torch.cat(sampling_log_probs(traversal, "redrawn"))
        for ours, theirs in zip(race, plain, strict=True):
            (score,) = torch.autograd.grad(ours, game.logits, retain_graph=True)
            (expected,) = torch.autograd.grad(theirs, game.logits, retain_graph=True)
            torch.testing.assert_close(score, expected, rtol=0, atol=1e-12)


class Timed(Scripted):
    """A sampler that is told the perturbed values themselves."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys

    def perturb(self, log_probs: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        return self.keys


def test_what_was_not_sampled_has_no_probability():
    traversal = Game(2).traverse(TopK(), (2, 2), "beam")
    with pytest.raises(ValueError, match="not sampled"):
        sampling_log_probs(traversal, "redrawn")


def test_cells_that_stand_alone_are_drawn_among_all_whatever_region_they_are_of():
    game = Game(2)
    traversal = game.traverse(GumbelTopK(np.random.default_rng(3)), (2, 3), "beam")
    above, record = traversal.levels[1:]
    assert above.cell_log_probs is not None
    assert record.perturbed is not None
    cells = above.cell_log_probs.shape[1]
    alone = sequential_log_probs(
        above.cell_log_probs.flatten(), record.parents * cells + record.cells, record.perturbed
    )
    assert torch.equal(sampling_log_probs(traversal, "redrawn", by_response=True)[1], alone)
    assert not torch.equal(sampling_log_probs(traversal, "redrawn")[1], alone)
    with pytest.raises(ValueError, match="make no paths"):
        sampling_log_probs(traversal, "beam_search", by_response=True)


PerturbingSampler = Callable[[np.random.Generator], LocationSampler]


@pytest.mark.parametrize(
    ("sampler", "scheme", "choice"),
    [(GumbelTopK, "per_grid", "per_grid"), (GumbelTopK, "redrawn", "beam"), (StochasticBeam, "beam_search", "beam")],
)
def test_certain_draws_have_certainty_and_finite_gradients(
    sampler: PerturbingSampler, scheme: SamplingScheme, choice: Choice
):
    """Everything that may be drawn is drawn: no draw can raise or lower what it expects."""
    game = Game(2)
    traversal = game.traverse(sampler(np.random.default_rng(6)), (4, 40) if choice == "beam" else (4, 4), choice)
    log_probs = torch.cat(sampling_log_probs(traversal, scheme))
    assert torch.isfinite(log_probs).all()
    (score,) = torch.autograd.grad(log_probs.sum(), game.logits)
    assert torch.isfinite(score).all()
