"""Slides behind URLs hold the same pixels as on a disk, and of their bytes no more are moved than is wanted."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.range_server import serving
from tnet_cli.errors import SlideError, UsageError
from tnet_cli.geometry import Region
from tnet_cli.slide import remote_slide
from tnet_cli.slide.opening import open_slide

pytest.importorskip("aiohttp", reason="needs the extra 'remote'")

TILED: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg", "resolution": (20000, 20000)}
TILED |= {"resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1500 x 1100 px, tiles of 128 px, JPEG, with a copy at a quarter."""
    path = tmp_path_factory.mktemp("made") / "made.tif"
    y, x = np.mgrid[:1100, :1500]
    pixels = (np.stack([x % 256, y % 256, x * y // 500 % 256], axis=2)).astype(np.uint8)
    with tifffile.TiffWriter(path) as tif:
        tif.write(pixels, metadata=None, **TILED)
        tif.write(pixels[::4, ::4], subfiletype=1, metadata=None, **TILED)
    return path


@pytest.fixture
def pyramid(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "slide.tif"))


def some_regions(width: int, height: int, count: int = 12) -> list[Region]:
    rng = np.random.default_rng(7)
    corners = rng.integers((-60, -60), (width, height), (count, 2))
    sides = rng.integers(5, 500, count)
    return [Region(int(x), int(y), int(side), int(side)) for (x, y), side in zip(corners, sides, strict=True)]


@pytest.mark.parametrize("subifds", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
def test_pixels_and_counts_are_those_of_the_file(server, write_tiff, smooth, compression, subifds):
    options = TILED | {"compression": compression, "bigtiff": subifds}
    path = write_tiff([smooth(900, 700), smooth(225, 175, 2)], subifds=subifds, **options)
    with open_slide(server.url_of(path)) as remote, open_slide(path) as local:
        for region in some_regions(900, 700):
            for px in (region.width, 64):
                np.testing.assert_array_equal(remote.read(region, px, px), local.read(region, px, px))
        np.testing.assert_array_equal(remote.thumbnail(300), local.thumbnail(300))
        assert remote.pixels_read == local.pixels_read
        for fact in ("size", "pyramid", "mpp", "mpp_source", "vendor", "bounds", "properties", "reader"):
            assert getattr(remote, fact) == getattr(local, fact), fact
        assert remote.mpp == 0.5
        assert remote.bytes_read == server.sent


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("rowsperstrip", [10, 400])
def test_strips_planes_and_slides_without_pyramid(server, write_tiff, coded, planarconfig, rowsperstrip):
    pixels = coded(500, 400)
    stored = pixels.transpose(2, 0, 1) if planarconfig == "separate" else pixels
    path = write_tiff(stored, photometric="rgb", planarconfig=planarconfig, rowsperstrip=rowsperstrip)
    with open_slide(server.url_of(path)) as remote:
        whole = remote.read(Region(0, 0, 500, 400), 500, 400)
        np.testing.assert_array_equal(whole, pixels)
        with open_slide(path) as local:
            np.testing.assert_array_equal(remote.thumbnail(40), local.thumbnail(40))


def test_every_real_slide_that_is_a_plain_tiff(slides):
    with serving(slides) as server:
        for name in ("CMU-1-Small-Region.svs", "OS-2-ndpi.ome.tif", "test_orient6.tif", "yb10kx5k.zstd.tiff"):
            with open_slide(server.url_of(slides / name)) as remote, open_slide(slides / name) as local:
                assert remote.reader == local.reader == "tifffile"
                assert remote.properties == local.properties
                for region in some_regions(local.size.width, local.size.height, 4):
                    np.testing.assert_array_equal(remote.read(region, 100, 100), local.read(region, 100, 100))
                assert remote.associated_images == local.associated_images


def test_a_band_at_a_time_when_tiles_are_many(server, pyramid, monkeypatch):
    monkeypatch.setattr(remote_slide, "AT_ONCE_BYTES", 50_000)
    with open_slide(server.url_of(pyramid)) as remote, open_slide(pyramid) as local:
        whole = Region(0, 0, 1500, 1100)
        np.testing.assert_array_equal(remote.read(whole, 1500, 1100), local.read(whole, 1500, 1100))


def test_tiles_are_moved_exactly_and_once(server, pyramid):
    with open_slide(server.url_of(pyramid)) as remote, open_slide(pyramid) as local:
        opened = len(server.asked)
        region = Region(300, 300, 300, 300)  # three tiles by three
        remote.read(region, 300, 300)
        local.read(region, 300, 300)
        asked = server.asked[opened:]
        assert len(asked) == 3, "neighbours in a row of tiles are one request"
        assert sum(last + 1 - first for _, first, last in asked) == local.bytes_read
        remote.read(region, 300, 300)
        assert len(server.asked) == opened + 3


def test_many_threads_read_right_and_move_each_tile_once(server, pyramid):
    regions = some_regions(1500, 1100, 40) * 2
    with open_slide(pyramid) as local:
        expected = [local.read(region, 90, 90) for region in regions]
        tiles = local.bytes_read
    with open_slide(server.url_of(pyramid)) as remote:
        opened = remote.bytes_read
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda region: remote.read(region, 90, 90), regions))
        assert remote.bytes_read - opened <= tiles
    for pixels, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(pixels, right)


def test_a_closed_slide_says_so(server, pyramid):
    slide = open_slide(server.url_of(pyramid))
    slide.close()
    with pytest.raises(SlideError, match="is closed"):
        slide.read(Region(0, 0, 9, 9), 9, 9)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_are_fetched_whole(server, tmp_path, smooth, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(smooth(640, 480)).save(path)
    with open_slide(server.url_of(path), mpp=0.5) as remote, open_slide(path, mpp=0.5) as local:
        np.testing.assert_array_equal(remote.thumbnail(640), local.thumbnail(640))
        assert (remote.reader, remote.mpp, remote.bytes_read) == ("pillow", 0.5, path.stat().st_size)


def test_a_large_picture_is_to_be_downloaded(server, tmp_path, smooth, monkeypatch):
    monkeypatch.setattr(remote_slide, "LARGEST_PICTURE_BYTES", 100_000)
    path = tmp_path / "picture.png"
    Image.fromarray(smooth(640, 480)).save(path)
    with pytest.raises(SlideError, match=r"picture\.png: is a picture of \d+ bytes, .* download it first"):
        open_slide(server.url_of(path))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.mrxs", b"\xff\xd8\xff", "is a slide of the format MIRAX, which tnet reads only from a disk; download it"),
        ("a.dcm", bytes(128) + b"DICM", "is a slide of the format DICOM"),
        ("series", bytes(128) + b"DICM", "is a slide of the format DICOM"),
        ("a.czi", b"ZISRAWFILE", "is a slide of the format Zeiss CZI"),
        ("a.svs", b"\n<!DOCTYPE html><html>log in</html>", "is a web page, not a slide"),
        ("a.svs", b"no such thing", "is neither a TIFF slide nor a PNG or JPEG picture"),
        ("a.svs", b"", "is empty"),
        ("a.tif", b"II*\x00\x08\x00\x00\x00", "its TIFF directory is damaged: it names no image"),
        ("a.png", b"\x89PNG\r\n\x1a\ncut", "is neither a slide nor a picture|cannot be decoded"),
    ],
)
def test_what_cannot_be_read_by_url(server, tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=sentence) as caught:
        open_slide(f"{server.url}/{name}")
    assert caught.value.path == f"{server.url}/{name}"


def test_vendors_with_quirks_are_found_by_their_pages(server, slides, tmp_path):
    path = tmp_path / "renamed.tif"
    path.write_bytes((slides / "test3-DAPI-2-387.ndpi").read_bytes())
    with pytest.raises(SlideError, match=r"is a slide of the format Hamamatsu NDPI"):
        open_slide(server.url_of(path))


def test_a_reader_can_be_forced(server, pyramid):
    with pytest.raises(SlideError, match="OpenSlide reads no URLs"):
        open_slide(server.url_of(pyramid), reader="openslide")
    with pytest.raises(UsageError, match="--reader other"):
        open_slide(server.url_of(pyramid), reader="other")
    with open_slide(server.url_of(pyramid), reader="pillow") as slide:
        assert (slide.reader, slide.size.width) == ("pillow", 1500)


def test_a_truncated_file_is_refused(server, tmp_path, write_tiff, smooth):
    path = write_tiff(smooth(600, 600), tile=(128, 128), photometric="rgb")
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(SlideError, match=r"is cut off: 3 of the 25 tiles .* copy it again"):
        open_slide(server.url_of(path))


def test_threads_are_not_left_waiting_when_a_tile_cannot_be_had(server, pyramid):
    with open_slide(server.url_of(pyramid)) as remote:
        server.behaviour.status = 403
        problems: list[str] = []

        def read() -> None:
            with pytest.raises(SlideError) as caught:
                remote.read(Region(300, 300, 200, 200), 200, 200)
            problems.append(caught.value.problem)

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(problems) == 6
        assert {problem[:25] for problem in problems} == {"the server refuses access"}
