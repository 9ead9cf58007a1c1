"""Areas of annotations, read from GeoJSON as QuPath and others write it.

QuPath exports a FeatureCollection, an array of Features, or a lone Feature, and takes bare geometries too; its files
are plain or packed in a zip. Rectangles, ellipses and brush strokes arrive as polygons.
Source: qupath.readthedocs.io, "Exporting annotations"; qupath/qupath, qupath-core, qupath/lib/io/PathIO.java
(readObjects, exportObjectsAsGeoJSON) and QuPathTypeAdapters.java (PathObjectTypeAdapter).
"""

import contextlib
import gzip
import io
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tnet_cli.errors import ManifestError

LARGEST_BYTES = 256 << 20
"""Of a file, and of what is packed in it: a million cells."""

LARGEST_OBJECT = 64 << 20
"""Characters of one object of a collection, of which each is read by itself."""

MOST_LISTS = 8 << 20
"""In so many characters; an outline of whole numbers has fewer, and more would not leave memory bounded."""

LARGEST_COORDINATE = 2**31
"""Pixels; of a larger one the rest of the outline could not be told from rounding."""

COMPUTED = frozenset(
    {"detection", "cell", "tile", "tmaCore", "tma_core", "root"}
    | {"PathDetectionObject", "PathCellObject", "PathTileObject", "TMACoreObject", "PathRootObject"}
)
"""Object types of what a program finds, by QuPath's names of today and of version 0.2; all others a person draws."""

_SPACE = re.compile(r"[ \t\n\r]*")

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
        name: As its author called it; None where it has none.
    """

    polygons: tuple[AnnotationPolygon, ...]
    class_name: str | None = None
    is_computed: bool = False
    name: str | None = None

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
        areas = [area for text in _documents(path) for element in _Elements(text) for area in _areas(element, left_out)]
    except json.JSONDecodeError as exc:
        raise ManifestError(f"{path}: not a GeoJSON document of polygons: {exc.msg}: character {exc.pos}") from exc
    except RecursionError as exc:
        raise ManifestError(f"{path}: not a GeoJSON document of polygons: its lists are nested too deeply") from exc
    except (TypeError, AttributeError) as exc:
        raise ManifestError(f"{path}: not a GeoJSON document of polygons: a value of it is of another kind") from exc
    except (ValueError, KeyError) as exc:
        raise ManifestError(f"{path}: not a GeoJSON document of polygons: {_reason(exc)}") from exc
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as exc:
        raise ManifestError(f"{path}: cannot be read as GeoJSON: {_reason(exc)}") from exc
    if left_out and on_note is not None:
        named = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        on_note(f"{path}: left out objects without an area: {named}")
    return areas


def _reason(exc: Exception) -> str:
    if isinstance(exc, KeyError):
        return f"an object without {exc.args[0]!r}"
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__


def _documents(path: Path) -> Iterator[str]:
    """Yield the JSON texts of a file, unpacked."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            with gzip.open(file) as packed:
                yield _whole(packed, LARGEST_BYTES)
        elif start.startswith(b"PK\x03\x04"):
            _refuse_large(os.fstat(file.fileno()).st_size, LARGEST_BYTES)
            with zipfile.ZipFile(file) as archive:
                yield from _members(archive)
        else:
            yield _whole(file, LARGEST_BYTES)


def _members(archive: zipfile.ZipFile) -> Iterator[str]:
    named = [each for each in archive.infolist() if each.filename.lower().endswith((".geojson", ".json"))]
    members = [each for each in named if not each.filename.startswith("__MACOSX/")]
    if not members:
        raise ValueError("the zip holds no .geojson file")
    left = LARGEST_BYTES
    for each in members:
        # The others may ask for gigabytes before they give a byte.
        if each.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError(f"{each.filename} is not packed the usual way; pack it with 'deflate'")
        with archive.open(each) as member:
            text = _whole(member, left)
        left -= len(text)
        yield text


def _whole(file: "io.BufferedIOBase | gzip.GzipFile | Any", most: int) -> str:
    content: bytes = file.read(most + 1)
    _refuse_large(len(content), most)
    return content.decode(json.detect_encoding(content))


def _refuse_large(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"it is larger than {LARGEST_BYTES >> 20} MiB; export without detections and measurements")


class _Elements:
    """What a collection or list of a JSON text holds, one by one: all of it at once would take ten times its length.

    Another document is its own only element.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._decode = json.JSONDecoder().raw_decode
        self._part = ""
        self._begins = 0

    def __iter__(self) -> Iterator[Any]:
        start = self._after_space(0)
        if self._text.startswith("[", start):
            end = yield from self._of_list(start)
        elif self._text.startswith("{", start):
            end = yield from self._of_object(start)
        else:
            element, end = self._value(start)
            yield element
        if self._after_space(end) < len(self._text):
            raise json.JSONDecodeError("More after its end", self._text, end)

    def _of_list(self, start: int) -> Generator[Any, None, int]:
        position = self._after_space(start + 1)
        while not self._text.startswith("]", position):
            element, position = self._value(position)
            yield element
            position = self._after_comma(position, "]")
        return position + 1

    def _of_object(self, start: int) -> Generator[Any, None, int]:
        """Yield the features of a collection, and any other object whole."""
        members: dict[str, Any] = {}
        is_collection = False
        position = self._after_space(start + 1)
        while not self._text.startswith("}", position):
            name, position = self._value(position)
            position = self._after_space(position)
            if not isinstance(name, str) or not self._text.startswith(":", position):
                raise json.JSONDecodeError("Expecting a name and ':'", self._text, position)
            position = self._after_space(position + 1)
            if name == "features" and self._text.startswith("[", position):
                is_collection = True
                position = yield from self._of_list(position)
            else:
                members[name], position = self._value(position)
            position = self._after_comma(position, "}")
        if not is_collection:
            yield members
        return position + 1

    def _after_space(self, position: int) -> int:
        found = _SPACE.match(self._text, position)
        return found.end() if found else position

    def _after_comma(self, position: int, end: str) -> int:
        position = self._after_space(position)
        if self._text.startswith(",", position):
            return self._after_space(position + 1)
        if not self._text.startswith(end, position):
            raise json.JSONDecodeError(f"Expecting ',' or {end!r}", self._text, position)
        return position

    def _value(self, position: int) -> tuple[Any, int]:
        """Return the value at a position, and where it ends."""
        at = position - self._begins
        if at < len(self._part):
            with contextlib.suppress(json.JSONDecodeError):
                value, end = self._decode(self._part, at)
                if end < len(self._part):
                    return value, self._begins + end
        self._part, self._begins = self._text[position : position + LARGEST_OBJECT], position
        if self._part.count("[") + self._part.count("{") > MOST_LISTS:
            raise ValueError(f"it has more than {MOST_LISTS} lists in {LARGEST_OBJECT >> 20} MiB; no outline has")
        try:
            value, end = self._decode(self._part)
        except json.JSONDecodeError as exc:
            if position + len(self._part) < len(self._text):
                raise ValueError(f"one object in it is larger than {LARGEST_OBJECT >> 20} MiB; simplify it") from exc
            raise json.JSONDecodeError(exc.msg, self._text, position + exc.pos) from exc
        return value, position + end


def _areas(element: Any, left_out: Counter[str]) -> Iterator[AnnotationArea]:
    """Yield the areas of a feature or a geometry, of a list or a collection of them."""
    if isinstance(element, list):
        for each in element:
            yield from _areas(each, left_out)
    elif not isinstance(element, dict):
        raise ValueError(f"{json.dumps(element)[:20]} where an object was expected")  # noqa: TRY004  as of all damage
    elif isinstance(element.get("features"), list):
        yield from _areas(element["features"], left_out)
    elif element.get("type") == "Feature" or "geometry" in element:
        yield from _of_feature(element, left_out)
    elif polygons := tuple(_polygons(element, left_out)):
        yield AnnotationArea(polygons)


def _of_feature(feature: dict[str, Any], left_out: Counter[str]) -> Iterator[AnnotationArea]:
    properties = feature.get("properties") or {}
    kind = properties.get("objectType") or properties.get("object_type") or feature.get("id")
    geometry = feature.get("geometry")
    if geometry is None:
        left_out["without geometry"] += 1
    elif polygons := tuple(_polygons(geometry, left_out)):
        named, class_name = properties.get("name"), _class_name(properties.get("classification"))
        name = named if isinstance(named, str) and named.strip() else None
        yield AnnotationArea(polygons, class_name, kind in COMPUTED, name)
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
    if not rings:
        raise ValueError("a polygon without an outline")
    outline, *holes = [_ring(ring) for ring in rings]
    return AnnotationPolygon(outline, tuple(holes))


def _ring(points: list[Any]) -> np.ndarray:
    """Return x and y of a ring's points; a third number, the plane, is dropped."""
    try:
        ring = np.array([(float(x), float(y)) for x, y, *_ in points], dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as exc:
        raise ValueError("a point that is not two numbers") from exc
    except OverflowError as exc:
        raise ValueError("a coordinate is too large a number") from exc
    if not (np.abs(ring) <= LARGEST_COORDINATE).all():
        raise ValueError(f"a coordinate is not a finite number, or above {LARGEST_COORDINATE}; expected pixels")
    return ring
