"""What the TIFF reader makes of odd pages, of properties, and of being closed."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.slide import reduction, tiff_backend
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.tiff_segments import SharedFile


def test_colour_of_one_sample_is_refused(write_tiff, coded):
    """A damaged count of samples made the reader fail much later, and not as a slide's error."""
    path = write_tiff(coded(64, 48)[..., 0], photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["PhotometricInterpretation"].overwrite(2)
    with pytest.raises(SlideError, match=r"its pixels are RGB, .* not supported"):
        open_slide(path)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_signed_samples_use_their_whole_range(write_tiff, dtype):
    most = np.iinfo(dtype).max
    ramp = np.repeat(np.linspace(0, most, 16).astype(dtype)[None], 8, axis=0)
    ramp[0] = -1
    path = write_tiff(ramp, photometric="minisblack")
    with open_slide(path) as slide:
        found = slide.read(Region(0, 0, 16, 8), 16, 8)
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1:, :, 0], np.repeat(np.linspace(0, 255, 16)[None], 7, axis=0), atol=2)


def test_a_tiff_without_an_image_says_so(tmp_path):
    path = tmp_path / "cut.tif"
    path.write_bytes(b"II*\x00\x08\x00\x00\x00")
    with pytest.raises(SlideError, match=r"cut\.tif: its TIFF directory is damaged: it names no image"):
        open_slide(path)


def test_red_green_and_blue_in_pages_of_their_own_are_combined(tmp_path, coded):
    pixels = coded(96, 64)
    path = tmp_path / "channels.ome.tif"
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, pixels.transpose(2, 0, 1), photometric="minisblack", metadata=metadata)
    with open_slide(path) as slide:
        found = slide.read(Region(0, 0, 96, 64), 96, 64)
        assert slide.mpp == 0.5
        assert [doubt.name for doubt in slide.doubts] == ["channels_combined"]
    np.testing.assert_array_equal(found, pixels)


def test_aperio_properties_are_those_of_openslide(slides):
    for name in ("CMU-1-Small-Region.svs", "small.svs"):
        with (
            open_slide(slides / name, reader="tifffile") as one,
            open_slide(slides / name, reader="openslide") as other,
        ):
            expected = {key: value for key, value in other.properties.items() if key.startswith("aperio.")}
            assert len(expected) > 10
            assert {key: value for key, value in one.properties.items() if key.startswith("aperio.")} == expected


def test_a_file_stays_open_for_those_who_hold_it(tmp_path):
    """Closed under a read, its number could pass to another file, whose bytes would be taken for the slide's."""
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "other").write_bytes(b"other")
    file = SharedFile(str(tmp_path / "one"))
    reader, number = file, file.descriptor
    del file
    other = SharedFile(str(tmp_path / "other"))
    assert other.descriptor != number
    assert os.pread(reader.descriptor, 3, 0) == b"one"
    del reader
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_strip_larger_than_the_cache_is_decoded_once(write_tiff, smooth, orientation, monkeypatch):
    """Walked against the way blocks are shown, strips were dropped just before the next block wanted them."""
    monkeypatch.setattr(tiff_backend, "CACHE_BYTES", 1)
    monkeypatch.setattr(tiff_backend, "MOST_CACHE_BYTES", 1)
    monkeypatch.setattr(reduction, "BLOCK_PX", 640 * 24)
    path = write_tiff(
        smooth(640, 512),
        photometric="rgb",
        compression="zlib",
        rowsperstrip=64,
        extratags=[(274, "H", 1, orientation, True)],
    )
    with open_slide(path) as slide:
        slide.thumbnail(32)
        assert slide.pixels_read == 640 * 512


OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="needs /proc/self/fd")
def test_a_closed_slide_lets_go_of_its_file(write_tiff, coded):
    path = write_tiff(coded(64, 64), photometric="rgb")
    before = len(list(OPEN_FILES.iterdir()))
    slide = open_slide(path)
    slide.read(Region(0, 0, 8, 8), 8, 8)
    assert len(list(OPEN_FILES.iterdir())) > before
    slide.close()
    assert len(list(OPEN_FILES.iterdir())) == before
