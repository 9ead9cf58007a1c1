"""Textures that repeat without a seam, and points that do not depend on the window they are asked for in."""

import numpy as np
import pytest

from tnet_cli.synth.patterns import Scatter, Texture, blotches, fibres, grain


@pytest.fixture
def texture(rng: np.random.Generator) -> Texture:
    return fibres(256, 0.7, 0.5, rng)


def test_a_window_is_the_same_one_period_further(texture):
    near = texture.window(200, 17, 100, 60)
    assert near.shape == (60, 100)
    np.testing.assert_array_equal(near, texture.window(200 + 256, 17 - 256, 100, 60))


def test_neighbouring_windows_join_to_one(texture):
    halves = [texture.window(x, 5, 64, 40) for x in (230, 294)]
    np.testing.assert_array_equal(np.hstack(halves), texture.window(230, 5, 128, 40))


def test_the_step_over_the_seam_is_no_larger_than_others(texture):
    picture = texture.window(0, 0, 256, 256).astype(float)
    inner = np.abs(np.diff(picture, axis=1)).mean()
    seam = np.abs(picture[:, 0] - picture[:, -1]).mean()
    assert seam < 1.5 * inner


def test_fibres_run_in_their_direction(rng):
    # The bends are gentle only at the size slides are drawn with.
    def roughness(angle: float) -> tuple[float, float]:
        picture = fibres(1024, angle, 0.5, rng).window(0, 0, 1024, 1024).astype(float)
        return float(np.abs(np.diff(picture, axis=1)).mean()), float(np.abs(np.diff(picture, axis=0)).mean())

    across_columns, across_rows = roughness(0.0)
    assert across_columns < 0.8 * across_rows
    across_columns, across_rows = roughness(np.pi / 2)
    assert across_rows < 0.8 * across_columns


def test_grain_and_blotches_keep_their_middle(rng):
    assert grain(256, 4.0, rng).window(0, 0, 256, 256).mean() == pytest.approx(15.5, abs=0.3)
    assert blotches(1024, 30, 0.5, rng).window(0, 0, 1024, 1024).mean() == pytest.approx(127.5, abs=8)


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
