"""The check sum against published values and a bit-by-bit one."""

import numpy as np
import pytest

from tnet_cli.modelfile.tensorflow.crc32c import LANE_BYTES, crc32c, masked_crc32c


def bit_by_bit(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [1, LANE_BYTES - 1, LANE_BYTES, 2 * LANE_BYTES, 3 * LANE_BYTES + 7, 5000])
def test_lanes_are_joined_to_the_sum_of_the_whole(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == bit_by_bit(data)


def test_the_mask_is_a_rotation_and_a_constant():
    # 0xE3069283 turned right by 15 bits is 0x2507C60D.
    assert masked_crc32c(b"123456789") == (0x2507C60D + 0xA282EAD8) & 0xFFFFFFFF
