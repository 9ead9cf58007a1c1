"""Text and images on a page: what the sections of the overlay are made of.

Pillow's own typeface keeps the page the same on every machine, but it holds little more than ASCII. Accents are
dropped, the micro sign is drawn, and what has no letter at all becomes a question mark.
"""

import math
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tnet_cli.geometry import Size
from tnet_cli.report.colours import PAGE, RGB

Typeface = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MICRO_SIGNS = "\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}"
_REPLACED = {"ß": "ss"} | dict(zip("×–—−’‘“”\N{NO-BREAK SPACE}", "x---''\"\" ", strict=True))


@cache
def _font(size_px: int) -> Typeface:
    return ImageFont.load_default(size=size_px)


@cache
def _has_glyph(character: str) -> bool:
    """Tell whether the typeface can draw a character, other than as the box for missing ones."""
    missing, drawn = _font(24).getmask("\uffff"), _font(24).getmask(character)
    return character.isprintable() and (drawn.size != missing.size or bytes(drawn) != bytes(missing))


def writable(text: str) -> str:
    """Return a text in characters that can be drawn, the micro sign among them."""
    characters: list[str] = []
    for character in text:
        if character in _MICRO_SIGNS:
            characters.append(_MICRO_SIGNS[0])
        elif _has_glyph(character):
            characters.append(character)
        elif character in _REPLACED:
            characters.append(_REPLACED[character])
        else:
            plain = [part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)]
            characters.extend(part if _has_glyph(part) else "?" for part in plain)
    return "".join(characters)


@lru_cache(maxsize=4096)
def text_width(text: str, size_px: int) -> int:
    """Return how many pixels a line of text takes."""
    return math.ceil(_font(size_px).getlength(writable(text).replace(_MICRO_SIGNS[0], "u")))


def shorten(text: str, size_px: int, width_px: int) -> str:
    """Take out the middle of a line that is too wide: names differ most at their ends.

    Returns:
        The text, or its ends about an ellipsis; the ellipsis alone where there is no room for more.
    """
    text = writable(text)
    if text_width(text, size_px) <= width_px:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head = math.ceil(kept / 2)
        candidate = f"{text[:head].rstrip()}…{text[len(text) - (kept - head) :].lstrip()}"
        if text_width(candidate, size_px) <= width_px:
            return candidate
    return "…"


def wrap(text: str, size_px: int, width_px: int) -> list[str]:
    """Break a text into lines at spaces and line breaks; a word wider than the line is shortened."""
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


def write(page: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size_px: int, colour: RGB) -> None:
    """Write one line of text.

    Args:
        at: x of its left edge and y of its ascenders' top, whatever letters it holds.
    """
    left, top = at
    drawn, font = writable(text), _font(size_px)
    page.text((left, top), drawn.replace(_MICRO_SIGNS[0], "u"), font=font, fill=colour, anchor="la")
    _, u_top, _, u_bottom = font.getbbox("u", anchor="la")
    for i, character in enumerate(drawn):
        if character == _MICRO_SIGNS[0]:
            stem_left = left + font.getlength(drawn[:i].replace(_MICRO_SIGNS[0], "u")) + max(1, size_px / 14)
            stem_right = stem_left + max(0, round(size_px / 14) - 1)
            page.rectangle((stem_left, top + u_top + 1, stem_right, top + u_bottom + size_px / 5), fill=colour)


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
    """Bring pixels, uint8 (H, W, 3), to a size by averaging areas: no colour bleeds beyond the pixels it falls on."""
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


def resolution(mpp: float, figures: int = 3) -> str:
    """Write micrometres per pixel, rounded to some significant figures."""
    return f"{float(f'{mpp:.{figures}g}'):g} µm/px"
