"""The feature weighting module and its absence."""

import numpy as np
import pytest
import torch

from tests.model import oracles
from tnet_cli.model.classification import Classification
from tnet_cli.model.weighting import EqualWeighting, FeatureWeighting


@pytest.mark.parametrize("count", [1, 2, 37])
def test_the_module_is_the_oracle(count, rng):
    torch.manual_seed(4)
    module = FeatureWeighting(24)
    weights = {f"weighting.{name}": value.double().numpy() for name, value in module.state_dict().items()}
    features = rng.normal(size=(count, 24))
    shares = module(torch.from_numpy(features).float()).detach()
    assert shares.shape == (count,)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(shares, oracles.feature_weights(weights, features), atol=1e-6)
    assert module.squeeze.out_features == 6


def test_weights_follow_their_features_when_the_order_changes():
    torch.manual_seed(5)
    module, features, order = FeatureWeighting(16), torch.randn(9, 16), torch.randperm(9)
    torch.testing.assert_close(module(features[order]), module(features)[order])


def test_the_mean_weighs_alike():
    assert EqualWeighting()(torch.randn(4, 3)).tolist() == [0.25] * 4


def test_classification_drops_features_only_while_training():
    torch.manual_seed(6)
    module = Classification(1000, 2, dropout=0.5)
    features = torch.ones(1, 1000)
    evaluated = module.eval()(features).detach()
    expected = module.linear.weight.sum(dim=1) + module.linear.bias
    torch.testing.assert_close(evaluated[0], expected.detach())
    trained = torch.stack([module.train()(features)[0].detach() for _ in range(50)])
    assert trained.shape == (50, 2)
    assert float(trained.std(dim=0).min()) > 0.01
    torch.testing.assert_close(trained.mean(dim=0), evaluated[0], rtol=0, atol=0.5)
