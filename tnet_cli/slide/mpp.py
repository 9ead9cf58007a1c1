"""Micrometres per pixel: where files keep them, and which are believed. The same rules for every reader."""

import math
import re
from dataclasses import dataclass, replace

import tifffile

from tnet_cli.errors import MissingMppError
from tnet_cli.geometry import Size

PLAUSIBLE = (0.05, 20.0)
MICRO_SIGN, GREEK_MU = "\u00b5", "\u03bc"
MICROMETRES = {
    f"{MICRO_SIGN}m": 1.0,
    f"{GREEK_MU}m": 1.0,
    "um": 1.0,
    "pm": 1e-6,
    "\u00c5": 1e-4,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25_400.0,
    "inch": 25_400.0,
}
"""Of each unit that OME-XML, ImageJ or a TIFF tag may name. Pixels, reference frames and the like are none."""

MICROMETRE = re.compile(r"um|microns?|micromet(?:er|re)s?", re.IGNORECASE)

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
TIFF_UNITS = {2: "inch", 3: "cm"}
SQUARE_WITHIN = 0.05
SHRUNK_FROM = 1.2
"""An image that is smaller than its description says by this much, in both directions, was shrunk."""

AGREE_WITHIN = 0.05
"""Scales in two places of a file that differ by more are worth a doubt."""


@dataclass(frozen=True, slots=True)
class StatedMpp:
    """A slide's scale.

    Attributes:
        mpp: Micrometres per level-0 pixel; None where it stays unknown for the reason that is the doubt.
        source: Where it stands.
        doubt: What had to be assumed, or speaks against it; a sentence for users, or nothing.
    """

    mpp: float | None
    source: str | None
    doubt: str = ""


def stated_mpp(path: str, x: float | None, y: float | None, source: str) -> StatedMpp | None:
    """Accept a scale that the file states outright; the mean of both axes, or the one that is known.

    Zero, negative and non-finite values are how writers say that they do not know: None where that is so of both.

    Raises:
        MissingMppError: it is implausible, or pixels are not square.
    """
    known = _known(x, y)
    beyond = [value for value in known if not _is_plausible(value)]
    if beyond:
        problem = f"{beyond[0]:g} µm per pixel, which is not between {PLAUSIBLE[0]:g} and {PLAUSIBLE[1]:g}"
        raise MissingMppError(path, f"{source} says {problem}; give the right value with --mpp")
    stated = _mean(known, source)
    if stated is not None and stated.mpp is None:
        raise MissingMppError(path, f"{stated.doubt}; give one value with --mpp")
    return stated


def _known(*values: float | None) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value) and value > 0]


def _is_plausible(mpp: float) -> bool:
    return PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]


def _mean(sides: list[float], source: str) -> StatedMpp | None:
    """Return the scale of pixels with these sides, of which one may be missing; unknown where they are not square."""
    if not sides:
        return None
    if max(sides) - min(sides) > SQUARE_WITHIN * max(sides):
        doubt = f"{source} says pixels of {sides[0]:g} x {sides[1]:g} µm, which are not square"
        return StatedMpp(None, None, doubt)
    one_axis = "" if len(sides) > 1 else f"{source} gives the scale of one axis only; its pixels were taken for square"
    return StatedMpp(sum(sides) / len(sides), source, one_axis)


def option_mpp(path: str, mpp: float) -> StatedMpp:
    """Accept the user's scale.

    Raises:
        MissingMppError: it is implausible.
    """
    if not _is_plausible(mpp):
        raise MissingMppError(
            path,
            f"--mpp {mpp:g} is not between {PLAUSIBLE[0]:g} and {PLAUSIBLE[1]:g} µm per pixel; give the scale of "
            "the finest pixels, such as 0.25 or 0.5",
        )
    return StatedMpp(mpp, "option")


def micrometres(unit: str) -> float | None:
    """Return how many a unit has, or None where it is no length; ImageJ writes some letters by their numbers."""
    known = re.sub(r"\\u(00b5|03bc)", MICRO_SIGN, unit.strip(), flags=re.IGNORECASE)
    return 1.0 if MICROMETRE.fullmatch(known) else MICROMETRES.get(known)


def resolution_mpp(
    x_per_unit: float | None, y_per_unit: float | None, unit: str, source: str = "tiff resolution"
) -> StatedMpp | None:
    """Read bare resolution tags, which often state a print size: believed only when they are plausible.

    Args:
        x_per_unit: Pixels for each unit, across; None, zero and the like where the file does not say.
        y_per_unit: Pixels for each unit, down.
        unit: One that ``micrometres`` knows; anything else says nothing.
        source: What to call them.
    """
    factor = micrometres(unit)
    sides = [] if factor is None else [factor / value for value in _known(x_per_unit, y_per_unit)]
    return _mean(sides, source) if all(map(_is_plausible, sides)) else None


def first_stated(*places: StatedMpp | None) -> StatedMpp | None:
    """Return the scale of the first place that has one, with a doubt where a later place says another."""
    first = None
    for place in places:
        if first is None or first.mpp is None:
            first = place or first
        elif place is not None and place.mpp and abs(math.log(place.mpp / first.mpp)) > AGREE_WITHIN:
            says = f"{first.source} says {first.mpp:.4g} µm per pixel, and {place.source} {place.mpp:.4g}"
            return replace(first, doubt=f"{says}; the first was taken")
    return first


def parse_number(text: str) -> float | None:
    """Read a number as scanners write it, perhaps with a decimal comma, or return None when it is none."""
    try:
        return float(text.strip().replace(",", ".")) if "_" not in text else None
    except ValueError:
        return None


def aperio_mpp(path: str, description: str, size: Size) -> StatedMpp | None:
    """Read ``MPP = 0.25`` from an Aperio description, or return None when it has none.

    Other programs leave the description as it was when they shrink an image, which is a doubt.

    Args:
        size: Of the image that is described.

    Raises:
        MissingMppError: it is implausible.
    """
    match = re.search(r"\|\s*MPP\s*=([^|\r\n]*)", description)
    mpp = parse_number(match[1]) if match else None
    stated = stated_mpp(path, mpp, mpp, "aperio.MPP")
    sizes = re.findall(r"(->\s*)?(?<![\d(])(\d{1,9})x(\d{1,9})", description.partition("|")[0])
    described = [Size(int(width), int(height)) for _, width, height in sizes]
    is_source = any(one == size and not arrow for one, (arrow, *_) in zip(described, sizes, strict=True))
    for other in described if stated is not None and not is_source else ():
        shrunk = other.width / size.width
        if shrunk > SHRUNK_FROM and abs(other.height / shrunk - size.height) <= 1:
            of = f"{other.width} x {other.height} pixels"
            says = f"its Aperio text is of an image of {of}; if this one was made from it, aperio.MPP is"
            return replace(stated, doubt=f"{says} {shrunk:.3g} times too small") if stated else None
    return stated


def page_mpp(page: tifffile.TiffPage, description: str) -> StatedMpp | None:
    """Read the resolution tags of a TIFF page, in ImageJ's unit where the description names one."""
    x, y = _number(page, X_RESOLUTION), _number(page, Y_RESOLUTION)
    unit = re.search(r"^unit=(.*)$", description, re.MULTILINE) if description.startswith("ImageJ=") else None
    if unit is not None:
        return resolution_mpp(x, y, unit[1], "imagej unit")
    code = page.tags.valueof(RESOLUTION_UNIT)
    return resolution_mpp(x, y, TIFF_UNITS.get(code, "") if isinstance(code, int) else "")


def _number(page: tifffile.TiffPage, code: int) -> float | None:
    """Return the number of a tag, which may be a fraction; None where it is none, or nothing is divided by zero."""
    tag = page.tags.get(code)
    if tag is None or tag.count != 1 or isinstance(tag.value, str | bytes):
        return None
    parts = tag.value if isinstance(tag.value, tuple) else (tag.value,)
    try:
        return float(parts[0]) / float(parts[1] if len(parts) > 1 else 1)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError):
        return None
