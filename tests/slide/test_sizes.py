"""Files that claim more than a slide has: each is refused in a sentence, by every reader, and before room is made."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from tests.slide.dicom_writer import write_dicom
from tests.slide.tiff_writer import RawPage, Value, plain_tags, write_raw_tiff
from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.files import scratch_file
from tnet_cli.headers.directories import MOST_DIRECTORIES
from tnet_cli.slide import pillow_backend
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

READERS = [None, "openslide", "tifffile", "pillow"]
JPEG, DEFLATE, ZSTD, PACKBITS = 7, 8, 50000, 32773
SIDE = 64
PLAIN = np.full((SIDE, SIDE, 3), 200, np.uint8)
PLAIN_JPEG = imagecodecs.jpeg8_encode(PLAIN)
MATRIX = ("TotalPixelMatrixRows", "TotalPixelMatrixColumns")
SCALE = {282: (5, (20000, 1)), 283: (5, (20000, 1)), 296: (3, (3,))}


def write(path: Path, changed: dict[int, tuple[int, Value]], segment: bytes = PLAIN.tobytes(), **kind: int) -> Path:
    """Write a TIFF of one tile, with some of its tags changed."""
    plain: dict[int, Any] = {
        256: SIDE,
        257: SIDE,
        258: [8] * 3,
        259: kind.get("compression", 1),
        262: 2,
        277: 3,
        322: SIDE,
        323: SIDE,
    }
    page = RawPage(plain_tags(plain) | SCALE | changed, [segment], is_tiled=True)
    return write_raw_tiff(path, [page])


def place_of_tag(path: Path, code: int) -> int:
    data = path.read_bytes()
    at = struct.unpack_from("<I", data, 4)[0]
    tags = range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12)
    return next(place for place in tags if struct.unpack_from("<H", data, place)[0] == code)


def write_long_tag(path: Path, code: int, kind: int, count: int) -> Path:
    """Write a tag that is said to be long, in a file that is long enough, but has holes for it."""
    write(path, {code: (kind, "x" * 9 if kind in {1, 2, 7} else [1] * 9)})
    at = place_of_tag(path, code)
    with path.open("r+b") as file:
        file.seek(at + 4)
        file.write(struct.pack("<I", count))
        file.truncate(count * 4 + 10_000)
    return path


def chain(path: Path, count: int, *, back_to: int | None = None) -> Path:
    """Write many directories of one tag each."""
    size = 2 + 12 + 4
    last = 0 if back_to is None else 8 + back_to * size
    after = [8 + (number + 1) * size for number in range(count - 1)] + [last]
    body = b"".join(struct.pack("<HHHII", 1, 256, 3, 1, 64) + struct.pack("<I", place) for place in after)
    path.write_bytes(b"II*\x00" + struct.pack("<I", 8) + body)
    return path


def write_self_referring(path: Path) -> Path:
    write(path, {330: (4, [8] * 5000)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 8) * 5000, data[4:8] * 5000))
    return path


CLAIMS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a tile of the greatest height": (lambda path: write(path, {323: (4, [2**31 - 1])}), "in one piece"),
    "a tile of gigabytes": (lambda path: write(path, {322: (4, [50_000]), 323: (4, [50_000])}), "in one piece"),
    "very many directories": (lambda path: chain(path, 3000), f"more than {MOST_DIRECTORIES} images"),
    "a long circle": (lambda path: chain(path, 150, back_to=120), f"more than {MOST_DIRECTORIES} images"),
    "self-referring sub-images": (write_self_referring, f"more than {MOST_DIRECTORIES} images"),
    "a thousand million offsets": (lambda path: write_long_tag(path, 324, 4, 10**9), "lists more tiles"),
    "a width of many numbers": (lambda path: write_long_tag(path, 256, 4, 10**8), "lists more tiles"),
    "a description of a gigabyte": (
        lambda path: write_long_tag(path, 270, 2, 10**9),
        "ImageDescription has 1000000000",
    ),
    "a profile of a gigabyte": (lambda path: write_long_tag(path, 34675, 7, 10**9), "Profile has 1000000000"),
    "XMP of a gigabyte": (lambda path: write_long_tag(path, 700, 1, 10**9), "XMP has 1000000000"),
    "JPEG tables of a megabyte": (lambda path: write_long_tag(path, 347, 7, 10**6), "JPEGTables has 1000000"),
    "a width that is a fraction": (lambda path: write(path, {256: (5, (64, 1))}), "ImageWidth is no whole number"),
    "a tile's width of floating point": (lambda path: write(path, {322: (12, [64.0])}), "TileWidth is no whole number"),
    "a length that is text": (lambda path: write(path, {257: (2, "64")}), "ImageLength is no whole number"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_tiff_claims_is_refused_by_every_reader(tmp_path, name, reader):
    make, said = CLAIMS[name]
    with pytest.raises(SlideError, match=said):
        open_slide(make(tmp_path / "a.tif"), reader=reader)


@pytest.mark.parametrize("reader", ["tifffile", "openslide"])
def test_layers_of_photoshop_and_tags_beyond_the_end_claim_nothing(tmp_path, reader):
    write_long_tag(tmp_path / "a.tif", 37724, 7, 30_000_000)
    write(tmp_path / "b.tif", {700: (1, "x" * 9)})
    with (tmp_path / "b.tif").open("r+b") as file:
        file.seek(place_of_tag(tmp_path / "b.tif", 700) + 4)
        file.write(struct.pack("<I", 2**31))
    for name in ("a.tif", "b.tif"):
        with open_slide(tmp_path / name, reader=reader) as slide:
            assert slide.thumbnail(SIDE).mean() == 200


def lying_jpeg(side: int) -> Any:
    at = PLAIN_JPEG.index(b"\xff\xc0") + 5
    return PLAIN_JPEG[:at] + struct.pack(">HH", side, side) + PLAIN_JPEG[at + 4 :]


LARGE = np.zeros((1000, 1000, 3), np.uint8)
STREAMS: dict[str, tuple[int, Callable[[], Any]]] = {
    "jpeg": (7, lambda: lying_jpeg(36_000)),
    "jpeg after junk": (7, lambda: b"\xff\xd8 junk" + lying_jpeg(36_000)[2:]),
    "jpeg 2000": (34712, lambda: imagecodecs.jpeg2k_encode(LARGE, codecformat="J2K")),
    "jpeg 2000 in boxes": (34712, lambda: imagecodecs.jpeg2k_encode(LARGE, codecformat="JP2")),
    "png": (34933, lambda: imagecodecs.png_encode(LARGE)),
    "webp": (50001, lambda: imagecodecs.webp_encode(LARGE, lossless=True)),
    "jpeg xl": (50002, lambda: imagecodecs.jpegxl_encode(LARGE, effort=1)),
    "jpeg xr": (22610, lambda: imagecodecs.jpegxr_encode(LARGE, level=80)),
    "lerc": (34887, lambda: imagecodecs.lerc_encode(LARGE)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_data_that_say_they_are_larger_than_their_tile_are_not_decoded(tmp_path, name):
    compression, encode = STREAMS[name]
    path = write(tmp_path / "a.tif", {}, encode(), compression=compression)
    stated = "36000 x 36000" if name.startswith("jpeg") and compression == JPEG else "1000 x 1000"
    with open_slide(path) as slide, pytest.raises(UnreadableRegionError) as caught:
        slide.thumbnail(SIDE)
    assert f"its data say that they are {stated} pixels, and the tile is 64 x 64" in str(caught.value)


def test_a_tile_has_no_more_bytes_than_its_pixels_need(tmp_path):
    path = write(tmp_path / "a.tif", {}, b"\x81\x00" * 100_000, compression=PACKBITS)
    with open_slide(path) as slide, pytest.raises(UnreadableRegionError, match="200000 bytes, more than its pixels"):
        slide.thumbnail(SIDE)


@pytest.mark.parametrize("reader", [None, "openslide"])
def test_a_sparse_file_that_cannot_hold_its_pixels_is_refused(tmp_path, reader):
    side, tile = 60_000, 4096
    plain: dict[int, Any] = {256: side, 257: side, 258: [8] * 3, 259: DEFLATE, 262: 2, 277: 3, 322: tile, 323: tile}
    segments = [zlib.compress(bytes(tile * tile * 3))] + [b""] * ((-(-side // tile)) ** 2 - 1)
    path = write_raw_tiff(tmp_path / "a.tif", [RawPage(plain_tags(plain) | SCALE, segments, is_tiled=True)])
    with pytest.raises(SlideError, match=r"60000 x 60000 pixels, and its \d+ bytes cannot hold so many"):
        open_slide(path, reader=reader)


def test_a_scratch_file_leaves_room_on_the_disk():
    with pytest.raises(OSError, match="No space left"), scratch_file(10**16):
        pass


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"Rows": 65535, "Columns": 65535, "TotalPixelMatrixRows": 65535, "TotalPixelMatrixColumns": 65535},
            "one piece",
        ),
        ({"NumberOfFrames": 2_000_000_000}, "says that it has 2000000000 frames"),
        (
            {"TotalPixelMatrixRows": 4_000_000_000, "TotalPixelMatrixColumns": 4_000_000_000},
            "frames, which no slide has",
        ),
    ],
)
def test_what_dicom_claims_is_refused(tmp_path, changed, said):
    path = tmp_path / "a.dcm"
    write_dicom(path, np.full((128, 128, 3), 200, np.uint8), 64, left_out=[])
    slide = dcmread(path)
    for name, value in changed.items():
        setattr(slide, name, value)
    slide.save_as(path)
    with pytest.raises(SlideError, match=said):
        open_slide(path)


def test_dicom_whose_numbers_of_size_are_no_numbers_is_refused(tmp_path):
    path = tmp_path / "a.dcm"
    write_dicom(path, np.full((128, 128, 3), 200, np.uint8), 64, left_out=[])
    tag = b"\x48\x00\x06\x00UL\x04\x00"  # TotalPixelMatrixColumns; three bytes make no number
    content = path.read_bytes()
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag, tag[:6] + b"\x03\x00"))
    with pytest.raises(SlideError, match="its DICOM header cannot be read"):
        open_slide(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("IMAGENUMBER_X = 2000000000\nIMAGENUMBER_Y = 2000000000", "counts 4000000000000000000 parts"),
        ("FILE_COUNT=2000000000", "counts 2000000000 parts"),
        ("HIER_0_COUNT=2000000000", "counts 2000000000 parts"),
        ("DIGITIZER_WIDTH=2000000000\nDIGITIZER_HEIGHT=2000000000", "in one piece"),
    ],
)
def test_what_mirax_claims_is_refused(tmp_path, line, said):
    (tmp_path / "a.mrxs").write_bytes(b"x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Slidedat.ini").write_text(f"[GENERAL]\nSLIDE_ID=a\n[HIERARCHICAL]\n{line}\n")
    with pytest.raises(SlideError, match=said):
        open_slide(tmp_path / "a.mrxs")


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", png_that_claims(50_000, 50_000), "has 50000 x 50000 pixels, which is too large"),
        ("a.jpg", lying_jpeg(65_000), "has 65000 x 65000 pixels, which is too large"),
        ("a.jpg", b"\xff\xd8" + (b"\xff\xe1\xff\xfd" + bytes(65531)) * 300 + PLAIN_JPEG[2:], "longer than that of any"),
    ],
)
def test_what_a_picture_claims_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=said):
        open_slide(tmp_path / name)


@pytest.fixture
def little_room(monkeypatch) -> Callable[[int], None]:
    return lambda room: monkeypatch.setattr(pillow_backend, "MOST_PICTURE_BYTES", room)


def whole(slide: Slide) -> np.ndarray:
    return slide._read_stored(0, 0, 0, slide.size.width, slide.size.height)


def waves(side: int, *, is_grey_at_the_end: bool = False) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    pixels = np.stack([128 + 90 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), 128 + 60 * np.sin((x + y) / 5)], axis=2)
    if is_grey_at_the_end:
        pixels[-32:] = 128
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("is_grey_at_the_end", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_large_jpeg_has_the_pixels_that_pillow_gives(tmp_path, little_room, subsampling, is_grey_at_the_end):
    side, path = 256, tmp_path / "a.jpg"
    path.write_bytes(encoded(waves(side, is_grey_at_the_end=is_grey_at_the_end), "JPEG", subsampling=subsampling))
    little_room(4 * side * side)
    with open_slide(path) as slide, Image.open(path) as picture:
        np.testing.assert_array_equal(whole(slide), np.asarray(picture))


def test_a_large_jpeg_that_is_not_whole_is_refused(tmp_path, little_room):
    side, path = 256, tmp_path / "a.jpg"
    data = encoded(waves(side), "JPEG")
    little_room(4 * side * side)
    for content, said in ((data[:-4000], "cut off"), (data[:-4000] + data[-2:], "end too early")):
        path.write_bytes(content)
        with pytest.raises(SlideError, match=said):
            open_slide(path)


def test_a_jpeg_in_several_scans_needs_more_room(tmp_path, little_room):
    side, path = 256, tmp_path / "a.jpg"
    path.write_bytes(encoded(waves(side), "JPEG", progressive=True))
    little_room(4 * side * side)
    with pytest.raises(SlideError, match="has 256 x 256 pixels, which is too large"):
        open_slide(path)


IN_A_PROCESS = """
import json, resource, sys
from tnet_cli.errors import SlideError
from tnet_cli.slide.opening import open_slide
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for path in sys.argv[1:]:
    try:
        with open_slide(path) as slide:
            slide.thumbnail(64)
    except SlideError:
        refused += 1
print(json.dumps([refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


def lies(folder: Path) -> Iterator[Path]:
    for number, (make, _) in enumerate(CLAIMS.values()):
        yield make(folder / f"claims{number}.tif")
    for number, (compression, encode) in enumerate(STREAMS.values()):
        yield write(folder / f"stream{number}.tif", {}, encode(), compression=compression)
    for packing, packed in (
        (DEFLATE, zlib.compress(bytes(100_000_000))),
        (ZSTD, imagecodecs.zstd_encode(bytes(10**8))),
    ):
        yield write(folder / f"{packing}.tif", {}, bytes(packed), compression=packing)
    for name, content in (("a.png", png_that_claims(50_000, 50_000)), ("a.jpg", lying_jpeg(65_000))):
        (folder / name).write_bytes(content)
        yield folder / name


def test_a_process_that_is_lied_to_stays_small(tmp_path):
    paths = list(lies(tmp_path))
    ended = subprocess.run([sys.executable, "-c", IN_A_PROCESS, *paths], capture_output=True, check=True)
    refused, kilobytes = json.loads(ended.stdout)
    assert refused == len(paths)
    assert kilobytes < 60_000
