"""The sizes that compressed data state: those that were encoded, whatever stands before and between."""

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tnet_cli.headers.stream_sizes import MOST_SCANS, SCAN, SIZES, comes_in_scans, is_torn, jpeg_size

JPEG, JPEG_2000, JPEG_XR, WEBP, JPEG_XL, PNG, LERC = 7, 34712, 22610, 50001, 50002, 34933, 34887


def progressive(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", progressive=True)
    return file.getvalue()


ENCODERS: dict[str, tuple[int, Callable[[np.ndarray], Any]]] = {
    "jpeg": (JPEG, imagecodecs.jpeg8_encode),
    "progressive jpeg": (JPEG, progressive),
    "lossless jpeg": (JPEG, lambda pixels: imagecodecs.ljpeg_encode(pixels[..., 0])),
    "jpeg 2000": (JPEG_2000, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="J2K")),
    "jpeg 2000 in boxes": (JPEG_2000, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="JP2")),
    "jpeg xr": (JPEG_XR, lambda pixels: imagecodecs.jpegxr_encode(pixels, level=80)),
    "webp": (WEBP, lambda pixels: imagecodecs.webp_encode(pixels, lossless=False, level=50)),
    "lossless webp": (WEBP, lambda pixels: imagecodecs.webp_encode(pixels, lossless=True)),
    "jpeg xl": (JPEG_XL, lambda pixels: imagecodecs.jpegxl_encode(pixels, effort=1)),
    "jpeg xl in boxes": (JPEG_XL, lambda pixels: imagecodecs.jpegxl_encode(pixels, effort=1, usecontainer=True)),
    "png": (PNG, imagecodecs.png_encode),
    "lerc": (LERC, imagecodecs.lerc_encode),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [(300, 200), (256, 256), (40, 900), (9000, 16)])
def test_the_size_is_the_one_that_was_encoded(name, size):
    compression, encode = ENCODERS[name]
    data = encode(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    stated = SIZES[compression](data)
    assert stated is not None
    assert stated[:2] == size
    assert stated[2] in {0, 1, 3}


@pytest.mark.parametrize("name", ENCODERS)
def test_data_of_another_kind_state_none(name):
    compression, _ = ENCODERS[name]
    assert SIZES[compression](bytes(200)) is None
    assert SIZES[compression](b"") is None


def test_a_jpeg_is_followed_over_what_is_no_marker_as_its_decoder_does():
    data = imagecodecs.jpeg8_encode(np.zeros((64, 48, 3), np.uint8))
    assert SIZES[JPEG](b"\xff\xd8 junk \xff\x00\xff\xff\xff" + bytes(data[3:])) == (48, 64, 3)


def test_two_frames_in_one_header_count_as_the_larger():
    small, large = (imagecodecs.jpeg8_encode(np.zeros((side, side, 3), np.uint8)) for side in (16, 400))
    frame = large[large.index(b"\xff\xc0") :][:19]
    at = small.index(SCAN)
    assert SIZES[JPEG](bytes(small[:at] + frame + small[at:])) == (400, 400, 3)


def test_a_jpeg_of_very_many_scans_states_none():
    data = progressive(np.zeros((64, 64, 3), np.uint8))
    at, end = data.rindex(SCAN), len(data) - 2
    assert comes_in_scans(data)
    assert SIZES[JPEG](data[:end] + data[at:end] * 10 + data[end:]) == (64, 64, 3)
    assert SIZES[JPEG](data[:end] + data[at:end] * MOST_SCANS + data[end:]) is None


def test_jpeg_2000_of_very_many_tiles_states_none():
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((256, 256, 3), np.uint8), codecformat="J2K"))
    at = data.index(b"\xff\x51") + 4 + 18
    data[at : at + 8] = (3).to_bytes(4) * 2
    assert SIZES[JPEG_2000](bytes(data)) is None


def test_a_marker_amid_the_data_of_a_jpeg_shows_that_they_were_written_over(rng):
    picture = Image.fromarray(rng.integers(0, 255, (128, 128, 3), np.uint8))
    for options in ({}, {"restart_marker_blocks": 4}, {"progressive": True}, {"optimize": True}):
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=90, **options)
        whole = data.getvalue()
        assert not is_torn(whole)
        assert not is_torn(whole + b"\xff\xd8\xff\xe0 more, after its end")
        assert jpeg_size(whole) == (128, 128, 3)
        torn = whole[:-500] + b"\xff\xf3" + whole[-498:]
        assert is_torn(torn) == ("progressive" not in options)
        assert (jpeg_size(torn) is None) == is_torn(torn)
