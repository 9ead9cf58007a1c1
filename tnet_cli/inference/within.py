"""Reading that stays inside regions of interest: nothing outside them is decoded, or shown to the network."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from tnet_cli.geometry import Region
from tnet_cli.slide.slide import Slide
from tnet_cli.tissue.tissue import TissueMask

SMALLEST_PX = 16
"""A patch that the border crosses is read tile by tile, where rows are stored by themselves so many at a time."""


def read_within(slide: Slide, region: Region, side_px: int, within: TissueMask) -> np.ndarray:
    """Read a region as ``Slide.read`` does, with background for all that is not of interest.

    What is decoded are the tiles that hold something of the regions of interest, to a pixel of the patch: of each tile
    the part is read that holds what is inside.

    Args:
        region: Level-0 pixels; may reach beyond the slide.
        side_px: Of the patch.
        within: Where the regions of interest are.

    Returns:
        uint8 (side_px, side_px, 3).

    Raises:
        SlideError: as of ``Slide.read``.
    """
    inside = _inside(region, side_px, within)
    if inside.all():
        return slide.read(region, side_px, side_px)
    patch = np.full((side_px, side_px, 3), slide.background, np.uint8)
    tile = slide.decoded_together(region.width / side_px)
    across, down = (
        _edges(start, length, side_px, each)
        for start, length, each in zip((region.x, region.y), (region.width, region.height), tile, strict=True)
    )
    for rows, columns in _boxes(inside, down, across):
        (left, right), (top, bottom) = (
            (start + round(px.start * length / side_px), start + round(px.stop * length / side_px))
            for start, length, px in ((region.x, region.width, columns), (region.y, region.height, rows))
        )
        box = Region(left, top, max(1, right - left), max(1, bottom - top))
        patch[rows, columns] = slide.read(box, columns.stop - columns.start, rows.stop - rows.start)
    patch[~inside] = slide.background
    return patch


def _inside(region: Region, side_px: int, within: TissueMask) -> np.ndarray:
    """Return which pixels of a patch have their centre in a mask, bool (side_px, side_px)."""
    middle = 2 * np.arange(side_px) + 1  # in half pixels of the patch
    places = []
    for start, length, size, pixels in (
        (region.y, region.height, within.slide_size.height, within.mask.shape[0]),
        (region.x, region.width, within.slide_size.width, within.mask.shape[1]),
    ):
        at = (2 * side_px * start + middle * length) * pixels // (2 * side_px * size)
        places.append((np.clip(at, 0, pixels - 1), (at >= 0) & (at < pixels)))
    (rows, is_row), (columns, is_column) = places
    return np.asarray(within.mask[rows[:, None], columns] & is_row[:, None] & is_column)


def _edges(start: int, length: int, side_px: int, tile: float) -> list[int]:
    """Return where tiles of a width, level-0 pixels, begin on a patch, its own ends among them, in its pixels."""
    step = max(tile, SMALLEST_PX * length / side_px)
    first, last = math.floor(start / step) + 1, math.ceil((start + length) / step)
    borders = {round((number * step - start) * side_px / length) for number in range(first, last)}
    return sorted({0, side_px, *(border for border in borders if 0 < border < side_px)})


def _boxes(inside: np.ndarray, down: Sequence[int], across: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the least box that holds what is set between each pair of edges."""
    for top, bottom in itertools.pairwise(down):
        for left, right in itertools.pairwise(across):
            part = inside[top:bottom, left:right]
            rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
            if len(rows):
                yield (
                    slice(top + int(rows[0]), top + int(rows[-1]) + 1),
                    slice(left + int(columns[0]), left + int(columns[-1]) + 1),
                )
