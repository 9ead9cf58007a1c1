"""Real files: who reads them, what they say of themselves, and every pixel against an independent decoder."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide


@dataclass(frozen=True)
class Known:
    """What is known of a real file."""

    name: str
    reader: str
    size: tuple[int, int]
    mpp: float | None
    mpp_source: str | None
    vendor: str | None
    downsamples: tuple[float, ...]
    oracle: Callable[[Path, int], np.ndarray]
    """Path and pyramid level to pixels (H, W, 3), by a decoder that is not under test."""


def by_tifffile(path: Path, pyramid_level: int) -> np.ndarray:
    with tifffile.TiffFile(path) as tif:
        pixels = np.asarray(tif.series[0].levels[pyramid_level].asarray())
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def turned_by_tifffile(path: Path, pyramid_level: int) -> np.ndarray:
    return np.rot90(by_tifffile(path, pyramid_level), -1)


def laid_over_white(path: Path, pyramid_level: int) -> np.ndarray:
    rgba = by_tifffile(path, pyramid_level).astype(float)
    share = rgba[..., 3:] / 255
    return np.floor(rgba[..., :3] * share + 255 * (1 - share) + 0.5)


def by_openslide(path: Path, pyramid_level: int) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        size = slide.level_dimensions[pyramid_level]
        return np.asarray(slide.read_region((0, 0), pyramid_level, size))[..., :3]


def inside_dicom(path: Path, _: int) -> np.ndarray:
    """The slide's one frame, a JPEG of 64 x 64 pixels of which 16 x 16 count; boxes_1 belongs to the same slide."""
    data = path.with_name("boxes_0.dcm").read_bytes()
    after = data[data.rindex(b"\xe0\x7f\x10\x00") :]
    with Image.open(io.BytesIO(after[after.index(b"\xff\xd8\xff") :])) as picture:
        return np.asarray(picture.convert("RGB"))[:16, :16]


KNOWN = [
    Known("CMU-1-Small-Region.svs", "tifffile", (2220, 2967), 0.499, "aperio.MPP", "aperio", (1,), by_openslide),
    Known("OS-1-detail.ome.tif", "tifffile", (1101, 1101), 0.2271, "ome-xml", "ome", (1,), by_tifffile),
    Known("OS-2-ndpi.ome.tif", "tifffile", (2202, 2202), 0.2271, "ome-xml", "ome", (1,), by_tifffile),
    Known("boxes.tiff", "tifffile", (300, 250), None, None, "generic-tiff", (1, 2, 4, 8), by_openslide),
    Known("boxes_0.dcm", "openslide", (16, 16), 0.499, "openslide.mpp-x", "dicom", (1,), inside_dicom),
    Known("boxes_1.dcm", "openslide", (16, 16), 0.499, "openslide.mpp-x", "dicom", (1,), inside_dicom),
    Known("rgba_geotiff.tiff", "tifffile", (600, 600), None, None, "generic-tiff", (1, 2), laid_over_white),
    Known("small.svs", "tifffile", (16, 16), 0.499, "aperio.MPP", "aperio", (1,), by_openslide),
    Known(
        "test3-DAPI-2-387.ndpi",
        "openslide",
        (3968, 4864),
        0.2282,
        "openslide.mpp-x",
        "hamamatsu",
        (1, 2, 4, 8, 16, 32, 64),
        by_tifffile,
    ),
    Known("test_orient1.tif", "tifffile", (120, 180), None, None, "generic-tiff", (1, 2, 4), by_tifffile),
    Known("test_orient6.tif", "tifffile", (180, 120), None, None, "generic-tiff", (1, 2, 4), turned_by_tifffile),
    Known("yb10kx5k.zstd.tiff", "tifffile", (10000, 5000), None, None, "generic-tiff", (1, 2, 4, 8, 16), by_tifffile),
]


@pytest.fixture(params=KNOWN, ids=lambda known: known.name)
def known(request) -> Known:
    assert isinstance(request.param, Known)
    return request.param


def read_level(slide: Slide, pyramid_level: int) -> np.ndarray:
    """A stored resolution, whole, as near as level-0 boxes allow."""
    stored = slide.pyramid[pyramid_level]
    whole = Region(0, 0, round(stored.size.width * stored.downsample), round(stored.size.height * stored.downsample))
    return slide.read(whole, stored.size.width, stored.size.height)


def test_every_file_is_known(slides):
    assert {path.name for path in slides.iterdir() if path.is_file()} == {known.name for known in KNOWN}


def test_facts(slides, known):
    with open_slide(slides / known.name) as slide:
        assert slide.reader == known.reader
        assert slide.size == Size(*known.size)
        assert slide.mpp == (None if known.mpp is None else pytest.approx(known.mpp, abs=5e-5))
        assert slide.mpp_source == known.mpp_source
        assert slide.vendor == known.vendor
        assert tuple(stored.downsample for stored in slide.pyramid) == known.downsamples
        assert slide.bounds == Region(0, 0, *known.size)
        assert slide.background == (255, 255, 255)


def test_pixels_of_every_pyramid_level(slides, known):
    path = slides / known.name
    with open_slide(path) as slide:
        # Below the fourth, OpenSlide makes the resolutions of NDPI files by itself.
        for pyramid_level in range(4 if known.vendor == "hamamatsu" else len(slide.pyramid)):
            expected = known.oracle(path, pyramid_level)
            # numpy's own assertion takes twenty times as long.
            assert np.array_equal(read_level(slide, pyramid_level), expected), f"pyramid level {pyramid_level}"


def test_regions_inside_and_across_the_edge(slides, known):
    path = slides / known.name
    expected = known.oracle(path, 0).astype(np.uint8)
    width, height = known.size
    framed = np.full((height + 40, width + 40, 3), 255, np.uint8)
    framed[20:-20, 20:-20] = expected
    with open_slide(path) as slide:
        for x, y in [(-20, -20), (-7, 5), (width - 9, height - 11), (width // 2, height // 3)]:
            found = slide.read(Region(x, y, 20, 20), 20, 20)
            np.testing.assert_array_equal(found, framed[y + 20 : y + 40, x + 20 : x + 40])


def test_thumbnail_shows_the_slide(slides, known):
    path = slides / known.name
    with open_slide(path) as slide:
        thumbnail = slide.thumbnail(100)
        assert max(thumbnail.shape[:2]) == min(100, max(known.size))
        enough = [i for i, stored in enumerate(slide.pyramid[:4]) if max(stored.size.width, stored.size.height) >= 500]
        nearest = enough[-1] if enough else 0
    pixels = known.oracle(path, nearest)
    reference = shares(shares(pixels, thumbnail.shape[0]).transpose(1, 0, 2), thumbnail.shape[1])
    # Scanners do not average exactly, and where an average cuts pixels, they are those of a resolution made before.
    assert np.abs(thumbnail - reference.transpose(1, 0, 2)).mean() < (3 if len(known.downsamples) > 1 else 2)


def shares(pixels: np.ndarray, rows: int) -> np.ndarray:
    """Averages along the first axis over equal shares, pixels counted by the part that lies inside; float64."""
    sums = np.concatenate([np.zeros((1, *pixels.shape[1:])), np.cumsum(pixels, axis=0, dtype=float)])
    edges = np.arange(rows + 1) * len(pixels) / rows
    below = np.minimum(edges.astype(int), len(pixels) - 1)
    at_edges = sums[below] + (edges - below)[:, None, None] * (sums[below + 1] - sums[below])
    averaged: np.ndarray = np.diff(at_edges, axis=0) * rows / len(pixels)
    return averaged


@pytest.mark.parametrize(
    "name", ["highdicom_sm_image_grayscale.dcm", "unopenable.tiff", "unreadable.svs", "zero_gi.tif"]
)
def test_broken_files_give_one_sentence(slides, name):
    path = slides / "broken" / name

    def open_and_look() -> None:
        with open_slide(path) as slide:
            slide.thumbnail(64)

    with pytest.raises(SlideError) as caught:
        open_and_look()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message.count(str(path)) == 1
    assert caught.value.exit_code == 3


def test_every_broken_file_is_tested(slides):
    assert len(list((slides / "broken").iterdir())) == 4


def test_associated_images_are_those_of_openslide(slides):
    path = slides / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert set(slide.associated_images) == set(reference.associated_images) == {"label", "macro", "thumbnail"}


def test_associated_image_of_a_dicom_slide(slides):
    with open_slide(slides / "boxes_0.dcm") as slide:
        assert slide.associated_images == ("thumbnail",)
