"""Ordinary pictures: their kinds, their largest size, and what they leave as it was."""

import struct
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.slide import pillow_backend
from tnet_cli.slide.opening import open_slide


def shown(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        assert slide.reader == "pillow"
        assert slide.pixels_read == slide.size.area
        return slide.read(Region(0, 0, slide.size.width, slide.size.height), slide.size.width, slide.size.height)


@pytest.fixture(params=[pillow_backend.STRIP_PX, 1000], ids=["at once", "in strips"])
def _strips(request, monkeypatch) -> None:
    monkeypatch.setattr(pillow_backend, "STRIP_PX", request.param)


@pytest.mark.usefixtures("_strips")
@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "jp2", "webp"])
def test_kinds_of_files(tmp_path, coded, suffix):
    picture = Image.fromarray(coded(150, 130))
    if suffix == "gif":
        picture = picture.quantize(64)
    path = tmp_path / f"picture.{suffix}"
    picture.save(path, lossless=True)  # WebP's; the others pass over it
    np.testing.assert_array_equal(shown(path), np.asarray(picture.convert("RGB")))


@pytest.mark.usefixtures("_strips")
def test_kinds_of_pixels(tmp_path, coded):
    pixels = coded(150, 130)
    grey, alpha = pixels[..., 0], pixels[..., 1]
    laid = np.floor(grey * (alpha / 255) + 255 * (1 - alpha / 255) + 0.5)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(pixels.astype(np.uint16) * 257))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey > 70).save(tmp_path / "bits.png")
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "alpha.png")
    palette = Image.fromarray(np.where(grey > 70, 1, 0).astype(np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png", transparency=0)
    expected = {
        "deep.png": pixels,
        "grey.png": np.repeat(grey[..., None], 3, axis=2),
        "bits.png": np.repeat(np.where(grey > 70, 255, 0)[..., None], 3, axis=2),
        "alpha.png": np.repeat(laid[..., None], 3, axis=2),
        "palette.png": np.where((grey > 70)[..., None], (40, 50, 60), 255),
    }
    for name, pixels_of_it in expected.items():
        difference = np.abs(shown(tmp_path / name).astype(int) - pixels_of_it)
        assert difference.max() <= (1 if name == "alpha.png" else 0), name


@pytest.mark.usefixtures("_strips")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_exif(tmp_path, coded, orientation):
    pixels = coded(150, 130)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels),
    }
    np.testing.assert_array_equal(shown(tmp_path / "turned.png"), expected[orientation])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_beyond_the_limit_of_pillow_are_read(tmp_path, smooth, suffix, monkeypatch):
    path = tmp_path / f"scan.{suffix}"
    Image.fromarray(smooth(300, 200)).save(path)
    reference = np.asarray(Image.open(path).convert("RGB"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    np.testing.assert_array_equal(shown(path), reference)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_picture_that_is_too_large_says_so_before_it_is_decoded(tmp_path, smooth):
    """Its header says so; decoded, it would be found damaged."""
    path = tmp_path / "scan.png"
    Image.fromarray(smooth(300, 200)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 40_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"scan\.png: has 40000 x 30000 pixels, which is too large .* tiled TIFF"):
        open_slide(path)


def test_other_large_pictures_are_refused_in_one_sentence(tmp_path, smooth, monkeypatch):
    path = tmp_path / "scan.bmp"
    Image.fromarray(smooth(300, 200)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SlideError, match=r"scan\.bmp: has more than 2000 pixels, which is too large"):
        open_slide(path)


def test_metadata_that_pillow_warns_of_are_no_matter(tmp_path, coded):
    path = tmp_path / "odd.jpg"
    Image.fromarray(coded(64, 48)).save(path, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shown(path).shape == (48, 64, 3)


def png(kind: int, bits: int, rows: np.ndarray, height: int, transparent: int | None = None) -> bytes:
    """A sound PNG of rows (H, W, S), which may be fewer than it says that it has."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", rows.shape[1], height, bits, kind, 0, 0, 0))]
    chunks += [] if transparent is None else [(b"tRNS", struct.pack(">H", transparent))]
    lines = b"".join(b"\x00" + row.tobytes() for row in rows.astype(f">u{bits // 8}"))
    chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


EXIF_6 = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
AS_TEXT = b"\nexif\n%8d\n" % (6 + len(EXIF_6)) + (b"Exif\x00\x00" + EXIF_6).hex().encode()
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
TURNING = {
    "exif": chunk(b"eXIf", EXIF_6),
    "text": chunk(b"tEXt", b"Raw profile type exif\x00" + AS_TEXT),
    "packed text": chunk(b"zTXt", b"Raw profile type exif\x00\x00" + zlib.compress(AS_TEXT)),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + XMP),
    "a comment": chunk(b"tEXt", b"Comment\x00no eXIf, no Raw profile type exif, no XML:com.adobe.xmp"),
}


@pytest.mark.parametrize("where", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("what", TURNING)
def test_a_png_is_turned_as_pillow_turns_it_whatever_chunk_says_so(tmp_path, coded, what, where):
    path, pixels = tmp_path / "said.png", coded(40, 24)
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    at = data.index(where) - 4
    path.write_bytes(data[:at] + TURNING[what] + data[at:])
    with Image.open(path) as picture:
        picture.load()
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert (expected.shape == (40, 24, 3)) == (what != "a comment")
    np.testing.assert_array_equal(shown(path), expected)


@pytest.mark.parametrize(("kind", "bits", "samples"), [(2, 8, 3), (0, 8, 1), (0, 16, 1), (4, 8, 2), (2, 16, 3)])
def test_a_sound_png_with_too_few_rows_is_refused(tmp_path, smooth, kind, bits, samples):
    rows, path = smooth(192, 128)[..., :samples], tmp_path / "a.png"
    path.write_bytes(png(kind, bits, rows, 128))
    assert shown(path).shape == (128, 192, 3)
    path.write_bytes(png(kind, bits, rows[:127], 128))
    with pytest.raises(SlideError, match="cannot be decoded: Not enough image data"):
        open_slide(path)


def test_an_interlaced_png_with_too_few_rows_is_refused(tmp_path):
    """Of its seven passes the last is missing, and the last row belongs to the fifth and sixth."""
    grey = np.arange(9 * 9, dtype=np.uint8).reshape(9, 9)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = [[b"\x00" + row.tobytes() for row in grey[y::down, x::across]] for y, x, down, across in passes]
    data, path = bytearray(png(0, 8, grey[..., None], 9)[:33]), tmp_path / "a.png"
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    for count in (7, 6):
        packed = zlib.compress(b"".join(b"".join(part) for part in lines[:count]))
        chunks = ((b"IDAT", packed), (b"IEND", b""))
        path.write_bytes(data + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        ))  # fmt: skip
        if count == len(passes):
            np.testing.assert_array_equal(shown(path)[..., 0], grey)
    with pytest.raises(SlideError, match="cannot be decoded"):
        open_slide(path)


def test_one_value_of_a_deep_grey_png_may_be_transparent(tmp_path, smooth):
    grey = smooth(192, 128)[..., :1].astype(np.uint16) * 257
    grey[:30, :30] = 300
    (tmp_path / "a.png").write_bytes(png(0, 16, grey, 128, transparent=300))
    expected = np.repeat(grey >> 8, 3, axis=2)
    expected[:30, :30] = 255
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), expected)


def test_colours_of_twelve_bits_are_seen_in_deeper_jpeg_2000_and_ppm(tmp_path, smooth):
    pixels = smooth(96, 64)
    deep = pixels.astype(np.uint16) * 16 + 15
    big_endian = deep.astype(">u2").tobytes()
    files = {
        "as16.jp2": imagecodecs.jpeg2k_encode(deep, level=0, reversible=True),
        "as12.jp2": imagecodecs.jpeg2k_encode(deep, level=0, reversible=True, bitspersample=12),
        "as16.ppm": b"P6 96 64 65535\n" + big_endian,
        "as12.ppm": b"P6 96 64 4095\n" + big_endian,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(shown(tmp_path / name), pixels, name)
        with open_slide(tmp_path / name) as slide:
            assert [doubt.name for doubt in slide.doubts] == ["sample_range"] * name.startswith("as16")


@pytest.mark.parametrize("suffix", ["sgi", "tif"])
def test_deep_samples_of_which_eight_bits_would_be_left_are_refused(tmp_path, smooth, suffix):
    deep, path = smooth(96, 64).astype(np.uint16) * 16, tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, deep, photometric="rgb")
    else:
        header = struct.pack(">hBBHHHHll", 474, 0, 2, 3, 96, 64, 3, 0, 65535).ljust(512, b"\x00")
        path.write_bytes(header + deep[::-1].transpose(2, 0, 1).astype(">u2").tobytes())
    with pytest.raises(SlideError, match="of which none but the upper eight are read"):
        open_slide(path, reader="pillow")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("last_row", ["varied", "white"])
def test_plain_pngs_are_what_pillow_shows_and_turned_ones_too(tmp_path, rng, turned, last_row):
    """They are decoded without Pillow, unless something in them may say which way up they are."""
    pixels = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    if last_row == "white":
        pixels[-1] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "plain.png", exif=exif if turned else None)
    with open_slide(str(tmp_path / "plain.png")) as slide:
        found = slide.read(Region(0, 0, 53, 37), 53, 37)
    np.testing.assert_array_equal(found, pixels[::-1, ::-1] if turned else pixels)


def test_a_plain_png_of_which_data_are_missing_is_refused(tmp_path, rng):
    path = tmp_path / "cut.png"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SlideError, match=r"cut\.png"):
        open_slide(str(path))
