"""The training objective against slow arithmetic, and REINFORCE against the gradient by enumeration."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model import oracles
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.loss import Objective, ObjectiveInput, ObjectiveWeights, objective

LEVELS = [[0, 1, 1, 2], [0, 0, 1, 2, 2, 2], [0, 1]]
"""Processing levels of the features of three slides, each with another number of them."""


def made(rng: np.random.Generator) -> ObjectiveInput:
    def floats(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(0, 2, shape)).float()

    return ObjectiveInput(
        logits=floats(3, 4).requires_grad_(),
        labels=torch.tensor([1, 3, 0]),
        feature_logits=[floats(len(levels), 4).requires_grad_() for levels in LEVELS],
        location_log_probs=[
            (-floats(sum(level > 0 for level in levels)).abs()).detach().requires_grad_() for levels in LEVELS
        ],
        processing_levels=[torch.tensor(levels) for levels in LEVELS],
    )


def terms_of(result: Objective) -> dict[str, float]:
    names = ("cross_entropy", "feature_cross_entropy", "reinforce", "feature_reinforce")
    return {name: float(getattr(result, name).detach()) for name in names}


@pytest.mark.parametrize("cap", [None, 2, 3])
def test_every_term_is_the_oracles_with_another_number_of_features_each(cap, rng):
    said = made(rng)
    said = ObjectiveInput(**{name: getattr(said, name) for name in said.__slots__} | {"regularised": cap})
    weights = ObjectiveWeights(reinforce=0.3, slide_cross_entropy=0.4, slide_reinforce=0.15)
    result = objective(said, 0.37, weights)
    expected, baseline = oracles.paper_loss(
        said.logits.detach().double().numpy(),
        said.labels.numpy(),
        [each.detach().double().numpy() for each in said.feature_logits],
        [each.detach().double().numpy() for each in said.location_log_probs],
        processing_levels=LEVELS,
        baseline=0.37,
        w_c=0.4,
        w_r=0.15,
        lam=0.3,
        cap=cap or 99,
    )
    assert terms_of(result) == pytest.approx(expected, abs=1e-5)
    assert float(result.total.detach()) == pytest.approx(sum(expected.values()), abs=1e-5)
    assert result.baseline == pytest.approx(baseline, abs=1e-6)


def test_the_papers_weights_are_the_default():
    weights = ObjectiveWeights()
    assert (weights.reinforce, weights.slide_cross_entropy, weights.slide_reinforce) == (0.1, 0.2, 0.2)
    assert weights.baseline_momentum == 0.9


def test_rewards_move_locations_and_cross_entropy_moves_classes(rng):
    said = made(rng)
    result = objective(said, 0.5, ObjectiveWeights())
    (result.reinforce + result.feature_reinforce).backward(retain_graph=True)
    assert said.logits.grad is None
    assert all(each.grad is None for each in said.feature_logits)
    assert all(each.grad is not None for each in said.location_log_probs)
    moved = [each.grad.clone() for each in said.location_log_probs if each.grad is not None]
    (result.cross_entropy + result.feature_cross_entropy).backward()
    assert all(float(each.grad.abs().max()) > 0 for each in said.feature_logits if each.grad is not None)
    for before, each in zip(moved, said.location_log_probs, strict=True):
        torch.testing.assert_close(each.grad, before)


def test_a_tie_for_the_first_place_is_a_success_and_nan_is_not():
    def baseline_after(logits: list[float]) -> float:
        said = ObjectiveInput(
            logits=torch.tensor([logits]),
            labels=torch.tensor([1]),
            feature_logits=[torch.tensor([logits, logits])],
            location_log_probs=[torch.tensor([-1.0])],
            processing_levels=[torch.tensor([0, 1])],
        )
        return objective(said, 0.5, ObjectiveWeights()).baseline

    assert baseline_after([1.0, 1.0, 0.0]) == pytest.approx(0.55)
    assert baseline_after([1.0, 0.9, 0.0]) == pytest.approx(0.45)
    assert baseline_after([float("nan")] * 3) == pytest.approx(0.45)


def with_feature_labels(said: ObjectiveInput, labels: list[list[int]]) -> ObjectiveInput:
    changes = {"feature_labels": [torch.tensor(each) for each in labels]}
    return ObjectiveInput(**{name: getattr(said, name) for name in said.__slots__} | changes)


def test_features_that_are_known_better_learn_that_and_unknown_ones_learn_nothing(rng):
    said = made(rng)
    known = with_feature_labels(said, [[1, 1, -1, 1], [3, 3, 3, 3, 3, -1], [0, 2]])
    result = objective(known, 0.5, ObjectiveWeights())
    result.total.backward()
    first, second, third = (each.grad for each in said.feature_logits)
    assert first is not None
    assert second is not None
    assert third is not None
    assert float(first[2].abs().max()) == 0
    assert float(second[5].abs().max()) == 0
    # Descent raises the logit of the class the feature is known to be, not that of the slide.
    assert float(third[1, 2]) < 0
    assert float(third[1, 0]) > 0


def test_when_no_feature_counts_only_the_slides_terms_are_left(rng):
    said = with_feature_labels(made(rng), [[-1] * len(levels) for levels in LEVELS])
    result = objective(said, 0.5, ObjectiveWeights())
    assert terms_of(result)["feature_cross_entropy"] == 0
    assert terms_of(result)["feature_reinforce"] == 0
    assert np.isfinite(float(result.total.detach()))


def test_slides_where_nothing_was_attended_have_roots_alone(rng):
    logits = torch.from_numpy(rng.normal(size=(2, 3))).float()
    said = ObjectiveInput(
        logits=logits,
        labels=torch.tensor([0, 1]),
        feature_logits=[logits[:1], logits[1:]],
        location_log_probs=[torch.zeros(0), torch.zeros(0)],
        processing_levels=[torch.tensor([0]), torch.tensor([0])],
    )
    result = objective(said, 0.4, ObjectiveWeights())
    assert terms_of(result)["reinforce"] == 0
    assert terms_of(result)["feature_reinforce"] == 0
    rewards = [float(row.argmax() == label) for row, label in zip(logits, said.labels, strict=True)]
    assert result.baseline == pytest.approx(0.36 + 0.1 * (0.2 * np.mean(rewards) + 0.8 * 0.4))


REWARDED = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
"""Which cells of a 3 x 3 grid show what the slide's label says."""


def reinforce_gradient(logits: Tensor, cell: int, baseline: float) -> Tensor:
    """Gradient of the slide's REINFORCE term for one attended cell."""
    leaf = logits.clone().requires_grad_()
    log_prob = torch.log_softmax(leaf, dim=0)[cell]
    answer = torch.tensor([[0.0, 1.0]]) if REWARDED[cell] else torch.tensor([[1.0, 0.0]])
    said = ObjectiveInput(
        logits=answer,
        labels=torch.tensor([1]),
        feature_logits=[torch.zeros(2, 2)],
        location_log_probs=[log_prob[None]],
        processing_levels=[torch.tensor([0, 1])],
    )
    weights = ObjectiveWeights(reinforce=1.0, slide_reinforce=1.0, slide_cross_entropy=1.0)
    objective(said, baseline, weights).reinforce.backward()
    assert leaf.grad is not None
    return leaf.grad


def test_reinforce_is_the_gradient_of_the_expected_reward():
    logits = torch.linspace(-1, 1, 9)[[3, 0, 7, 1, 5, 8, 2, 6, 4]]
    leaf = logits.clone().requires_grad_()
    probs = torch.softmax(leaf, dim=0)
    (-(probs * REWARDED).sum()).backward()
    exact = leaf.grad
    assert exact is not None
    for baseline in (0.0, 0.37):
        gradients = torch.stack([reinforce_gradient(logits, cell, baseline) for cell in range(9)])
        torch.testing.assert_close((probs.detach()[:, None] * gradients).sum(dim=0), exact)
    sampler, log_probs = GumbelTopK(np.random.default_rng(8)), torch.log_softmax(logits, dim=0).double().numpy()
    drawn = [int(sampler(log_probs, 1)[0]) for _ in range(4000)]
    sampled = torch.stack([reinforce_gradient(logits, cell, 0.37) for cell in range(9)])[drawn].mean(dim=0)
    # A component has a standard deviation of at most 0.25 in one draw, 0.004 in the mean.
    torch.testing.assert_close(sampled, exact, rtol=0, atol=0.016)
    assert float(exact.abs().max()) > 0.05
