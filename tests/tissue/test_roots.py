"""Roots cover all tissue, share it out, and are few."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet_cli.geometry import Region, Size
from tnet_cli.tissue.roots import cover_with_roots
from tnet_cli.tissue.tissue import TissueMask


def box_mask(size: Size, *boxes: Region) -> TissueMask:
    """A mask with one thumbnail pixel for each level-0 pixel."""
    mask = np.zeros((size.height, size.width), dtype=bool)
    for box in boxes:
        mask[box.y : box.bottom, box.x : box.right] = True
    return TissueMask(mask, size)


@st.composite
def masks(draw: st.DrawFn) -> TissueMask:
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    size = Size(draw(st.integers(1, 120)), draw(st.integers(1, 120)))
    share = draw(st.sampled_from([0.02, 0.1, 0.5, 1.0]))
    return TissueMask(np.random.default_rng(draw(st.integers(0, 999))).random(shape) < share, size)


@given(tissue=masks(), side=st.integers(4, 90), parts=st.integers(1, 8))
def test_roots_cover_all_tissue_once(tissue, side, parts):
    step = max(1, side // parts)
    roots = cover_with_roots(tissue, side, step)
    assert cover_with_roots(tissue, side, step) == roots
    if tissue.is_empty:
        assert roots == []
        return
    regions = [root.region for root in roots]
    assert sum(root.tissue_share for root in roots) == pytest.approx(1)
    assert min(root.tissue_share for root in roots) > 0
    areas = [tissue.fractions([region]).item() * region.area for region in regions]
    assert sum(areas) == pytest.approx(tissue.area_px)
    assert [root.tissue_share for root in roots] == pytest.approx([area / tissue.area_px for area in areas])
    assert {(r.width, r.height) for r in regions} == {(side, side)}
    assert [(r.y, r.x) for r in regions] == sorted((r.y, r.x) for r in regions)
    offset_x, offset_y = regions[0].x % side, regions[0].y % side
    assert offset_x % step == 0
    assert offset_y % step == 0
    assert all(r.x % side == offset_x and r.y % side == offset_y for r in regions)  # on one lattice,
    assert len(set(regions)) == len(regions)  # and each once: none overlap


@given(tissue=masks(), side=st.integers(4, 90), parts=st.integers(1, 8))
def test_roots_are_no_more_than_those_of_the_plain_lattice(tissue, side, parts):
    plain = cover_with_roots(tissue, side, side)
    assert len(cover_with_roots(tissue, side, max(1, side // parts))) <= len(plain)
    assert all(root.region.x % side == 0 and root.region.y % side == 0 for root in plain)


def test_a_slide_smaller_than_a_root_has_one_that_reaches_beyond_it():
    (root,) = cover_with_roots(box_mask(Size(30, 50), Region(3, 4, 20, 40)), 64, 16)
    assert root.region == Region(0, 0, 64, 64)
    assert root.tissue_share == 1


def test_the_lattice_shifts_so_that_a_biopsy_has_one_root():
    biopsy = Region(100, 100, 40, 40)  # the plain lattice of 64 px cuts it into four
    tissue = box_mask(Size(300, 300), biopsy)
    assert len(cover_with_roots(tissue, 64, 64)) == 4
    (root,) = cover_with_roots(tissue, 64, 16)
    assert root.region.contains(biopsy)
    assert (root.region.x, root.region.y) == (80, 80)  # the first of the offsets that do


def test_a_root_may_start_left_of_the_slide_and_above_it():
    tissue = box_mask(Size(100, 100), Region(0, 0, 8, 8), Region(40, 40, 40, 40))
    roots = cover_with_roots(tissue, 64, 32)
    assert [root.region for root in roots] == [Region(-32, -32, 64, 64), Region(32, 32, 64, 64)]
    assert [root.tissue_share for root in roots] == pytest.approx([64 / 1664, 1600 / 1664])


def test_of_equally_many_boxes_the_evenest_are_taken():
    tissue = box_mask(Size(128, 64), Region(60, 10, 60, 20))  # two boxes or one, by the offset
    assert len(cover_with_roots(tissue, 64, 8)) == 1
    wide = box_mask(Size(200, 64), Region(60, 10, 90, 20))  # two boxes at least: 26 + 64 or 45 + 45
    first, second = cover_with_roots(wide, 64, 1)
    assert first.tissue_share == pytest.approx(second.tissue_share)


def test_the_sliver_of_a_pixel_counts():
    tissue = TissueMask(np.array([[True, False, False]]), Size(100, 10))  # tissue ends at column 33.3
    assert [root.region.x for root in cover_with_roots(tissue, 33, 33)] == [0, 33]


@pytest.mark.parametrize("step", [0, -4, 65])
def test_steps_that_make_no_lattice_are_refused(step):
    with pytest.raises(ValueError, match="step"):
        cover_with_roots(box_mask(Size(9, 9), Region(0, 0, 3, 3)), 64, step)


@given(tissue=masks(), side=st.integers(4, 90), parts=st.integers(1, 8))
def test_roots_moved_inward_lie_on_the_slide_and_cover_all_tissue(tissue, side, parts):
    """A slide smaller than a root lies in the root; what is a root's own is no other's."""
    slide = Region(0, 0, tissue.slide_size.width, tissue.slide_size.height)
    roots = cover_with_roots(tissue, side, max(1, side // parts), inward=True)
    owned = [root.own or root.region for root in roots]
    for root, own in zip(roots, owned, strict=True):
        box = root.region
        assert (box.x >= 0 and box.right <= slide.width) or (box.x <= 0 and slide.width <= box.right)
        assert (box.y >= 0 and box.bottom <= slide.height) or (box.y <= 0 and slide.height <= box.bottom)
        held = own.intersect(slide)
        assert held is None or box.contains(held)
        assert root.tissue_share == pytest.approx(tissue.fractions([own])[0] * own.area / tissue.area_px)
    assert not any(a.intersect(b) for number, a in enumerate(owned) for b in owned[:number])
    assert sum(root.tissue_share for root in roots) == pytest.approx(0 if tissue.is_empty else 1)


def test_a_picture_of_no_whole_number_of_roots_is_covered_by_as_few_as_reach_over_it():
    roots = cover_with_roots(box_mask(Size(775, 522), Region(0, 0, 775, 522)), 328, 82, inward=True)
    assert len(roots) == 3 * 2
    assert {root.region.right for root in roots} >= {775}
    assert {root.region.bottom for root in roots} >= {522}
    assert min(root.region.x for root in roots) == 0


@given(tissue=masks(), side=st.integers(4, 90), parts=st.integers(1, 8))
def test_boxes_with_too_little_tissue_are_left_out_but_never_much_tissue_with_them(tissue, side, parts):
    step, least_px = max(1, side // parts), 0.25 * (side / 4) ** 2
    roots = cover_with_roots(tissue, side, step, inward=True, least_px=least_px)
    held = sum(tissue.fractions([own])[0] * own.area for own in (root.own or root.region for root in roots))
    assert held >= 0.9 * tissue.area_px * (1 - 1e-9)
    assert len(roots) <= len(cover_with_roots(tissue, side, step, inward=True))


def test_boxes_with_too_little_tissue_are_left_out():
    tissue = box_mask(Size(800, 256), Region(0, 0, 800, 256))
    assert len(cover_with_roots(tissue, 256, 256, inward=True)) == 4
    roots = cover_with_roots(tissue, 256, 256, inward=True, least_px=0.25 * 256**2)
    assert [root.region.x for root in roots] == [0, 256, 512]
    assert sum(root.tissue_share for root in roots) == pytest.approx(1)
    speck = box_mask(Size(800, 256), Region(700, 9, 4, 4))
    assert len(cover_with_roots(speck, 256, 64, inward=True, least_px=0.25 * 256**2)) == 1
