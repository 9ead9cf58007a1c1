"""Textures that repeat without a seam."""

import numpy as np
import pytest

from tnet_cli.synth.textures import Texture, fibres, grain, patches


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


def test_grain_and_patches_keep_their_middle(rng):
    assert grain(256, 4.0, rng).window(0, 0, 256, 256).mean() == pytest.approx(15.5, abs=0.3)
    assert patches(1024, 30, 0.5, rng).window(0, 0, 1024, 1024).mean() == pytest.approx(127.5, abs=8)
