"""Masks in regions of interest."""

import numpy as np
import pytest

from tnet_cli.geometry import Region, Size
from tnet_cli.tissue.limits import Limits
from tnet_cli.tissue.tissue import TissueMask

SIZE = Size(1200, 900)


def mask_of(shape: tuple[int, int], box: Region) -> TissueMask:
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in zip(shape, (SIZE.height, SIZE.width), strict=True))
    inside = (rows[:, None] > box.y) & (rows[:, None] < box.bottom) & (columns > box.x) & (columns < box.right)
    return TissueMask(inside, SIZE)


@pytest.mark.parametrize("shape", [(9, 12), (90, 120), (31, 47), (450, 600)])
def test_tissue_counts_only_in_the_region_whatever_pixels_it_was_found_with(shape):
    tissue = mask_of(shape, Region(0, 0, 700, 900))
    within = mask_of((180, 240), Region(400, 300, 600, 300))
    left = Limits(None, within, (), "the region").applied(tissue)
    assert left.mask.shape == (180, 240)
    pixel = SIZE.width / shape[1]
    assert left.area_px == pytest.approx(300 * 300, abs=300 * pixel + 1)
    assert left.fractions([Region(0, 0, 395, 900), Region(710 + int(pixel), 0, 300, 900)]).tolist() == [0, 0]


def test_without_a_region_the_mask_is_the_very_one():
    tissue = mask_of((9, 12), Region(0, 0, 700, 900))
    assert Limits(tissue, None, (), "the mask").applied(tissue) is tissue
