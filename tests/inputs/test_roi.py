"""Regions of interest: which areas count, whose they are, what they are known by, and where they lie on a slide."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.drawn_regions import drawn, write_regions
from tnet_cli.errors import ManifestError, SlideError, UsageError
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.inputs.roi import WhereToLook, known_by, limits_of, refuse_limits, regions_of
from tnet_cli.places import Place

BOX = Region(100, 100, 200, 200)


@pytest.fixture
def entry(tmp_path: Path) -> SlideInput:
    (tmp_path / "a.svs").write_bytes(b"a slide")
    regions = [
        drawn(BOX, name="Core A", of="Tumor"),
        drawn(BOX, name="Core B", of="Tumor"),
        drawn(BOX, of="Stroma"),
        drawn(BOX, of="Ignore*"),
        drawn(BOX, kind="detection"),
    ]
    return SlideInput(Place(tmp_path / "a.svs"), "sub/a", roi=write_regions(tmp_path / "roi.geojson", *regions))


def slide_of(width: int = 4000, height: int = 2000, bounds: Region | None = None) -> Any:
    return SimpleNamespace(size=Size(width, height), bounds=bounds or Region(0, 0, width, height))


def test_what_a_person_drew_counts_and_a_class_that_is_named_whatever_it_is(entry):
    assert [area.name for area in regions_of(entry)] == ["Core A", "Core B", None]
    assert len(regions_of(replace(entry, roi_class="Tumor"))) == 2
    assert len(regions_of(replace(entry, roi_class="Ignore*"))) == 1
    with pytest.raises(ManifestError, match=r"no area of the class 'tumor', only of Ignore\*, Stroma, Tumor, no class"):
        regions_of(replace(entry, roi_class="tumor"))


def test_cores_that_a_program_found_count_where_nobody_drew(entry, tmp_path):
    cores = write_regions(
        tmp_path / "cores.geojson", drawn(BOX, name="A-1", kind="tmaCore"), drawn(BOX, kind="tmaCore")
    )
    assert [area.name for area in regions_of(replace(entry, roi=cores))] == ["A-1", None]


def test_a_row_for_each_region_is_named_after_it(entry, tmp_path):
    same = [drawn(BOX, name=name) for name in ("left/right", "twin", "twin", "")]
    given = [
        entry,
        replace(entry, name="b", roi=write_regions(tmp_path / "b.geojson", *same)),
        replace(entry, roi=None),
    ]
    rows = WhereToLook(per_roi=True).applied(given)
    assert [row.name for row in rows] == [
        *("sub/a#Core A", "sub/a#Core B", "sub/a#3"),
        *("b#left_right", "b#twin 2", "b#twin 3", "b#4"),
        "sub/a",
    ]
    assert [row.roi_number for row in rows] == [0, 1, 2, 0, 1, 2, 3, None]
    assert [area.name for area in regions_of(rows[1])] == ["Core B"]


def test_a_slide_whose_regions_cannot_be_read_stays_a_row_that_says_why(entry, tmp_path):
    gone = replace(entry, roi=tmp_path / "gone.geojson")
    assert WhereToLook(per_roi=True).applied([gone]) == [gone]
    with pytest.raises(SlideError, match=r"a\.svs: its place to look at cannot be told: .*gone\.geojson.*No such file"):
        limits_of(gone, slide_of())


@pytest.mark.parametrize(
    ("where", "slides", "said"),
    [
        ({"roi": Path("gone")}, 1, "--roi gone: there is no such file"),
        ({"mask": Path("gone")}, 1, "--mask gone: there is no such file"),
        (
            {"roi": Path(__file__)},
            2,
            "is of one slide, and 2 are given; list the slides in a manifest with a column 'roi'",
        ),
        ({"per_roi": True}, 2, "--per-roi: no region of interest is given"),
        ({"roi_class": "Tumor"}, 1, "--roi-class: no region of interest is given"),
    ],
)
def test_options_that_cannot_be_followed(where, slides, said, tmp_path):
    entries = [SlideInput(Place(tmp_path / f"{number}.svs"), str(number)) for number in range(slides)]
    with pytest.raises(UsageError) as refused:
        WhereToLook(**where).applied(entries)
    assert said in str(refused.value)


def test_a_manifest_names_regions_and_masks_beside_it(tmp_path):
    manifest = tmp_path / "slides.csv"
    manifest.write_text("slide,roi,mask\na.svs,rois/a.geojson,\nb.svs,,b.png\n")
    a, b = read_manifest(manifest)
    assert (a.roi, a.mask, b.roi, b.mask) == (tmp_path / "rois/a.geojson", None, None, tmp_path / "b.png")
    with pytest.raises(
        ManifestError, match=r"a\.svs: the manifest has a roi for it, and tnet train takes whole slides"
    ):
        refuse_limits([b, a][::-1], "tnet train")
    with pytest.raises(ManifestError, match="has a mask for it"):
        refuse_limits([b], "tnet train")


def test_regions_are_counted_from_the_corner_of_the_bounds(entry):
    limits = limits_of(replace(entry, roi_class="Stroma"), slide_of(bounds=Region(1000, 500, 2000, 1000)))
    assert limits is not None
    assert limits.within is not None
    assert limits.parts == (Region(1100, 600, 200, 200),)
    assert limits.within.fractions([Region(1100, 600, 200, 200), Region(100, 100, 200, 200)]).tolist() == [
        pytest.approx(1, abs=0.03),
        0,
    ]


def test_a_region_outside_the_slide_is_an_error_in_a_sentence(entry):
    with pytest.raises(
        SlideError, match=r"region 2 \(roi\.geojson\) holds nothing of the slide: .* its 90 x 90 pixels"
    ):
        limits_of(replace(entry, roi_number=1), slide_of(90, 90))


def test_contents_count_for_what_a_slide_is_known_by_and_names_do_not(entry, tmp_path):
    first = known_by(entry)
    assert first is not None
    assert known_by(replace(entry, name="other")) == first
    assert known_by(replace(entry, roi=None)) != first
    assert known_by(replace(entry, roi_number=1)) != first
    assert known_by(replace(entry, roi_class="Tumor")) != first
    moved = tmp_path / "moved.geojson"
    moved.write_bytes((tmp_path / "roi.geojson").read_bytes())
    assert known_by(replace(entry, roi=moved)) == first
    write_regions(tmp_path / "roi.geojson", drawn(BOX))
    assert known_by(entry) != first
    Image.fromarray(np.ones((2, 4), np.uint8)).save(tmp_path / "mask.png")
    assert known_by(replace(entry, mask=tmp_path / "mask.png")) != known_by(entry)
    assert known_by(replace(entry, mask=tmp_path / "gone.png")) is None
