"""The images: one digit at its native size, anywhere, among small pieces of other digits."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from tnet_cli.geometry import Region

DIGIT_PX = 28
FRAGMENT_PX = 8
"""Side of a fragment, that of the distractors of Mnih et al., arXiv:1406.6247 (cluttered MNIST).

MNIST scales each digit's longer side to 20 px, so that no fragment holds a whole one.
"""

INK_FROM, INK_TO = 4, 24
"""MNIST centres the 20 px of a digit; fragments are cut between these rows and columns."""

AREA_PER_FRAGMENT = 100 * 100
"""Pixels of image for each fragment: 80 of them in 896 px, 1285 in 3584 px."""

Part = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Digits:
    """One part of MNIST.

    Attributes:
        images: uint8 (N, 28, 28), ink bright.
        labels: int64 (N,), 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """A fixed order of the digits, int64 (N,): the stored one may be by label."""
        return np.random.default_rng(0).permutation(len(self.labels))


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """One image.

    Attributes:
        pixels: uint8 (S, S), black with bright ink.
        label: Of the digit.
        box: The digit's 28 px, in pixels of the image.
    """

    pixels: np.ndarray
    label: int
    box: Region


def load_digits(path: Path, part: Part) -> Digits:
    """Read one part of MNIST.

    Args:
        path: An ``.npz`` with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``.
        part: Which.

    Raises:
        OSError: there is no such file.
        ValueError: it holds something else.
    """
    with np.load(path) as stored:
        missing = {f"{part}_images", f"{part}_labels"} - set(stored.files)
        if missing:
            raise ValueError(f"{path} has no {', '.join(sorted(missing))}")
        images, labels = stored[f"{part}_images"], stored[f"{part}_labels"].astype(np.int64)
    if images.shape != (len(labels), DIGIT_PX, DIGIT_PX) or images.dtype != np.uint8:
        raise ValueError(f"{path}: images of {images.dtype} {images.shape} do not go with {len(labels)} labels")
    return Digits(images, labels)


def make_canvas(digits: Digits, side_px: int, *, seed: int, number: int) -> Canvas:
    """Make one image; the same arguments give the same pixels.

    Digits are taken in turn from a fixed shuffled order, so as many images as there are digits show each once.

    Args:
        digits: Of one part of MNIST; the fragments come from it too.
        side_px: S, at least 28.
        seed: Of the series.
        number: Of the image in its series.
    """
    rng = np.random.default_rng([seed, number])
    chosen = digits.order[(number + seed) % len(digits.order)]
    y, x = (int(place) for place in rng.integers(0, side_px - DIGIT_PX + 1, size=2))
    box = Region(x, y, DIGIT_PX, DIGIT_PX)
    pixels = np.zeros((side_px, side_px), np.uint8)
    _paste_fragments(pixels, digits, box, rng)
    pixels[y : y + DIGIT_PX, x : x + DIGIT_PX] = digits.images[chosen]
    return Canvas(pixels, int(digits.labels[chosen]), box)


def _paste_fragments(pixels: np.ndarray, digits: Digits, box: Region, rng: np.random.Generator) -> None:
    """Lay fragments anywhere but on the digit's box; where two overlap the brighter counts."""
    side_px = len(pixels)
    count = round(side_px**2 / AREA_PER_FRAGMENT)
    ys, xs = rng.integers(0, side_px - FRAGMENT_PX + 1, size=(2, count))
    fragments = cut_fragments(digits, count, rng)
    is_clear = (
        (ys + FRAGMENT_PX <= box.y) | (ys >= box.bottom) | (xs + FRAGMENT_PX <= box.x) | (xs >= box.right)
    )  # (M,)
    ys, xs, fragments = ys[is_clear], xs[is_clear], fragments[is_clear]
    steps = np.arange(FRAGMENT_PX)
    at = (ys[:, None, None] + steps[:, None]) * side_px + (xs[:, None, None] + steps)  # (M, F, F), flat indices
    np.maximum.at(pixels.reshape(-1), at, fragments)


def cut_fragments(digits: Digits, count: int, rng: np.random.Generator) -> np.ndarray:
    """Cut pieces out of random digits.

    Args:
        digits: To cut from.
        count: M.
        rng: Source of randomness.

    Returns:
        uint8 (M, F, F).
    """
    chosen = rng.integers(0, len(digits.images), size=count)
    tops, lefts = rng.integers(INK_FROM, INK_TO - FRAGMENT_PX + 1, size=(2, count))
    steps = np.arange(FRAGMENT_PX)
    rows, columns = tops[:, None, None] + steps[:, None], lefts[:, None, None] + steps
    fragments: np.ndarray = digits.images[chosen[:, None, None], rows, columns]
    return fragments
