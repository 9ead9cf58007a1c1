"""The same TIFF through OpenSlide and through tifffile: the same pixels, the same facts.

Both are compared exactly wherever a stored pixel falls on whole level-0 pixels. OpenSlide takes the corner of a region
in level-0 pixels and divides it by a downsample that need not be whole; then it draws between its pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

REAL = {
    "CMU-1-Small-Region.svs": 0,
    "small.svs": 0,
    # 75 x 62 of 300 x 250 is 4.016 to OpenSlide: corners fall up to an eighth of a pixel aside, of edges from 0 to 255.
    "boxes.tiff": 32,
    # OpenSlide keeps colours multiplied by alpha in eight bits, and divides them again.
    "rgba_geotiff.tiff": 1,
}
"""Real files both readers open, and the largest difference of their pixels."""

APERIO = "Aperio Image Library v12.0.0\r\n512x512 (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = {mpp}|Filename = made"

MADE: dict[str, dict[str, Any]] = {
    "jpeg RGB": {"photometric": "rgb", "compression": "jpeg"},
    "jpeg YCbCr 4:4:4": {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (1, 1)},
    "jpeg YCbCr 4:2:0": {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)},
    "jpeg YCbCr 4:2:2": {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 1)},
    "lzw": {"photometric": "rgb", "compression": "lzw"},
    "lzw, predictor": {"photometric": "rgb", "compression": "lzw", "predictor": True},
    "deflate": {"photometric": "rgb", "compression": "adobe_deflate"},
    "uncompressed": {"photometric": "rgb"},
    "big-endian BigTIFF": {"photometric": "rgb", "bigtiff": True, "compression": "zlib"},
    "planes apart": {"photometric": "rgb", "planarconfig": "separate", "compression": "lzw"},
    "aperio": {"photometric": "rgb", "compression": "jpeg", "description": APERIO.format(mpp="0.2520")},
    "aperio jpeg 2000": {"photometric": "rgb", "compression": 33005, "description": APERIO.format(mpp="0.5")},
    "resolution in cm": {"photometric": "rgb", "resolution": (40000, 40000), "resolutionunit": "CENTIMETER"},
    "resolution in inch": {"photometric": "rgb", "resolution": (50800, 50800), "resolutionunit": "INCH"},
    "72 dpi": {"photometric": "rgb", "resolution": (72, 72), "resolutionunit": "INCH"},
}


@contextmanager
def both(path: Path) -> Iterator[tuple[Slide, Slide]]:
    with open_slide(path, reader="openslide") as one, open_slide(path, reader="tifffile") as other:
        yield one, other


@pytest.fixture(params=MADE)
def made(request, smooth, coded, write_tiff) -> Any:
    """A pyramid 1, 2, 4 whose finest size is no multiple of its tiles, yet of 4."""
    options = {**MADE[request.param], "tile": (64, 80)}
    draw = smooth if "jpeg" in str(options.get("compression")) or "description" in options else coded
    levels = [draw(532 // 2**i, 396 // 2**i, i) for i in range(3)]
    if options.get("planarconfig") == "separate":
        levels = [pixels.transpose(2, 0, 1) for pixels in levels]
    if request.param.startswith("big-endian"):
        return write_big_endian(write_tiff, levels, options)
    return write_tiff(levels, **options)


def write_big_endian(write_tiff, levels, options) -> Any:
    path = write_tiff(levels[0], "big.tif", **{k: v for k, v in options.items() if k != "bigtiff"})
    with tifffile.TiffWriter(path, bigtiff=True, byteorder=">") as tif:
        for i, pixels in enumerate(levels):
            tif.write(pixels, photometric="rgb", compression="zlib", tile=(64, 80), subfiletype=int(i > 0))
    return path


def boxes(slide: Slide) -> list[Region]:
    """Whole, inside, across each edge, outside, and thin; at multiples of 8, so of every downsample here."""
    width, height = slide.size.width, slide.size.height
    middle = Region(width // 16 * 8, height // 16 * 8, max(1, width // 3), max(1, height // 3))
    return [
        Region(0, 0, width, height),
        middle,
        Region(-24, -16, 64, 80),
        Region((width - 40) // 8 * 8, (height - 24) // 8 * 8, 88, 96),
        Region(-width, 8, width // 2 + 1, 24),
        Region(width + 80, height + 80, 40, 40),
        Region(8, 8, 1, height),
    ]


def assert_same_pixels(one: Slide, other: Slide, tolerance: int = 0) -> None:
    for region in boxes(one):
        for shrink in (1, 2, 3, 4, 5.3, 7.9):
            size = max(1, round(region.width / shrink)), max(1, round(region.height / shrink))
            difference = np.abs(other.read(region, *size).astype(np.int16) - one.read(region, *size))
            assert difference.max() <= tolerance, f"{region} at {size}"


def assert_same_facts(one: Slide, other: Slide) -> None:
    assert (one.reader, other.reader) == ("openslide", "tifffile")
    assert other.size == one.size
    assert other.pyramid == one.pyramid
    # The file holds resolutions in single precision, and OpenSlide prints them with six digits less.
    assert other.mpp == (None if one.mpp is None else pytest.approx(one.mpp, rel=1e-6))
    assert other.mpp_source == one.mpp_source
    assert other.vendor == one.vendor
    assert other.bounds == one.bounds
    assert other.background == one.background


@pytest.mark.parametrize("name", REAL)
def test_real_slides(slides, name):
    with both(slides / name) as (one, other):
        assert_same_facts(one, other)
        assert_same_pixels(one, other, REAL[name])
        assert np.abs(other.thumbnail(64).astype(int) - one.thumbnail(64)).max() <= REAL[name]


def test_made_pyramids(made):
    with both(made) as (one, other):
        assert_same_facts(one, other)
        assert len(one.pyramid) == 3
        assert_same_pixels(one, other)
        np.testing.assert_array_equal(other.thumbnail(20), one.thumbnail(20))


def test_expected_scales(write_tiff, coded):
    expected = {
        "resolution in cm": (0.25, "tiff resolution"),
        "resolution in inch": (0.5, "tiff resolution"),
        "72 dpi": (None, None),
        "aperio": (0.252, "aperio.MPP"),
    }
    for name, (mpp, source) in expected.items():
        path = write_tiff(coded(256, 256), f"{name}.tif", **MADE[name], tile=(128, 128))
        with both(path) as pair:
            for slide in pair:
                assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-6))
                assert slide.mpp_source == source


def test_odd_sizes(write_tiff, smooth):
    """Level sizes that are rounded: both agree on the stored pixels from the corner, and all but agree elsewhere."""
    levels = [smooth(533, 397), smooth(266, 198, 1), smooth(133, 99, 2)]
    with both(write_tiff(levels, photometric="rgb", compression="lzw", tile=(64, 64))) as (one, other):
        assert_same_facts(one, other)
        assert [stored.downsample for stored in one.pyramid] == [1, 2, 4]
        for shrink in (1, 2, 4):
            for width, height in ((64, 64), (131, 97)):
                region = Region(0, 0, width * shrink, height * shrink)
                np.testing.assert_array_equal(other.read(region, width, height), one.read(region, width, height))
        inside = Region(200, 160, 256, 200)
        difference = np.abs(other.read(inside, 64, 50).astype(int) - one.read(inside, 64, 50))
        # OpenSlide says 4.009 where both are shown as 4, and draws this region 0.1 to 0.5 pixels aside.
        assert difference.mean() < 6
