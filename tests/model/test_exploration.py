"""A share of uniform choice in what is drawn from, and the entropy of choices."""

import math

import numpy as np
import pytest
import torch

from tests.model.test_choice import agrees, subsets_by_enumeration
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.exploration import mean_entropy, mix_uniform
from tnet_cli.model.location import masked_log_softmax

LOGITS = torch.tensor([[4.0, -3.0, 0.5, 9.0], [1.0, 1.0, -60.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
ALLOWED = torch.tensor([[True, True, True, False], [True, True, True, True], [False, False, False, False]])


def test_the_mixture_is_the_weighted_sum_of_both():
    log_probs = masked_log_softmax(LOGITS, ALLOWED)
    mixed = mix_uniform(log_probs, ALLOWED, 0.3).exp()
    expected = 0.7 * log_probs.exp() + 0.3 * ALLOWED / ALLOWED.sum(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(mixed.sum(dim=1), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(mix_uniform(log_probs, ALLOWED, 0.0), log_probs)


def test_gradients_of_a_mixture_are_those_of_its_logarithm_and_finite_where_nothing_is_allowed():
    logits = LOGITS.double().requires_grad_()
    mixed = mix_uniform(masked_log_softmax(logits, ALLOWED), ALLOWED, 0.3)
    mixed[ALLOWED][[0, 4]].sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    probs = torch.softmax(LOGITS[0, :3].double(), dim=0)
    # d log(0.7 p + 0.1) / d logit = 0.7 p (1 - p) / (0.7 p + 0.1) for the cell itself.
    expected = float(0.7 * probs[0] * (1 - probs[0]) / (0.7 * probs[0] + 0.1))
    assert float(logits.grad[0, 0]) == pytest.approx(expected)


def test_draws_from_a_mixture_have_its_probabilities():
    log_probs = mix_uniform(masked_log_softmax(LOGITS, ALLOWED), ALLOWED, 0.5)[0].double().numpy()
    sampler = GumbelTopK(np.random.default_rng(5))
    drawn = [tuple(sampler(log_probs, 2).tolist()) for _ in range(4000)]
    assert agrees(drawn, subsets_by_enumeration(np.exp(log_probs), 2))
    without = masked_log_softmax(LOGITS, ALLOWED)[0].double().exp().numpy()
    assert not agrees(drawn, subsets_by_enumeration(without, 2))


def test_the_entropy_is_the_mean_over_grids_that_leave_a_choice():
    log_probs = masked_log_softmax(torch.tensor([[0.0] * 4, [0.0] * 4, [5.0] * 4]), ALLOWED)
    expected = (math.log(3) + math.log(4)) / 2
    assert float(mean_entropy(log_probs, ALLOWED)) == pytest.approx(expected)
    alone = torch.tensor([[True, False]])
    assert float(mean_entropy(masked_log_softmax(torch.zeros(1, 2), alone), alone)) == 0
    logits = LOGITS.clone().requires_grad_()
    mean_entropy(masked_log_softmax(logits, ALLOWED), ALLOWED).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    # More entropy comes from lowering what is likely.
    assert float(logits.grad[0, 0]) < 0
