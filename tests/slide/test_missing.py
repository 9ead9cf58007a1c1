"""What a slide's file does not hold: how it is filled, what is said of it, and when the slide is refused."""

import io
import struct
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from tests.slide.dicom_writer import write_dicom
from tests.slide.tiff_writer import RawPage, cut, plain_tags, write_raw_tiff
from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Doubt, Slide

APERIO = "Aperio Leica Biosystems GT450 v1.0.1\r\n512x384 [0,0 512x384] (64x64) |AppMag = 20|MPP = 0.5"


def patch(path: Path, page_number: int, tag: str, values: Sequence[int], first: int = 0) -> None:
    """Write other values into a tag of a page, from one of its values on."""
    with tifffile.TiffFile(path) as tif:
        found = tif.pages[page_number].aspage().tags[tag]
        kind = {"SHORT": "H", "LONG": "I", "IFD": "I", "LONG8": "Q"}[tifffile.DATATYPE(found.dtype).name]
        at = found.valueoffset + struct.calcsize(kind) * first
        data = struct.pack(f"{tif.byteorder}{len(values)}{kind}", *values)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def leave_out(path: Path, page_number: int, tiles: Sequence[int], unit: str = "Tile") -> None:
    for tile in tiles:
        patch(path, page_number, f"{unit}ByteCounts", [0], tile)
        patch(path, page_number, f"{unit}Offsets", [0], tile)


def stored(slide: Slide, pyramid_level: int) -> np.ndarray:
    level = slide.pyramid[pyramid_level]
    factor = round(level.downsample)
    whole = Region(0, 0, level.size.width * factor, level.size.height * factor)
    return slide.read(whole, level.size.width, level.size.height)


def by_openslide(path: Path, pyramid_level: int) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), pyramid_level, slide.level_dimensions[pyramid_level]))


@pytest.fixture
def pyramid(write_tiff, smooth, averaged):
    """Write a slide of 512 x 384 pixels and its reduction by 4, in tiles of 64 pixels, two rows of two down there."""

    def write(*, description: str | None = None, **options) -> tuple[Path, np.ndarray, np.ndarray]:
        finest = smooth(512, 384)
        reduced = (averaged(finest, 4) + 0.5).astype(np.uint8)
        options = {"tile": (64, 64), "photometric": "rgb"} | options
        return write_tiff([finest, reduced], description=description, **options), finest, reduced

    return write


def test_an_ordinary_slide_leaves_no_doubt_and_a_doubt_is_told_once(pyramid):
    with open_slide(pyramid()[0]) as slide:
        slide.thumbnail(300)
        assert not slide.doubts
        slide.doubt("scale", "names a scale for one axis alone", may_change_answer=False)
        slide.doubt("scale", "is not told twice")
        assert slide.doubts == (Doubt("scale", "names a scale for one axis alone", may_change_answer=False),)


@pytest.mark.parametrize("description", [APERIO, None])
@pytest.mark.parametrize("tag", ["TileOffsets", "TileByteCounts"])
def test_a_tile_that_a_reduced_level_lacks_comes_from_the_finer_one(pyramid, description, tag):
    path, _, reduced = pyramid(description=description)
    patch(path, 1, tag, [0], 1)
    with open_slide(path) as slide:
        np.testing.assert_allclose(stored(slide, 1).astype(int), reduced, atol=1)
        (doubt,) = slide.doubts
        assert (doubt.name, doubt.may_change_answer) == ("missing_tiles", False)
        assert "1 of 4 tiles of its image of 128 x 96 pixels" in doubt.sentence
        if description is not None and tag == "TileByteCounts":
            assert np.abs(stored(slide, 1).astype(int) - by_openslide(path, 1)[..., :3]).mean() < 6


def test_openslide_without_an_idea_of_missing_tiles_is_given_the_finer_level(pyramid):
    path, _, reduced = pyramid()
    leave_out(path, 1, [1])
    assert by_openslide(path, 1)[:64, 64:, 3].max() == 0
    with open_slide(path, reader="openslide") as slide:
        np.testing.assert_allclose(stored(slide, 1).astype(int), reduced, atol=1)
        assert "missing_tiles" in [doubt.name for doubt in slide.doubts]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_filled_lies_as_the_rest_does(pyramid, orientation):
    path, _, reduced = pyramid(extratags=[(274, 3, 1, orientation, True)])
    with open_slide(path) as whole:
        expected = stored(whole, 1)
    leave_out(path, 1, [1, 2])
    with open_slide(path) as slide:
        np.testing.assert_allclose(stored(slide, 1).astype(int), expected, atol=1)
    assert sorted(expected.shape[:2]) == sorted(reduced.shape[:2])


def test_a_reduced_level_without_any_tile_is_made_from_the_finer_one(pyramid):
    path, _, reduced = pyramid(description=APERIO)
    leave_out(path, 1, range(4))
    with open_slide(path) as slide:
        assert len(slide.pyramid) == 1
        np.testing.assert_allclose(slide.thumbnail(128).astype(int), reduced, atol=1)
        assert "4 of 4 tiles" in slide.doubts[0].sentence


@pytest.mark.parametrize(("tags", "may_change_answer"), [([], True), ([(42113, "s", 2, "0", True)], False)])
def test_a_tile_that_the_finest_level_lacks_is_background_and_said(pyramid, tags, may_change_answer):
    path, finest, _ = pyramid(extratags=tags)
    leave_out(path, 0, [3, 4])
    expected = finest.copy()
    expected[:64, 192:320] = 255
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 512, 384), 512, 384), expected)
        sentence = "the file lacks 2 of 48 tiles of its image of 512 x 384 pixels, shown as background"
        assert slide.doubts == (Doubt("missing_tiles", sentence, may_change_answer),)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"tile": None, "rowsperstrip": 16}, {"tile": None}])
@pytest.mark.parametrize("reader", [None, "openslide"])
def test_a_slide_of_which_nothing_is_stored_is_refused(pyramid, options, reader):
    path, _, _ = pyramid(**options)
    unit = "Strip" if "tile" in options else "Tile"
    with tifffile.TiffFile(path) as tif:
        count = len(tif.pages[0].aspage().dataoffsets)
    leave_out(path, 0, range(count), unit)
    with pytest.raises(SlideError, match=rf"none of the {count} tiles or strips .* did not finish"):
        open_slide(path, reader=None if unit == "Strip" else reader)


def test_strips_that_are_missing_are_said(pyramid):
    path, finest, _ = pyramid(tile=None, rowsperstrip=16)
    leave_out(path, 0, [2], "Strip")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 512, 32), 512, 32), finest[:32])
        assert (slide.read(Region(0, 32, 512, 16), 512, 16) == 255).all()
        assert slide.doubts[0].may_change_answer


def end_of_first_directory(path: Path) -> tuple[int, str]:
    """Where the offset of the second directory stands, and its type."""
    with tifffile.TiffFile(path) as tif:
        first, kind = tif.pages[0].aspage(), tif.tiff
        tif.filehandle.seek(first.offset)
        (tags,) = struct.unpack(kind.tagnoformat, tif.filehandle.read(kind.tagnosize))
        return first.offset + kind.tagnosize + tags * kind.tagsize, kind.offsetformat


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_file_whose_list_of_images_goes_on_beyond_its_end_is_refused(pyramid, bigtiff):
    path, _, _ = pyramid(description=APERIO, bigtiff=bigtiff)
    at, kind = end_of_first_directory(path)
    data = path.read_bytes()
    (second,) = struct.unpack_from(kind, data, at)
    path.write_bytes(data[:second])
    with pytest.raises(SlideError, match="is cut off: some of its images lie beyond the end"):
        open_slide(path)


NO_SIZE = "one of its images has no size and may be the slide; the file is damaged, copy it again"


@pytest.mark.parametrize("broken", ["zeros", "garbage", "circle"])
def test_a_list_of_images_that_breaks_off_is_said(pyramid, broken):
    path, finest, _ = pyramid(description=APERIO)
    at, kind = end_of_first_directory(path)
    data = bytearray(path.read_bytes())
    onward = {"zeros": len(data), "garbage": len(data), "circle": 8}[broken]
    data += bytes(300) if broken == "zeros" else b"\xfe" * 300
    struct.pack_into(kind, data, at, onward)
    path.write_bytes(data)
    if broken == "zeros":
        with pytest.raises(SlideError, match=NO_SIZE):
            open_slide(path)
        return
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 512, 384), 512, 384), finest)
        assert [(doubt.name, doubt.may_change_answer) for doubt in slide.doubts] == [("broken_directory", True)]


def test_sub_images_beyond_the_end_are_refused(pyramid):
    path, _, _ = pyramid(subifds=True)
    patch(path, 0, "SubIFDs", [path.stat().st_size + 100])
    with pytest.raises(SlideError, match="is cut off"):
        open_slide(path)


def test_a_sub_image_that_is_all_zeros_is_refused(pyramid):
    path, _, _ = pyramid(subifds=True)
    at = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(300))
    patch(path, 0, "SubIFDs", [at])
    with pytest.raises(SlideError, match=NO_SIZE):
        open_slide(path)


@pytest.mark.parametrize("page_number", [0, 1])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_tiles_beyond_the_end_are_refused(pyramid, page_number, bigtiff):
    path, _, _ = pyramid(bigtiff=bigtiff)
    patch(path, page_number, "TileOffsets", [path.stat().st_size - 10], 2)
    with pytest.raises(SlideError, match=r"is cut off: 1 of the (48|4) tiles or strips .* copy it again"):
        open_slide(path)


def test_a_label_beyond_the_end_is_said(tmp_path, smooth):
    path = tmp_path / "labelled.svs"
    with tifffile.TiffWriter(path) as tif:
        tif.write(smooth(256, 256), tile=(64, 64), photometric="rgb", description=APERIO, metadata=None)
        tif.write(smooth(60, 40), photometric="rgb", description="Aperio\r\nlabel 60x40", metadata=None)
    patch(path, 1, "StripOffsets", [path.stat().st_size - 100])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 256, 256), 256, 256), smooth(256, 256))
        assert [(doubt.name, doubt.may_change_answer) for doubt in slide.doubts] == [("cut_off", False)]


def test_bytes_that_nobody_needs_may_lie_beyond_the_end(write_tiff, smooth):
    pixels = smooth(200, 100)
    path = write_tiff(pixels, photometric="rgb")
    patch(path, 0, "StripByteCounts", [pixels.nbytes + 5000])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 200, 100), 200, 100), pixels)
        assert slide.doubts == ()


@pytest.mark.parametrize(
    ("compression", "fault"),
    [
        (None, "few bytes"),  # at a garbage offset any bytes are pixels
        *product(["jpeg", "deflate", "lzw", "zstd", "jpeg2000"], ["few bytes", "garbage offset"]),
    ],
)
def test_tiles_that_hold_something_else_are_unreadable(pyramid, compression, fault):
    path, _, _ = pyramid(compression=compression)
    if fault == "few bytes":
        patch(path, 0, "TileByteCounts", [7], 5)
    else:
        patch(path, 0, "TileOffsets", [9], 5)
    with open_slide(path) as slide, pytest.raises(UnreadableRegionError, match="column 5, row 0"):
        slide.read(Region(0, 0, 512, 64), 512, 64)


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}, {"subsampling": 0}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_jpeg_tiles_that_end_early_are_unreadable_and_grey_ones_are_not(tmp_path, smooth, options, share):
    def encoded(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", **options)
        return file.getvalue()

    whole, grey = encoded(smooth(128, 128)), encoded(np.full((128, 128, 3), 128, np.uint8))
    early = whole[: int(len(whole) * share)] + b"\xff\xd9"
    path = tmp_path / "early.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            iter([whole, grey, early]),
            shape=(128, 384, 3),
            dtype=np.uint8,
            tile=(128, 128),
            photometric="ycbcr",
            compression="jpeg",
            subsampling=(1, 1) if "subsampling" in options else (2, 2),
            metadata=None,
        )
    with open_slide(path) as slide:
        expected = np.hstack([imagecodecs.jpeg8_decode(whole), imagecodecs.jpeg8_decode(grey)])
        np.testing.assert_array_equal(slide.read(Region(0, 0, 256, 128), 256, 128), expected)
        with pytest.raises(UnreadableRegionError, match="the JPEG data end too early"):
            slide.read(Region(256, 0, 128, 128), 128, 128)


@pytest.mark.parametrize("colours", ["RGB", "L"])
def test_a_jpeg_picture_that_ends_early_is_refused(tmp_path, smooth, colours):
    path = tmp_path / "early.jpg"
    Image.fromarray(smooth(160, 120)).convert(colours).save(path)
    with open_slide(path) as slide, Image.open(path) as picture:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 160, 120), 160, 120), picture.convert("RGB"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(SlideError, match="its JPEG data end too early"):
        open_slide(path)


def test_old_style_jpeg_is_decoded(tmp_path, smooth):
    file = io.BytesIO()
    Image.fromarray(smooth(160, 96)).save(file, "JPEG", subsampling=0, quality=90)
    jpeg = file.getvalue()
    start = jpeg.index(b"\xff\xda")
    scan = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    tags = [
        (256, 3, 1, 160),
        (257, 3, 1, 96),
        (259, 3, 1, 6),
        (262, 3, 1, 6),
        (273, 4, 1, 8 + scan),
        (277, 3, 1, 3),
        (278, 3, 1, 96),
        (279, 4, 1, len(jpeg) - scan),
        (512, 3, 1, 1),
        (513, 4, 1, 8),
        (514, 4, 1, len(jpeg)),
        (530, 3, 2, 0x00010001),
    ]
    bits = (258, 3, 3, 8 + len(jpeg))
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted([*tags, bits]))
    end = 8 + len(jpeg) + 6
    header = b"II*\x00" + struct.pack("<I", end)
    path = tmp_path / "old.tif"
    path.write_bytes(header + jpeg + struct.pack("<3H", 8, 8, 8) + struct.pack("<H", 13) + directory + bytes(4))
    with open_slide(path) as slide:
        expected = np.asarray(Image.open(io.BytesIO(jpeg)))
        np.testing.assert_allclose(slide.read(Region(0, 0, 160, 96), 160, 96).astype(int), expected, atol=2)


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_png_with_a_long_text_opens_the_way_it_is_meant_to_be_seen(tmp_path, smooth, where):
    pixels = smooth(150, 100)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("log", "every step of the workflow " * 100_000, zip=True)
    texts.add_itxt("more", "and what it means " * 100_000, zip=True)
    path = tmp_path / "texts.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, pnginfo=texts, exif=exif)
    if where == "after":
        data = path.read_bytes()
        end, body = len(data) - 12, data.index(b"IDAT") - 4
        first = data.index(b"zTXt") - 4
        path.write_bytes(data[:first] + data[body:end] + data[first:body] + data[end:])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 100, 150), 100, 150), np.rot90(pixels, -1))


def test_frames_that_a_dicom_slide_lacks_are_said_and_those_of_reduced_levels_filled(tmp_path, smooth, averaged):
    finest = smooth(256, 256)
    reduced = (averaged(finest, 4) + 0.5).astype(np.uint8)
    write_dicom(tmp_path / "a.dcm", finest, 64, left_out=[15])
    write_dicom(tmp_path / "b.dcm", reduced, 16, left_out=[3, 6], downsample=4)
    expected = reduced.copy()
    with open_slide(tmp_path / "a.dcm") as slide:
        assert slide.reader == "openslide"
        np.testing.assert_allclose(stored(slide, 1).astype(int), expected, atol=1)
        assert [(doubt.name, doubt.may_change_answer) for doubt in slide.doubts] == [("missing_reduced_tiles", False)]
        read = slide.read(Region(0, 0, 256, 256), 256, 256)
        assert (read[192:, 192:] == 255).all()
        np.testing.assert_array_equal(read[:192], finest[:192])
        assert ("missing_tiles", True) in [(doubt.name, doubt.may_change_answer) for doubt in slide.doubts]


def planar(path: Path, pixels: np.ndarray, stored: Sequence[bool], more: dict[int, int] | None = None) -> Path:
    """Write RGB whose colours lie apart, each in tiles of its own, without those that are not stored."""
    height, width = pixels.shape[:2]
    tags = {256: width, 257: height, 258: [8] * 3, 259: 1, 262: 2, 277: 3, 284: 2, 322: 64, 323: 64} | (more or {})
    tiles = [
        tile.tobytes() for plane in range(3) for tile in cut(pixels[..., plane : plane + 1], 64, 64, is_tiled=True)
    ]
    data = [tile if is_stored else b"" for tile, is_stored in zip(tiles, stored, strict=True)]
    return write_raw_tiff(path, [RawPage(plain_tags(tags), data, is_tiled=True)])


def test_a_tile_without_one_of_its_planes_is_missing(tmp_path, smooth):
    pixels = smooth(192, 128)
    with open_slide(
        planar(tmp_path / "a.tif", pixels, [True] * 6 + [True] * 5 + [False] + [False] + [True] * 5)
    ) as slide:
        (doubt,) = slide.doubts
        assert "2 of 6 tiles" in doubt.sentence
        shown = stored(slide, 0)
        np.testing.assert_array_equal(shown[:, 64:128], pixels[:, 64:128])
        assert (shown[:64, :64] == 255).all()
    with pytest.raises(SlideError, match="holds none of the 6 tiles"):
        open_slide(planar(tmp_path / "a.tif", pixels, [True] * 6 + [False] * 12))


@pytest.mark.parametrize("tag", [324, 325])
def test_a_list_of_too_few_tiles_is_refused_before_they_are_read(tmp_path, smooth, tag):
    path = planar(tmp_path / "a.tif", smooth(192, 128), [True] * 18)
    data = bytearray(path.read_bytes())
    at = data.rindex(struct.pack("<HHI", tag, 4, 18))
    data[at + 4 : at + 8] = struct.pack("<I", 17)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="lists only 17 of the 18 tiles or strips of its image of 192 x 128 pixels"):
        open_slide(path)


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_a_jpeg_that_other_data_were_written_over_is_refused(tmp_path, rng, suffix):
    path = tmp_path / f"slide{suffix}"
    pixels = rng.integers(60, 200, (384, 512, 3), np.uint8)
    if suffix == ".tif":
        tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="jpeg")
        with tifffile.TiffFile(path) as tif:
            middle = tif.pages.first.dataoffsets[5] + tif.pages.first.databytecounts[5] // 2
    else:
        Image.fromarray(pixels).save(path, quality=90)
        middle = path.stat().st_size // 2
    content = bytearray(path.read_bytes())
    content[middle : middle + 1000] = rng.bytes(1000)
    path.write_bytes(content)
    with pytest.raises(SlideError), open_slide(path) as slide:
        slide.read(Region(0, 0, 512, 384), 512, 384)
