"""From stored pixels to the size that is wanted; shared by all readers, so that they give the same pixels."""

import math

import numpy as np
from PIL import Image

from tnet_cli.geometry import Region

EDGE = 1e-6
"""Boxes this close to whole pixels are whole pixels."""


def covering_box(region: Region, downsample: float) -> tuple[int, int, int, int]:
    """Return the smallest box of whole stored pixels that covers a region: x, y, width, height.

    Args:
        region: Level-0 pixels.
        downsample: Of the stored pixels.
    """
    left, top = math.floor(region.x / downsample + EDGE), math.floor(region.y / downsample + EDGE)
    right, bottom = math.ceil(region.right / downsample - EDGE), math.ceil(region.bottom / downsample - EDGE)
    return left, top, max(1, right - left), max(1, bottom - top)


def resample(
    pixels: np.ndarray,
    region: Region,
    downsample: float,
    origin: tuple[int, int],
    width_px: int,
    height_px: int,
    *,
    exact: bool = False,
) -> np.ndarray:
    """Bring stored pixels to the wanted size: by area averages when shrinking, bilinear when enlarging.

    Args:
        pixels: uint8 (H, W, 3), covering the region.
        region: Level-0 pixels.
        downsample: Of the stored pixels.
        origin: Of ``pixels`` in the stored resolution, x and y.
        width_px: Width of the result.
        height_px: Height of the result.
        exact: As in ``fit``.

    Returns:
        uint8 (height_px, width_px, 3); the very pixels when nothing has to change.
    """
    left, top = region.x / downsample - origin[0], region.y / downsample - origin[1]
    box = (left, top, left + region.width / downsample, top + region.height / downsample)
    return fit(pixels, box, width_px, height_px, exact=exact)


def fit(
    pixels: np.ndarray,
    box: tuple[float, float, float, float],
    width_px: int,
    height_px: int,
    *,
    exact: bool = False,
) -> np.ndarray:
    """Bring a box of pixels to the wanted size.

    Args:
        pixels: uint8 (H, W, 3).
        box: Left, top, right and bottom in ``pixels``, which may cut through pixels.
        width_px: Width of the result.
        height_px: Height of the result.
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
