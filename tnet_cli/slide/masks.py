"""Shapes on boolean masks (H, W): grown, opened, closed, filled, cleared of specks."""

import math

import numpy as np
from scipy import ndimage
from skimage import morphology


def enclosed(mask: np.ndarray) -> np.ndarray:
    """Find what a mask surrounds: its holes, bool (H, W)."""
    labels, count = ndimage.label(~mask)
    is_hole = np.ones(count + 1, dtype=np.bool_)
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_hole[border] = False
    is_hole[0] = False
    return np.asarray(is_hole[labels])


def opened(mask: np.ndarray) -> np.ndarray:
    """Drop what is thinner than three pixels."""
    return grown(~grown(~mask, 1), 1)


def grown(mask: np.ndarray, reach_px: int) -> np.ndarray:
    """Add what lies within a reach along rows and columns, in pixels."""
    spread = np.pad(mask, reach_px)
    covered, span = 1, 2 * reach_px + 1
    while covered < span:  # each step doubles how far a pixel reaches
        step = min(covered, span - covered)
        spread = spread[:-step] | spread[step:]
        spread = spread[:, :-step] | spread[:, step:]
        covered += step
    return spread


def closed(mask: np.ndarray, reach_px: int) -> np.ndarray:
    """Fill gaps of up to twice a reach, in pixels."""
    padded = np.pad(mask, reach_px, mode="edge")
    filled = ~grown(~grown(padded, reach_px), reach_px)
    return np.asarray(filled[reach_px:-reach_px, reach_px:-reach_px] | mask)


def without_specks(mask: np.ndarray, smallest_px: float) -> np.ndarray:
    """Drop objects of fewer pixels than the smallest that counts."""
    at_most_px = max(0, math.ceil(smallest_px) - 1)
    return np.asarray(morphology.remove_small_objects(mask, max_size=at_most_px, connectivity=2), dtype=np.bool_)
