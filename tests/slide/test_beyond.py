"""Regions that reach beyond the slide: as if it lay on a sheet of its background, at the price of what is there."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tnet_cli.geometry import Region, Size
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.resample import PyramidLevel, fit, read_region

WHITE, TINTED = (255, 255, 255), (240, 10, 77)

sides = st.integers(1, 90)
corners = st.integers(-300, 300)


def padded_whole(pixels, stored, region, size, background, *, exact):
    """The plain way: the region's own pixels, those beyond the slide among them, brought to the size at once."""
    shrink = stored.downsample
    x, y = math.floor(region.x / shrink), math.floor(region.y / shrink)
    right, bottom = math.ceil(region.right / shrink), math.ceil(region.bottom / shrink)
    canvas = np.full((bottom - y, right - x, 3), background, np.uint8)
    inside = Region(0, 0, *pixels.shape[1::-1]).intersect(Region(x, y, right - x, bottom - y))
    if inside is not None:
        canvas[inside.y - y : inside.bottom - y, inside.x - x : inside.right - x] = pixels[
            inside.y : inside.bottom, inside.x : inside.right
        ]
    box = (region.x / shrink - x, region.y / shrink - y, region.right / shrink - x, region.bottom / shrink - y)
    return fit(canvas, box, size.width, size.height, exact=exact)


def read(pixels, stored, region, size, background, *, exact, most_px=10**9, boxes=None):
    def box(x, y, width, height):
        assert min(x, y) >= 0
        assert min(width, height) > 0
        assert x + width <= stored.size.width
        assert y + height <= stored.size.height
        if boxes is not None:
            boxes.append(width * height)
        return pixels[y : y + height, x : x + width]

    kinds = {"background": background, "unit": Size(16, 16), "most_px": most_px, "exact": exact}
    return read_region(box, stored, region, size.width, size.height, **kinds)


@given(
    width=sides,
    height=sides,
    x=corners,
    y=corners,
    wanted=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    factors=st.tuples(st.sampled_from([0.25, 0.5, 1, 1.25, 2, 5, 20.5]), st.sampled_from([0.25, 1, 1.5, 3, 7, 20.5])),
    downsample=st.sampled_from([1, 4, 16]),
    exact=st.booleans(),
    background=st.sampled_from([WHITE, TINTED]),
    most_px=st.sampled_from([300, 10**9]),
)
@example(
    width=1,
    height=6,
    x=0,
    y=0,
    wanted=(1, 5),
    factors=(5, 3),
    downsample=1,
    exact=False,
    background=WHITE,
    most_px=300,
)
@settings(max_examples=300, deadline=None)
def test_the_pixels_are_those_of_a_slide_padded_with_background(
    width, height, x, y, wanted, factors, downsample, exact, background, most_px
):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stored = PyramidLevel(Size(width, height), downsample)
    sides_px = [max(1, round(px * factor * downsample)) for px, factor in zip(wanted, factors, strict=True)]
    region, size = Region(x, y, *sides_px), Size(*wanted)
    expected = padded_whole(pixels, stored, region, size, background, exact=exact)
    found = read(pixels, stored, region, size, background, exact=exact, most_px=most_px)
    # Sides of which a quarter of a pixel was rounded away can put a centre on an edge, where either side may have it.
    is_even = all(side / px / downsample in factors for side, px in zip(sides_px, wanted, strict=True))
    # Averages are rounded, those of Pillow once along each axis, so that one more of the rows may round the other way.
    assert (np.abs(found.astype(int) - expected) > 1).mean() <= (0 if is_even else 0.1)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("factor", [1, 1.28125, 7, 82])
def test_slides_of_a_pixel_more_or_less_than_their_region(beyond, factor):
    size = Size(64, 64)
    side = round(64 * factor)
    pixels = np.random.default_rng(0).integers(0, 256, (side + beyond, side - beyond, 3), dtype=np.uint8)
    stored, region = PyramidLevel(Size(*pixels.shape[1::-1]), 1), Region(0, 0, side, side)
    for exact in (False, True):
        expected = padded_whole(pixels, stored, region, size, TINTED, exact=exact)
        assert np.abs(read(pixels, stored, region, size, TINTED, exact=exact).astype(int) - expected).max() <= exact


def test_what_lies_beyond_is_neither_read_nor_held():
    """A picture of 775 x 522 px costs what it is, and not the 20 992 px a side of its coarsest region."""
    pixels, boxes = np.zeros((522, 775, 3), np.uint8), list[int]()
    tracemalloc.start()
    found = read(
        pixels,
        PyramidLevel(Size(775, 522), 1),
        Region(0, 0, 20992, 20992),
        Size(256, 256),
        WHITE,
        exact=True,
        boxes=boxes,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(boxes) == 522 * 775
    assert peak < 30 * 1024 * 1024
    assert (found[:6, :9] == 0).all()
    assert (found[8:] == 255).all()


HANGING = [
    Region(-100, 32, 192, 128),
    Region(128, 50, 256, 256),
    Region(-256, -256, 1024, 1024),
    Region(175, -75, 83, 194),
    Region(0, 0, 193, 129),
    Region(-64, 96, 65, 33),
    Region(800, 0, 128, 128),
    Region(-128, 0, 128, 128),
    Region(191, 127, 512, 512),
]


@pytest.mark.parametrize("reader", ["tifffile", "openslide", "pillow"])
def test_every_reader_sees_a_small_slide_as_one_on_a_sheet_of_its_background(
    reader, write_tiff, smooth, averaged, tmp_path
):
    """The sheet is a slide of its own, of the same pixels amid white, so that nothing of it lies beyond."""
    small, at = smooth(192, 128), 256
    sheet = np.full((1152, 1280, 3), 255, np.uint8)
    sheet[at : at + 128, at : at + 192] = small
    paths = []
    for name, pixels in (("small", small), ("sheet", sheet)):
        if reader == "pillow":
            Image.fromarray(pixels).save(path := tmp_path / f"{name}.png")
        else:
            levels = [pixels, np.rint(averaged(pixels, 4)).astype(np.uint8)]
            path = write_tiff(levels, f"{name}.tif", photometric="rgb", tile=(64, 64), compression="zlib")
        paths.append(str(path))
    with open_slide(paths[0], reader=reader) as own, open_slide(paths[1], reader=reader) as whole:
        for region, side_px in itertools.product(HANGING, (8, 37, 64, 256)):
            moved = Region(region.x + at, region.y + at, region.width, region.height)
            found, expected = own.read(region, side_px, side_px), whole.read(moved, side_px, side_px)
            # Twice reduced is twice rounded.
            assert np.abs(found.astype(int) - expected).max() <= 2, (region, side_px)


def test_a_region_without_any_of_the_slide_is_background_and_reads_nothing(write_tiff, smooth):
    """Not even the reduction of a slide without a pyramid, which would decode all of it."""
    with open_slide(write_tiff(smooth(192, 128), photometric="rgb", tile=(64, 64), compression="zlib")) as slide:
        assert (slide.read(Region(192, 0, 4096, 4096), 16, 16) == 255).all()
        assert slide.pixels_read == 0
