"""Boxes on the slide: a planted square lies inside the drawn box, to the pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet_cli.geometry import Region, Size
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import processing_level_colour
from tnet_cli.report.drawing import resample
from tnet_cli.report.overlay import plan_panels
from tnet_cli.report.panel import FRAME_PX, PanelBox, attended_panel, box_on_thumbnail, plain_panel

GROUND = (200, 210, 220)
PLANTED = (255, 0, 255)


def attended(region: Region, *, processing_level: int = 1, weight: float = 0.5) -> AttendedRegion:
    return AttendedRegion(
        region, processing_level, 2.0, 0.25, 0.25, weight, (0.75, 0.25), is_location=processing_level > 0
    )


def planted(size: Size, region: Region) -> np.ndarray:
    """The whole slide at level 0, with one square."""
    pixels = np.full((size.height, size.width, 3), GROUND, dtype=np.uint8)
    pixels[region.y : region.bottom, region.x : region.right] = PLANTED
    return pixels


def extent(mask: np.ndarray) -> PanelBox:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return PanelBox(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@given(
    slide=st.builds(Size, st.integers(1, 400), st.integers(1, 400)),
    panel=st.builds(Size, st.integers(1, 300), st.integers(1, 300)),
    region=st.builds(Region, st.integers(-50, 399), st.integers(-50, 399), st.integers(51, 500), st.integers(51, 500)),
)
def test_the_box_covers_every_pixel_a_region_falls_on_and_no_other(slide, panel, region):
    if region.intersect(Region(0, 0, slide.width, slide.height)) is None:
        with pytest.raises(ValueError, match="outside the slide"):
            box_on_thumbnail(region, slide, panel)
        return
    box = box_on_thumbnail(region, slide, panel)

    def touched(first: int, last: int, slide_px: int, panel_px: int) -> list[int]:
        # Pixel i spans [i, i + 1) * slide_px / panel_px; compared without division.
        return [
            i
            for i in range(panel_px)
            if i * slide_px < min(last, slide_px) * panel_px and (i + 1) * slide_px > max(first, 0) * panel_px
        ]

    assert list(range(box.left, box.right)) == touched(region.x, region.right, slide.width, panel.width)
    assert list(range(box.top, box.bottom)) == touched(region.y, region.bottom, slide.height, panel.height)
    shifted = box_on_thumbnail(region, slide, panel, (7, 11))
    assert shifted == (box.left + 7, box.top + 11, box.right + 7, box.bottom + 11)


@pytest.mark.parametrize(
    ("size", "region"),
    [
        (Size(1500, 1000), Region(301, 203, 257, 257)),
        (Size(1000, 1900), Region(17, 1501, 313, 313)),
        (Size(200, 150), Region(33, 41, 29, 29)),
        (Size(700, 700), Region(0, 0, 100, 100)),
        (Size(701, 1203), Region(601, 1103, 100, 100)),
        (Size(300, 3000), Region(101, 2003, 97, 97)),
        (Size(3000, 300), Region(2003, 101, 97, 97)),
    ],
)
def test_a_planted_square_is_inside_the_drawn_box_to_the_pixel(size, region):
    panel_size = plan_panels(size, 1536).size
    slide_image = resample(planted(size, region), panel_size)
    box = box_on_thumbnail(region, size, panel_size, (FRAME_PX, FRAME_PX))
    plain = np.asarray(plain_panel(slide_image)).astype(int)
    ground = np.full_like(plain, 255)
    ground[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX] = GROUND
    tinted = extent((plain != ground).any(axis=2))
    assert box.left <= tinted.left <= box.left + 1  # what fills less than half a pixel may leave no tint
    assert box.top <= tinted.top <= box.top + 1
    assert box.right - 1 <= tinted.right <= box.right
    assert box.bottom - 1 <= tinted.bottom <= box.bottom

    panel = np.asarray(attended_panel(slide_image, size, [attended(region)], []))
    assert np.array_equal(panel[box.top : box.bottom, box.left : box.right],
                          plain[box.top : box.bottom, box.left : box.right])  # fmt: skip
    colour = processing_level_colour(1)
    across = slice(max(0, box.left - 5), box.right + 5)
    for row in (box.top - 1, box.bottom):
        assert (panel[row, across] == colour).all()
    for column in (box.left - 1, box.right):
        assert (panel[box.top : box.bottom, column] == colour).all()
    outline = extent((panel == colour).all(axis=2))
    assert outline == (box.left - 5, box.top - 5, box.right + 5, box.bottom + 5)


def test_only_what_was_attended_stays_bright():
    size = Size(400, 300)
    slide_image = resample(np.full((300, 400, 3), GROUND, np.uint8), size)
    root = attended(Region(-50, 0, 300, 300), processing_level=0, weight=0.0)
    panel = np.asarray(attended_panel(slide_image, size, [root, attended(Region(100, 100, 50, 40))], []))
    inner = panel[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX]
    assert (inner[100:140, 100:150] == GROUND).all()
    dimmed = inner[20, 20].astype(int)
    assert tuple(dimmed) == (102, 105, 108)
    assert (inner[250, 300] == dimmed).all()
    frame = np.concatenate([panel[0], panel[:, -1]])
    assert (frame == 255).all()


def test_without_attended_regions_nothing_is_dimmed():
    size = Size(400, 300)
    slide_image = resample(np.full((300, 400, 3), GROUND, np.uint8), size)
    root = attended(Region(0, 0, 400, 400), processing_level=0)
    panel = np.asarray(attended_panel(slide_image, size, [root], []))
    assert (panel[20:-20, 20:-20] == GROUND).all()
    assert (panel[FRAME_PX - 1, 50] == processing_level_colour(0)).all()
    assert np.array_equal(np.asarray(attended_panel(slide_image, size, [], [])), np.asarray(plain_panel(slide_image)))


def test_a_heavier_region_has_a_bolder_outline():
    size = Size(400, 100)
    slide_image = resample(np.full((100, 400, 3), 255, np.uint8), size)
    regions = [attended(Region(x, 40, 20, 20), weight=w) for x, w in [(50, 0.4), (150, 0.2), (250, 0.0)]]
    panel = np.asarray(attended_panel(slide_image, size, regions, [])).astype(int)
    row = panel[FRAME_PX + 50, FRAME_PX:-FRAME_PX]
    dimmed = row[10]
    thickness = [int((row[x - 12 : x] != dimmed).any(axis=1).sum()) for x in (50, 150, 250)]
    assert thickness == [5, 4, 2]
    distance = [np.abs(row[x - 1] - processing_level_colour(1)).sum() for x in (50, 150, 250)]
    assert distance[0] == 0
    assert distance[0] < distance[1] < distance[2]


def test_a_region_partly_beyond_the_slide_is_cut_and_one_outside_is_left_out():
    size = Size(400, 300)
    slide_image = resample(np.full((300, 400, 3), GROUND, np.uint8), size)
    partly, outside = attended(Region(350, 250, 100, 100)), attended(Region(400, 0, 50, 50))
    panel = np.asarray(attended_panel(slide_image, size, [partly, outside], [outside, partly]))
    assert (panel[FRAME_PX + 250 : FRAME_PX + 300, FRAME_PX + 350 : FRAME_PX + 400] == GROUND).all()
    assert (panel[FRAME_PX + 260, FRAME_PX + 349] == processing_level_colour(1)).all()
    assert (panel[FRAME_PX + 10, FRAME_PX + 380] != GROUND).all()


def test_ranks_stand_beside_their_boxes_and_hide_none():
    size = Size(600, 400)
    slide_image = resample(np.full((400, 600, 3), 255, np.uint8), size)
    ranked = [attended(Region(x, 200, 40, 40), weight=0.0) for x in range(100, 500, 41)]
    bare = np.asarray(attended_panel(slide_image, size, ranked, []))
    panel = np.asarray(attended_panel(slide_image, size, ranked, ranked))
    changed = (bare != panel).any(axis=2)
    assert changed.any()
    for region in ranked:
        box = box_on_thumbnail(region.region, size, size, (FRAME_PX, FRAME_PX))
        assert not changed[box.top : box.bottom, box.left : box.right].any()
        if region not in (ranked[0], ranked[-1]):  # above, for want of room at the sides
            assert changed[: box.top, box.left : box.right].any()


def test_a_rank_without_room_beside_its_box_stands_inside_a_large_one_only():
    size = Size(300, 300)
    slide_image = resample(np.full((300, 300, 3), 255, np.uint8), size)
    whole = attended(Region(0, 0, 300, 300))
    small = attended(Region(200, 100, 20, 20))
    bare = np.asarray(attended_panel(slide_image, size, [whole, small], []))
    numbered = np.asarray(attended_panel(slide_image, size, [whole, small], [whole, small]))
    changed = (bare != numbered).any(axis=2)
    corner = changed[FRAME_PX : FRAME_PX + 18, FRAME_PX : FRAME_PX + 20]
    assert corner.sum() > 200  # the large one's rank,
    assert changed.sum() == corner.sum()  # and no other
