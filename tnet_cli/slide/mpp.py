"""Micrometres per pixel: where files keep them, and which are believed. The same rules for every reader."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from tnet_cli.errors import MissingMppError

PLAUSIBLE = (0.05, 20.0)
MICROMETRES = {"cm": 10_000.0, "inch": 25_400.0}
MICRO_SIGN, GREEK_MU = "\u00b5", "\u03bc"
OME_UNITS = {
    f"{MICRO_SIGN}m": 1.0,
    f"{GREEK_MU}m": 1.0,
    "um": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "pm": 1e-6,
    "Å": 1e-4,
}
SQUARE_WITHIN = 0.1


@dataclass(frozen=True, slots=True)
class StatedMpp:
    """A slide's scale.

    Attributes:
        mpp: Micrometres per level-0 pixel.
        source: Where it stands.
    """

    mpp: float
    source: str


def checked_mpp(path: str, x: float, y: float, source: str) -> StatedMpp | None:
    """Accept a scale that the file states outright; the mean of both axes.

    Zero, negative and non-finite values are how writers say that they do not know: None.

    Raises:
        MissingMppError: it is implausible, or pixels are not square.
    """
    if not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0):
        return None
    if not (PLAUSIBLE[0] <= x <= PLAUSIBLE[1] and PLAUSIBLE[0] <= y <= PLAUSIBLE[1]):
        raise MissingMppError(
            path,
            f"{source} says {x:g} µm per pixel, which is not between {PLAUSIBLE[0]:g} and {PLAUSIBLE[1]:g}; "
            "give the right value with --mpp",
        )
    if abs(x - y) > SQUARE_WITHIN * max(x, y):
        raise MissingMppError(
            path, f"{source} says pixels of {x:g} x {y:g} µm, which are not square; give one value with --mpp"
        )
    return StatedMpp((x + y) / 2, source)


def option_mpp(path: str, mpp: float) -> StatedMpp:
    """Accept the user's scale.

    Raises:
        MissingMppError: it is implausible.
    """
    if not PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]:
        raise MissingMppError(
            path,
            f"--mpp {mpp:g} is not between {PLAUSIBLE[0]:g} and {PLAUSIBLE[1]:g} µm per pixel; give the scale of "
            "the finest pixels, such as 0.25 or 0.5",
        )
    return StatedMpp(mpp, "option")


def resolution_mpp(x_per_unit: float, y_per_unit: float, unit: str) -> StatedMpp | None:
    """Read bare resolution tags, which often state a print size: believed only when they are plausible.

    Args:
        x_per_unit: Pixels for each unit, across.
        y_per_unit: Pixels for each unit, down.
        unit: ``cm`` or ``inch``; anything else says nothing.
    """
    if unit not in MICROMETRES or x_per_unit <= 0 or y_per_unit <= 0:
        return None
    x, y = MICROMETRES[unit] / x_per_unit, MICROMETRES[unit] / y_per_unit
    plausible = PLAUSIBLE[0] <= x <= PLAUSIBLE[1] and abs(x - y) <= SQUARE_WITHIN * max(x, y)
    return StatedMpp((x + y) / 2, "tiff resolution") if plausible else None


def parse_number(text: str) -> float | None:
    """Read a number as scanners write it, perhaps with a decimal comma, or return None when it is none."""
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        return None


def aperio_mpp(path: str, description: str) -> StatedMpp | None:
    """Read ``MPP = 0.25`` from an Aperio description, or return None when it has none.

    Raises:
        MissingMppError: it is implausible.
    """
    match = re.search(r"\|\s*MPP\s*=([^|\r\n]*)", description)
    mpp = parse_number(match[1]) if match else None
    return None if mpp is None else checked_mpp(path, mpp, mpp, "aperio.MPP")


def ome_mpp(path: str, xml: str) -> StatedMpp | None:
    """Read PhysicalSizeX and PhysicalSizeY of the first image of OME-XML, or return None when it has none.

    Raises:
        MissingMppError: they are implausible.
    """
    try:
        root = ET.fromstring(xml)  # noqa: S314 (expat expands no external entities, and nested ones are bounded)
    except ET.ParseError:
        return None
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "Pixels":
            return _ome_pixels_mpp(path, element.attrib)
    return None


def _ome_pixels_mpp(path: str, attributes: Mapping[str, str]) -> StatedMpp | None:
    sides = []
    for axis in ("X", "Y"):
        value = parse_number(attributes.get(f"PhysicalSize{axis}", ""))
        factor = OME_UNITS.get(attributes.get(f"PhysicalSize{axis}Unit", "um"))
        if value is None or factor is None:
            return None
        sides.append(value * factor)
    return checked_mpp(path, sides[0], sides[1], "ome-xml")
