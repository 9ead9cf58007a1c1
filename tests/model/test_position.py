"""The positional encoding: its code, its projection, and what slide models leave out of it."""

import numpy as np
import pytest
import torch

from tests.model import oracles
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.position import Position, encode_position

SLIDE = TNetConfig.slide(("a", "b"))


@pytest.mark.parametrize("length", [12, 13, 80, 320, 512])
def test_the_code_is_the_oracles(length, rng):
    positions = rng.integers(0, 64, (20, 3))
    code = encode_position(torch.from_numpy(positions), length)
    expected = np.stack([oracles.position_code(tuple(each), length) for each in positions])
    assert code.dtype == torch.float32
    np.testing.assert_allclose(code, expected, atol=1e-5)


def test_the_code_of_the_origin_is_zeros_ones_and_a_rest_of_zeros():
    code = encode_position(torch.zeros(1, 3, dtype=torch.int64), 20)[0]
    assert code.tolist() == [0, 0, 0, 1, 1, 1] * 3 + [0, 0]


@pytest.mark.parametrize("axes", ["yxs", "s"])
def test_the_module_is_the_oracle(axes, rng):
    torch.manual_seed(1)
    module = Position(SLIDE.model_copy(update={"position_axes": axes, "position_length": 26}), feature_length=40)
    weights = {f"position.{name}": value.double().numpy() for name, value in module.state_dict().items()}
    vectors, positions = rng.normal(size=(6, 40)), rng.integers(0, 30, (6, 3))
    features = module(torch.from_numpy(vectors).float(), torch.from_numpy(positions))
    expected = [oracles.positioned(weights, v, tuple(p), axes) for v, p in zip(vectors, positions, strict=True)]
    assert features.shape == (6, 40)
    np.testing.assert_allclose(features.detach(), np.stack(expected), atol=1e-5)


def test_a_slide_models_features_depend_on_scale_and_not_on_place():
    torch.manual_seed(2)
    module = Position(SLIDE, feature_length=320)
    assert module.length == 80
    vectors = torch.randn(1, 320).expand(3, 320)
    here, there, deeper = module(vectors, torch.tensor([[1, 2, 1], [7, 0, 1], [1, 2, 2]]))
    torch.testing.assert_close(here, there, rtol=0, atol=0)
    assert (here - deeper).abs().max() > 0.01
