"""Polygons of a GeoJSON file as shares of regions."""

import json
from pathlib import Path
from typing import Any

import pytest

from tnet_cli.errors import ManifestError
from tnet_cli.geometry import Region, Size
from tnet_cli.pipeline.annotation import MASK_PX, read_annotation
from tnet_cli.slide.tissue import TissueMask

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
    assert annotated.fraction(Region(200, 100, 200, 200)) == pytest.approx(1)
    assert annotated.fraction(Region(300, 100, 200, 200)) == pytest.approx(0.5)
    assert annotated.fraction(Region(400, 100, 300, 300)) == 0
    assert annotated.fraction(Region(0, 0, 1000, 600)) == pytest.approx(200 * 200 / 600_000)


def test_a_slanted_edge_halves_the_square_it_crosses(tmp_path):
    annotated = annotate(tmp_path, polygon([[100, 100], [300, 100], [100, 300], [100, 100]]))
    assert annotated.fraction(Region(100, 100, 200, 200)) == pytest.approx(0.5, abs=0.01)
    assert annotated.fraction(Region(100, 100, 90, 90)) == 1
    assert annotated.fraction(Region(210, 210, 90, 90)) == 0


def test_x_runs_along_the_width(tmp_path):
    annotated = annotate(tmp_path, polygon(box(700, 0, 1000, 100)))
    assert annotated.fraction(Region(700, 0, 300, 100)) == pytest.approx(1)
    assert annotated.fraction(Region(0, 100, 600, 500)) == 0


def test_holes_are_cut_out(tmp_path):
    annotated = annotate(tmp_path, polygon(box(0, 0, 400, 400), box(100, 100, 200, 200), box(300, 300, 350, 350)))
    assert annotated.fraction(Region(100, 100, 100, 100)) == 0
    assert annotated.fraction(Region(300, 300, 50, 50)) == 0
    assert annotated.fraction(Region(0, 0, 400, 400)) == pytest.approx(1 - (100**2 + 50**2) / 400**2)


def test_a_hole_of_one_polygon_does_not_cut_another(tmp_path):
    annotated = annotate(
        tmp_path, polygon(box(100, 100, 200, 200)), polygon(box(0, 0, 400, 400), box(50, 50, 300, 300))
    )
    assert annotated.fraction(Region(100, 100, 100, 100)) == pytest.approx(1)
    assert annotated.fraction(Region(200, 200, 100, 100)) == 0


def test_every_part_of_a_multipolygon_counts_with_its_own_holes(tmp_path):
    parts = [[box(0, 0, 100, 100)], [box(500, 300, 700, 500), box(550, 350, 650, 450)]]
    annotated = annotate(tmp_path, {"type": "MultiPolygon", "coordinates": parts})
    assert annotated.fraction(Region(0, 0, 100, 100)) == pytest.approx(1)
    assert annotated.fraction(Region(500, 300, 200, 200)) == pytest.approx(0.75)
    assert annotated.fraction(Region(550, 350, 100, 100)) == 0


def test_parts_outside_the_slide_are_left_out(tmp_path):
    annotated = annotate(tmp_path, polygon(box(900, 500, 2000, 2000)))
    assert annotated.fraction(Region(900, 500, 100, 100)) == pytest.approx(1)
    assert annotated.fraction(Region(0, 0, 1000, 600)) == pytest.approx(100 * 100 / 600_000)


def test_no_features_cover_nothing(tmp_path):
    assert annotate(tmp_path).fraction(Region(0, 0, 1000, 600)) == 0


def test_a_gigapixel_slide_is_rastered_small_and_right(tmp_path):
    size = Size(100_000, 60_000)
    annotated = annotate(tmp_path, polygon(box(20_000, 10_000, 24_000, 13_000)), size=size)
    assert max(annotated.mask.shape) == MASK_PX
    # A pixel of the raster is about 98 px of the slide.
    assert annotated.fraction(Region(20_000, 10_000, 4000, 3000)) == pytest.approx(1, abs=0.06)
    assert annotated.fraction(Region(10_000, 0, 20_000, 20_000)) == pytest.approx(0.03, rel=0.06)
    assert annotated.fraction(Region(25_000, 10_000, 4000, 3000)) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "list indices"),
        ("{}", "'features'"),
        ('{"features": [{"geometry": null}]}', "NoneType"),
        ('{"features": [{"geometry": {"type": "Polygon"}}]}', "'coordinates'"),
        ('{"features": [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]}', "a Point where a Polygon"),
    ],
)
def test_what_is_no_collection_of_polygons_is_refused_by_name(tmp_path, text, reason):
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(ManifestError, match=rf"bad\.geojson: not a GeoJSON FeatureCollection of polygons: .*{reason}"):
        read_annotation(path, SLIDE)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.geojson: .*No such file"):
        read_annotation(tmp_path / "none.geojson", SLIDE)
