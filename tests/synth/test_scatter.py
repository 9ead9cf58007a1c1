"""Points that do not depend on the window they are asked for in."""

import numpy as np
import pytest

from tnet_cli.synth.scatter import Scatter


def as_set(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(point) for point in points}


@pytest.mark.parametrize("cut", [-130.0, 0.0, 256.0, 300.3])
def test_two_halves_hold_the_points_of_the_whole(cut):
    scatter = Scatter(seed=4, kind=2, pitch_um=24.0, jitter=0.5)
    whole = scatter.window(-400.0, -90.0, 700.0, 510.0)
    left, right = scatter.window(-400.0, -90.0, cut, 510.0), scatter.window(cut, -90.0, 700.0, 510.0)
    assert len(left) > 0
    assert len(right) > 0
    assert not as_set(left) & as_set(right)
    assert as_set(left) | as_set(right) == as_set(whole)


def test_density_follows_the_pitch():
    points = Scatter(seed=1, kind=1, pitch_um=16.0, jitter=0.3).window(0.0, 0.0, 1600.0, 1600.0)
    assert len(points) == pytest.approx(100 * 100, rel=0.01)
    assert points[:, :2].min() >= 0
    assert points[:, :2].max() < 1600
    assert points[:, 2:].mean() == pytest.approx(0.5, abs=0.02)


def test_seeds_and_kinds_give_other_points():
    box = (0.0, 0.0, 200.0, 200.0)
    drawn = [as_set(Scatter(seed, kind, 20.0, 0.4).window(*box)) for seed, kind in ((1, 1), (1, 2), (2, 1))]
    assert not drawn[0] & drawn[1]
    assert not drawn[0] & drawn[2]
