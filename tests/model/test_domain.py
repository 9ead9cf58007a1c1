"""Domains of features: near what they were fitted to, far from anything else."""

import numpy as np
import pytest
import torch

from tnet_cli.model.domain import FeatureDomain


def draw(count: int, *, seed: int, length: int = 24, directions: int = 3) -> torch.Tensor:
    """Features that vary a lot along a few directions, the same for every seed, and a little along the others."""
    axes = torch.randn(directions, length, generator=torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(seed)
    return (
        5 + 4 * torch.randn(count, directions, generator=source) @ axes + torch.randn(count, length, generator=source)
    )


def test_features_of_the_same_kind_are_about_one_away():
    domain = FeatureDomain.fit(draw(2000, seed=1))
    distances = domain.distances(draw(2000, seed=2))
    assert distances.square().mean() == pytest.approx(1, abs=0.05)


def test_it_is_the_mahalanobis_distance_of_the_whole_covariance_where_that_is_what_the_features_have():
    features = draw(5000, seed=1, length=8, directions=7)
    other = draw(50, seed=3, length=8, directions=7) + 3
    away = (other - features.mean(0)).double()
    expected = (away @ torch.linalg.inv(torch.cov(features.double().T)) * away).sum(1).div(8).sqrt()
    np.testing.assert_allclose(FeatureDomain.fit(features).distances(other), expected, rtol=1e-4)


def test_a_shift_across_the_main_directions_counts_more_than_one_along_them():
    features = draw(2000, seed=1)
    domain = FeatureDomain.fit(features)
    _, _, axes = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    along, across = (domain.distances(features.mean(0) + 10 * axis[None]) for axis in (axes[0], axes[-1]))
    assert across > 3 * along


def test_fewer_features_than_directions_are_enough():
    domain = FeatureDomain.fit(draw(5, seed=1))
    assert torch.isfinite(domain.distances(draw(10, seed=2))).all()
    with pytest.raises(ValueError, match="at least two"):
        FeatureDomain.fit(draw(1, seed=1))


def test_it_comes_back_from_its_tensors():
    domain = FeatureDomain.fit(draw(100, seed=1))
    again = FeatureDomain.from_state(domain.state(), 24)
    assert torch.equal(again.distances(draw(9, seed=2)), domain.distances(draw(9, seed=2)))
    with pytest.raises(ValueError, match="length 25"):
        FeatureDomain.from_state(domain.state(), 25)
    with pytest.raises(ValueError, match="found mean"):
        FeatureDomain.from_state({"mean": domain.mean}, 24)
