"""TIFFs of every kind, made here, with pixels that are known; and damaged ones, which must never read as silence."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tnet_cli.errors import SlideError, UnreadableRegionError, UsageError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.opening import open_slide

WIDTH, HEIGHT = 333, 207

LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tile": (64, 96)},
    "stripped": {"rowsperstrip": 10},
    "one strip": {"rowsperstrip": HEIGHT},
}
LOSSLESS = [None, "lzw", "adobe_deflate", "deflate", "zstd", "packbits", "lzma"]


def read_all(path: Path) -> np.ndarray:
    """Level 0, whole, at its own size."""
    with open_slide(path) as slide:
        assert slide.reader == "tifffile"
        return slide.read(Region(0, 0, slide.size.width, slide.size.height), slide.size.width, slide.size.height)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", LOSSLESS)
def test_lossless_compressions(write_tiff, coded, layout, compression):
    path = write_tiff(coded(WIDTH, HEIGHT), photometric="rgb", compression=compression, **LAYOUTS[layout])
    np.testing.assert_array_equal(read_all(path), coded(WIDTH, HEIGHT))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(
            slide.read(Region(60, 90, 150, 17), 150, 17), coded(WIDTH, HEIGHT)[90:107, 60:210]
        )


@pytest.mark.parametrize("compression", ["lzw", "zstd", "deflate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_predictor_and_byte_order(tmp_path, coded, compression, byteorder):
    deep = coded(WIDTH, HEIGHT).astype(np.uint16) * 256 + 77
    path = tmp_path / "deep.tif"
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        tif.write(deep, photometric="rgb", compression=compression, predictor=True, tile=(64, 64))
    np.testing.assert_array_equal(read_all(path), coded(WIDTH, HEIGHT))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("photometric", "subsampling"), [("rgb", None), ("ycbcr", (1, 1)), ("ycbcr", (2, 1)), ("ycbcr", (2, 2))]
)
def test_jpeg(write_tiff, smooth, layout, photometric, subsampling):
    options = {"rowsperstrip": 16} if layout == "stripped" else LAYOUTS[layout]
    pixels = smooth(WIDTH, HEIGHT)
    # tifffile takes the samples as they are to be stored.
    samples = pixels if photometric == "rgb" else np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    path = write_tiff(
        samples,
        photometric=photometric,
        subsampling=subsampling,
        compression="jpeg",
        compressionargs={"level": 95},
        **options,
    )
    found = read_all(path)
    np.testing.assert_array_equal(found, tifffile.imread(path))
    # The colours are the picture's own: a mistaken colour space is off by tens of grey levels.
    assert np.abs(found.astype(int) - pixels).mean() < 6


def test_jpeg_2000_lossless(write_tiff, coded):
    path = write_tiff(coded(WIDTH, HEIGHT), photometric="rgb", compression="jpeg2000", tile=(64, 64))
    np.testing.assert_array_equal(read_all(path), coded(WIDTH, HEIGHT))


def test_webp_lossless(write_tiff, coded):
    path = write_tiff(
        coded(WIDTH, HEIGHT), photometric="rgb", compression="webp", compressionargs={"level": -1}, tile=(64, 64)
    )
    np.testing.assert_array_equal(read_all(path), coded(WIDTH, HEIGHT))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_kinds_of_samples(write_tiff, coded, rng, layout, compression):
    options = {"compression": compression, **LAYOUTS[layout]}
    pixels = coded(WIDTH, HEIGHT)
    grey = pixels[..., 0]
    deep = grey.astype(np.uint16) * 256 + rng.integers(0, 256, grey.shape, dtype=np.uint16)
    colours = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    palette = np.ascontiguousarray(colours.T).astype(np.uint16) * 257
    apart = pixels.transpose(2, 0, 1)
    made: dict[str, tuple[Any, dict[str, Any], np.ndarray]] = {
        "grey": (grey, {"photometric": "minisblack"}, as_rgb(grey)),
        "white is zero": (grey, {"photometric": "miniswhite"}, as_rgb(255 - grey)),
        "16 bit grey": (deep, {"photometric": "minisblack"}, as_rgb(grey)),
        "16 bit white is zero": (deep, {"photometric": "miniswhite"}, as_rgb(255 - grey)),
        "32 bit grey": (deep.astype(np.uint32) << 16, {"photometric": "minisblack"}, as_rgb(grey)),
        "signed": (np.int16(grey) * 128 + 3, {"photometric": "minisblack"}, as_rgb(grey)),
        "fractions": ((grey / 255).astype(np.float32), {"photometric": "minisblack"}, as_rgb(grey)),
        "palette": (grey, {"photometric": "palette", "colormap": palette}, colours[grey]),
        "planes apart": (apart, {"photometric": "rgb", "planarconfig": "separate"}, pixels),
        "16 bit planes apart": (np.uint16(apart) * 257, {"photometric": "rgb", "planarconfig": "separate"}, pixels),
    }
    for name, (samples, kind, expected) in made.items():
        path = write_tiff(samples, f"{name}.tif", **kind, **options)
        np.testing.assert_array_equal(read_all(path), expected, name)


def test_fractions_that_are_no_numbers_are_black(write_tiff):
    samples = np.full((32, 32), 0.5, np.float32)
    samples[3, 4], samples[5, 6] = np.nan, 7.0
    found = read_all(write_tiff(samples, photometric="minisblack", tile=(16, 16)))
    assert (found[3, 4].tolist(), found[5, 6].tolist(), found[0, 0].tolist()) == ([0] * 3, [255] * 3, [128] * 3)


def test_one_bit(write_tiff, coded):
    bits = coded(WIDTH, HEIGHT)[..., 0] % 3 == 0
    for photometric, is_white in (("minisblack", bits), ("miniswhite", ~bits)):
        path = write_tiff(bits, f"{photometric}.tif", photometric=photometric, rowsperstrip=16)
        np.testing.assert_array_equal(read_all(path), as_rgb(is_white.astype(np.uint8) * 255))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_alpha_is_laid_over_white(write_tiff, coded, kind, channels, depth):
    colour, alpha = coded(WIDTH, HEIGHT)[..., :channels], coded(WIDTH, HEIGHT)[..., 1:2]
    share = alpha.astype(float) / 255
    if kind == "assocalpha":
        colour = np.floor(colour * share).astype(np.uint8)
    expected = colour * (1 if kind == "assocalpha" else share) + 255 * (1 - share)
    samples = np.concatenate([colour, alpha], axis=2)
    if depth == 16:
        samples = samples.astype(np.uint16) * 257
    photometric = "rgb" if channels == 3 else "minisblack"
    path = write_tiff(
        samples, photometric=photometric, extrasamples=[kind], planarconfig="contig", compression="lzw", tile=(64, 64)
    )
    found = read_all(path).astype(float)
    # Rounding to whole grey levels.
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_fully_transparent_is_white_whatever_its_colour(write_tiff):
    samples = np.zeros((32, 32, 4), np.uint8)
    path = write_tiff(samples, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))
    assert (read_all(path) == 255).all()


TURNED = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_orientations(write_tiff, coded, orientation, layout):
    stored = coded(WIDTH, HEIGHT)
    path = write_tiff(
        stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)], compression="lzw", **LAYOUTS[layout]
    )
    expected = TURNED[orientation](stored)
    np.testing.assert_array_equal(read_all(path), expected)
    with open_slide(path) as slide:
        assert slide.size == Size(expected.shape[1], expected.shape[0])
        x, y = slide.size.width - 50, 20
        found = slide.read(Region(x, y, 60, 40), 60, 40)
        np.testing.assert_array_equal(found[:, :50], expected[y : y + 40, x:])
        assert (found[:, 50:] == 255).all()


@pytest.mark.parametrize("subifds", [False, True], ids=["later pages", "sub-pages"])
@pytest.mark.parametrize("layout", ["tiled", "stripped"])
def test_pyramid_levels_are_read_from_the_file(write_tiff, coded, layout, subifds):
    levels = [coded(801, 603), coded(400, 301, 1), coded(200, 150, 2), coded(50, 37, 3)]
    path = write_tiff(levels, subifds=subifds, photometric="rgb", compression="lzw", **LAYOUTS[layout])
    with open_slide(path) as slide:
        assert [stored.downsample for stored in slide.pyramid] == [1, 2, 4, 16]
        assert [(stored.size.width, stored.size.height) for stored in slide.pyramid] == [
            (801, 603),
            (400, 301),
            (200, 150),
            (50, 37),
        ]
        for shrink, pyramid_level in ((1, 0), (2, 1), (4, 2), (16, 3)):
            region = Region(16, 32, 32 * shrink, 24 * shrink)
            x, y = 16 // shrink, 32 // shrink
            expected = levels[pyramid_level][y : y + 24, x : x + 32]
            np.testing.assert_array_equal(slide.read(region, 32, 24)[: len(expected)], expected)


def test_pages_of_another_shape_are_no_pyramid(tmp_path, coded):
    path = tmp_path / "with label.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(coded(640, 480), photometric="rgb", tile=(64, 64))
        tif.write(coded(320, 320), photometric="rgb", tile=(64, 64), subfiletype=1)
        tif.write(coded(320, 240, 1), photometric="rgb", tile=(64, 64), subfiletype=1)
        tif.write(coded(160, 120)[..., 0], photometric="minisblack", tile=(64, 64), subfiletype=1)
    with open_slide(path) as slide:
        assert [stored.size for stored in slide.pyramid] == [Size(640, 480), Size(320, 240)]


def test_long_and_narrow_pyramid(write_tiff, coded):
    levels = [coded(100, 4000), coded(25, 1000, 1), coded(6, 250, 2)]
    with open_slide(write_tiff(levels, photometric="rgb", tile=(64, 64))) as slide:
        assert [stored.downsample for stored in slide.pyramid] == [1, 4, 16]


def test_missing_tiles_are_background(tmp_path, coded):
    pixels = coded(192, 128)
    tiles = [pixels[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64, 128)]
    path = tmp_path / "sparse.tif"
    with tifffile.TiffWriter(path) as tif:
        kept = (tile if i != 4 else None for i, tile in enumerate(tiles))
        tif.write(kept, shape=(128, 192, 3), dtype="uint8", photometric="rgb", tile=(64, 64), compression="lzw")
    expected = pixels.copy()
    expected[64:128, 64:128] = 255
    np.testing.assert_array_equal(read_all(path), expected)


def test_big_tiff_with_a_tile_beyond_four_gigabytes(tmp_path, coded):
    """The last tile's bytes are moved behind a hole of five gigabytes, which takes no room on the disk."""
    path, far = tmp_path / "big.tif", 5 * 2**30
    tifffile.imwrite(path, coded(128, 64), photometric="rgb", tile=(64, 64), bigtiff=True, compression="lzw")
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offset, count = page.dataoffsets[1], page.databytecounts[1]
        place = page.tags["TileOffsets"].valueoffset + 8
    with path.open("r+b") as file:
        file.seek(offset)
        data = file.read(count)
        file.seek(offset)
        file.write(bytes(count))
        file.seek(far)
        file.write(data)
        file.seek(place)
        file.write(struct.pack("<Q", far))
    assert path.stat().st_blocks * 512 < 10 * 2**20
    assert path.stat().st_size > 2**32
    np.testing.assert_array_equal(read_all(path), coded(128, 64))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("compression", [None, "lzw", "jpeg", "zstd"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_files(write_tiff, smooth, layout, compression, share):
    """Wherever a file ends too early, reading all of it is an error: on opening, or of a region."""
    options = LAYOUTS[layout] if layout != "stripped" or compression != "jpeg" else {"rowsperstrip": 16}
    path = write_tiff(smooth(WIDTH, HEIGHT), photometric="rgb", compression=compression, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SlideError, match=r"slide\.tif: ") as caught:
        read_all(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", ["lzw", "jpeg", "zstd", "deflate", "jpeg2000"])
def test_a_junk_tile_is_an_error_and_the_others_are_not(write_tiff, smooth, spoil_tile, compression):
    path = write_tiff(smooth(256, 128), photometric="rgb", compression=compression, tile=(64, 64))
    expected = tifffile.imread(path)
    spoil_tile(path, 5)
    with open_slide(path) as slide:
        with pytest.raises(UnreadableRegionError, match="column 1, row 1 of pyramid level 0 cannot be decoded"):
            slide.read(Region(0, 0, 256, 128), 256, 128)
        np.testing.assert_array_equal(slide.read(Region(128, 0, 128, 128), 128, 128), expected[:, 128:])
        with pytest.raises(UnreadableRegionError):
            slide.read(Region(100, 100, 8, 8), 8, 8)


def test_jpeg_data_that_are_cut_off_are_an_error(tmp_path, smooth):
    """A JPEG decoder would fill the rest with grey."""
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, smooth(128, 64), photometric="rgb", compression="jpeg", tile=(64, 64))
    with tifffile.TiffFile(path) as tif:
        counts = tif.pages.first.tags["TileByteCounts"]
        tags = list(counts.value)
    tags[1] = tags[1] // 2
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["TileByteCounts"].overwrite(tags)
    with open_slide(path) as slide:
        slide.read(Region(0, 0, 64, 64), 64, 64)
        with pytest.raises(UnreadableRegionError, match="the JPEG data are cut off"):
            slide.read(Region(64, 0, 64, 64), 64, 64)


@pytest.mark.parametrize(
    ("photometric", "samples", "says"),
    [("separated", 4, "SEPARATED"), ("cielab", 3, "CIELAB"), ("logluv", 3, "LOGLUV")],
)
def test_kinds_that_are_not_supported_say_so(write_tiff, photometric, samples, says):
    path = write_tiff(np.zeros((64, 64, samples), np.uint8), photometric=photometric, rowsperstrip=8)
    with pytest.raises(SlideError, match=f"its pixels are {says}, compressed as NONE, which is not supported"):
        open_slide(path)


@pytest.mark.parametrize("name", ["größe 切片 ✂.tif", "with 'quotes' and \"more\".tif", " spaces .tif", "no suffix"])
def test_names(write_tiff, coded, name):
    path = write_tiff(coded(64, 64), name, photometric="rgb", tile=(32, 32))
    np.testing.assert_array_equal(read_all(path), coded(64, 64))
    with open_slide(path, reader="openslide") as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 64, 64), 64, 64), coded(64, 64))


@pytest.mark.parametrize("reader", ["tifffile", "openslide", "pillow"])
def test_a_closed_slide_says_so(write_tiff, coded, reader):
    slide = open_slide(write_tiff(coded(64, 64), photometric="rgb", tile=(32, 32)), reader=reader)
    slide.close()
    slide.close()
    with pytest.raises(SlideError, match="is closed"):
        slide.read(Region(0, 0, 8, 8), 8, 8)
    with pytest.raises(SlideError, match="is closed"):
        slide.thumbnail(8)


def test_files_that_are_no_slides(tmp_path):
    text, empty = tmp_path / "notes.svs", tmp_path / "empty.tif"
    text.write_text("not a slide\n")
    empty.touch()
    for path, says in (
        (tmp_path / "absent.svs", "no such file"),
        (tmp_path, "is a directory"),
        (empty, "is empty"),
        (text, "is neither a slide nor a picture"),
    ):
        with pytest.raises(SlideError, match=says) as caught:
            open_slide(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("reader", ["tifffile", "openslide", "pillow"])
def test_a_forced_reader_that_cannot_is_an_error(tmp_path, reader):
    path = tmp_path / "notes.svs"
    path.write_text("not a slide, whatever reads it")
    with pytest.raises(SlideError, match=r"notes\.svs: "):
        open_slide(path, reader=reader)


@pytest.mark.parametrize("reader", ["tifffile", "openslide", "pillow"])
def test_a_forced_reader_reads(write_tiff, coded, reader):
    with open_slide(write_tiff(coded(96, 80), photometric="rgb", tile=(32, 32)), reader=reader) as slide:
        assert slide.reader == reader
        np.testing.assert_array_equal(slide.read(Region(0, 0, 96, 80), 96, 80), coded(96, 80))


def test_an_unknown_reader_is_a_usage_error(write_tiff, coded):
    with pytest.raises(UsageError, match="--reader vips: expected one of openslide, tifffile, pillow"):
        open_slide(write_tiff(coded(64, 64), photometric="rgb"), reader="vips")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read(write_tiff, coded):
    path = write_tiff(coded(64, 64), photometric="rgb")
    path.chmod(0)
    with pytest.raises(SlideError, match="cannot be opened: Permission denied"):
        open_slide(path)


def test_what_is_read_belongs_to_the_caller(write_tiff, coded):
    with open_slide(write_tiff(coded(64, 64), photometric="rgb", tile=(64, 64))) as slide:
        first = slide.read(Region(0, 0, 64, 64), 64, 64)
        first[...] = 0
        np.testing.assert_array_equal(slide.read(Region(0, 0, 64, 64), 64, 64), coded(64, 64))


def test_a_picture_is_turned_as_its_exif_says(tmp_path, smooth):
    path, picture = tmp_path / "photo.jpg", Image.fromarray(smooth(96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, quality=95, exif=exif)
    with Image.open(path) as stored:
        expected = np.rot90(np.asarray(stored), -1)
    with open_slide(path) as slide:
        assert (slide.reader, slide.size, slide.mpp, slide.pixels_read) == ("pillow", Size(64, 96), None, 96 * 64)
        np.testing.assert_array_equal(slide.read(Region(0, 0, 64, 96), 64, 96), expected)
        half = slide.read(Region(0, 0, 64, 96), 32, 48).astype(float)
        averages = expected.reshape(48, 2, 32, 2, 3).mean(axis=(1, 3))
        # Rounded once across and once down.
        assert np.abs(half - averages).max() <= 1


def test_a_transparent_picture_lies_over_white(tmp_path, coded):
    pixels = coded(96, 64)
    alpha = np.where(np.arange(96) < 48, 255, 0).astype(np.uint8)
    rgba = np.dstack([pixels, np.broadcast_to(alpha, (64, 96))])
    Image.fromarray(rgba).save(tmp_path / "half.png")
    with open_slide(tmp_path / "half.png") as slide:
        found = slide.read(Region(0, 0, 96, 64), 96, 64)
    np.testing.assert_array_equal(found[:, :48], pixels[:, :48])
    assert (found[:, 48:] == 255).all()


def test_a_sixteen_bit_picture_is_scaled(tmp_path, coded):
    grey = coded(96, 64)[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 256 + 99).save(tmp_path / "deep.png")
    with open_slide(tmp_path / "deep.png") as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 96, 64), 96, 64), as_rgb(grey))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_picture_is_an_error(tmp_path, smooth, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(smooth(256, 256)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SlideError, match=rf"cut\.{suffix}: cannot be decoded"):
        open_slide(path)
