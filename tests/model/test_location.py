"""The location module: its arithmetic, its mask, no NaN in values or gradients, and exploration of its cells."""

import math

import numpy as np
import pytest
import torch

from tests.model import oracles
from tests.model.test_choice import agrees, subsets_by_enumeration
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.location import Location, masked_log_softmax, mean_entropy, mix_uniform

SLIDE = TNetConfig.slide(("a", "b"))


def module(softmax: str, channels: int = 10, grid: int = 4) -> Location:
    torch.manual_seed(3)
    config = SLIDE.model_copy(update={"location_softmax": softmax, "grid": grid})
    location = Location(config, channels)
    with torch.no_grad():
        for parameter in location.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return location


@pytest.mark.parametrize("softmax", ["plain", "temperature", "l2"])
@pytest.mark.parametrize(("channels", "grid"), [(10, 4), (7, 3), (4, 2)])
def test_the_module_is_the_oracle_whatever_is_allowed(softmax, channels, grid, rng):
    location = module(softmax, channels, grid)
    weights = {f"location.{name}": value.double().numpy() for name, value in location.state_dict().items()}
    cells = rng.normal(size=(5, grid, grid, channels))
    allowed = rng.random((5, grid * grid)) < 0.6
    allowed[0], allowed[1] = True, False
    log_probs = location(torch.from_numpy(cells).float().permute(0, 3, 1, 2), torch.from_numpy(allowed))
    expected = [oracles.location_probs(weights, c, a, softmax) for c, a in zip(cells, allowed, strict=True)]
    assert log_probs.shape == (5, grid * grid)
    assert log_probs.dtype == torch.float32
    np.testing.assert_allclose(log_probs.detach().exp(), np.stack(expected), atol=1e-5)
    np.testing.assert_array_equal(np.isneginf(log_probs.detach().numpy()), ~allowed)
    sums = log_probs.detach().exp().sum(dim=1)
    np.testing.assert_allclose(sums, allowed.any(axis=1).astype(float), atol=1e-6)


def test_a_mask_takes_nothing_but_probability_mass():
    location = module("plain")
    cells, everything = torch.randn(1, 10, 4, 4), torch.ones(1, 16, dtype=torch.bool)
    some = everything.clone()
    some[0, :9] = False
    whole, masked = location(cells, everything).exp(), location(cells, some).exp()
    torch.testing.assert_close(masked[0, 9:], whole[0, 9:] / whole[0, 9:].sum())


def test_unit_norm_logits_bound_every_probability():
    location = module("l2", grid=3)
    log_probs = location(torch.randn(50, 10, 3, 3) * 100, torch.ones(50, 9, dtype=torch.bool)).detach()
    assert float(log_probs.exp().max()) < 0.2654
    assert float(log_probs.exp().min()) > 0.0414


def test_logits_that_are_all_zero_make_every_cell_as_likely():
    location = module("l2", grid=3)
    torch.nn.init.zeros_(location.score.weight)
    torch.nn.init.zeros_(location.score.bias)  # type: ignore[arg-type]
    log_probs = location(torch.randn(2, 10, 3, 3), torch.ones(2, 9, dtype=torch.bool))
    torch.testing.assert_close(log_probs.exp(), torch.full((2, 9), 1 / 9))
    log_probs[:, 4].sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in location.parameters() if p.grad is not None)


def test_with_a_sigmoid_each_cell_stands_for_itself():
    location = module("sigmoid").eval()
    cells, everything = torch.randn(2, 10, 4, 4), torch.ones(2, 16, dtype=torch.bool)
    some = everything.clone()
    some[0, :9] = False
    whole, masked = location(cells, everything), location(cells, some)
    torch.testing.assert_close(whole, torch.nn.functional.logsigmoid(location.scores(cells)[:, 0]))
    assert torch.equal(masked[some], whole[some])
    assert bool(torch.isneginf(masked[~some]).all())
    assert float((whole.detach().exp().sum(dim=1) - 1).abs().min()) > 0.05


def test_a_sigmoid_drops_channels_while_it_learns_and_a_softmax_none():
    cells, everything = torch.randn(2, 10, 4, 4), torch.ones(2, 16, dtype=torch.bool)
    for softmax, is_same in (("sigmoid", False), ("plain", True)):
        location = module(softmax)
        assert torch.equal(location.train()(cells, everything), location.eval()(cells, everything)) == is_same


@pytest.mark.parametrize("softmax", ["plain", "temperature", "l2", "sigmoid"])
def test_a_row_with_nothing_allowed_has_no_nan_in_value_or_gradient(softmax):
    location = module(softmax)
    cells = torch.randn(3, 10, 4, 4, requires_grad=True)
    allowed = torch.zeros(3, 16, dtype=torch.bool)
    allowed[1, [2, 7]] = True
    log_probs = location(cells, allowed)
    assert bool(torch.isneginf(log_probs[[0, 2]]).all())
    log_probs[1, 7].backward()
    for value in (cells, *location.parameters()):
        assert value.grad is not None
        assert bool(value.grad.isfinite().all())
    assert cells.grad is not None
    assert float(cells.grad[1].abs().max()) > 0
    assert float(cells.grad[[0, 2]].abs().max()) == 0


def test_a_single_allowed_cell_is_certain():
    allowed = torch.tensor([[False, True, False, False]])
    log_probs = masked_log_softmax(torch.tensor([[9.0, -50.0, 3.0, 1e30]]), allowed)
    assert log_probs[0].tolist() == [float("-inf"), 0.0, float("-inf"), float("-inf")]


def test_a_learned_temperature_sharpens():
    location = module("temperature")
    cells, everything = torch.randn(1, 10, 4, 4), torch.ones(1, 16, dtype=torch.bool)
    with torch.no_grad():
        location.log_temperature.fill_(0.0)
        flat = location(cells, everything).exp().max()
        location.log_temperature.fill_(-1.5)
        sharp = location(cells, everything).exp().max()
    assert float(sharp) > float(flat)
    assert location.log_temperature.requires_grad


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
