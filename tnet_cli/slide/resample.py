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


FEW_ROWS = 8
"""Up to so many rows are added up one after the other; of more numpy adds some side by side."""


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
    across, down = region.width / downsample / width_px, region.height / downsample / height_px
    shrinks = across >= 1 - EDGE / width_px and down >= 1 - EDGE / height_px
    # As ``fit`` has it: an average ends at the pixel's own edges, a blend at the neighbours' centres.
    reach = 0.5 if across >= 1 - EDGE / width_px else 1.0
    xs = _Axis(region.x / downsample, across, width_px, stored.size.width, reach, cuts=shrinks)
    ys = _Axis(region.y / downsample, down, height_px, stored.size.height, reach, cuts=shrinks)
    columns, rows = xs.inside(), ys.inside()
    if not columns or not rows:
        return _framed(height_px, width_px, range(0), range(0), background)
    (x, right), (y, bottom) = xs.covered(columns), ys.covered(rows)
    step = Size(width_px, height_px)
    if shrinks and (right - x) * (bottom - y) > most_px:
        block = block_size(Size(right - x, bottom - y), unit, most_px)
        step = Size(max(1, int(block.width / across)), max(1, int(block.height / down)))

    def part(row: int, column: int) -> np.ndarray:
        own_columns, own_rows = columns[column : column + step.width], rows[row : row + step.height]
        (x, right), (y, bottom) = xs.covered(own_columns), ys.covered(own_rows)
        (x0, x1), (y0, y1) = xs.edges(own_columns), ys.edges(own_rows)
        box = (x0 - x, y0 - y, x1 - x, y1 - y)
        return fit(read(x, y, right - x, bottom - y), box, len(own_columns), len(own_rows), exact=exact)

    if (len(columns), len(rows)) == (width_px, height_px) and step.width >= width_px and step.height >= height_px:
        return part(0, 0)
    result = _framed(height_px, width_px, rows, columns, background)
    inside = result[rows.start : rows.stop, columns.start : columns.stop]
    for row in range(0, len(rows), step.height):
        for column in range(0, len(columns), step.width):
            inside[row : row + step.height, column : column + step.width] = part(row, column)
    return result


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a region, and how the pixels of the result lie on those that are stored.

    Attributes:
        start: Where the region begins, in stored pixels.
        step: Stored pixels for each pixel of the result.
        count: Pixels of the result.
        stored: Stored pixels.
        reach: How far from its centre stored pixels count for a pixel of the result, in steps, of one at least.
        cuts: Whether what lies beyond a pixel's own edges does not count for it.
    """

    start: float
    step: float
    count: int
    stored: int
    reach: float
    cuts: bool

    def inside(self) -> range:
        """Return the pixels of the result for which stored pixels may count; the others are background."""
        reach = self.reach * max(1.0, self.step) + 1
        first = math.floor((-reach - self.start) / self.step - 0.5)
        last = math.ceil((self.stored + reach - self.start) / self.step - 0.5)
        return range(min(max(0, first), self.count), max(0, min(last + 1, self.count)))

    def edges(self, pixels: range) -> tuple[float, float]:
        """Return where some pixels of the result begin and end, in stored pixels."""
        return self.start + pixels.start * self.step, self.start + pixels.stop * self.step

    def covered(self, pixels: range) -> tuple[int, int]:
        """Return the whole stored pixels that count for some pixels of the result; none lie beyond the region."""
        low, high = _whole(*self.edges(pixels))
        if not self.cuts and len(pixels) < self.count:
            beyond = math.ceil(self.reach * max(1.0, self.step)) + 1
            least, most = _whole(*self.edges(range(self.count)))
            low, high = max(low - beyond, least), min(high + beyond, most)
        return low, high


def _whole(low: float, high: float) -> tuple[int, int]:
    """Return the whole pixels that cover those between two fractional edges, at least one."""
    first = math.floor(low + EDGE)
    return first, max(first + 1, math.ceil(high - EDGE))


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
    shrinks = box[2] - box[0] >= width_px - EDGE
    if exact and shrinks and box[3] - box[1] >= height_px - EDGE:
        rows = _average_rows(pixels.astype(np.float32), box[1], box[3], height_px)
        columns = _average_rows(np.ascontiguousarray(rows.transpose(1, 0, 2)), box[0], box[2], width_px)
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
    total = _add_up(pixels, first)
    cut = (edges - first).astype(np.float32)[:, None, None] * pixels[np.minimum(first, len(pixels) - 1)]
    share: np.ndarray = (total - cut[:-1] + cut[1:]) / np.float32((bottom - top) / rows)
    return share


def _add_up(pixels: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Add up float32 (H, W, C) along the first axis, from each of the first rows to before the next."""
    starts, lengths = first[:-1], np.diff(first)
    if not 1 < lengths.max() <= FEW_ROWS:
        return np.add.reduceat(pixels[: first[-1]], starts, axis=0)
    # The second rows of all shares at once, then the third, in the order in which numpy adds, at half of its time.
    rest = np.where((lengths > 1)[:, None, None], pixels[np.minimum(starts + 1, len(pixels) - 1)], np.float32(0))
    for nth in range(2, int(lengths.max())):
        longer = slice(None) if nth < lengths.min() else np.flatnonzero(lengths > nth)
        rest[longer] += pixels[starts[longer] + nth]
    rest += pixels[starts]
    return rest


def _padded(
    read_box: BoxReader, size: Size, background: tuple[int, int, int], x: int, y: int, width: int, height: int
) -> np.ndarray:
    """Read a box that may reach beyond the stored pixels; what lies outside has the background colour."""
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, size.width), min(y + height, size.height)
    if (x0, y0, x1, y1) == (x, y, x + width, y + height):
        return read_box(x, y, width, height)
    if x0 >= x1 or y0 >= y1:
        return _framed(height, width, range(0), range(0), background)
    pixels = _framed(height, width, range(y0 - y, y1 - y), range(x0 - x, x1 - x), background)
    pixels[y0 - y : y1 - y, x0 - x : x1 - x] = read_box(x0, y0, x1 - x0, y1 - y0)
    return pixels


def _framed(height: int, width: int, rows: range, columns: range, background: tuple[int, int, int]) -> np.ndarray:
    """Return pixels that have the background colour but in some rows and columns, which are yet to be filled."""
    # Of a whole slide nearly all pixels lie inside. A colour is laid over rows quickly, and over pixels slowly.
    pixels, row = np.empty((height, width, 3), np.uint8), np.tile(np.array(background, np.uint8), width)
    flat = pixels.reshape(height, -1)
    flat[: rows.start], flat[rows.stop :] = row, row
    inside, left, right = flat[rows.start : rows.stop], 3 * columns.start, 3 * columns.stop
    inside[:, :left], inside[:, right:] = row[:left], row[right:]
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
