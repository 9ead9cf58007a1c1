"""Where the tissue is, on a thumbnail of the whole slide: a boolean mask, and the tissue share of any region.

Stained tissue on glass is told from the background by its colour: the spread of the optical densities of the three
channels, which neither the brightness of the lamp nor its fall-off towards the edges changes. Fluorescence is told by
its brightness over a dark background. The thresholds follow the image but never fall below a fixed contrast, so that
a slide without tissue gives an empty mask.

Optical densities are decadic, against the glass. Frames: ``th_`` thumbnail pixels, ``l0_`` level-0 pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from skimage import filters

from tnet_cli.geometry import Region, Size
from tnet_cli.tissue.averages import Averages, averaged
from tnet_cli.tissue.masks import (
    EIGHT_NEIGHBOURS,
    closed,
    enclosed,
    grown,
    opened,
    pieces,
    without_holes,
    without_specks,
)

STAIN_SPREAD = (0.022, 0.06)
"""Least and greatest threshold of the density spread: pale fat lies just above the one, weak eosin above the other."""

GREY_SHARE = 0.15
"""A density spread below this share of the density itself is grey: black pen, dust, slide edges, shadows."""

GREY_DENSITY = (0.13, 0.25)
"""Least and greatest density threshold for greyscale images; the lamp's fall-off stays below it."""

INK_DENSITY = 0.6
"""Density of black pen; it is half of that where colour tells grey from stained."""

FLUORESCENCE = (4.0, 12.0)
"""Least and greatest threshold above a dark background, in grey values of 255."""

NUCLEI_APART_UM = 30.0
"""Usual distance of nuclei, over which fluorescence is averaged."""

FINEST_MPP = 4.0
"""Thumbnails of higher power are shrunk to this."""

MIN_SIDE_PX = 64
"""Unless their longest side would fall below this, in pixels."""

MAX_SIDE_PX = 1600
"""Larger thumbnails are shrunk."""

GLASS_TINT = 0.11
"""Greatest saturation of glass, in [0, 1]; half of it where the tint is that of eosin."""

PRESUMED_GLASS = 243.0
"""Grey value of glass for images which show none."""

HUELESS = 30
"""Pixels darker than this grey value of 255 are black: JPEG leaves them no reliable hue."""

MIN_OBJECT_UM2 = 10_000.0
"""Smaller specks are no tissue: a box of 100 um."""

MIN_OBJECT_PX = 30
"""Smaller specks are no tissue where the scale is unknown or the thumbnail coarse, in thumbnail pixels."""

GAP_UM = 16.0
"""Gaps of twice this in tissue are closed."""

MIN_PEN_UM2 = 40_000.0
"""Smaller marks in the colours of pens are cells and pigment: a box of 200 um."""

MAX_HOLE_UM2 = 250_000.0
"""Smaller holes in tissue, lumens and vessels, are filled: a box of 500 um."""

MAX_HOLE_PX = 256
"""The same where the scale is unknown, in thumbnail pixels."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Where the tissue is on a slide.

    Attributes:
        mask: bool (H, W), thumbnail frame; a thumbnail pixel stands for a box of level-0 pixels, in general with a
            fractional edge. Read-only.
        slide_size: Level-0 pixels that the mask spans.
        grain: Side of the squares of pixels, from the top left corner, in each of which the mask is one; at the right
            and below they may be cut.
    """

    mask: np.ndarray
    slide_size: Size
    grain: int = 1

    def __post_init__(self) -> None:
        """Keep a copy of the mask.

        Raises:
            ValueError: the mask is not a boolean array with two axes and a pixel, or the slide has no pixels.
        """
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_ or self.mask.size == 0:
            raise ValueError(f"a tissue mask is a boolean (H, W) array, not {self.mask.dtype} {self.mask.shape}")
        if min(self.slide_size.width, self.slide_size.height) <= 0:
            raise ValueError(f"a slide needs a positive width and height, not {self.slide_size}")
        mask = self.mask.copy()
        mask.flags.writeable = False
        object.__setattr__(self, "mask", mask)

    @cached_property
    def _table(self) -> np.ndarray:
        """The summed-area table of the squares, int32 (H + 1, W + 1); built when first asked for, since it is large."""
        squares = self.mask[:: self.grain, :: self.grain]
        table = np.zeros((squares.shape[0] + 1, squares.shape[1] + 1), dtype=np.int32)
        table[1:, 1:] = squares
        for row in range(1, len(table)):  # np.cumsum down the columns takes seven times as long
            table[row] += table[row - 1]
        return np.cumsum(table, axis=1, out=table)

    @property
    def is_empty(self) -> bool:
        """Whether there is no tissue at all."""
        return int(self._table[-1, -1]) == 0

    @property
    def area_px(self) -> float:
        """Tissue area in level-0 pixels."""
        whole = self.tissue_before(np.array(self.slide_size.width), np.array(self.slide_size.height))
        return int(whole) / self.mask.size

    def fractions(self, regions: Sequence[Region]) -> np.ndarray:
        """Return the share of each region's area that is tissue.

        Args:
            regions: N boxes in level-0 pixels; parts outside the slide hold no tissue.

        Returns:
            float64 (N,), in [0, 1]; thumbnail pixels which a region cuts count with the part that lies inside.
        """
        edges = np.array([(r.x, r.y, r.right, r.bottom) for r in regions], dtype=np.int64).reshape(-1, 4)
        left, top, right, bottom = edges.T
        before = self.tissue_before(np.stack([right, left, right, left]), np.stack([bottom, bottom, top, top]))
        tissue = before[0] - before[1] - before[2] + before[3]
        areas = (right - left).astype(np.float64) * (bottom - top)
        return np.asarray(tissue / self.mask.size / areas)

    def tissue_before(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the tissue left of ``x`` and above ``y``, without rounding.

        Inside a square the tissue area grows bilinearly, so interpolating the summed-area table is exact.

        Args:
            x: int64, level-0 columns, of any shape that broadcasts with ``y``; may lie outside the slide.
            y: int64, level-0 rows.

        Returns:
            int64, level-0 pixels of tissue times the number of pixels of the mask.
        """
        width, height = self.slide_size.width, self.slide_size.height
        th_height, th_width = self.mask.shape
        across, down, table = width * self.grain, height * self.grain, self._table
        column, dx = np.divmod(np.minimum(np.maximum(x, 0), width) * th_width, across)
        row, dy = np.divmod(np.minimum(np.maximum(y, 0), height) * th_height, down)
        right, below = np.minimum(column + 1, table.shape[1] - 1), np.minimum(row + 1, table.shape[0] - 1)
        upper = table[row, column] * (across - dx) + table[row, right] * dx
        lower = table[below, column] * (across - dx) + table[below, right] * dx
        return np.asarray(upper * (down - dy) + lower * dy)


def find_tissue(thumbnail: np.ndarray, slide_size: Size, thumbnail_mpp: float | None) -> TissueMask:
    """Find the tissue on a slide's thumbnail.

    Args:
        thumbnail: uint8 (H, W, 3), the whole slide, best 1000 to 2000 px on its longest side.
        slide_size: Level-0 pixels that the thumbnail shows.
        thumbnail_mpp: Micrometres per thumbnail pixel, or None when unknown.

    Returns:
        The mask, empty when the slide shows nothing but glass, pen, dust or darkness.

    Raises:
        ValueError: the thumbnail is not uint8 (H, W, 3), or has no pixels.
    """
    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8 or thumbnail.size == 0:
        raise ValueError(f"a thumbnail is a uint8 (H, W, 3) array, not {thumbnail.dtype} {thumbnail.shape}")
    factor = _shrink_factor(thumbnail, thumbnail_mpp)
    shrunk_mpp = None if thumbnail_mpp is None else thumbnail_mpp * factor
    shrunk = averaged(thumbnail, factor)
    found = _bright_on_dark(shrunk, shrunk_mpp) if _is_fluorescence(shrunk) else _stained_on_glass(shrunk, shrunk_mpp)
    mask = _tidy(found, shrunk_mpp).repeat(factor, axis=0).repeat(factor, axis=1)
    return TissueMask(mask[: thumbnail.shape[0], : thumbnail.shape[1]], slide_size, grain=factor)


def _shrink_factor(thumbnail: np.ndarray, thumbnail_mpp: float | None) -> int:
    """Say how many pixels are averaged along each axis: single cells are no outlines of tissue, and cost time."""
    longest_px: int = max(thumbnail.shape[0], thumbnail.shape[1])
    wanted = 1.0 if thumbnail_mpp is None else FINEST_MPP / thumbnail_mpp
    for_scale = min(round(wanted), longest_px // MIN_SIDE_PX)
    return max(1, for_scale, math.ceil(longest_px / MAX_SIDE_PX))


def _is_fluorescence(shrunk: Averages) -> bool:
    """Tell a dark background from black padding around a slide on bright glass."""
    value, darkest = shrunk.greatest, shrunk.least
    is_lit = value > 64
    if is_lit.mean() > 0.6:
        return False
    is_glass_or_pink = (value > 160) & (darkest > 0.5 * value)
    return bool(is_glass_or_pink.sum() <= 0.5 * is_lit.sum())


def _bright_on_dark(shrunk: Averages, mpp: float | None) -> np.ndarray:
    """Find what is brighter than a dark background.

    Nuclei are points at low power, so the brightness is averaged over their usual distance before the threshold.
    """
    signal = shrunk.greatest
    longest_px = max(signal.shape[0], signal.shape[1])
    reach_px = longest_px / 300 if mpp is None else NUCLEI_APART_UM / mpp
    radius_px = round(min(max(1, reach_px), longest_px / 40))
    histogram = np.bincount(np.minimum(signal, 64).astype(np.int64).ravel(), minlength=65)
    background = float(histogram[:64].argmax())
    noise = float(np.median(np.abs(signal - background)[signal <= background + 1]))
    signal = ndimage.uniform_filter(signal, size=2 * radius_px + 1, mode="nearest") - background
    least = max(FLUORESCENCE[0], 3 * noise, 0.5 * background)
    return np.asarray(signal > _otsu(signal, least, max(least, FLUORESCENCE[1])))


def _stained_on_glass(shrunk: Averages, mpp: float | None) -> np.ndarray:
    """Find stained tissue on bright glass, of whatever stain, and leave out what pens drew."""
    stained, is_black = _dense(shrunk)
    if is_black.any():  # A fold or pigment, if tissue surrounds it; the blurred edge of a pen stroke is none.
        stained |= is_black & enclosed(opened(stained))
    ink = _is_ink(shrunk)
    stained &= ~ink
    smallest_px = min(_area_px(MIN_PEN_UM2, mpp, MIN_OBJECT_PX), 0.005 * stained.size)
    strokes = ink | (is_black & ~stained)
    if not strokes.any():
        return stained
    pen = strokes & without_specks(closed(strokes, 1), smallest_px)
    return _without_pen(stained, pen) if pen.any() else stained


def _dense(shrunk: Averages) -> tuple[np.ndarray, np.ndarray]:
    """Tell by optical density what is stained and what is black, bool (H, W) each."""
    darkest, lightest = shrunk.extreme_densities(_glass_colour(shrunk))
    saturation = shrunk.greatest[::2, ::2] - shrunk.least[::2, ::2]
    if float(np.quantile(saturation, 0.999)) < 1:  # a greyscale image: density is all there is
        return (darkest > _otsu(darkest, *GREY_DENSITY)) & (darkest < INK_DENSITY), darkest >= INK_DENSITY
    spread = darkest - lightest
    is_grey = spread < GREY_SHARE * darkest
    is_black = (is_grey & (darkest > 0.5 * INK_DENSITY)) | (shrunk.greatest < HUELESS)
    return (spread > _otsu(spread, *STAIN_SPREAD)) & ~is_grey & ~is_black, is_black


def _glass_colour(shrunk: Averages) -> np.ndarray:
    """Return the colour of the glass, float32 (3,): the brightest common colour among smooth, unsaturated pixels."""
    rgb, value, darkest = shrunk.rgb[:, ::2, ::2], shrunk.greatest[::2, ::2], shrunk.least[::2, ::2]
    tint = np.where(rgb[1] <= darkest, GLASS_TINT / 2, GLASS_TINT)  # green is least in the tint of eosin
    steepness = np.abs(ndimage.sobel(value, axis=0)) + np.abs(ndimage.sobel(value, axis=1))
    bright = float(np.quantile(value, 0.995))
    candidates = (value - darkest <= tint * value) & (value >= max(100.0, 0.6 * bright)) & (steepness < 60)
    greys = value[candidates]
    if greys.size < 0.002 * value.size:
        return np.full(3, PRESUMED_GLASS, dtype=np.float32)
    histogram = np.bincount(greys.astype(np.int64), minlength=256).astype(np.float64)
    histogram = ndimage.uniform_filter1d(histogram, size=5, mode="constant")
    is_peak = histogram == ndimage.maximum_filter1d(histogram, size=11)
    peak = int(np.flatnonzero(is_peak & (histogram >= 0.1 * histogram.max()))[-1])
    members = rgb[:, candidates & (np.abs(value - peak) <= 5)]
    return np.asarray(np.median(members, axis=1), dtype=np.float32)


def _is_ink(shrunk: Averages) -> np.ndarray:
    """Find the colours of pens which stains do not have: strong blue, green and red, and blue-black."""
    (red, green, blue), value, darkest = shrunk.rgb, shrunk.greatest, shrunk.least
    is_green = (green >= value) & (darkest < 0.72 * green)
    is_deep_blue = (darkest < 0.42 * blue) | (blue < 90)
    is_blue = (blue >= value) & (green >= 0.92 * red) & is_deep_blue & (darkest < 0.8 * blue)
    is_blue |= (blue >= value) & (green >= 0.7 * red) & (np.maximum(red, green) < 0.42 * blue)
    is_red = (red >= value) & (red > 110) & (darkest < 0.24 * red) & (np.abs(green - blue) < 0.2 * red)
    return np.asarray((is_green | is_blue | is_red) & (value >= HUELESS))


def _without_pen(stained: np.ndarray, pen: np.ndarray) -> np.ndarray:
    """Leave out pen strokes, and their pale fringes, which have the colours of tissue."""
    reach_px = max(3, round(max(pen.shape) / 400))
    kept = stained & ~grown(pen, reach_px)
    labels, total = pieces(kept, EIGHT_NEIGHBOURS)
    fringe = np.bincount(labels[grown(pen, 4 * reach_px)], minlength=len(total))
    is_fringe = fringe > 0.5 * total
    is_fringe[0] = True
    return np.asarray(~is_fringe[labels])


def _otsu(values: np.ndarray, least: float, greatest: float) -> float:
    """Return Otsu's threshold of a measure, kept between two bounds; what lies below zero counts as zero."""
    sample = np.maximum(values[::2, ::2], 0)
    if float(sample.max()) <= least:
        return least
    return float(np.clip(filters.threshold_otsu(sample), least, greatest))  # type: ignore[no-untyped-call]


def _tidy(found: np.ndarray, mpp: float | None) -> np.ndarray:
    """Join what nearly touches, drop specks, fill small holes.

    Args:
        found: bool (H, W), thumbnail frame.
        mpp: Micrometres per thumbnail pixel, or None when unknown.
    """
    reach_px = 2 if mpp is None else min(max(2, round(GAP_UM / mpp)), 5)
    joined = closed(found, reach_px)
    # A crop at high power must not lose all its tissue, nor have all its glass filled.
    smallest_px = min(max(MIN_OBJECT_PX, _area_px(MIN_OBJECT_UM2, mpp, MIN_OBJECT_PX)), 0.001 * found.size)
    largest_hole_px = min(_area_px(MAX_HOLE_UM2, mpp, MAX_HOLE_PX), 0.01 * found.size)
    return without_holes(without_specks(joined, smallest_px), largest_hole_px)


def _area_px(area_um2: float, mpp: float | None, otherwise_px: int) -> float:
    """Turn an area into thumbnail pixels, or take another where the scale is unknown."""
    return otherwise_px if mpp is None else area_um2 / mpp**2
