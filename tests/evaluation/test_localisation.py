"""Whether attended locations lie on the lesion, on boxes whose overlap is known."""

import json

import pytest

from tnet_cli.evaluation.localisation import SlideLocalisation, localise, summarise_localisation
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.places import Place
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.results.result import SlideResult


def seen(region, processing_level):
    return AttendedRegion(
        region=region,
        processing_level=processing_level,
        mpp=1.0,
        location_probability=1.0,
        path_probability=1.0,
        weight=0.1,
        class_probabilities=(0.5, 0.5),
    )


def result_with(regions, *, status="ok", bounds=None):
    return SlideResult(
        slide="s",
        path="s.tif",
        class_names=("benign", "lesion"),
        status=status,
        size=Size(2000, 2000),
        bounds=bounds,
        regions=tuple(regions),
    )


@pytest.fixture
def draw(tmp_path):
    """Write an annotation of rectangles x, y, width, height and return the slide's entry."""

    def make(*boxes):
        rings = [[[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]] for x, y, w, h in boxes]
        features = [
            {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
            for ring in rings
        ]
        path = tmp_path / "drawn.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return SlideInput(Place("s.tif"), "s", annotation=path)

    return make


def located(result: SlideResult, entry: SlideInput) -> SlideLocalisation:
    found = localise(result, entry)
    assert found is not None
    return found


def test_only_the_finest_locations_count_and_a_fifth_suffices(draw):
    entry = draw((1000, 1000, 400, 400))
    regions = [
        seen(Region(0, 0, 1600, 1600), 0),
        seen(Region(800, 800, 400, 400), 1),  # on the lesion, but not of the finest
        seen(Region(1000, 1000, 100, 100), 2),  # inside
        seen(Region(970, 1000, 100, 100), 2),  # 70 % inside
        seen(Region(915, 1000, 100, 100), 2),  # 15 % inside
        seen(Region(0, 0, 100, 100), 2),
    ]
    found = located(result_with(regions), entry)
    assert (found.finest_locations, found.on_lesion) == (4, 2)
    assert found.share == 0.5
    assert found.is_hit


def test_a_lesion_smaller_than_a_location_is_hit_by_holding_it(draw):
    entry = draw((500, 500, 40, 40))
    hit = located(result_with([seen(Region(0, 0, 2000, 2000), 0), seen(Region(400, 400, 200, 200), 1)]), entry)
    miss = located(result_with([seen(Region(0, 0, 2000, 2000), 0), seen(Region(600, 600, 200, 200), 1)]), entry)
    assert hit.is_hit
    assert not miss.is_hit


def test_the_annotation_is_in_the_frame_of_the_slides_bounds(draw):
    entry = draw((0, 0, 100, 100))
    regions = [seen(Region(0, 0, 2000, 2000), 0), seen(Region(300, 300, 100, 100), 1)]
    assert located(result_with(regions, bounds=Region(300, 300, 500, 500)), entry).is_hit
    assert not located(result_with(regions), entry).is_hit


def test_what_gives_no_localisation(draw):
    entry = draw((0, 0, 100, 100))
    roots_only = located(result_with([seen(Region(0, 0, 2000, 2000), 0)]), entry)
    assert (roots_only.finest_locations, roots_only.share, roots_only.is_hit) == (0, None, False)
    assert localise(result_with([], status="failed"), entry) is None
    assert localise(result_with([seen(Region(0, 0, 9, 9), 0)]), SlideInput(Place("s.tif"), "s")) is None
    assert localise(result_with([seen(Region(0, 0, 9, 9), 0)]), draw()) is None


def test_summary_by_hand(draw):
    entry = draw((0, 0, 100, 100))
    inside, outside = seen(Region(0, 0, 50, 50), 1), seen(Region(900, 900, 50, 50), 1)
    root = seen(Region(0, 0, 2000, 2000), 0)
    lesions = [
        located(result_with(regions), entry)
        for regions in ([root, inside], [root, inside, outside], [root, outside], [root])
    ]
    summary = summarise_localisation(lesions, list("pqrs"), draws=100, seed=0)
    assert summary.lesion_slides == 4
    # The slide without any location has no share, but was not hit.
    assert summary.share_on_lesion.value == pytest.approx((1 + 0.5 + 0) / 3)
    share = summary.share_on_lesion
    assert share.low is not None
    assert share.high is not None
    assert 0 <= share.low <= 0.5 <= share.high <= 1
    assert summary.hit_rate.value == 0.5
    assert "no location" in str(summarise_localisation(lesions[3:], ["s"], draws=10, seed=0).hit_rate.reason)
