"""Reading large regions block by block, so that memory stays bounded; the pixels are those of one read."""

import math
from collections.abc import Callable

import numpy as np

from tnet_cli.geometry import Region, Size
from tnet_cli.slide.resample import EDGE, covering_box, fit, resample

BoxReader = Callable[[int, int, int, int], np.ndarray]
"""x, y, width, height in stored pixels -> uint8 (height, width, 3)."""

WHOLE = 4
"""Blocks are multiples of this, so that squares of so many pixels can be averaged in each by itself."""


def read_region(
    read_box: BoxReader,
    region: Region,
    downsample: float,
    width_px: int,
    height_px: int,
    *,
    unit: Size,
    most_px: int,
    exact: bool = False,
) -> np.ndarray:
    """Read a region of a stored resolution and bring it to the wanted size, in blocks where it is large.

    Args:
        read_box: Reads any box of the stored resolution, also beyond its edges.
        region: Level-0 pixels.
        downsample: Of the stored resolution.
        width_px: Width of the result.
        height_px: Height of the result.
        unit: What the file decodes together, as in ``block_size``.
        most_px: Stored pixels that are read at a time when shrinking.
        exact: As in ``fit``.

    Returns:
        uint8 (height_px, width_px, 3).
    """
    x, y, width, height = covering_box(region, downsample)
    across, down = region.width / downsample / width_px, region.height / downsample / height_px
    if width * height <= most_px or across < 1 or down < 1:
        return resample(read_box(x, y, width, height), region, downsample, (x, y), width_px, height_px, exact=exact)
    left, top = region.x / downsample, region.y / downsample
    block = block_size(Size(width, height), unit, most_px)
    columns, rows = max(1, int(block.width / across)), max(1, int(block.height / down))
    result = np.empty((height_px, width_px, 3), np.uint8)
    for row in range(0, height_px, rows):
        for column in range(0, width_px, columns):
            part = result[row : row + rows, column : column + columns]
            x0, y0 = left + column * across, top + row * down
            x1, y1 = x0 + part.shape[1] * across, y0 + part.shape[0] * down
            x, y = math.floor(x0 + EDGE), math.floor(y0 + EDGE)
            pixels = read_box(x, y, max(1, math.ceil(x1 - EDGE) - x), max(1, math.ceil(y1 - EDGE) - y))
            box = (x0 - x, y0 - y, x1 - x, y1 - y)
            part[...] = fit(pixels, box, part.shape[1], part.shape[0], exact=exact)
    return result


def padded(
    read_box: BoxReader, size: Size, background: tuple[int, int, int], x: int, y: int, width: int, height: int
) -> np.ndarray:
    """Read a box that may reach beyond the stored pixels; what lies outside has the background colour.

    Args:
        read_box: Reads boxes inside the stored resolution.
        size: Of the stored resolution.
        background: Colour outside.
        x: Left side of the box.
        y: Upper side of the box.
        width: Of the box.
        height: Of the box.

    Returns:
        uint8 (height, width, 3).
    """
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, size.width), min(y + height, size.height)
    if (x0, y0, x1, y1) == (x, y, x + width, y + height):
        return read_box(x, y, width, height)
    pixels = np.empty((height, width, 3), np.uint8)
    if x0 >= x1 or y0 >= y1:
        pixels[...] = background
        return pixels
    # A colour is laid over many pixels slowly, and of a whole slide nearly all lie inside.
    inside = pixels[y0 - y : y1 - y]
    pixels[: y0 - y], pixels[y1 - y :] = background, background
    inside[:, : x0 - x], inside[:, x1 - x :] = background, background
    inside[:, x0 - x : x1 - x] = read_box(x0, y0, x1 - x0, y1 - y0)
    return pixels


def block_size(box: Size, unit: Size, most_px: int) -> Size:
    """Return the blocks in which a large box is best read: few units are cut, and none is decoded for many blocks.

    Args:
        box: To be covered from its top left corner.
        unit: What the file decodes together: a tile, a strip, or one row.
        most_px: In a block, unless the long side of a single strip makes it more.

    Returns:
        Multiples of the unit and of 4 pixels where they fit, at most the box.
    """
    if unit.height > unit.width:
        turned = block_size(Size(box.height, box.width), Size(unit.height, unit.width), most_px)
        return Size(turned.height, turned.width)
    # Strips are wider than a square block, and are read along their whole length; of tiles, a square of them.
    width = min(box.width, _multiple(max(unit.width, math.isqrt(most_px)), unit.width))
    height = min(box.height, _multiple(max(WHOLE, most_px // width), unit.height))
    return Size(width, height)


def _multiple(most: int, unit: int) -> int:
    """Return the largest multiple of a unit and of 4, or of 4 alone where the unit is too large."""
    both = math.lcm(unit, WHOLE)
    return most // both * both if both <= most else -(-most // WHOLE) * WHOLE
