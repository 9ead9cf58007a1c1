"""Patches of which only a region of interest is read and shown."""

import numpy as np
import pytest

from tests.drawn_regions import drawn, write_regions
from tnet_cli.geometry import Region, Size
from tnet_cli.inference.within import read_within
from tnet_cli.inputs.annotation import mask_of
from tnet_cli.inputs.geojson import read_annotation_areas
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.tiff_backend import TiffSlide
from tnet_cli.tissue.tissue import TissueMask

SIDE = 6000
TRIANGLE = [(700.0, 600.0), (2300.0, 700.0), (900.0, 2100.0)]


@pytest.fixture
def triangle(tmp_path) -> TissueMask:
    file = write_regions(tmp_path / "roi.geojson", drawn(TRIANGLE))
    return mask_of(read_annotation_areas(file), Size(SIDE, SIDE), longest_px=3000)


@pytest.fixture
def decoded(monkeypatch) -> list[tuple[int, int, int]]:
    """Pyramid level, column and row of every tile that is decoded."""
    tiles = []
    decode = TiffSlide._decode_tile

    def recorded(self, *place):
        tiles.append(place)
        return decode(self, *place)

    monkeypatch.setattr(TiffSlide, "_decode_tile", recorded)
    return tiles


@pytest.mark.parametrize(
    ("region", "side_px"), [(Region(-500, -500, 3584, 3584), 256), (Region(512, 512, 2048, 2048), 1024)]
)
def test_only_tiles_with_something_of_the_region_are_decoded(made_slide, triangle, decoded, region, side_px):
    with open_slide(made_slide) as slide:
        patch = read_within(slide, region, side_px, triangle)
        touched = list(decoded)
        whole = slide.read(region, side_px, side_px)
        boxes = []
        for pyramid_level, column, row in touched:
            shrink, unit = slide.pyramid[pyramid_level].downsample, slide._unit(pyramid_level)
            # What the border of a tile shows may be rounded to the next pixel of the patch.
            px = region.width // side_px
            width, height = round(unit.width * shrink) + 2 * px, round(unit.height * shrink) + 2 * px
            boxes.append(
                Region(round(column * unit.width * shrink) - px, round(row * unit.height * shrink) - px, width, height)
            )
        assert touched
        assert triangle.fractions(boxes).min() > 0
        everything = set(decoded)
    assert set(touched) < everything
    rows, columns = ((np.arange(side_px) + 0.5) * region.width / side_px + start for start in (region.y, region.x))
    on_slide = (rows >= 0) & (rows < SIDE), (columns >= 0) & (columns < SIDE)
    inside = np.zeros((side_px, side_px), bool)
    inside[np.ix_(*on_slide)] = triangle.mask[
        np.ix_(rows[on_slide[0]].astype(int) // 2, columns[on_slide[1]].astype(int) // 2)
    ]
    assert 0.02 < inside.mean() < 0.9
    assert (patch[~inside] == slide.background).all()
    assert np.abs(patch[inside].astype(int) - whole[inside]).mean() < 1


def test_what_lies_inside_is_read_as_ever(made_slide, triangle):
    region = Region(900, 900, 256, 256)
    with open_slide(made_slide) as slide:
        np.testing.assert_array_equal(read_within(slide, region, 64, triangle), slide.read(region, 64, 64))


def test_what_lies_outside_is_not_read(made_slide, triangle, decoded):
    with open_slide(made_slide) as slide:
        patch = read_within(slide, Region(2500, 2500, 400, 400), 32, triangle)
    assert (patch == slide.background).all()
    assert decoded == []
