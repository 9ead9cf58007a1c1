"""An ordinary image made ready for an image model: resized whole to a square, as the authors of the model do.

The traversal runs in the pixels of the resized image, where the model's cells are what they were in training; what it
returns is in the image's own pixels.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np

from tnet_cli.geometry import Region, Size
from tnet_cli.inference.prepare import Scale, thumbnail_side_px
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import Look, Traversal, TraversalPlan, Wanted, traverse
from tnet_cli.slide.slide import Slide

OUTSIDE = 0.5
"""Value of what lies beyond the image's edge: mid-grey, which is zero to the authors' models."""

AT_ONCE_PX = 16 * 1024 * 1024
"""Pixels of the image that are read at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class ImagePreparation:
    """An image made ready for a traversal.

    Attributes:
        scale: Number of processing levels; an image has no physical scale.
        thumbnail: uint8 (H, W, 3), the whole image with its own aspect ratio.
        pixels: float32 (S, S, 3) in [0, 1]: the image as the model takes it, which the regions are cut from.
        roots: The one root, in the image's own pixels: all of it.
    """

    scale: Scale
    thumbnail: np.ndarray
    pixels: np.ndarray
    roots: tuple[Region, ...]

    def read(self, region: Region, side_px: int) -> np.ndarray:
        """Return a region of the resized image as a patch, float32 (side_px, side_px, 3) in [0, 1]."""
        return resize(cut(self.pixels, region), side_px)

    def traverse(self, plan: TraversalPlan) -> Generator[Wanted, Look, Traversal]:
        """Traverse the resized image from its one root, and return where that was in the image itself."""
        side_px, whole = self.pixels.shape[0], self.roots[0]
        traversal = yield from traverse([Region(0, 0, side_px, side_px)], np.zeros(1), plan)
        size = Size(whole.width, whole.height)
        return Traversal(
            levels=tuple(
                replace(record, regions=tuple(in_own_pixels(region, side_px, size) for region in record.regions))
                for record in traversal.levels
            )
        )


def prepare_image(slide: Slide, config: TNetConfig) -> ImagePreparation:
    """Resize an image for an image model.

    Args:
        slide: An open image, of any reader.
        config: An image model's configuration.

    Raises:
        SlideError: the image cannot be read.
        ValueError: the configuration is that of a slide model.
    """
    if config.image_px is None:
        raise ValueError("a slide model takes no whole images")
    side_px = config.image_px
    scale = Scale(
        root_side_px=side_px, finest_side_px=side_px, processing_levels=config.processing_levels, mpp=(), notes=()
    )
    return ImagePreparation(
        scale=scale,
        thumbnail=slide.thumbnail(thumbnail_side_px(slide)),
        pixels=read_resized(slide, side_px),
        roots=(Region(0, 0, slide.size.width, slide.size.height),),
    )


def read_resized(slide: Slide, side_px: int) -> np.ndarray:
    """Read an image and bring it to a square, in bounded memory: only the rows that count are read, some at a time.

    Each pixel is interpolated between its four neighbours, and what lies between them does not count, as in the
    authors' code; the aspect ratio is not kept.

    Args:
        side_px: S.

    Returns:
        float32 (S, S, 3) in [0, 1].

    Raises:
        SlideError: the image cannot be read.
    """
    width, height = slide.size.width, slide.size.height
    rows = _Taps.between(height, side_px)
    most_rows = max(2, AT_ONCE_PX // width)
    parts: list[np.ndarray] = []
    first = 0
    while first < side_px:
        top = int(rows.low[first])
        # As many rows of the result as one read serves, at least one.
        last = max(first + 1, int(np.searchsorted(rows.high, top + most_rows)))
        bottom = int(rows.high[last - 1]) + 1
        stored = slide.read(Region(0, top, width, bottom - top), width, bottom - top)
        narrowed = _interpolate(stored, _Taps.between(width, side_px), axis=1)
        parts.append(_interpolate(narrowed, rows.part(first, last, top), axis=0))
        first = last
    return np.concatenate(parts) / np.float32(255)


def resize(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """Bring pixels to a square as ``read_resized`` does.

    Args:
        pixels: float32 (H, W, 3).
        side_px: S.

    Returns:
        float32 (S, S, 3); the very pixels where nothing has to change.
    """
    if pixels.shape[:2] == (side_px, side_px):
        return pixels
    narrowed = _interpolate(pixels, _Taps.between(pixels.shape[1], side_px), axis=1)
    return _interpolate(narrowed, _Taps.between(pixels.shape[0], side_px), axis=0)


def cut(pixels: np.ndarray, region: Region) -> np.ndarray:
    """Cut a region out of an image, with mid-grey where it reaches beyond.

    Args:
        pixels: float32 (H, W, 3) in [0, 1].

    Returns:
        float32 (height, width, 3) of the region.
    """
    patch = np.full((region.height, region.width, 3), OUTSIDE, np.float32)
    inside = region.intersect(Region(0, 0, pixels.shape[1], pixels.shape[0]))
    if inside is not None:
        top, left = inside.y - region.y, inside.x - region.x
        patch[top : top + inside.height, left : left + inside.width] = pixels[
            inside.y : inside.bottom, inside.x : inside.right
        ]
    return patch


def in_own_pixels(region: Region, side_px: int, size: Size) -> Region:
    """Return a region of the resized image in the image's own pixels, to the nearest whole one.

    Args:
        region: In an image of ``side_px`` a side.
        side_px: Side of the resized image.
    """
    left, right = (round(x * size.width / side_px) for x in (region.x, region.right))
    top, bottom = (round(y * size.height / side_px) for y in (region.y, region.bottom))
    return Region(left, top, max(1, right - left), max(1, bottom - top))


def shown(patch: np.ndarray) -> np.ndarray:
    """Return a patch as it is drawn, uint8; patches of slides are already."""
    return patch if patch.dtype == np.uint8 else np.rint(patch * 255).astype(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """Which two pixels along an axis each pixel of the result lies between.

    Attributes:
        low: int64 (S,).
        high: int64 (S,).
        share: float32 (S,): of ``high``.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @classmethod
    def between(cls, length: int, wanted: int) -> "_Taps":
        """Lay ``wanted`` pixels over ``length``, centre to centre with half a pixel at the edges."""
        at = np.clip((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0, length - 1)
        low = np.floor(at).astype(np.int64)
        return cls(low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32))

    def part(self, first: int, last: int, origin: int) -> "_Taps":
        """Return those of some pixels of the result, counted from an origin."""
        some = slice(first, last)
        return _Taps(self.low[some] - origin, self.high[some] - origin, self.share[some])


def _interpolate(pixels: np.ndarray, taps: _Taps, *, axis: int) -> np.ndarray:
    """Interpolate (H, W, 3) along one axis, in float32."""
    low = np.take(pixels, taps.low, axis=axis).astype(np.float32)
    high = np.take(pixels, taps.high, axis=axis).astype(np.float32)
    share = taps.share[:, None, None] if axis == 0 else taps.share[:, None]
    return np.asarray(low + (high - low) * share)
