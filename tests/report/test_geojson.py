"""GeoJSON that QuPath opens: closed rectangles where the regions are, finite numbers, stable ids."""

import json
import math
import uuid

import pytest
from shapely.geometry import box, shape

from tnet_cli.geometry import Region
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import processing_level_colour
from tnet_cli.report.geojson import regions_geojson

CLASSES = ("benign", "lesion")
REGIONS = [
    AttendedRegion(Region(1024, 512, 256, 256), 1, 1.996, 0.25, 0.25, 0.125, (0.3, 0.7)),
    AttendedRegion(Region(-512, 0, 2048, 2048), 0, 7.984, 1.0, 1.0, 0.01, (0.9, 0.1), is_location=False),
    AttendedRegion(Region(1024, 768, 64, 64), 2, 0.499, 1.0, 1 / 3, 0.4, (0.2, 0.8)),
]


def test_features_are_the_regions_boxes_shifted_by_the_origin():
    document = regions_geojson(REGIONS, CLASSES, (100, 40))
    assert document["type"] == "FeatureCollection"
    shapes = [shape(feature["geometry"]) for feature in document["features"]]
    expected = [REGIONS[1], REGIONS[0], REGIONS[2]]  # coarse first
    for polygon, region in zip(shapes, expected, strict=True):
        r = region.region
        assert polygon.equals(box(r.x - 100, r.y - 40, r.right - 100, r.bottom - 40))
        assert polygon.is_valid
        assert polygon.exterior.is_ccw
        assert polygon.area == r.area
    for feature in document["features"]:
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) == 5
        assert all(type(number) is int for point in ring for number in point)


def test_the_origin_is_the_slides_corner_unless_said_otherwise():
    (feature,) = regions_geojson(REGIONS[:1], CLASSES)["features"]
    assert feature["geometry"]["coordinates"][0][0] == [1024, 512]


def test_properties_are_what_qupath_reads():
    root, middle, finest = regions_geojson(REGIONS, CLASSES)["features"]
    assert root["properties"]["classification"]["name"] == "Root 8 µm/px"
    assert middle["properties"] == {
        "objectType": "annotation",
        "name": "lesion 70.0 %, weight 12.5 %",
        "classification": {"name": "Attended 2 µm/px", "color": list(processing_level_colour(1))},
        "isLocked": True,
        "measurements": {
            "weight": 0.125,
            "path_probability": 0.25,
            "prob_benign": 0.3,
            "prob_lesion": 0.7,
            "mpp": 1.996,
            "processing_level": 1,
        },
    }
    assert finest["properties"]["classification"]["name"] == "Attended 0.5 µm/px"
    assert finest["properties"]["measurements"]["path_probability"] == 0.333333


def test_numbers_that_json_lacks_are_left_out():
    region = AttendedRegion(Region(0, 0, 4, 4), 3, None, 0.5, math.inf, math.nan, (0.5, 0.5))
    document = regions_geojson([region], CLASSES)
    properties = document["features"][0]["properties"]
    assert properties["measurements"] == {"prob_benign": 0.5, "prob_lesion": 0.5, "processing_level": 3}
    assert properties["classification"]["name"] == "Attended level 3"
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_ids_are_stable_and_distinct():
    twice = [*REGIONS, REGIONS[0]]
    ids = [feature["id"] for feature in regions_geojson(twice, CLASSES)["features"]]
    assert ids == [feature["id"] for feature in regions_geojson(twice, CLASSES)["features"]]
    assert len(set(ids)) == 4
    assert {uuid.UUID(identity).version for identity in ids} == {5}


def test_probabilities_must_fit_the_classes():
    with pytest.raises(ValueError, match="2 class probabilities for 3 classes"):
        regions_geojson(REGIONS, ("a", "b", "c"))


def test_no_regions_make_an_empty_collection():
    assert regions_geojson([], CLASSES) == {"type": "FeatureCollection", "features": []}
