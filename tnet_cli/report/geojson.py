"""What the network looked at as a GeoJSON FeatureCollection, which QuPath opens beside the slide.

Each processing level is a class in QuPath, so that it can be shown, hidden and counted by itself.

What QuPath takes is what it writes: a FeatureCollection of Features with a UUID for ``id``, ``objectType``,
``classification`` with a name and a colour, ``isLocked``, and ``measurements`` as an object of numbers (as an array
before version 0.4, which reads both). Source: qupath/qupath, qupath-core, qupath/lib/io/QuPathTypeAdapters.java.

Its frame is level 0 from the corner of the slide's bounds: when OpenSlide states all of ``openslide.bounds-x``,
``-y``, ``-width`` and ``-height``, as it does for MIRAX and Leica slides, QuPath shows that crop, unless the image
was added with ``--no-crop``, and all coordinates it reads and writes count from there. Source: OpenslideImageServer
in qupath-extension-openslide (its constructor and ``readTile``); qupath/qupath issue 820.
"""

import math
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tnet_cli.files import rounded
from tnet_cli.geometry import Region
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import processing_level_colour
from tnet_cli.report.drawing import percent, resolution
from tnet_cli.report.sections import no_answer

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "region.tnet")


def regions_geojson(
    regions: Sequence[AttendedRegion],
    class_names: Sequence[str],
    origin: tuple[int, int] = (0, 0),
    *,
    reasons: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe regions as locked rectangles with class, colour and measurements.

    Args:
        origin: x and y, level-0 pixels, of what the viewer takes for the slide's corner: the bounds of a slide that
            has them, since QuPath crops to these.
        reasons: Why the slide's answer does not count; then no region is called anything.

    Returns:
        A GeoJSON object of plain lists, dicts, strings and finite numbers; coarse regions come first, so that fine
        ones lie above them.

    Raises:
        ValueError: a region has another number of probabilities than there are classes.
    """
    seen: Counter[str] = Counter()
    features = []
    for region in sorted(regions, key=lambda region: region.processing_level):
        if len(region.class_probabilities) != len(class_names):
            raise ValueError(
                f"a region has {len(region.class_probabilities)} class probabilities for {len(class_names)} classes"
            )
        box = region.region
        key = f"{region.processing_level}:{box.x},{box.y},{box.width},{box.height}"
        seen[key] += 1
        features.append(_feature(region, class_names, origin, f"{key}:{seen[key]}"))
    document = {"type": "FeatureCollection", "features": features}
    return document | _withheld(features, reasons) if reasons else document


def _withheld(features: Sequence[dict[str, Any]], reasons: Sequence[str]) -> dict[str, Any]:
    """Say in place of each region's call that there is no answer; return what the collection says of it.

    QuPath shows the name in its list, and the description where an annotation is selected.
    """
    for feature in features:
        properties = feature["properties"]
        properties["name"] = f"no answer, {properties['name'].rpartition(', ')[2]}"
        properties["metadata"] = {"ANNOTATION_DESCRIPTION": no_answer(reasons)}
    return {"status": "abstained", "reasons": list(reasons)}


def _feature(
    region: AttendedRegion, class_names: Sequence[str], origin: tuple[int, int], identity: str
) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, identity)),
        "geometry": {"type": "Polygon", "coordinates": [_ring(region.region, origin)]},
        "properties": {
            "objectType": "annotation",
            "name": _name(region, class_names),
            "classification": {
                "name": _classification(region),
                "color": list(processing_level_colour(region.processing_level)),
            },
            "isLocked": True,
            "measurements": _measurements(region, class_names),
        },
    }


def _ring(box: Region, origin: tuple[int, int]) -> list[list[int]]:
    """Return the closed outline of a box, in the viewer's pixels."""
    left, top = box.x - origin[0], box.y - origin[1]
    right, bottom = left + box.width, top + box.height
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _classification(region: AttendedRegion) -> str:
    """Name the processing level alike on all slides: two figures leave out how exactly theirs was met."""
    kind = "Attended" if region.is_location else "Root"
    return f"{kind} level {region.processing_level}" if region.mpp is None else f"{kind} {resolution(region.mpp, 2)}"


def _name(region: AttendedRegion, class_names: Sequence[str]) -> str:
    """Say what matters most in a list of annotations: the region's own call, and how much it weighs."""
    share, name = max(zip(region.class_probabilities, class_names, strict=True), default=(0.0, ""))
    return f"{name} {percent(share)}, weight {percent(region.weight)}" if name else f"weight {percent(region.weight)}"


def _measurements(region: AttendedRegion, class_names: Sequence[str]) -> dict[str, float | int | None]:
    numbers: dict[str, float | int | None] = {
        "weight": region.weight,
        "path_probability": region.path_probability,
        **{f"prob_{name}": p for name, p in zip(class_names, region.class_probabilities, strict=True)},
        "mpp": region.mpp,
        "processing_level": region.processing_level,
    }
    return {
        key: number if isinstance(number, int) else rounded(number)
        for key, number in numbers.items()
        if number is not None and math.isfinite(number)
    }
