"""Tiles are decoded once, counted once, and shared by threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.geometry import Region
from tnet_cli.slide import tiff_backend
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

TILE = 256


@pytest.fixture
def tiled(write_tiff, coded) -> Any:
    levels = [coded(1100, 900), coded(550, 450, 1), coded(275, 225, 2)]
    return write_tiff(levels, photometric="rgb", compression="zlib", tile=(TILE, TILE))


def test_an_aligned_region_decodes_one_tile(tiled, coded):
    with open_slide(tiled) as slide, tifffile.TiffFile(tiled) as tif:
        assert (slide.pixels_read, slide.bytes_read) == (0, 0)
        found = slide.read(Region(TILE, 2 * TILE, TILE, TILE), TILE, TILE)
        np.testing.assert_array_equal(found, coded(1100, 900)[512:768, 256:512])
        assert slide.pixels_read == TILE * TILE
        # Five tiles lie in a row; this is the second of the third row.
        assert slide.bytes_read == tif.pages.first.databytecounts[2 * 5 + 1]


def test_a_tile_that_is_shared_is_counted_once(tiled):
    with open_slide(tiled) as slide:
        slide.read(Region(0, 0, 300, 200), 300, 200)
        assert slide.pixels_read == 2 * TILE * TILE
        slide.read(Region(200, 100, 300, 300), 300, 300)
        assert slide.pixels_read == 4 * TILE * TILE
        slide.read(Region(0, 0, 512, 512), 512, 512)
        assert slide.pixels_read == 4 * TILE * TILE
        slide.read(Region(0, 0, 512, 512), 256, 256)
        assert slide.pixels_read == 5 * TILE * TILE


def test_tiles_at_the_edge_count_whole(tiled):
    with open_slide(tiled) as slide:
        slide.read(Region(1090, 890, 10, 10), 10, 10)
        assert slide.pixels_read == TILE * TILE


def test_nothing_is_read_outside(tiled):
    with open_slide(tiled) as slide:
        assert (slide.read(Region(-500, 0, 400, 400), 100, 100) == 255).all()
        assert slide.pixels_read == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rowsperstrip": 100}, 330 * 100 + 330 * 7),
        ({"tile": (64, 64), "planarconfig": "separate"}, 64 * 64),
    ],
    ids=["a last strip is short", "planes are not pixels"],
)
def test_what_counts(write_tiff, coded, options, expected):
    pixels = coded(330, 207)
    stored = pixels.transpose(2, 0, 1) if "planarconfig" in options else pixels
    with open_slide(write_tiff(stored, photometric="rgb", compression="lzw", **options)) as slide:
        slide.read(Region(0, 195, 8, 12), 8, 12)
        assert slide.pixels_read == expected


def test_openslide_counts_whole_tiles(tiled):
    with open_slide(tiled, reader="openslide") as slide:
        slide.read(Region(0, 0, 300, 200), 300, 200)
        assert slide.pixels_read == 2 * TILE * TILE


@pytest.mark.parametrize("reader", ["tifffile", "openslide", "pillow"])
def test_eight_threads_read_what_one_reads(tiled, reader, monkeypatch):
    monkeypatch.setattr(tiff_backend, "CACHE_BYTES", 5 * TILE * TILE * 3)
    rng = np.random.default_rng(7)
    asked = []
    for _ in range(120):
        side, shrink = int(rng.integers(20, 300)), int(rng.choice([1, 1, 2, 3, 4]))
        region = Region(int(rng.integers(-50, 1100)), int(rng.integers(-50, 900)), side * shrink, side * shrink)
        asked.append((region, side, side))
    with open_slide(tiled, reader=reader) as slide:
        serial = [slide.read(*one) for one in asked]
    with open_slide(tiled, reader=reader) as slide, ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda one: slide.read(*one), asked))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_that_reduce_at_once_reduce_once(write_tiff, smooth):
    path = write_tiff(smooth(1024, 1024), photometric="rgb", compression="lzw", rowsperstrip=8)
    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: slide.thumbnail(64), range(16)))
        assert slide.pixels_read == 1024 * 1024
    for thumbnail in found:
        np.testing.assert_array_equal(thumbnail, found[0])


def test_openslide_reads_on_after_an_unreadable_region(write_tiff, smooth, spoil_tile):
    """OpenSlide itself fails for good after its first error."""
    path = write_tiff(smooth(256, 128), photometric="rgb", compression="jpeg", tile=(64, 64))
    expected = tifffile.imread(path)
    spoil_tile(path, 5)
    with openslide.OpenSlide(path) as reference:
        with pytest.raises(openslide.OpenSlideError):
            reference.read_region((64, 64), 0, (64, 64))
        with pytest.raises(openslide.OpenSlideError):
            reference.read_region((0, 0), 0, (64, 64))
    with open_slide(path, reader="openslide") as slide:
        for _ in range(3):
            with pytest.raises(UnreadableRegionError, match=r"slide\.tif: the region at 64, 64 of pyramid level 0"):
                slide.read(Region(64, 64, 64, 64), 64, 64)
            np.testing.assert_array_equal(slide.read(Region(0, 0, 64, 64), 64, 64), expected[:64, :64])


@pytest.mark.parametrize("reader", ["tifffile", "openslide"])
def test_closing_under_a_read_is_an_error_or_the_right_pixels(tiled, coded, reader):
    expected = coded(1100, 900)
    for _ in range(20):
        slide = open_slide(tiled, reader=reader)
        with ThreadPoolExecutor(4) as pool:
            reads = [pool.submit(slide.read, Region(x, 0, 500, 400), 500, 400) for x in (0, 100, 200, 300)]
            slide.close()
            for x, read in zip((0, 100, 200, 300), reads, strict=True):
                error = read.exception()
                if error is None:
                    np.testing.assert_array_equal(read.result(), expected[:400, x : x + 500])
                else:
                    assert isinstance(error, SlideError)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=st.integers(-80, 1150),
    y=st.integers(-80, 950),
    width=st.integers(2, 400),
    height=st.integers(2, 400),
    share=st.floats(0.01, 0.99),
    across=st.booleans(),
)
def test_two_halves_are_one_read(tiled, x, y, width, height, share, across):
    with open_slide(tiled) as slide:
        whole = slide.read(Region(x, y, width, height), width, height)
        if across:
            cut = min(width - 1, max(1, round(share * width)))
            halves = [Region(x, y, cut, height), Region(x + cut, y, width - cut, height)]
        else:
            cut = min(height - 1, max(1, round(share * height)))
            halves = [Region(x, y, width, cut), Region(x, y + cut, width, height - cut)]
        parts = [slide.read(half, half.width, half.height) for half in halves]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1 if across else 0), whole)


def read_tile(slide: Slide, number: int) -> np.ndarray:
    """One of the five tiles in the first row, or of those below."""
    return slide.read(Region(number % 5 * TILE, number // 5 * TILE, TILE, TILE), TILE, TILE)


def test_the_latest_tiles_are_kept_up_to_the_capacity(tiled, monkeypatch):
    monkeypatch.setattr(tiff_backend, "CACHE_BYTES", 3 * TILE * TILE * 3)
    with open_slide(tiled) as slide:
        decoded = []
        for number in (0, 1, 2, 0, 3, 0, 2, 1):
            before = slide.tiles_read
            read_tile(slide, number)
            decoded += [number] * (slide.tiles_read - before)
        # 3 drops 1, which was used longest ago; so 1 is decoded again.
        assert decoded == [0, 1, 2, 3, 1]


def test_a_tile_larger_than_the_cache_is_kept_until_the_next(tiled, monkeypatch):
    monkeypatch.setattr(tiff_backend, "CACHE_BYTES", 10)
    monkeypatch.setattr(tiff_backend, "MOST_CACHE_BYTES", 10)
    with open_slide(tiled) as slide:
        counts = []
        for number in (0, 0, 1, 0):
            read_tile(slide, number)
            counts.append(slide.tiles_read)
    assert counts == [1, 1, 2, 3]


def test_threads_that_want_one_tile_decode_it_once(tiled):
    started = threading.Barrier(8)

    def read_all(_: int) -> list[np.ndarray]:
        found = []
        for number in range(15):
            started.wait()
            found.append(read_tile(slide, number))
        return found

    with open_slide(tiled) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_all, range(8)))
        assert slide.tiles_read == 15
    for tiles in found[1:]:
        np.testing.assert_array_equal(tiles, found[0])


def test_a_tile_that_failed_is_tried_again(tiled, coded, spoil_tile):
    whole = tiled.read_bytes()
    spoil_tile(tiled, 0)
    with open_slide(tiled) as slide:
        for _ in range(2):
            with pytest.raises(UnreadableRegionError, match="the tile at column 0, row 0"):
                read_tile(slide, 0)
        with tiled.open("r+b") as file:  # the file that is open, and not another one in its place
            file.write(whole)
        np.testing.assert_array_equal(read_tile(slide, 0), coded(TILE, TILE))
