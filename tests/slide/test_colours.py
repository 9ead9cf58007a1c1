"""What a slide's samples mean where its tags leave it open, or where they and its data disagree."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from tests.slide.tiff_writer import RATIONAL, RawPage, cut, pack_bits, plain_tags, write_raw_tiff
from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide

APERIO = "Aperio Image Library v11.2.1 \r\n96x64 (32x32) J2K/YUV16 Q=70|AppMag = 20|MPP = 0.5"


def read_all(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """A slide, whole, and its doubts."""
    with open_slide(path) as slide:
        pixels = slide.read(Region(0, 0, slide.size.width, slide.size.height), slide.size.width, slide.size.height)
        return pixels, {doubt.name: doubt.sentence for doubt in slide.doubts}


def read_by_openslide(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def as_ycbcr(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_aperio_s_33003_is_ycbcr_whatever_its_tag_says(write_tiff, smooth, photometric):
    pixels = smooth(96, 64)
    options = {"tile": (32, 32), "description": APERIO, "photometric": photometric}
    path = write_tiff(as_ycbcr(pixels), compression=33003, **options)
    found, doubts = read_all(path)
    assert doubts == {}
    assert difference(found, pixels) < 1
    # OpenSlide has the conversion in a table of whole numbers.
    assert np.abs(found.astype(int) - read_by_openslide(path)).max() <= 1
    path = write_tiff(pixels, "rgb.svs", compression=33005, **options)
    np.testing.assert_array_equal(read_all(path)[0], read_by_openslide(path))
    np.testing.assert_array_equal(read_all(path)[0], pixels)


@pytest.mark.parametrize("down", [1, 2])
def test_aperio_s_33003_may_have_less_chroma(write_tiff, smooth, down):
    """Said to be of half the width, which makes other pixels of the data, for both readers the same."""
    options = {"tile": (32, 32), "description": APERIO, "photometric": "rgb"}
    path = write_tiff(as_ycbcr(smooth(96, 64)), compression=33003, compressionargs={"mct": False}, **options)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        for offset in tif.pages.first.dataoffsets:
            sizes = data.find(b"\xff\x51", offset) + 40
            assert data[sizes : sizes + 9] == b"\x07\x01\x01" * 3
            data[sizes : sizes + 9] = bytes([7, 1, 1, 7, 2, down, 7, 2, down])
    path.write_bytes(data)
    assert np.abs(read_all(path)[0].astype(int) - read_by_openslide(path)).max() <= 1


def test_33003_of_other_writers_is_what_its_tag_says(write_tiff, smooth):
    pixels = smooth(96, 64)
    path = write_tiff(pixels, compression=33003, photometric="rgb", tile=(32, 32))
    np.testing.assert_array_equal(read_all(path)[0], pixels)
    # Without a transform of colours the data are YCbCr themselves; with one they come out as RGB.
    for mct, samples in ((False, as_ycbcr(pixels)), (True, pixels)):
        path = write_tiff(
            samples, compression=34712, photometric="ycbcr", tile=(32, 32), compressionargs={"mct": mct, "level": 0}
        )
        assert difference(read_all(path)[0], pixels) < 1, mct


@pytest.mark.parametrize("layout", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
def test_eight_bits_in_deeper_samples(write_tiff, smooth, layout):
    pixels = smooth(96, 64)
    for dtype in ("uint16", "uint32", "int16", "float16", "float32", "float64"):
        path = write_tiff(pixels.astype(dtype), f"{dtype}.tif", photometric="rgb", **layout)
        found, doubts = read_all(path)
        np.testing.assert_array_equal(found, pixels, dtype)
        assert "255 as white" in doubts["sample_range"]
        assert doubts["sample_range"].endswith("the file does not say which value is white")


def test_the_usual_ranges_leave_no_doubt(write_tiff, smooth):
    pixels = smooth(96, 64)
    for samples in (pixels.astype(np.uint16) * 257, (pixels / 255).astype(np.float32)):
        found, doubts = read_all(write_tiff(samples, photometric="rgb", tile=(32, 32)))
        np.testing.assert_array_equal(found, pixels)
        assert doubts == {}


@pytest.mark.parametrize(
    ("dtype", "most", "tags"),
    [
        ("uint16", 4095, [(281, "H", 1, 4095, True)]),
        ("uint16", 1000, [(281, "H", 3, (1000, 1000, 1000), True)]),
        ("float32", 100.0, [(341, "f", 1, 100.0, True)]),
        ("float32", 2.0, [(340, "f", 1, 0.1, True), (341, "f", 1, 2.0, True)]),
        ("int32", 5000, [(341, "i", 1, 5000, True)]),
    ],
)
def test_a_stated_range_counts(write_tiff, smooth, dtype, most, tags):
    pixels = smooth(96, 64)
    samples = (pixels * (most / 255)).astype(dtype)
    found, doubts = read_all(write_tiff(samples, photometric="rgb", tile=(32, 32), extratags=tags))
    assert np.abs(found.astype(int) - pixels).max() <= 1
    assert doubts == {}


def test_a_stated_black_below_zero_counts(write_tiff, smooth):
    pixels = smooth(96, 64)
    samples = (pixels / 127.5 - 1).astype(np.float32)
    tags = [(340, "f", 1, -1.0, True), (341, "f", 1, 1.0, True)]
    found, doubts = read_all(write_tiff(samples, photometric="rgb", tile=(32, 32), extratags=tags))
    assert np.abs(found.astype(int) - pixels).max() <= 1
    assert doubts == {}
    with pytest.raises(SlideError, match=r"they reach from -.* and the file does not say what is black"):
        read_all(write_tiff(samples, photometric="rgb", tile=(32, 32)))


@pytest.mark.parametrize("stated", [65535, 4095, 3])
def test_a_stated_range_that_the_samples_contradict_does_not_count(write_tiff, smooth, stated):
    pixels = smooth(96, 64)
    tags = [(281, "H", 1, stated, True)]
    path = write_tiff(pixels.astype(np.uint16), photometric="rgb", tile=(32, 32), extratags=tags)
    found, doubts = read_all(path)
    np.testing.assert_array_equal(found, pixels)
    assert doubts["sample_range"].endswith("the file says otherwise")


def test_the_range_is_that_of_all_pyramid_levels(write_tiff, smooth):
    """A dark corner alone must not be stretched."""
    levels = [smooth(192, 128).astype(np.uint16) * 16, smooth(96, 64, 1).astype(np.uint16) * 16]
    levels[0][:64, :64] //= 64
    with open_slide(write_tiff(levels, photometric="rgb", tile=(64, 64))) as slide:
        found = slide.read(Region(0, 0, 192, 128), 192, 128)
    np.testing.assert_array_equal(found, levels[0] >> 4)


def test_opacity_has_a_range_of_its_own(write_tiff, smooth):
    pixels = smooth(96, 64)
    samples = np.dstack([pixels, np.ones((64, 96))]).astype(np.float32)
    path = write_tiff(samples, photometric="rgb", extrasamples=["unassalpha"], tile=(32, 32))
    np.testing.assert_array_equal(read_all(path)[0], pixels)


def raw_page(samples: np.ndarray, tags: dict[int, Any], encode=bytes) -> RawPage:
    height, width, channels = samples.shape
    common = {256: width, 257: height, 258: (8,) * channels, 259: 1, 277: channels, 284: 1, 322: 32, 323: 32}
    segments = [encode(piece) for piece in cut(samples, 32, 32, is_tiled=True)]
    return RawPage(plain_tags(common | tags), segments, is_tiled=True)


def test_without_a_photometric_tag_nothing_is_inverted(tmp_path, smooth):
    pixels = smooth(96, 64)
    for channels in (1, 3):
        samples = np.ascontiguousarray(pixels[..., :channels])
        path = write_raw_tiff(tmp_path / "bare.tif", [raw_page(samples, {}, np.ndarray.tobytes)])
        np.testing.assert_array_equal(read_all(path)[0], np.broadcast_to(samples, pixels.shape))


def jpeg_tile(piece: np.ndarray, colours: str, *, is_marked: bool) -> bytes:
    data = bytes(imagecodecs.jpeg_encode(piece, level=95, colorspace="rgb", outcolorspace=colours))
    if is_marked:
        return data
    # The one segment after the start is that of JFIF or Adobe.
    assert data[2:4] in {b"\xff\xe0", b"\xff\xee"}
    start = 4 + int.from_bytes(data[4:6], "big")
    bare = data[:2] + data[start:]
    return bare.replace(b"R\x11\x00G\x11\x00B\x11\x00", b"\x01\x11\x00\x02\x11\x00\x03\x11\x00").replace(
        b"\x03R\x00G\x00B\x00", b"\x03\x01\x00\x02\x00\x03\x00"
    )


@pytest.mark.parametrize(
    ("tag", "colours", "is_marked", "doubt"),
    [
        (2, "rgb", True, None),
        (2, "rgb", False, None),
        (2, "ycbcr", True, "stream_colours"),
        (6, "ycbcr", True, None),
        (6, "ycbcr", False, None),
        (6, "rgb", True, None),
        (None, "rgb", True, None),
        (None, "ycbcr", True, None),
        (None, "ycbcr", False, None),
    ],
)
def test_jpeg_says_itself_what_it_is(tmp_path, smooth, tag, colours, is_marked, doubt):
    pixels = smooth(96, 64)
    tags = {259: 7, 530: (1, 1)} | ({} if tag is None else {262: tag})
    page = raw_page(pixels, tags, lambda piece: jpeg_tile(piece, colours, is_marked=is_marked))
    found, doubts = read_all(write_raw_tiff(tmp_path / "jpeg.tif", [page]))
    assert difference(found, pixels) < 6
    assert list(doubts) == ([] if doubt is None else [doubt])


def test_ycbcr_that_is_no_jpeg_is_left_to_openslide(tmp_path, smooth):
    """Its range and its coefficients may be any."""
    for video in (False, True):
        page = raw_page(as_ycbcr(smooth(96, 64)), {262: 6, 530: (1, 1)}, np.ndarray.tobytes)
        if video:
            page.tags[532] = (RATIONAL, [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1])
        path = write_raw_tiff(tmp_path / "ycbcr.tif", [page])
        np.testing.assert_array_equal(read_all(path)[0], read_by_openslide(path))
        assert (difference(read_all(path)[0], smooth(96, 64)) < 2) != video
        with pytest.raises(SlideError, match="its pixels are YCBCR, compressed as NONE, which is not supported"):
            open_slide(path, reader="tifffile")


def test_cmyk_within_jpeg_is_refused(tmp_path, smooth):
    """Adobe's is stored inverted, which libtiff does not know: OpenSlide shows it black."""

    def encode(piece: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(piece, "CMYK").save(out, "JPEG")
        return out.getvalue()

    samples = np.asarray(Image.fromarray(smooth(96, 64)).convert("CMYK"))
    path = write_raw_tiff(tmp_path / "cmyk.tif", [raw_page(samples, {259: 7, 262: 5}, encode)])
    with pytest.raises(SlideError, match="its pixels are SEPARATED, compressed as JPEG, which is not supported"):
        open_slide(path)


def test_data_that_are_deeper_than_the_tags_say_are_an_error(tmp_path, smooth):
    page = raw_page(
        smooth(96, 64), {259: 34712, 262: 2}, lambda piece: imagecodecs.jpeg2k_encode(piece.astype(np.uint16) * 257)
    )
    with pytest.raises(UnreadableRegionError, match="its samples are uint16, not uint8"):
        read_all(write_raw_tiff(tmp_path / "deep.tif", [page]))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_numbers_that_are_called_signed_and_are_not(write_tiff, smooth, dtype):
    samples = (smooth(96, 64).astype(np.uint16) * (257 if dtype == "int16" else 1)).astype(dtype)
    with pytest.raises(SlideError, match=r"they reach from -.* and the file does not say what is black"):
        open_slide(write_tiff(samples, photometric="rgb", tile=(32, 32)))


def test_a_stated_range_that_is_no_number_counts_for_nothing(tmp_path, smooth):
    page = raw_page(smooth(96, 64), {262: 2}, np.ndarray.tobytes)
    page.tags[258] = (3, [16] * 3)
    page.segments = [np.frombuffer(segment, np.uint8).astype("<u2").tobytes() for segment in page.segments]
    page.tags[281] = (2, "white")
    np.testing.assert_array_equal(read_all(write_raw_tiff(tmp_path / "text.tif", [page]))[0], smooth(96, 64))


def test_channels_that_are_called_grey_are_shown_with_a_doubt(write_tiff, smooth):
    path = write_tiff(smooth(96, 64), photometric="minisblack", planarconfig="contig", tile=(32, 32))
    found, doubts = read_all(path)
    np.testing.assert_array_equal(found, smooth(96, 64))
    assert list(doubts) == ["channels"]


@pytest.mark.parametrize(("value", "colour"), [(255, "white"), (0, "black"), (130, None)])
@pytest.mark.parametrize("pyramid", [1, 2])
def test_a_slide_of_nothing_but_white_or_black_is_doubtful(write_tiff, value, colour, pyramid):
    levels = [np.full((96 >> i, 128 >> i, 3), value, np.uint8) for i in range(pyramid)]
    with open_slide(write_tiff(levels, photometric="rgb", tile=(32, 32))) as slide:
        slide.thumbnail(64)
        doubts = {doubt.name: doubt for doubt in slide.doubts}
    assert list(doubts) == ([] if colour is None else ["blank"])
    assert colour is None or (
        f"all of it is {colour}" in doubts["blank"].sentence and doubts["blank"].may_change_answer
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("is_deep", [False, True])
def test_deep_png(tmp_path, smooth, channels, is_deep):
    pixels = smooth(96, 64) if channels > 2 else np.repeat(smooth(96, 64)[..., 1:2], 3, axis=2)
    samples = pixels[..., : 3 if channels > 2 else 1].astype(np.uint16) * (257 if is_deep else 1)
    if channels in {2, 4}:
        samples = np.dstack([samples, np.full(samples.shape[:2], 65535 if is_deep else 255, np.uint16)])
    path = tmp_path / "deep.png"
    path.write_bytes(imagecodecs.png_encode(samples if channels > 1 else samples[..., 0]))
    found, doubts = read_all(path)
    np.testing.assert_array_equal(found, pixels)
    assert list(doubts) == ([] if is_deep else ["sample_range"])


def write_dicom(path: Path, slides: Path, photometric: str, frame: Any, syntax: str) -> Path:
    """A slide of one frame, 1000 x 1000, made of another of that size."""
    data: Any = pydicom.dcmread(slides / "boxes_0.dcm")
    frames = int(data.NumberOfFrames)
    data.PhotometricInterpretation = photometric
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([frame] * frames)
    data.save_as(path)
    return path


def test_dicom_whose_frames_contradict_the_header(tmp_path, slides, smooth):
    data = pydicom.dcmread(slides / "boxes_0.dcm", stop_before_pixels=True)
    pixels = smooth(int(data.Columns), int(data.Rows))
    rgb, ycbcr = (
        imagecodecs.jpeg_encode(pixels, level=95, colorspace="rgb", outcolorspace=colours)
        for colours in ("rgb", "ycbcr")
    )
    plain = imagecodecs.jpeg2k_encode(as_ycbcr(pixels), level=0, mct=False, codecformat="J2K")
    mixed = imagecodecs.jpeg2k_encode(pixels, level=0, mct=True, codecformat="J2K")
    for photometric, frame, syntax, says in (
        ("RGB", rgb, JPEGBaseline8Bit, None),
        ("YBR_FULL_422", ycbcr, JPEGBaseline8Bit, None),
        ("RGB", ycbcr, JPEGBaseline8Bit, "its colours are RGB, and its JPEG data that they are YCbCr"),
        ("YBR_FULL_422", rgb, JPEGBaseline8Bit, "its colours are YBR_FULL_422, and its JPEG data that they are RGB"),
        ("YBR_RCT", mixed, JPEG2000Lossless, None),
        ("YBR_RCT", plain, JPEG2000Lossless, "its colours are YBR_RCT, and its JPEG 2000 data that they are not"),
    ):
        folder = tmp_path / f"{photometric} {says}"
        folder.mkdir()
        path = write_dicom(folder / "slide.dcm", slides, photometric, frame, syntax)
        if says is None:
            found, _ = read_all(path)
            assert difference(found, pixels[: found.shape[0], : found.shape[1]]) < 6
        else:
            with pytest.raises(SlideError, match=says):
                open_slide(path)


def test_the_real_cases(shared):
    cases = shared / "data" / "cases"
    path = cases / "01-aperio-jp2k-33003" / "c02_aperio_33003.svs"
    assert np.abs(read_all(path)[0].astype(int) - read_by_openslide(path)).max() <= 1
    with pytest.raises(SlideError, match="its colours are RGB, and its JPEG data that they are YCbCr"):
        open_slide(cases / "11-dicom-jpeg-labelled-rgb" / "a.dcm")
    for path in (cases / "12-sample-range").iterdir():
        found, doubts = read_all(path)
        np.testing.assert_array_equal(found, tifffile.imread(path).astype(np.uint8))
        assert list(doubts) == ["sample_range"]
    path = cases / "13-photometric-missing" / "c20c_no_photometric.tif"
    np.testing.assert_array_equal(read_all(path)[0], tifffile.imread(path))


def bare(data: bytes) -> bytes:
    """A JPEG without markers that say what its colours are, its components named 1, 2, 3."""
    kept, at = bytearray(data[:2]), 2
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = bytearray(data[at : at + length])
        if segment[1] == 0xC0:
            segment[10:19:3] = b"\x01\x02\x03"
        if not 0xE0 <= segment[1] <= 0xEF:
            kept += segment
        at += length
    scan = bytearray(data[at:])
    scan[5:11:2] = b"\x01\x02\x03"
    return bytes(kept + scan)


def rgb_tagged(pixels: np.ndarray, data: list[bytes], more: dict[int, int] | None = None) -> RawPage:
    height, width = pixels.shape[:2]
    tags = {256: width, 257: height, 258: [8, 8, 8], 259: 7, 262: 2, 277: 3, 322: 32, 323: 32}
    return RawPage(plain_tags(tags | (more or {})), data, is_tiled=True)


def jpeg_tiles(pixels: np.ndarray, *, is_ycbcr: bool) -> list[bytes]:
    space = "YCBCR" if is_ycbcr else "RGB"
    data = [
        bytes(imagecodecs.jpeg8_encode(tile, level=98, colorspace="RGB", outcolorspace=space))
        for tile in cut(pixels, 32, 32, is_tiled=True)
    ]
    return data if is_ycbcr else [bare(tile) for tile in data]


@pytest.mark.parametrize("is_finest_ycbcr", [False, True])
def test_each_pyramid_level_is_asked_for_its_own_colours(tmp_path, smooth, averaged, is_finest_ycbcr):
    pixels = smooth(192, 128)
    reduced = (averaged(pixels, 2) + 0.5).astype(np.uint8)
    finest = rgb_tagged(pixels, jpeg_tiles(pixels, is_ycbcr=is_finest_ycbcr))
    below = rgb_tagged(reduced, jpeg_tiles(reduced, is_ycbcr=not is_finest_ycbcr), {254: 1})
    with open_slide(write_raw_tiff(tmp_path / "a.tif", [finest, below])) as slide:
        assert len(slide.pyramid) == 2
        assert difference(slide.read(Region(0, 0, 192, 128), 192, 128), pixels) < 4
        assert difference(slide.read(Region(0, 0, 192, 128), 96, 64), reduced) < 4
        assert [doubt.name for doubt in slide.doubts] == ["stream_colours"]


def test_tiles_that_disagree_about_their_colours_are_not_read(tmp_path, smooth):
    pixels = smooth(96, 64)
    data = jpeg_tiles(pixels, is_ycbcr=False)[:4] + jpeg_tiles(pixels, is_ycbcr=True)[4:]
    with (
        open_slide(write_raw_tiff(tmp_path / "a.tif", [rgb_tagged(pixels, data)])) as slide,
        pytest.raises(UnreadableRegionError, match="say something else of their colours"),
    ):
        slide.thumbnail(96)


@pytest.mark.parametrize(("finest_bits", "bits"), [(8, 4), (16, 12)])
def test_levels_of_another_depth_are_not_shown_in_the_range_of_the_others(
    tmp_path, smooth, averaged, finest_bits, bits
):
    pixels = smooth(192, 128)
    pages: list[RawPage] = []
    shown: list[np.ndarray] = []
    for image, depth in ((pixels, finest_bits), ((averaged(pixels, 2) + 0.5).astype(np.uint8), bits)):
        height, width = image.shape[:2]
        samples = (image * ((2**depth - 1) / 255) + 0.5).astype(np.uint16)
        tags = {256: width, 257: height, 258: [depth] * 3, 259: 1, 262: 2, 277: 3, 278: height}
        packed = samples.astype(f"<u{depth // 8}").tobytes() if depth in {8, 16} else pack_bits(samples, depth)
        pages.append(RawPage(plain_tags(tags | ({254: 1} if pages else {})), [packed], is_tiled=False))
        shown.append(image)
    with open_slide(write_raw_tiff(tmp_path / "a.tif", pages)) as slide:
        assert difference(slide.read(Region(0, 0, 192, 128), 192, 128), shown[0]) < 1
        assert difference(slide.read(Region(0, 0, 192, 128), 96, 64), shown[1]) < 8


@pytest.mark.parametrize(("compression", "description"), [(33003, APERIO), (34712, "")])
def test_jpeg_2000_says_itself_how_its_chroma_is_stored(tmp_path, smooth, compression, description):
    """A tag of YCbCr without one of subsampling, which in other compressions means half of it."""
    pixels = smooth(96, 64)
    data = [
        bytes(imagecodecs.jpeg2k_encode(tile, level=0, reversible=True, codecformat="j2k", mct=False))
        for tile in cut(as_ycbcr(pixels), 32, 32, is_tiled=True)
    ]
    tags = {256: 96, 257: 64, 258: [8] * 3, 259: compression, 262: 6, 277: 3, 322: 32, 323: 32}
    page = RawPage(plain_tags(tags | ({270: description} if description else {})), data, is_tiled=True)
    assert difference(read_all(write_raw_tiff(tmp_path / "a.svs", [page]))[0], pixels) < 1


def test_openslide_is_not_left_with_a_turned_slide(tmp_path, smooth):
    """It does not heed the tag; CMYK is left to it, and the reader may be named."""
    cmyk = np.concatenate([255 - smooth(96, 64), np.zeros((64, 96, 1), np.uint8)], axis=2)
    path = tmp_path / "a.tif"
    for samples, photometric, reader in ((cmyk, 5, None), (smooth(96, 64), 2, "openslide")):
        tiles = [tile.tobytes() for tile in cut(samples, 32, 32, is_tiled=True)]
        tags = {256: 96, 257: 64, 258: [8] * samples.shape[2], 259: 1, 262: photometric, 277: samples.shape[2]}
        tags |= {322: 32, 323: 32}
        write_raw_tiff(path, [RawPage(plain_tags(tags | {274: 1}), tiles, is_tiled=True)])
        with open_slide(path, reader=reader) as slide:
            assert slide.reader == "openslide"
        write_raw_tiff(path, [RawPage(plain_tags(tags | {274: 6}), tiles, is_tiled=True)])
        with pytest.raises(SlideError, match="SEPARATED" if reader is None else "turned or mirrored"):
            open_slide(path, reader=reader)
