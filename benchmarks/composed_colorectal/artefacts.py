"""What may befall a slide, or its scan: defocus, pen, folds, bubbles and the quality of the JPEG."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tnet_cli.geometry import Size

PAGE_PX = 1200
"""Longer side of the page on which marks are drawn, over the whole slide."""

INKS = ((40, 70, 170), (30, 110, 60), (50, 50, 55), (170, 40, 50))
FOLD_DENSITY = 1.0
"""Of a fold: two layers of tissue absorb twice."""


@dataclass(frozen=True, slots=True, eq=False)
class Artefacts:
    """What has befallen one slide.

    Attributes:
        size: Of the slide, level-0 pixels.
        blur_px: Standard deviation of the defocus, level-0 pixels.
        defocus: Where it is out of focus, an image ``L`` over the slide; everywhere when None.
        passed: How much light passes pen and the rims of bubbles, an image ``RGB`` over the slide, or None.
        folded: Where tissue lies double, an image ``L``, or None.
        quality: Of the JPEG.
    """

    size: Size
    blur_px: float = 0.0
    defocus: Image.Image | None = None
    passed: Image.Image | None = None
    folded: Image.Image | None = None
    quality: int = 85

    @classmethod
    def none(cls, size: Size) -> Self:
        """Return those of a slide as it should be."""
        return cls(size)

    @classmethod
    def drawn(cls, size: Size, mpp: float, rng: np.random.Generator) -> Self:
        """Draw what befalls a slide for training: most are as they should be."""
        chance = rng.random(5)
        blur_um = rng.uniform(0.3, 1.2) if chance[0] < 0.25 else 0.0
        marks = [make for make, at, below in ((pen, 1, 0.12), (bubbles, 2, 0.08)) if chance[at] < below]
        passed = None
        for make in marks:
            page = make(size, rng)
            passed = page if passed is None else _multiplied(passed, page)
        return cls(
            size,
            blur_px=blur_um / mpp,
            defocus=patches(size, rng) if chance[3] < 0.5 else None,
            passed=passed,
            folded=folds(size, rng) if chance[4] < 0.15 else None,
            quality=int(rng.integers(40, 96)),
        )

    @property
    def margin_px(self) -> int:
        """What must be painted around a window so that its edges blur into what lies beyond."""
        return math.ceil(3 * self.blur_px)

    def is_clean(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether nothing is drawn in a window."""
        if self.passed is None:
            return True
        cut = np.asarray(self._cut(self.passed, x, y, width, height, shrink=8))
        return bool(cut.min() >= 250)

    def applied(self, painted: np.ndarray, x: int, y: int, glass: tuple[float, float, float]) -> np.ndarray:
        """Return a window with what has befallen it.

        Args:
            painted: uint8 (H, W, 3) with the margin around it.
            x: Of the window without its margin, level-0 pixels.
            y: Likewise.
            glass: Colour of the empty glass.
        """
        margin = self.margin_px
        inner = (slice(margin, painted.shape[0] - margin), slice(margin, painted.shape[1] - margin))
        pixels = painted[inner]
        height, width = pixels.shape[:2]
        if self.folded is not None:
            share = np.asarray(self._cut(self.folded, x, y, width, height), np.float32)[:, :, None] / 255
            white = np.asarray(glass, np.float32)
            if share.any():
                twice = white * np.minimum(pixels / white, 1) ** (1 + FOLD_DENSITY * share)
                pixels = np.asarray(np.rint(twice), np.uint8)
        if self.blur_px > 0:
            sharp = pixels if self.folded is None else _with_margin(painted, pixels, margin)
            source = painted if self.folded is None else sharp
            blurred = np.asarray(Image.fromarray(source).filter(ImageFilter.GaussianBlur(self.blur_px)))[inner]
            if self.defocus is None:
                pixels = blurred
            else:
                share = np.asarray(self._cut(self.defocus, x, y, width, height), np.float32)[:, :, None] / 255
                pixels = np.asarray(np.rint(pixels + share * (blurred.astype(np.float32) - pixels)), np.uint8)
        if self.passed is not None:
            light = np.asarray(self._cut(self.passed, x, y, width, height), np.float32) / 255
            pixels = np.asarray(np.rint(pixels * light), np.uint8)
        return np.ascontiguousarray(pixels)

    def _cut(self, page: Image.Image, x: int, y: int, width: int, height: int, shrink: int = 1) -> Image.Image:
        """Return the part of a page under a window, in the window's pixels or fewer."""
        across, down = page.width / self.size.width, page.height / self.size.height
        box = (x * across, y * down, (x + width) * across, (y + height) * down)
        sides = (max(1, width // shrink), max(1, height // shrink))
        return page.transform(sides, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)


def _with_margin(painted: np.ndarray, inner: np.ndarray, margin: int) -> np.ndarray:
    whole = painted.copy()
    whole[margin : margin + inner.shape[0], margin : margin + inner.shape[1]] = inner
    return whole


def _page(size: Size, mode: str, value: int | tuple[int, int, int]) -> Image.Image:
    longer = max(size.width, size.height)
    sides = (max(1, round(PAGE_PX * size.width / longer)), max(1, round(PAGE_PX * size.height / longer)))
    return Image.new(mode, sides, value)


def _multiplied(one: Image.Image, other: Image.Image) -> Image.Image:
    product = np.asarray(one, np.uint16) * np.asarray(other, np.uint16) // 255
    return Image.fromarray(product.astype(np.uint8))


def _strokes(page: Image.Image, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the points of a bent line somewhere on a page."""
    cx, cy = rng.uniform(0.15, 0.85) * page.width, rng.uniform(0.15, 0.85) * page.height
    angle, length = rng.uniform(0, math.pi), rng.uniform(0.15, 0.5) * max(page.size)
    along = np.linspace(-0.5, 0.5, 40) * length
    across = rng.uniform(-0.6, 0.6) * along**2 / length
    return [
        (cx + a * math.cos(angle) - b * math.sin(angle), cy + a * math.sin(angle) + b * math.cos(angle))
        for a, b in zip(along, across, strict=True)
    ]


def pen(size: Size, rng: np.random.Generator) -> Image.Image:
    """Draw one to three strokes of pen: how much light passes."""
    page = _page(size, "RGB", (255, 255, 255))
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(1, 4))):
        draw.line(
            _strokes(page, rng),
            fill=INKS[int(rng.integers(len(INKS)))],
            width=int(rng.integers(8, 22)),
            joint="curve",
        )
    return page.filter(ImageFilter.GaussianBlur(1))


def bubbles(size: Size, rng: np.random.Generator) -> Image.Image:
    """Draw the dark rims of one to four bubbles of air under the cover slip: how much light passes."""
    page = _page(size, "RGB", (255, 255, 255))
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(1, 5))):
        radius = rng.uniform(0.03, 0.15) * PAGE_PX
        x, y = rng.uniform(0, page.width), rng.uniform(0, page.height)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=(238, 238, 238), outline=(90, 90, 95), width=int(rng.integers(3, 9)))
    return page.filter(ImageFilter.GaussianBlur(2))


def folds(size: Size, rng: np.random.Generator) -> Image.Image:
    """Draw one to three folds: where tissue lies double."""
    page = _page(size, "L", 0)
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(1, 4))):
        draw.line(_strokes(page, rng), fill=255, width=int(rng.integers(3, 8)), joint="curve")
    return page.filter(ImageFilter.GaussianBlur(1))


def patches(size: Size, rng: np.random.Generator) -> Image.Image:
    """Draw where a slide is out of focus: one to four soft patches."""
    page = _page(size, "L", 0)
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(1, 5))):
        radius = rng.uniform(0.08, 0.3) * PAGE_PX
        x, y = rng.uniform(0, page.width), rng.uniform(0, page.height)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return page.filter(ImageFilter.GaussianBlur(25))
