"""Text and images on a page: what the sections of the overlay are made of."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tnet_cli.geometry import Size
from tnet_cli.report.colours import PAGE

Typeface = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size_px: int) -> Typeface:
    """Return Pillow's own typeface, so that the page looks the same on every machine."""
    return ImageFont.load_default(size=size_px)


def text_width(text: str, size_px: int) -> int:
    """Return how many pixels a line of text takes."""
    return math.ceil(font(size_px).getlength(text))


def shorten(text: str, size_px: int, width_px: int) -> str:
    """Take out the middle of a text that is too wide: names differ most at their ends.

    Args:
        text: One line.
        size_px: Size of the type.
        width_px: Room, in pixels.

    Returns:
        The text, or its ends about an ellipsis; the ellipsis alone where there is no room for more.
    """
    if text_width(text, size_px) <= width_px:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head = math.ceil(kept / 2)
        candidate = f"{text[:head].rstrip()}…{text[len(text) - (kept - head) :].lstrip()}"
        if text_width(candidate, size_px) <= width_px:
            return candidate
    return "…"


def wrap(text: str, size_px: int, width_px: int) -> list[str]:
    """Break a text into lines at spaces; a word wider than the line is shortened.

    Args:
        text: Any text; line breaks count as spaces.
        size_px: Size of the type.
        width_px: Width of a line, in pixels.
    """
    lines: list[str] = []
    for word in text.split():
        extended = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(extended, size_px) <= width_px:
            lines[-1] = extended
        else:
            lines.append(shorten(word, size_px, width_px))
    return lines


def blank(width_px: int, height_px: int) -> Image.Image:
    """Return an empty piece of page."""
    return Image.new("RGB", (max(1, width_px), max(1, height_px)), PAGE)


def write(
    page: ImageDraw.ImageDraw, left: float, top: float, text: str, size_px: int, colour: tuple[int, int, int]
) -> None:
    """Write one line whose ascenders touch ``top``, whatever letters it holds."""
    page.text((left, top), text, font=font(size_px), fill=colour, anchor="la")


def line_height(size_px: int) -> int:
    """Return the distance from one line's top to the next."""
    return round(size_px * 1.35)


def stack(sections: Sequence[Image.Image], width_px: int, gap_px: int) -> Image.Image:
    """Put sections below each other, flush left."""
    height_px = sum(section.height for section in sections) + gap_px * max(0, len(sections) - 1)
    page, top = blank(width_px, height_px), 0
    for section in sections:
        page.paste(section, (0, top))
        top += section.height + gap_px
    return page


def resample(pixels: np.ndarray, size: Size) -> Image.Image:
    """Bring an image to a size by averaging areas, so that no colour bleeds beyond the pixels it falls on.

    Args:
        pixels: uint8 (H, W, 3).
        size: Pixels wanted.
    """
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((size.width, size.height), Image.Resampling.BOX)


def percent(share: float) -> str:
    """Write a share as a percentage; what is not quite all or nothing is not rounded to it."""
    value = 100 * share
    if not math.isfinite(value):
        return "unknown"
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    return f"{value:.1f} %"


def length(um: float) -> str:
    """Write a length in millimetres, or in micrometres below half a millimetre."""
    return f"{um / 1000:.3g} mm" if um >= 500 else f"{um:.3g} µm"


def resolution(mpp: float) -> str:
    """Write micrometres per pixel as they are spoken of: to two figures."""
    return f"{float(f'{mpp:.2g}'):g} µm/px"
