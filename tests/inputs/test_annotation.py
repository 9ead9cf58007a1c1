"""Polygons of a GeoJSON file as shares of regions."""

import gzip
import io
import json
import os
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely import Polygon, contains_xy, distance, points

from tnet_cli.errors import ManifestError
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.annotation import MASK_PX, rasterised, read_annotation
from tnet_cli.inputs.geojson import AnnotationArea, AnnotationPolygon, read_annotation_areas
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.geojson import regions_geojson
from tnet_cli.tissue.tissue import TissueMask

SLIDE = Size(1000, 600)


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def annotate(folder: Path, *geometries: dict[str, Any], size: Size = SLIDE) -> TissueMask:
    path = folder / "a.geojson"
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return read_annotation(path, size)


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def test_a_polygon_covers_its_own_area_and_nothing_else(tmp_path):
    annotated = annotate(tmp_path, polygon(box(200, 100, 400, 300)))
    assert annotated.fractions([Region(200, 100, 200, 200)]).item() == pytest.approx(1)
    assert annotated.fractions([Region(300, 100, 200, 200)]).item() == pytest.approx(0.5)
    assert annotated.fractions([Region(400, 100, 300, 300)]).item() == 0
    assert annotated.fractions([Region(0, 0, 1000, 600)]).item() == pytest.approx(200 * 200 / 600_000)


def test_a_slanted_edge_halves_the_square_it_crosses(tmp_path):
    annotated = annotate(tmp_path, polygon([[100, 100], [300, 100], [100, 300], [100, 100]]))
    assert annotated.fractions([Region(100, 100, 200, 200)]).item() == pytest.approx(0.5, abs=0.01)
    assert annotated.fractions([Region(100, 100, 90, 90)]).item() == 1
    assert annotated.fractions([Region(210, 210, 90, 90)]).item() == 0


def test_x_runs_along_the_width(tmp_path):
    annotated = annotate(tmp_path, polygon(box(700, 0, 1000, 100)))
    assert annotated.fractions([Region(700, 0, 300, 100)]).item() == pytest.approx(1)
    assert annotated.fractions([Region(0, 100, 600, 500)]).item() == 0


def test_holes_are_cut_out(tmp_path):
    annotated = annotate(tmp_path, polygon(box(0, 0, 400, 400), box(100, 100, 200, 200), box(300, 300, 350, 350)))
    assert annotated.fractions([Region(100, 100, 100, 100)]).item() == 0
    assert annotated.fractions([Region(300, 300, 50, 50)]).item() == 0
    assert annotated.fractions([Region(0, 0, 400, 400)]).item() == pytest.approx(1 - (100**2 + 50**2) / 400**2)


def test_a_hole_of_one_polygon_does_not_cut_another(tmp_path):
    annotated = annotate(
        tmp_path, polygon(box(100, 100, 200, 200)), polygon(box(0, 0, 400, 400), box(50, 50, 300, 300))
    )
    assert annotated.fractions([Region(100, 100, 100, 100)]).item() == pytest.approx(1)
    assert annotated.fractions([Region(200, 200, 100, 100)]).item() == 0


def test_every_part_of_a_multipolygon_counts_with_its_own_holes(tmp_path):
    parts = [[box(0, 0, 100, 100)], [box(500, 300, 700, 500), box(550, 350, 650, 450)]]
    annotated = annotate(tmp_path, {"type": "MultiPolygon", "coordinates": parts})
    assert annotated.fractions([Region(0, 0, 100, 100)]).item() == pytest.approx(1)
    assert annotated.fractions([Region(500, 300, 200, 200)]).item() == pytest.approx(0.75)
    assert annotated.fractions([Region(550, 350, 100, 100)]).item() == 0


def test_parts_outside_the_slide_are_left_out(tmp_path):
    annotated = annotate(tmp_path, polygon(box(900, 500, 2000, 2000)))
    assert annotated.fractions([Region(900, 500, 100, 100)]).item() == pytest.approx(1)
    assert annotated.fractions([Region(0, 0, 1000, 600)]).item() == pytest.approx(100 * 100 / 600_000)


def test_no_features_cover_nothing(tmp_path):
    assert annotate(tmp_path).fractions([Region(0, 0, 1000, 600)]).item() == 0


def test_a_gigapixel_slide_is_rastered_small_and_right(tmp_path):
    size = Size(100_000, 60_000)
    annotated = annotate(tmp_path, polygon(box(20_000, 10_000, 24_000, 13_000)), size=size)
    assert max(annotated.mask.shape) == MASK_PX
    # A pixel of the raster is about 98 px of the slide.
    assert annotated.fractions([Region(20_000, 10_000, 4000, 3000)]).item() == pytest.approx(1, abs=0.06)
    assert annotated.fractions([Region(10_000, 0, 20_000, 20_000)]).item() == pytest.approx(0.03, rel=0.06)
    assert annotated.fractions([Region(25_000, 10_000, 4000, 3000)]).item() == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("{}", "'type'"),
        ("3", "3 where an object was expected"),
        ('"features"', "where an object was expected"),
        ('{"features": [{"geometry": {"type": "Polygon"}}]}', "'coordinates'"),
        ('{"features": [{"geometry": {"type": "Blob", "coordinates": []}}]}', "a Blob where a geometry"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [1, 1]]]}', "not a finite number"),
        ('{"type": "Polygon", "coordinates": [[[0], [1], [2]]]}', "a point that is not two numbers"),
        ('{"type": "Polygon", "coordinates": []}', "a polygon without an outline"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1' + "0" * 400 + ", 0], [1, 1]]]}", "too large a number"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1e300, 0], [1, 1]]]}', "above 2147483648"),
        ('{"type": "Polygon", "coordinates": [[["a", 0], [1, 0], [1, 1]]]}', "a point that is not two numbers"),
        ('{"type": "Polygon", "coordinates": 5}', "of another kind"),
        ('{"type": "Feature", "geometry": "here"}', "of another kind"),
        ('{"features": [] "type": "x"}', "Expecting ','"),
        ('{"features": []} {}', "More after its end"),
        ('[{"type": "Point", "coordinates": [1, 1]}', "Expecting ',' or"),
        ("[" * 100_000, "nested too deeply"),
        ('{"features": [' * 2000, "nested too deeply|Expecting"),
    ],
)
def test_what_is_no_document_of_polygons_is_refused_by_name(tmp_path, text, reason):
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(ManifestError, match=rf"bad\.geojson: not a GeoJSON document of polygons: .*({reason})"):
        read_annotation(path, SLIDE)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.geojson: .*No such file"):
        read_annotation(tmp_path / "none.geojson", SLIDE)


# As QuPath writes it


def feature(geometry: dict[str, Any] | None, object_type: str = "annotation", **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "4ea9b4b4-8f6f-4d2a-a2ab-1e5e7fc3d6c5",
        "geometry": geometry,
        "properties": {"objectType": object_type, **properties},
    }


LEFT = polygon(box(0, 0, 500, 600))
RIGHT = polygon(box(500, 0, 1000, 600))
POINT = {"type": "Point", "coordinates": [3, 4]}
LINE = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}
WHOLE = Region(0, 0, 1000, 600)


def share(path: Path, document: Any, notes: list[str] | None = None, **options: Any) -> float:
    path.write_text(json.dumps(document))
    annotated = read_annotation(path, SLIDE, on_note=None if notes is None else notes.append, **options)
    return float(annotated.fractions([WHOLE])[0])


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [feature(LEFT), feature(RIGHT)]},
        [feature(LEFT), feature(RIGHT)],
        [{"type": "FeatureCollection", "features": [feature(LEFT)]}, RIGHT],
        feature({"type": "GeometryCollection", "geometries": [LEFT, RIGHT]}),
        {"type": "MultiPolygon", "coordinates": [LEFT["coordinates"], RIGHT["coordinates"]]},
        feature(LEFT, childObjects=[feature(RIGHT)]),
        {
            "type": "Feature",
            "id": "PathAnnotationObject",
            "geometry": {**polygon(box(0, 0, 1000, 600)), "isEllipse": True},
        },
    ],
    ids=["collection", "array", "mixed array", "geometries", "bare geometry", "children", "version 0.2"],
)
def test_all_documents_that_qupath_knows_are_read(tmp_path, document):
    assert share(tmp_path / "a.geojson", document) == pytest.approx(1)


def test_no_objects_are_an_empty_annotation(tmp_path):
    assert share(tmp_path / "a.geojson", []) == 0


@pytest.mark.parametrize("kind", ["plain", "with a mark", "gzip", "zip"])
def test_packed_files_are_read_by_their_content(tmp_path, kind):
    text = json.dumps([feature(LEFT)]).encode()
    path = tmp_path / "a.geojson"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.geojson", text)
            archive.writestr("more/b.json", json.dumps(feature(polygon(box(500, 0, 750, 600)))))
            archive.writestr("__MACOSX/._a.geojson", b"\x00")
            archive.writestr("readme.txt", "words")
    else:
        path.write_bytes({"plain": text, "with a mark": b"\xef\xbb\xbf" + text, "gzip": gzip.compress(text)}[kind])
    covered = read_annotation(path, SLIDE).fractions([WHOLE]).item()
    assert covered == pytest.approx(0.75 if kind == "zip" else 0.5)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"[]" * 500)[:-9], b"\x1f\x8bnot gzip", b"PK\x03\x04not a zip", b"\xff\xfe\x00"],
    ids=["cut gzip", "bad gzip", "bad zip", "no text"],
)
def test_damaged_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"a\.geojson\.gz: (cannot be read as GeoJSON|not a GeoJSON document)"):
        read_annotation(path, SLIDE)


def test_a_zip_without_geojson_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "words")
    with pytest.raises(ManifestError, match=r"the zip holds no \.geojson file"):
        read_annotation(tmp_path / "a.zip", SLIDE)


def test_points_lines_and_objects_without_geometry_are_left_out_with_a_note(tmp_path):
    notes: list[str] = []
    document = [
        feature(POINT),
        feature(LINE),
        feature(None),
        feature({"type": "GeometryCollection", "geometries": [POINT, LEFT]}),
    ]
    assert share(tmp_path / "a.geojson", document, notes) == pytest.approx(0.5)
    assert notes == [
        f"{tmp_path}/a.geojson: left out objects without an area: 1 LineString, 2 Point, 1 without geometry"
    ]


def test_what_a_program_found_counts_only_where_nobody_drew(tmp_path):
    notes: list[str] = []
    cells = [feature(RIGHT, "cell"), feature(RIGHT, "detection")]
    assert share(tmp_path / "a.geojson", [feature(LEFT), *cells], notes) == pytest.approx(0.5)
    assert "left out 2 of 3 objects: found by a program" in notes[0]
    assert share(tmp_path / "a.geojson", cells) == pytest.approx(0.5)


def test_classes_are_kept_and_those_to_be_ignored_do_not_count(tmp_path):
    document = [
        feature(LEFT, classification={"name": "Tumor", "color": [200, 0, 0]}),
        feature(RIGHT, classification={"name": "Ignore*", "colorRGB": -5000269}),
        feature(RIGHT, classification={"names": ["Ignore*"]}),
        feature(LEFT, classification={"names": ["Tumor", "Positive"]}),
        feature(LEFT),
    ]
    assert share(tmp_path / "a.geojson", document) == pytest.approx(0.5)
    areas = read_annotation_areas(tmp_path / "a.geojson")
    assert [area.class_name for area in areas] == ["Tumor", "Ignore*", "Ignore*", "Tumor: Positive", None]


def test_coordinates_count_from_the_corner_of_the_bounds(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(polygon(box(0, 0, 100, 50))))
    annotated = read_annotation(path, SLIDE, origin=(300, 200))
    assert annotated.fractions([Region(300, 200, 100, 50)]).item() == pytest.approx(1)
    assert annotated.fractions([WHOLE]).item() == pytest.approx(100 * 50 / 600_000)


def test_twenty_thousand_cells_take_seconds(tmp_path):
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 90_000, (20_000, 2)).tolist()
    cells = [feature(polygon(box(x, y, x + 30, y + 30)), "cell") for x, y in corners]
    path = tmp_path / "cells.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(cells).encode(), 1))
    started = time.perf_counter()
    annotated = read_annotation(path, Size(100_000, 100_000))
    assert time.perf_counter() - started < 60  # about a second on an idle core
    assert annotated.fractions([Region(0, 0, 90_000, 90_000)]).item() == pytest.approx(20_000 * 900 / 8.1e9, rel=0.1)


# There and back

BOXES = st.builds(Region, st.integers(-300, 400), st.integers(-300, 400), st.integers(1, 500), st.integers(1, 500))


@given(st.lists(st.tuples(BOXES, st.integers(0, 2)), max_size=8), st.integers(-90, 90), st.integers(-90, 90))
@settings(max_examples=60, deadline=None)
def test_regions_written_for_qupath_read_back_to_the_pixel(boxes, origin_x, origin_y):
    regions = [AttendedRegion(region, level, 2.0, 0.2, 0.2, 0.1, (0.3, 0.7)) for region, level in boxes]
    size, origin = Size(300, 200), (origin_x, origin_y)
    expected = np.zeros((size.height, size.width), dtype=bool)
    for region, _ in boxes:
        expected[max(region.y, 0) : max(region.bottom, 0), max(region.x, 0) : max(region.right, 0)] = True
    document = regions_geojson(regions, ("no", "yes"), origin)
    with TemporaryDirectory() as folder:
        path = Path(folder, "regions.geojson")
        path.write_text(json.dumps(document))
        np.testing.assert_array_equal(read_annotation(path, size, origin=origin).mask, expected)
        kept = [area.class_name for area in read_annotation_areas(path)]
    assert kept == [feature["properties"]["classification"]["name"] for feature in document["features"]]


CORNERS = st.tuples(st.integers(-20, 60), st.integers(-20, 60))


@given(st.lists(CORNERS, min_size=3, max_size=6), st.lists(CORNERS, min_size=3, max_size=4))
@settings(max_examples=80, deadline=None)
def test_polygons_with_holes_are_filled_like_shapely_says(outline, hole):
    outer, inner = Polygon(outline), Polygon(hole)
    assume(outer.is_valid and inner.is_valid and outer.area > 0 and inner.area > 0)
    drawn = AnnotationArea((AnnotationPolygon(np.array(outline, float), (np.array(hole, float),)),))
    mask = rasterised([drawn], Size(40, 50))
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(50) + 0.5)
    expected = contains_xy(outer, x, y) & ~contains_xy(inner, x, y)
    # A centre on an edge lies on either side.
    on_edge = (distance(outer.exterior, points(x, y)) < 1e-9) | (distance(inner.exterior, points(x, y)) < 1e-9)
    np.testing.assert_array_equal(mask | on_edge, expected | on_edge)


@given(st.lists(st.tuples(st.lists(CORNERS, min_size=3, max_size=5), st.lists(CORNERS, max_size=4)), max_size=6))
@settings(max_examples=40, deadline=None)
def test_polygons_are_filled_together_as_one_by_one(drawn):
    polygons = [
        AnnotationPolygon(np.array(outline) + 0.3, tuple(np.array([hole]).reshape(-1, 2) + 0.1 for hole in [holes] * 2))
        for outline, holes in drawn
    ]
    alone = [rasterised([AnnotationArea((polygon,))], Size(40, 50)) for polygon in polygons]
    together = rasterised([AnnotationArea(tuple(polygons))], Size(40, 50))
    np.testing.assert_array_equal(together, np.any(alone, axis=0) if alone else np.zeros((50, 40), bool))


@pytest.mark.parametrize(("points", "most_s"), [(1000, 1), (20_000, 10)])
def test_a_long_outline_takes_no_time_and_is_filled_like_shapely_says(points, most_s):
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    sides = 40_000 * (1 - 0.4 * np.random.default_rng(0).random(points))
    outline = np.stack([50_000 + sides * np.cos(angles), 40_000 + sides * np.sin(angles)], axis=1)
    size = Size(100_000, 80_000)
    began = time.process_time()
    hole = outline[::-1] * 0.25 + 30_000
    mask = rasterised([AnnotationArea((AnnotationPolygon(outline, (hole,)),))], size)
    assert time.process_time() - began < most_s
    rows, columns = np.random.default_rng(1).integers((0, 0), mask.shape, (500, 2)).T
    x, y = (columns + 0.5) * 100_000 / 1024, (rows + 0.5) * 100_000 / 1024
    expected = contains_xy(Polygon(outline), x, y) & ~contains_xy(Polygon(hole), x, y)
    np.testing.assert_array_equal(mask[rows, columns], expected)


# What would eat the machine

SPACES = b" " * (256 * 2**20 + 1)


def zip_of(*contents: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method, compresslevel=1) as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.geojson", content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: gzip.compress(SPACES, 1), "larger than 256 MiB"),
        (lambda: zip_of(SPACES), "larger than 256 MiB"),
        (lambda: zip_of(*[b'{"features": []}' + SPACES[: 100 * 2**20]] * 3), "larger than 256 MiB"),
        (lambda: zip_of(b"{}", method=zipfile.ZIP_LZMA), "not packed the usual way"),
        (lambda: b'{"type": "Polygon", "coordinates": [' + b"[]," * 9_000_000 + b"[]]}", "more than 8388608 lists"),
        (lambda: b'{"type": "Polygon", "coordinates": [[' + SPACES[: 65 * 2**20] + b"]]}", "larger than 64 MiB"),
    ],
    ids=["gzip", "zip", "several in a zip", "memory for the packer", "lists", "one object"],
)
def test_what_unpacks_to_more_than_any_annotation_is_refused(tmp_path, content, reason):
    path = tmp_path / "bomb.geojson"
    path.write_bytes(content())
    began = time.process_time()
    with pytest.raises(ManifestError, match=rf"bomb\.geojson: not a GeoJSON document of polygons: .*{reason}"):
        read_annotation_areas(path)
    assert time.process_time() - began < 30


def test_a_pipe_is_no_annotation(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="it is no file"):
        read_annotation_areas(tmp_path / "pipe")


def test_objects_are_read_one_by_one_wherever_the_text_is_cut(tmp_path):
    square = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9]]]}
    feature = {"type": "Feature", "geometry": square, "properties": {"note": " " * 2**20}}
    path = tmp_path / "long.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature] * 70, "bbox": [0, 0, 9, 9]}))
    assert len(read_annotation_areas(path)) == 70
