"""The whole page: its size, where things stand, and that the boxes on it are those that were read."""

import dataclasses

import numpy as np
import pytest

from tnet_cli.geometry import Region, Size
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import NOTICE, NOTICE_GROUND, processing_level_colour
from tnet_cli.report.overlay import draw_overlay, plan_panels, scale_bar
from tnet_cli.report.panel import box_on_thumbnail
from tnet_cli.report.sections import OverlayPatch, OverlaySubject, header, legend, patch_grid

GLASS = (240, 240, 240)
PLANTED = (255, 0, 255)
PATCH = (10, 200, 90)


def subject_of(size: Size, mpp: float | None = 0.5) -> OverlaySubject:
    return OverlaySubject(
        slide_name="slide-0001.svs",
        slide_size=size,
        mpp=mpp,
        class_names=("lesion", "benign"),
        probabilities=(0.9, 0.1),
        prediction="lesion",
        model_name="synthetic-demo",
        intended_use="A demonstration on synthetic slides, not for diagnosis.",
        location_count=12,
        fraction_read=0.0123,
        seconds=3.2,
    )


def attended(region: Region, processing_level: int = 1, weight: float = 0.2) -> AttendedRegion:
    return AttendedRegion(
        region, processing_level, 2.0, 0.25, 0.25, weight, (0.75, 0.25), is_location=processing_level > 0
    )


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def patches_of(count: int) -> list[OverlayPatch]:
    return [
        OverlayPatch(attended(Region(10 * i, 10, 8, 8)), np.full((32, 32, 3), PATCH, np.uint8)) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("thumbnail_size", "scale"),
    [
        (Size(1500, 1000), 40),
        (Size(900, 1500), 17),
        (Size(200, 150), 1),
        (Size(150, 200), 1),
        (Size(120, 1800), 50),
        (Size(1800, 200), 50),
        (Size(16, 16), 1),
    ],
)
def test_the_planted_square_lies_in_the_drawn_box_on_the_page(thumbnail_size, scale):
    size = Size(thumbnail_size.width * scale, thumbnail_size.height * scale)
    th_box = Region(
        thumbnail_size.width // 2, thumbnail_size.height // 3, thumbnail_size.width // 5, thumbnail_size.height // 5
    )
    thumbnail = np.full((thumbnail_size.height, thumbnail_size.width, 3), GLASS, np.uint8)
    thumbnail[th_box.y : th_box.bottom, th_box.x : th_box.right] = PLANTED
    region = Region(th_box.x * scale, th_box.y * scale, th_box.width * scale, th_box.height * scale)
    page = np.asarray(draw_overlay(thumbnail, subject_of(size), [attended(region)], []))
    assert page.shape[1] == 1600

    plan = plan_panels(thumbnail_size, 1536)
    is_planted = (page[..., 1].astype(int) < 190) & (page[..., 0] > 230) & (page[..., 2] > 230)
    # Only the second panel, which stands right of the first or below it.
    if plan.is_stacked:
        first_row = int(np.flatnonzero(is_planted.any(axis=1))[0])
        is_planted[: first_row + plan.size.height] = False
    else:
        is_planted[:, : 32 + 6 + plan.size.width + 6] = False
    left, top, right, bottom = extent(is_planted)
    box = box_on_thumbnail(region, size, plan.size)
    assert right - left in range(box.right - box.left - 2, box.right - box.left + 1)
    assert bottom - top in range(box.bottom - box.top - 2, box.bottom - box.top + 1)
    colour = processing_level_colour(1)
    beside = page[(top + bottom) // 2]
    across = page[:, (left + right) // 2]
    for line in (
        beside[left - 4 : left],
        beside[right : right + 4],
        across[top - 4 : top],
        across[bottom : bottom + 4],
    ):
        assert (line == colour).all(axis=1).sum() >= 3


@pytest.mark.parametrize(
    ("thumbnail_size", "size", "stacked", "beside"),
    [
        (Size(1500, 1000), Size(746, 497), False, False),
        (Size(1122, 1500), Size(746, 997), False, False),
        (Size(200, 150), Size(600, 450), False, False),
        (Size(16, 16), Size(736, 736), False, False),
        (Size(200, 2000), Size(100, 1000), False, True),
        (Size(2000, 200), Size(1524, 152), True, False),
        (Size(1, 5000), Size(1, 1000), False, True),
    ],
)
def test_panels_use_the_page_sensibly(thumbnail_size, size, stacked, beside):
    plan = plan_panels(thumbnail_size, 1536)
    assert (plan.size, plan.is_stacked, plan.is_beside_patches) == (size, stacked, beside)


def test_patches_stand_in_rows_of_six_in_the_order_given():
    subject = subject_of(Size(1000, 800))
    heights = {count: patch_grid(patches_of(count), subject, 1536).height for count in (1, 6, 7, 12)}
    assert heights[1] == heights[6] < heights[7] == heights[12]
    distinct = [
        OverlayPatch(attended(Region(0, 0, 8, 8)), np.full((20, 20, 3), (20 * i, 0, 255), np.uint8)) for i in range(6)
    ]
    grid = np.asarray(patch_grid(distinct, subject, 1536))
    row = grid[120]
    shown = [int(value) for value in row[(row[:, 1] == 0) & (row[:, 2] == 255), 0]]
    assert list(dict.fromkeys(shown)) == [0, 20, 40, 60, 80, 100]


def test_a_patch_that_is_not_square_keeps_its_shape():
    wide = OverlayPatch(attended(Region(0, 0, 80, 20)), np.full((50, 200, 3), PATCH, np.uint8))
    left, top, right, bottom = extent(
        (np.asarray(patch_grid([wide], subject_of(Size(100, 80)), 300)) == PATCH).all(axis=2)
    )
    assert (right - left) / (bottom - top) == pytest.approx(4, rel=0.02)


def test_patches_stand_below_the_slide_and_for_a_long_slide_beside_it():
    for shape, beside in [((1000, 1500, 3), False), ((2000, 200, 3), True)]:
        thumbnail = np.full(shape, GLASS, np.uint8)
        size = Size(shape[1] * 10, shape[0] * 10)
        page = np.asarray(draw_overlay(thumbnail, subject_of(size), [attended(Region(0, 0, 99, 99))], patches_of(5)))
        _, patch_top, _, _ = extent((page == PATCH).all(axis=2))
        slide_bottom = np.flatnonzero((page == GLASS).all(axis=2).sum(axis=1) > 60)[-1]
        assert (patch_top < slide_bottom) == beside


def test_the_intended_use_is_always_shown_when_there_is_one():
    with_it = subject_of(Size(1000, 800))
    without = dataclasses.replace(with_it, intended_use=None)
    shown = np.asarray(header(with_it, 1536))
    assert ((shown == NOTICE_GROUND).all(axis=2).sum()) > 20_000
    assert ((shown == NOTICE).all(axis=2).sum()) > 300
    assert not (np.asarray(header(without, 1536)) == NOTICE_GROUND).all(axis=2).any()


def test_a_scale_bar_is_drawn_only_where_the_scale_is_known():
    thumbnail = np.full((600, 700, 3), GLASS, np.uint8)
    size = Size(28_000, 24_000)  # 700 px of panel; at 0.5 um per pixel 20 um each
    known = np.asarray(draw_overlay(thumbnail, subject_of(size), [], []))
    unknown = np.asarray(draw_overlay(thumbnail, subject_of(size, None), [], []))

    def longest_run(page: np.ndarray) -> int:
        dark = (page[300:].max(axis=2) < 60).astype(int)
        edges = np.flatnonzero(np.diff(np.pad(dark, ((0, 0), (1, 1))).ravel()))
        return int((edges[1::2] - edges[::2]).max(initial=0))

    assert longest_run(known) == 100  # 2 mm
    assert longest_run(unknown) < 30


def test_long_names_and_many_classes_stay_on_the_page():
    subject = dataclasses.replace(
        subject_of(Size(1000, 800)),
        slide_name="a-very-long-name-" * 30 + ".svs",
        model_name="another-long-name-" * 20,
        class_names=tuple(f"a class with a long name, number {i}" for i in range(62)),
        probabilities=tuple([1 / 62] * 62),
        prediction="a class with a long name, number 7",
        intended_use="Not for diagnosis. " * 40,
    )
    top = header(subject, 1536)
    assert top.width == 1536
    assert top.height > 500
    one_class = dataclasses.replace(subject, class_names=("x" * 400,), probabilities=(1.0,), prediction="x" * 400)
    assert header(one_class, 1536).height < top.height
    assert legend([], 100).width == 100


def test_an_overlay_is_the_same_every_time():
    thumbnail = np.random.default_rng(3).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    regions = [attended(Region(0, 0, 400, 400), 0), attended(Region(100, 100, 100, 100))]
    pages = [np.asarray(draw_overlay(thumbnail, subject_of(Size(400, 300)), regions, patches_of(3))) for _ in range(2)]
    assert np.array_equal(pages[0], pages[1])


def test_what_is_no_thumbnail_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        draw_overlay(np.zeros((5, 5)), subject_of(Size(5, 5)), [], [])


@pytest.mark.parametrize(
    ("um_per_px", "panel_px", "text", "width_px"),
    [
        (20.0, 750, "2 mm", 100),
        (50.0, 750, "5 mm", 100),
        (1.0, 700, "100 µm", 100),
        (4.0, 1000, "1 mm", 250),
        (0.25, 750, "20 µm", 80),
        (3.2, 750, "0.5 mm", 156),
        (40.0, 10, "1 mm", 25),
    ],
)
def test_the_scale_bar_has_a_round_length(um_per_px, panel_px, text, width_px):
    assert scale_bar(um_per_px, panel_px) == (width_px, text)


def test_there_is_no_scale_bar_without_a_scale():
    assert scale_bar(None, 750) is None
