"""Where a user wants a slide looked at: regions of interest and masks, from the options and manifests to ``Limits``."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tnet_cli.errors import ManifestError, SlideError, UsageError
from tnet_cli.geometry import Region
from tnet_cli.inputs.annotation import mask_of
from tnet_cli.inputs.fingerprint import Fingerprint, fingerprint_of
from tnet_cli.inputs.geojson import AnnotationArea, read_annotation_areas
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.mask_file import LONGEST_PX, read_mask
from tnet_cli.inputs.names import numbered, region_name
from tnet_cli.places import Place
from tnet_cli.slide.slide import Slide
from tnet_cli.tissue.limits import Limits
from tnet_cli.tissue.tissue import TissueMask

NAMED = 5
"""Classes that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereToLook:
    """What the options of a command say of where to look; manifests say more.

    Attributes:
        roi: GeoJSON of the regions of interest of the only slide.
        roi_class: Only annotations of this class are.
        per_roi: Whether each of them is a row of its own.
        mask: PNG or GeoJSON of where the tissue of the only slide is.
    """

    roi: Path | None = None
    roi_class: str | None = None
    per_roi: bool = False
    mask: Path | None = None

    def record(self) -> dict[str, Any]:
        """Return what results depend on besides the files, which belong to the slide; empty where nothing is said."""
        said = {"roi_class": self.roi_class, "per_roi": self.per_roi}
        return {name: value for name, value in said.items() if value}

    def applied(self, inputs: Sequence[SlideInput]) -> list[SlideInput]:
        """Return the slides with what the options say of them; with ``per_roi`` one for each region of interest.

        Raises:
            UsageError: a file is missing or is of one slide where there are several, or nothing has a region.
        """
        for option, file in (("--roi", self.roi), ("--mask", self.mask)):
            if file is not None and not file.is_file():
                raise UsageError(f"{option} {file}: there is no such file")
            if file is not None and len(inputs) > 1:
                raise UsageError(
                    f"{option} {file}: is of one slide, and {len(inputs)} are given; list the slides in a manifest "
                    f"with a column {option[2:]!r}"
                )
        given = [
            replace(entry, roi=self.roi or entry.roi, mask=self.mask or entry.mask, roi_class=self.roi_class)
            for entry in inputs
        ]
        if (self.roi_class or self.per_roi) and not any(entry.roi for entry in given):
            option = "--per-roi" if self.per_roi else "--roi-class"
            raise UsageError(f"{option}: no region of interest is given; expected --roi or a manifest's column 'roi'")
        if not self.per_roi:
            return given
        rows = [each for entry in given for each in _each_region(entry)]
        return [replace(row, name=name) for row, name in zip(rows, numbered([row.name for row in rows]), strict=True)]


def _each_region(entry: SlideInput) -> list[SlideInput]:
    """Return an entry for each region of interest; the entry as it is where there is none, which then says why."""
    try:
        regions = regions_of(entry)
    except ManifestError:
        return [entry]
    # What regions are called says as much as the name of a slide that is hidden.
    names = ["" if entry.alias else region.name or "" for region in regions]
    # By number where two have one name, so that each name says which.
    called = [
        name if name and names.count(name) == 1 else f"{name} {number}".strip() for number, name in enumerate(names, 1)
    ]
    return [
        replace(entry, name=region_name(entry.name, name), roi_number=number) for number, name in enumerate(called)
    ] or [entry]


def regions_of(entry: SlideInput) -> list[AnnotationArea]:
    """Return the regions of interest of a slide, in the order of the file; none without a file.

    Of a class that is named all areas count; else those that a person drew, where there are such, and none of a class
    that is to be ignored.

    Raises:
        ManifestError: the file cannot be read, or holds no such region.
    """
    if entry.roi is None:
        return []
    areas = read_annotation_areas(entry.roi)
    if entry.roi_class is not None:
        chosen = [area for area in areas if area.class_name == entry.roi_class]
        found = sorted({area.class_name or "no class" for area in areas})
        what = f"no area of the class {entry.roi_class!r}, only of {', '.join(found[:NAMED]) or 'none'}"
    else:
        chosen = [area for area in areas if not area.is_ignored]
        chosen = [area for area in chosen if not area.is_computed] or chosen
        what = "no area; expected annotations that enclose one, as QuPath exports them"
    if not chosen:
        raise ManifestError(f"{entry.roi}: holds {what}")
    return chosen if entry.roi_number is None else chosen[entry.roi_number : entry.roi_number + 1]


def limits_of(entry: SlideInput, slide: Slide) -> Limits | None:
    """Read where a user wants a slide looked at; None where nothing is said of it.

    Args:
        slide: Open; its bounds are where the frame of GeoJSON begins, as ``report.geojson`` writes it.

    Raises:
        SlideError: a file cannot be read, or nothing of the slide is left.
    """
    if entry.roi is None and entry.mask is None:
        return None
    origin, size = (slide.bounds.x, slide.bounds.y), slide.size
    words = [f"the mask ({entry.mask.name})"] if entry.mask else []
    try:
        mask = None if entry.mask is None else read_mask(entry.mask, size, origin=origin)
        regions = regions_of(entry)
    except ManifestError as exc:
        raise SlideError(entry.shown_path, f"its place to look at cannot be told: {exc}") from exc
    within: TissueMask | None = None
    parts: tuple[Region, ...] = ()
    if entry.roi is not None:
        what = f"region {entry.roi_number + 1}" if entry.roi_number is not None else "the region of interest"
        words.append(f"{what} ({entry.roi.name})")
        within = mask_of(regions, size, origin=origin, longest_px=LONGEST_PX)
        whole = Region(0, 0, size.width, size.height)
        parts = tuple(part for region in regions if (part := _box_of(region, origin, whole)) is not None)
        if within.is_empty or not parts:
            raise SlideError(
                entry.shown_path,
                f"{words[-1]} holds nothing of the slide: it lies outside its {size.width} x {size.height} pixels, or "
                "is too small; expected level-0 pixels, as QuPath exports them",
            )
    return Limits(mask=mask, within=within, parts=parts, words=" and ".join(words))


def _box_of(area: AnnotationArea, origin: tuple[int, int], whole: Region) -> Region | None:
    """Return the box of an area on the slide, level-0 pixels; None where it lies outside."""
    outlines = [part.outline for part in area.polygons if len(part.outline)]
    if not outlines:
        return None
    points = np.concatenate(outlines) + origin
    (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return Region(int(left), int(top), max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top))).intersect(
        whole
    )


def known_by(entry: SlideInput, of_slide: Callable[[Place], Fingerprint | None] = fingerprint_of) -> Fingerprint | None:
    """Return what a slide and the place to look at on it are known by; as ``fingerprint_of``, None where nobody can."""
    found = of_slide(entry.path)
    if found is None or (entry.roi is None and entry.mask is None):
        return found
    limits = {name: _digest(file) for name, file in (("roi", entry.roi), ("mask", entry.mask)) if file is not None}
    if None in limits.values():
        return None  # then reading it says why
    return found | {"limits": limits | {"class": entry.roi_class, "number": entry.roi_number}}


def _digest(file: Path) -> str | None:
    try:
        facts = file.stat()
        return _digest_of(file, facts.st_size, facts.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=256)
def _digest_of(file: Path, _size: int, _mtime_ns: int) -> str:
    # Of a file with a row for each of its regions once.
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def refuse_limits(inputs: Sequence[SlideInput], command: str) -> None:
    """Refuse manifests that say where to look, for a command that looks at whole slides.

    Raises:
        ManifestError: one does.
    """
    for entry in inputs:
        if entry.roi is not None or entry.mask is not None:
            column = "mask" if entry.roi is None else "roi"
            raise ManifestError(
                f"{entry.shown_path}: the manifest has a {column} for it, and {command} takes whole slides; "
                f"leave the column {column!r} out"
            )
