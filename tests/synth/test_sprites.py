"""Nuclei and glands, measured in micrometres whatever the scale."""

import numpy as np
import pytest
from scipy import ndimage

from tnet_cli.synth.sprites import gland_bank, large_nuclei, nuclear_clumps, small_nuclei, spindle_nuclei, stamp_max


def widths_um(bank: list[np.ndarray], mpp: float) -> np.ndarray:
    """Diameter of the disc that is as large as each nucleus."""
    return np.array([2 * mpp * np.sqrt((sprite > 40).sum() / np.pi) for sprite in bank])


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_a_lesions_nuclei_are_half_as_wide_again_as_benign_ones(mpp, rng):
    small, large = widths_um(small_nuclei(mpp, rng), mpp), widths_um(large_nuclei(mpp, rng), mpp)
    assert 5.0 < np.median(small) < 7.5
    assert 10.5 < np.median(large) < 15.0
    assert (np.median(large) - small.max()) > 2.0


def test_a_lesions_nuclei_are_paler_inside_than_at_the_rim_and_benign_ones_are_not(rng):
    def rim_over_middle(bank: list[np.ndarray]) -> float:
        ratios = []
        for sprite in bank:
            depth = ndimage.distance_transform_edt(sprite > 20) * 0.5
            rim, middle = sprite[(depth > 0.5) & (depth < 1.6)], sprite[depth > 2.2]
            if len(middle):
                ratios.append(np.median(rim) / np.median(middle))
        return float(np.median(ratios))

    assert rim_over_middle(large_nuclei(0.5, rng)) > 1.25
    assert rim_over_middle(small_nuclei(0.5, rng)) < 1.1


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_a_clump_is_several_small_nuclei_in_the_room_of_a_large_one(mpp, rng):
    small = small_nuclei(mpp, rng)
    single, clumped = widths_um(small, mpp), widths_um(nuclear_clumps(small, mpp, rng), mpp)
    assert 1.7 < (np.median(clumped) / np.median(single)) ** 2 < 6
    assert np.median(clumped) == pytest.approx(np.median(widths_um(large_nuclei(mpp, rng), mpp)), rel=0.25)


def test_spindles_are_long_and_thin(rng):
    for sprite in spindle_nuclei(0.5, rng):
        rows, columns = np.nonzero(sprite > 40)
        across, along = np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([rows, columns]))))
        assert along > 2 * across


def test_a_gland_is_a_dark_ring_around_a_pale_lumen(rng):
    nuclei = small_nuclei(1.0, rng)
    for gland in gland_bank(1.0, nuclei, rng)[:3]:
        middle = gland.solid.shape[0] // 2
        assert gland.solid[middle, middle]
        assert not gland.solid[0].any()
        assert gland.haematoxylin[middle, middle] == 0
        assert gland.eosin[middle, middle] < 20
        assert gland.haematoxylin.max() > 120


def test_the_same_generator_state_gives_the_same_nuclei():
    one, other = (large_nuclei(0.5, np.random.default_rng(3)) for _ in range(2))
    for mine, yours in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, yours)


def test_a_stamp_is_cut_at_the_edge_and_never_makes_lighter():
    target = np.full((6, 8), 50, np.uint8)
    sprite = np.array([[10, 90, 10], [90, 120, 90], [10, 90, 10]], np.uint8)
    stamp_max(target, sprite, 0, 5)
    expected = np.full((6, 8), 50, np.uint8)
    expected[4, 0], expected[5, 0], expected[5, 1] = 90, 120, 90
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize(("x", "y"), [(-3, 2), (2, -3), (12, 2), (2, 12)])
def test_a_stamp_outside_changes_nothing(x, y):
    target = np.full((8, 8), 50, np.uint8)
    stamp_max(target, np.full((3, 3), 200, np.uint8), x, y)
    assert (target == 50).all()
