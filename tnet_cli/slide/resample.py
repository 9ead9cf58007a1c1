"""From stored pixels to the size that is wanted; shared by all readers, so that they give the same pixels.

Large regions are read block by block, so that memory stays bounded; the pixels are those of one read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from tnet_cli.geometry import Region, Size

BoxReader = Callable[[int, int, int, int], np.ndarray]
"""x, y, width, height in stored pixels -> uint8 (height, width, 3)."""

EDGE = 1e-6
"""Boxes this close to whole pixels are whole pixels."""

WHOLE = 4
"""Blocks are multiples of this, so that squares of so many pixels can be averaged in each by itself."""


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """A stored resolution.

    Attributes:
        size: In its own pixels.
        downsample: Level-0 pixels for each of its own, at least 1.
    """

    size: Size
    downsample: float


def read_region(
    read_box: BoxReader,
    stored: PyramidLevel,
    region: Region,
    width_px: int,
    height_px: int,
    *,
    background: tuple[int, int, int],
    unit: Size,
    most_px: int,
    exact: bool = False,
) -> np.ndarray:
    """Read a region of a stored resolution and bring it to the wanted size, in blocks where it is large.

    Args:
        read_box: Reads boxes inside the stored resolution.
        stored: The resolution that is read.
        region: Level-0 pixels; may reach beyond the slide.
        width_px: Of the result.
        height_px: Of the result.
        background: Colour outside the slide.
        unit: What the file decodes together, as in ``block_size``.
        most_px: Stored pixels that are read at a time when shrinking.
        exact: As in ``fit``.

    Returns:
        uint8 (height_px, width_px, 3).
    """
    read, downsample = partial(_padded, read_box, stored.size, background), stored.downsample
    left, top = region.x / downsample, region.y / downsample
    x, y, width, height = _covering_box(left, top, region.right / downsample, region.bottom / downsample)
    across, down = region.width / downsample / width_px, region.height / downsample / height_px
    if width * height <= most_px or across < 1 or down < 1:
        box = (left - x, top - y, left - x + region.width / downsample, top - y + region.height / downsample)
        return fit(read(x, y, width, height), box, width_px, height_px, exact=exact)
    block = block_size(Size(width, height), unit, most_px)
    columns, rows = max(1, int(block.width / across)), max(1, int(block.height / down))
    result = np.empty((height_px, width_px, 3), np.uint8)
    for row in range(0, height_px, rows):
        for column in range(0, width_px, columns):
            part = result[row : row + rows, column : column + columns]
            x0, y0 = left + column * across, top + row * down
            x1, y1 = x0 + part.shape[1] * across, y0 + part.shape[0] * down
            x, y, width, height = _covering_box(x0, y0, x1, y1)
            box = (x0 - x, y0 - y, x1 - x, y1 - y)
            part[...] = fit(read(x, y, width, height), box, part.shape[1], part.shape[0], exact=exact)
    return result


def _covering_box(left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
    """Return the smallest box of whole stored pixels that covers one with fractional edges: x, y, width, height."""
    x, y = math.floor(left + EDGE), math.floor(top + EDGE)
    return x, y, max(1, math.ceil(right - EDGE) - x), max(1, math.ceil(bottom - EDGE) - y)


def fit(
    pixels: np.ndarray, box: tuple[float, float, float, float], width_px: int, height_px: int, *, exact: bool = False
) -> np.ndarray:
    """Bring a box of pixels to the wanted size: by area averages when shrinking, bilinear when enlarging.

    Args:
        pixels: uint8 (H, W, 3).
        box: Left, top, right and bottom in ``pixels``, which may cut through pixels.
        width_px: Of the result.
        height_px: Of the result.
        exact: Count pixels that an average cuts through by their share. It is slower, and matters where few pixels
            are averaged; otherwise a pixel belongs to the average its centre lies in.

    Returns:
        uint8 (height_px, width_px, 3); the very pixels when nothing has to change.
    """
    height, width = pixels.shape[:2]
    box = (max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3]))
    whole = all(abs(side - round(side)) < EDGE for side in box)
    if (
        whole
        and (width, height) == (width_px, height_px)
        and (round(box[2] - box[0]), round(box[3] - box[1])) == (width, height)
    ):
        return pixels
    shrinks = box[2] - box[0] >= width_px
    if exact and shrinks and box[3] - box[1] >= height_px:
        rows = _average_rows(pixels.astype(np.float32), box[1], box[3], height_px)
        columns = _average_rows(rows.transpose(1, 0, 2), box[0], box[2], width_px)
        return np.ascontiguousarray((columns + 0.5).astype(np.uint8).transpose(1, 0, 2))
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width_px, height_px), method, box=box))


def _average_rows(pixels: np.ndarray, top: float, bottom: float, rows: int) -> np.ndarray:
    """Average float32 (H, W, C) along the first axis over equal, perhaps fractional, shares of it: (rows, W, C)."""
    edges = np.linspace(top, bottom, rows + 1)
    nearest = np.rint(edges)
    edges = np.where(np.abs(edges - nearest) < EDGE, nearest, edges)
    first = np.floor(edges).astype(np.intp)
    # Whole pixels from floor to floor, less the part before the share begins, plus the part after its last whole one.
    total = np.add.reduceat(pixels[: first[-1]], first[:-1], axis=0)
    cut = (edges - first).astype(np.float32)[:, None, None] * pixels[np.minimum(first, len(pixels) - 1)]
    share: np.ndarray = (total - cut[:-1] + cut[1:]) / np.float32((bottom - top) / rows)
    return share


def _padded(
    read_box: BoxReader, size: Size, background: tuple[int, int, int], x: int, y: int, width: int, height: int
) -> np.ndarray:
    """Read a box that may reach beyond the stored pixels; what lies outside has the background colour."""
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
