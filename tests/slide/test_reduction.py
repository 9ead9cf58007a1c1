"""Slides without a pyramid: reduced once, exactly, in bounded memory."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide import reduction, slide
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.reduction import ReducedLevels
from tnet_cli.slide.resample import PyramidLevel, block_size, fit

WIDTH, HEIGHT = 1280, 768
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tile": (64, 96)},
    "stripped": {"rowsperstrip": 12},
    "odd strips": {"rowsperstrip": 7},
    "one strip": {"rowsperstrip": HEIGHT, "compression": "zlib"},
    "one bare strip": {"rowsperstrip": HEIGHT, "compression": None},
    "turned strips": {"rowsperstrip": 12, "extratags": [(274, "H", 1, 6, True)]},
}


@pytest.fixture(params=LAYOUTS)
def flat(request, write_tiff, smooth) -> tuple[Path, np.ndarray]:
    """A file without a pyramid, and its pixels as they are shown."""
    pixels = smooth(WIDTH, HEIGHT)
    path = write_tiff(pixels, **{"photometric": "rgb", "compression": "lzw", **LAYOUTS[request.param]})
    return path, np.rot90(pixels, -1) if request.param == "turned strips" else pixels


@pytest.fixture
def _small_blocks(monkeypatch) -> None:
    """Blocks of a few thousand pixels, so that small files need many."""
    monkeypatch.setattr(reduction, "BLOCK_PX", 100 * 100)
    monkeypatch.setattr(reduction, "EXACT_PX", 3000)
    monkeypatch.setattr(slide, "AT_ONCE_PX", 90 * 90)


@pytest.mark.usefixtures("_small_blocks")
def test_reduced_reads_are_area_averages(flat, averaged):
    path, pixels = flat
    height, width = pixels.shape[:2]
    with open_slide(path) as opened:
        for shrink in (8, 16, 32, 64, 128):
            found = opened.read(Region(0, 0, width, height), width // shrink, height // shrink)
            # Each halving of a half is rounded: a quarter of a grey level for each of up to three steps.
            assert np.abs(found - averaged(pixels, shrink)).max() < 1.5, shrink
        inside = opened.read(Region(160, 320, 256, 384), 16, 24)
        assert np.abs(inside - averaged(pixels[320:704, 160:416], 16)).max() < 1.5


@pytest.mark.usefixtures("_small_blocks")
def test_a_file_is_decoded_once_whatever_is_read_reduced(flat, monkeypatch):
    path, pixels = flat
    height, width = pixels.shape[:2]
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        tile = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, 1)
        stored = -(-page.imagewidth // tile[0]) * tile[0] * -(-page.imagelength // tile[1]) * tile[1]
    with open_slide(path) as opened:
        for x in range(0, width, 128):
            opened.read(Region(x, 0, 128, height), 16, height // 8)
        opened.thumbnail(60)
        assert opened.pixels_read == stored


def test_progress_is_told(flat, monkeypatch):
    monkeypatch.setattr(reduction, "BLOCK_PX", 100 * 100)
    path, pixels = flat
    told: list[tuple[int, int]] = []
    with open_slide(path, on_progress=lambda done, total: told.append((done, total))) as opened:
        opened.read(Region(0, 0, 64, 64), 64, 64)
        assert told == []
        opened.thumbnail(40)
        first = list(told)
        opened.thumbnail(20)
    assert told == first
    assert len(told) > 20
    assert told == sorted(told)
    assert told[-1] == (len(pixels), len(pixels))


def test_a_large_region_in_blocks_is_the_region_at_once(flat, monkeypatch):
    path, pixels = flat
    height, width = pixels.shape[:2]
    whole, inside, across = Region(0, 0, width, height), Region(37, 41, 633, 519), Region(-50, 30, 700, 500)
    # Here no edge of an average falls on the centre of a pixel, so it is plain which pixels count.
    plain = [(whole, width, height), (whole, width // 2, height // 2), (whole, width // 4, height // 4)]
    plain += [(inside, 211, 173), (across, 100, 100)]
    # Here some do, and rounding decides.
    open_to_rounding = [(whole, 211, 173), (inside, 192, 320), (across, 320, 192), (across, 192, 320)]
    with open_slide(path) as opened:
        at_once = [opened.read(*asked) for asked in plain + open_to_rounding]
        monkeypatch.setattr(slide, "AT_ONCE_PX", 200 * 200)
        in_blocks = [opened.read(*asked) for asked in plain + open_to_rounding]
    for asked, one, other in zip(plain + open_to_rounding, at_once, in_blocks, strict=True):
        difference = np.abs(one.astype(int) - other)
        assert difference.mean() < 0.2, asked
        # Pillow shrinks across or down first, whichever is cheaper for a block, and rounds in between.
        assert asked in open_to_rounding or difference.max() <= 1, asked


def test_reduced_reads_beyond_the_slide_are_background(write_tiff, smooth, averaged):
    pixels = smooth(640, 512)
    with open_slide(write_tiff(pixels, photometric="rgb", tile=(64, 64))) as opened:
        found = opened.read(Region(-160, -80, 960, 800), 60, 50)
    inside = found[5:37, 10:50]
    assert np.abs(inside - averaged(pixels, 16)).max() < 1.5
    found[5:37, 10:50] = 255
    assert (found == 255).all()


def test_odd_edges_are_averages_of_what_is_there():
    pixels = np.zeros((9, 10, 3), np.uint8)
    pixels[8:], pixels[:, 8:] = 200, 100
    levels = ReducedLevels(
        lambda x, y, width, height: pixels[y : y + height, x : x + width],
        PyramidLevel(Size(10, 9), 1.0),
        unit=Size(10, 1),
    )
    found = levels.read(Region(0, 0, 8, 8), 2, 2, (255, 255, 255))
    np.testing.assert_array_equal(found[..., 0], [[0, 0], [0, 0]])
    found = levels.read(Region(0, 0, 12, 12), 3, 3, (255, 255, 255))
    np.testing.assert_array_equal(found[..., 0], [[0, 0, 100], [0, 0, 100], [200, 200, 100]])


@pytest.mark.parametrize("size", [(7, 5), (10, 10), (3, 8), (1, 1)])
def test_exact_averages_count_cut_pixels_by_their_share(rng, size):
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    box = (1.25, 2.5, 28.0, 19.75)
    fine = np.repeat(np.repeat(pixels, 20, axis=0), 20, axis=1)[50:395, 25:560].astype(float)
    found = fit(pixels, box, *size, exact=True)
    for row in range(size[1]):
        for column in range(size[0]):
            y0, y1 = row * 345 / size[1], (row + 1) * 345 / size[1]
            x0, x1 = column * 535 / size[0], (column + 1) * 535 / size[0]
            y, x = np.arange(345), np.arange(535)
            down = np.clip(np.minimum(y + 1, y1) - np.maximum(y, y0), 0, 1)
            across = np.clip(np.minimum(x + 1, x1) - np.maximum(x, x0), 0, 1)
            expected = np.einsum("y,x,yxc->c", down, across, fine) / down.sum() / across.sum()
            assert np.abs(found[row, column] - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("box", "unit", "expected"),
    [
        (Size(60_000, 50_000), Size(256, 256), Size(2816, 2816)),
        (Size(60_000, 50_000), Size(240, 240), Size(2880, 2880)),
        (Size(20_000, 20_000), Size(20_000, 1), Size(20_000, 416)),
        (Size(20_000, 20_000), Size(20_000, 128), Size(20_000, 384)),
        (Size(20_000, 20_000), Size(20_000, 20_000), Size(20_000, 420)),
        (Size(20_000, 20_000), Size(16, 20_000), Size(416, 20_000)),
        (Size(500, 300), Size(256, 256), Size(500, 300)),
    ],
)
def test_blocks(box, unit, expected):
    found = block_size(box, unit, 8 * 1024 * 1024)
    assert found == expected
    assert found.area <= 1.02 * 8 * 1024 * 1024
    assert found.width % 4 == 0 or found.width == box.width
    assert found.height % 4 == 0 or found.height == box.height


LARGE = 10_000
WHOLE_MIB = LARGE * LARGE * 3 / 2**20
STRIPES = LARGE // 1000
READ_LARGE = """
import re, sys
import numpy as np
from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide
def peak_mib():
    # Of this process alone; what getrusage tells begins with the peak of its parent.
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) / 1024
before = peak_mib()
told = []
with open_slide(sys.argv[1], on_progress=lambda done, total: told.append(done / total)) as slide:
    coarse = slide.thumbnail(1024)
    middle = slide.thumbnail(2048)
    part = slide.read(Region(5700, 8900, 600, 400), 600, 400)
    pixels = slide.pixels_read
print(peak_mib() - before, len(told), told[-1], pixels)
np.savez(sys.argv[2], coarse=coarse, middle=middle, part=part)
"""


def read_large(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Read a large file in a process of its own, in bounded memory; return the pictures, and the pixels decoded."""
    out = path.with_name("read.npz")
    done = subprocess.run(
        [sys.executable, "-c", READ_LARGE, str(path), str(out)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    peak_mib, blocks, last, pixels = (float(word) for word in done.stdout.split())
    assert peak_mib < WHOLE_MIB
    assert blocks > 10
    assert last == 1
    with np.load(out) as read:
        return dict(read), int(pixels)


def write_large(path: Path, **options) -> None:
    """Vertical and horizontal stripes of 1000 pixels, streamed; pieces that are alike are compressed once."""
    width, height = options["tile"] if "tile" in options else (LARGE, options["rowsperstrip"])
    end = -(-LARGE // height) * height if "tile" in options else LARGE
    stripes = (np.arange(end) // 1000 * 12).astype(np.uint8)
    encode = {"zlib": lambda data: imagecodecs.zlib_encode(data, 1), "lzw": imagecodecs.lzw_encode}

    @functools.cache
    def piece(across: bytes, down: bytes) -> bytes:
        pixels = np.zeros((len(down), len(across), 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.frombuffer(across, np.uint8), np.frombuffer(down, np.uint8)[:, None]
        return bytes(encode[options["compression"]](pixels.tobytes()))

    pieces = (
        piece(stripes[x : x + width].tobytes(), stripes[y : y + height].tobytes())
        for y in range(0, end, height)
        for x in range(0, end, width)
    )
    tifffile.imwrite(path, pieces, shape=(LARGE, LARGE, 3), dtype=np.uint8, photometric="rgb", **options)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/status")
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "rowsperstrip": 16},
        {"compression": "zlib", "tile": (512, 512)},
        {"compression": "zlib", "rowsperstrip": 1000, "extratags": [(274, "H", 1, 6, True)]},
    ],
    ids=["strips", "tiles", "high strips, turned"],
)
def test_a_large_flat_file_takes_little_memory(tmp_path, options):
    path = tmp_path / "flat.tif"
    write_large(path, **options)
    read, pixels = read_large(path)
    # Once to reduce, once more for the thumbnail of less than eightfold shrinking, and a few tiles.
    assert LARGE**2 <= pixels < 2.6 * LARGE**2
    turned = "extratags" in options
    assert read["coarse"].shape == (1024, 1024, 3)
    values = np.broadcast_to(np.arange(STRIPES) * 12, (STRIPES, STRIPES))
    for name in ("coarse", "middle"):
        shown = np.rot90(read[name]) if turned else read[name]
        at = (np.arange(STRIPES) * 1000 + 500) * len(shown) // LARGE
        np.testing.assert_array_equal(shown[at][:, at][..., 0], values)
        np.testing.assert_array_equal(shown[at][:, at][..., 1].T, values)
    y, x = np.mgrid[8900:9300, 5700:6300]
    if turned:
        y, x = LARGE - 1 - x, y
    np.testing.assert_array_equal(read["part"][..., 0], x // 1000 * 12)
    np.testing.assert_array_equal(read["part"][..., 1], y // 1000 * 12)


def make_one_strip(path: Path, compression: str | None, side: int = LARGE) -> None:
    """One strip, all zero; the file is a hole."""
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8), photometric="rgb", compression=compression)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tags[name].overwrite(side)
        tags["StripByteCounts"].overwrite(side * side * 3)
        start = tags["StripOffsets"].value[0]
    with path.open("r+b") as file:
        file.truncate(start + side * side * 3)


def test_a_compressed_strip_that_is_too_large_is_refused(tmp_path):
    make_one_strip(tmp_path / "one.tif", "lzw", 20_000)
    with pytest.raises(SlideError, match=r"one\.tif: stores 20000 x 20000 pixels in one piece, .* tiles of 512"):
        open_slide(tmp_path / "one.tif")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/status")
def test_bare_rows_in_one_large_strip_are_read_in_bounded_memory(tmp_path):
    path = tmp_path / "one.tif"
    make_one_strip(path, None)
    assert path.stat().st_blocks * 512 < 2**20
    read, _ = read_large(path)
    assert {name: int(read[name].max()) for name in ("coarse", "middle", "part")} == dict.fromkeys(
        ("coarse", "middle", "part"), 0
    )
