"""Shapes on masks, against scipy's filters and skimage's morphology."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from tnet_cli.tissue.masks import closed, enclosed, grown, opened, without_holes, without_specks


def speckled(seed: int, share: float = 0.06) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((int(rng.integers(1, 70)), int(rng.integers(1, 70)))) < share


@pytest.mark.parametrize("reach_px", range(1, 10))
def test_a_mask_grows_as_the_maximum_filter_says(reach_px):
    for seed in range(8):
        mask = speckled(seed)
        expected = ndimage.maximum_filter(mask.view(np.uint8), size=2 * reach_px + 1).view(np.bool_)
        assert np.array_equal(grown(mask, reach_px), expected)


def test_closing_fills_gaps_of_twice_the_reach_and_loses_nothing():
    mask = np.zeros((9, 20), bool)
    mask[:, :5] = mask[:, 9:12] = mask[:, 17:] = True
    assert closed(mask, 2)[:, :12].all()
    assert not closed(mask, 2)[:, 12:17].any()
    assert (closed(speckled(3), 3) | ~speckled(3)).all()


def test_opening_drops_what_is_thinner_than_three_pixels():
    mask = np.zeros((12, 12), bool)
    mask[2:5, 2:8] = True
    mask[8:10, 1:11] = True
    assert np.array_equal(np.flatnonzero(opened(mask).any(axis=1)), [2, 3, 4])


def test_holes_and_specks():
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    ring[0, 8] = True
    assert enclosed(ring).sum() == 9
    assert np.array_equal(without_specks(ring, 3), ring), "what touches at a corner belongs together"
    assert np.array_equal(without_holes(ring, 9), ring | enclosed(ring))
    assert np.array_equal(without_holes(ring, 8), ring)
    assert without_specks(np.eye(4, dtype=bool), 4).sum() == 4
    assert without_specks(np.eye(4, dtype=bool), 5).sum() == 0


@pytest.mark.parametrize("share", [0.06, 0.4, 0.9])
def test_specks_and_holes_are_those_of_skimage(share):
    for seed in range(8):
        mask = speckled(seed, share)
        for size in (1, 3, 20):
            kept = morphology.remove_small_objects(mask, max_size=size - 1, connectivity=2)
            assert np.array_equal(without_specks(mask, size), kept)
            assert np.array_equal(without_specks(mask, size - 0.5), kept)
            filled = morphology.remove_small_holes(mask, max_size=size)
            assert np.array_equal(without_holes(mask, size), filled)
            assert np.array_equal(without_holes(mask, size + 0.5), filled)
