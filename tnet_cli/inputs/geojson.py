"""Areas of annotations, read from GeoJSON as QuPath and others write it.

QuPath exports a FeatureCollection, an array of Features, or a lone Feature, and takes bare geometries too; its files
are plain or packed in a zip. Rectangles, ellipses and brush strokes arrive as polygons.
Source: qupath.readthedocs.io, "Exporting annotations"; qupath/qupath, qupath-core, qupath/lib/io/PathIO.java
(readObjects, exportObjectsAsGeoJSON) and QuPathTypeAdapters.java (PathObjectTypeAdapter).
"""

import gzip
import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tnet_cli.errors import ManifestError

LARGEST_BYTES = 1 << 30
"""Of a file unpacked; a million cells take a quarter of it."""

COMPUTED = frozenset(
    {"detection", "cell", "tile", "tmaCore", "tma_core", "root"}
    | {"PathDetectionObject", "PathCellObject", "PathTileObject", "TMACoreObject", "PathRootObject"}
)
"""Object types of what a program finds, by QuPath's names of today and of version 0.2; all others a person draws."""

WITHOUT_AREA = frozenset({"Point", "MultiPoint", "LineString", "MultiLineString"})


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationPolygon:
    """A polygon with holes; every ring float64 (points, 2), x and y in the viewer's pixels."""

    outline: np.ndarray
    holes: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationArea:
    """What one object of the file covers.

    Attributes:
        class_name: Of its classification, such as ``Tumor``; None without one.
        is_computed: Whether a program made it: detections, cells, tiles.
    """

    polygons: tuple[AnnotationPolygon, ...]
    class_name: str | None = None
    is_computed: bool = False

    @property
    def is_ignored(self) -> bool:
        """Whether its class is of those that QuPath leaves out, ``Ignore*`` and ``Region*``: the asterisk says so.

        Source: qupath.lib.objects.classes.PathClassTools.isIgnoredClass.
        """
        return self.class_name is not None and self.class_name.endswith("*")


def read_annotation_areas(path: Path, on_note: Callable[[str], None] | None = None) -> list[AnnotationArea]:
    """Read all areas of a file.

    Args:
        path: GeoJSON; plain, gzipped, or a zip with GeoJSON files in it, by content.
        on_note: Told how many objects have no area: points, lines, and objects without geometry.

    Returns:
        One for each object with an area, in the order of the file; objects inside objects follow them.

    Raises:
        ManifestError: the file is missing, too large or damaged, or is no such document.
    """
    left_out: Counter[str] = Counter()
    try:
        areas = [area for text in _documents(path) for area in _areas(json.loads(text), left_out)]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as exc:
        raise ManifestError(f"{path}: not a GeoJSON document of polygons: {_reason(exc)}") from exc
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as exc:
        raise ManifestError(f"{path}: cannot be read as GeoJSON: {_reason(exc)}") from exc
    if left_out and on_note is not None:
        named = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        on_note(f"{path}: left out objects without an area: {named}")
    return areas


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__


def _documents(path: Path) -> Iterator[bytes]:
    """Yield the JSON texts of a file, unpacked."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            with gzip.open(file) as packed:
                yield _whole(packed)
        elif start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(file) as archive:
                named = [name for name in archive.namelist() if name.lower().endswith((".geojson", ".json"))]
                names = [name for name in named if not name.startswith("__MACOSX/")]
                if not names:
                    raise ValueError("the zip holds no .geojson file")
                for name in names:
                    with archive.open(name) as member:
                        yield _whole(member)
        else:
            yield _whole(file)


def _whole(file: "io.BufferedIOBase | gzip.GzipFile | Any") -> bytes:
    content: bytes = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES // 2**20} MiB; export without detections and measurements")
    return content


def _areas(document: Any, left_out: Counter[str]) -> Iterator[AnnotationArea]:
    """Yield the areas of a document: a collection, a list, a feature or a geometry."""
    if isinstance(document, list):
        for element in document:
            yield from _areas(element, left_out)
    elif "features" in document:
        for feature in document["features"]:
            yield from _of_feature(feature, left_out)
    elif document["type"] == "Feature":
        yield from _of_feature(document, left_out)
    elif polygons := tuple(_polygons(document, left_out)):
        yield AnnotationArea(polygons)


def _of_feature(feature: dict[str, Any], left_out: Counter[str]) -> Iterator[AnnotationArea]:
    properties = feature.get("properties") or {}
    kind = properties.get("objectType") or properties.get("object_type") or feature.get("id")
    geometry = feature.get("geometry")
    if geometry is None:
        left_out["without geometry"] += 1
    elif polygons := tuple(_polygons(geometry, left_out)):
        yield AnnotationArea(polygons, _class_name(properties.get("classification")), kind in COMPUTED)
    for child in properties.get("childObjects") or properties.get("children") or ():
        yield from _of_feature(child, left_out)


def _class_name(classification: Any) -> str | None:
    """Return the name of a class: QuPath writes a name, or names for a class made of several, or text in old files."""
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = ": ".join(map(str, names)) if isinstance(names, list) else classification.get("name")
    return classification if isinstance(classification, str) and classification else None


def _polygons(geometry: dict[str, Any], left_out: Counter[str]) -> Iterator[AnnotationPolygon]:
    match geometry["type"]:
        case "Polygon":
            yield _polygon(geometry["coordinates"])
        case "MultiPolygon":
            yield from map(_polygon, geometry["coordinates"])
        case "GeometryCollection":
            for part in geometry["geometries"]:
                yield from _polygons(part, left_out)
        case kind if kind in WITHOUT_AREA:
            left_out[kind] += 1
        case other:
            raise ValueError(f"a {other} where a geometry was expected")


def _polygon(rings: list[Any]) -> AnnotationPolygon:
    outline, *holes = [_ring(ring) for ring in rings]
    return AnnotationPolygon(outline, tuple(holes))


def _ring(points: list[Any]) -> np.ndarray:
    """Return x and y of a ring's points; a third number, the plane, is dropped."""
    ring = np.array([(float(x), float(y)) for x, y, *_ in points], dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate is not a finite number")
    return ring
