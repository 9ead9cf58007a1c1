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
) -> np.ndarray:
    """Bring stored pixels to the wanted size: by area averages when shrinking, bilinear when enlarging.

    Args:
        pixels: uint8 (H, W, 3), covering the region.
        region: Level-0 pixels.
        downsample: Of the stored pixels.
        origin: Of ``pixels`` in the stored resolution, x and y.
        width_px, height_px: Size of the result.

    Returns:
        uint8 (height_px, width_px, 3); the very pixels when nothing has to change.
    """
    left, top = region.x / downsample - origin[0], region.y / downsample - origin[1]
    box = (left, top, left + region.width / downsample, top + region.height / downsample)
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
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width_px, height_px), method, box=box))
