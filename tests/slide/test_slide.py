"""Which stored pixels a read decodes, and what reads are refused."""

import errno
import os
import tempfile

import numpy as np
import pytest

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide import reduction
from tnet_cli.slide.opening import open_slide


def test_between_two_resolutions_only_the_region_is_decoded(write_tiff, smooth, averaged):
    """Twelvefold shrinking of a pyramid of 1 and 16 must not decode the whole finest resolution."""
    pixels = smooth(2048, 1024)
    coarse = averaged(pixels, 16).astype(np.uint8)
    path = write_tiff([pixels, coarse], photometric="rgb", tile=(128, 128), compression="zlib")
    with open_slide(path) as slide:
        assert [stored.size for stored in slide.pyramid] == [Size(2048, 1024), Size(128, 64)]
        found = slide.read(Region(256, 384, 240, 120), 20, 10)
        assert slide.pixels_read == 2 * 128 * 128
    expected = averaged(pixels[384:504, 256:496], 12)
    assert np.abs(found - expected).max() <= 1


def test_beyond_the_coarsest_resolution_all_of_it_is_decoded_once(write_tiff, smooth, averaged):
    pixels = smooth(2048, 1024)
    levels = [pixels, averaged(pixels, 4).astype(np.uint8)]
    with open_slide(write_tiff(levels, photometric="rgb", tile=(128, 128), compression="zlib")) as slide:
        for x in range(0, 2048, 256):
            slide.read(Region(x, 0, 256, 256), 8, 8)
        assert slide.pixels_read == 512 * 256


@pytest.mark.parametrize(("width", "height"), [(0, 8), (8, 0), (-1, 8)])
def test_a_read_of_no_pixels_is_refused(write_tiff, coded, width, height):
    with (
        open_slide(write_tiff(coded(64, 64), photometric="rgb")) as slide,
        pytest.raises(ValueError, match="at least one pixel"),
    ):
        slide.read(Region(0, 0, 8, 8), width, height)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_full_disk_is_an_error_that_says_where(write_tiff, smooth, monkeypatch):
    """Written through a map, a full disk would end the process with SIGBUS."""

    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reduction, "IN_MEMORY_BYTES", 1000)
    path = write_tiff(smooth(512, 512), photometric="rgb", tile=(128, 128))
    with open_slide(path) as slide:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", no_room)
            with pytest.raises(SlideError, match=f"no room .* {tempfile.gettempdir()} .No space left .* TMPDIR"):
                slide.thumbnail(32)
        assert slide.thumbnail(32).shape == (32, 32, 3)


def test_reductions_in_a_file_are_those_in_memory(write_tiff, smooth, monkeypatch):
    path = write_tiff(smooth(1024, 700), photometric="rgb", tile=(128, 128))
    with open_slide(path) as slide:
        in_memory = slide.thumbnail(64)
    monkeypatch.setattr(reduction, "IN_MEMORY_BYTES", 1000)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.thumbnail(64), in_memory)
