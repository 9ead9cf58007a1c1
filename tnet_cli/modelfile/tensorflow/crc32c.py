"""CRC-32C (Castagnoli), the check sum of TensorFlow's checkpoints, in numpy: quick enough to check every weight."""

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78
MASK_DELTA = 0xA282EAD8

LANE_BYTES = 256
"""Long data is cut into lanes of this many bytes that are summed side by side, then joined."""

ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes."""
    table = _table()
    lanes = len(data) // LANE_BYTES
    state = ONES
    if lanes > 1:
        columns = np.frombuffer(data, np.uint8, lanes * LANE_BYTES).reshape(lanes, LANE_BYTES).T
        sums = np.zeros(lanes, np.uint32)
        for column in np.ascontiguousarray(columns):
            sums = table[(sums ^ column) & 255] ^ (sums >> 8)
        # The sum is linear: what stood before a lane is shifted past it and added.
        first, second, third, fourth = _past_a_lane()
        for lane in sums.tolist():
            state = (
                first[state & 255] ^ second[state >> 8 & 255] ^ third[state >> 16 & 255] ^ fourth[state >> 24] ^ lane
            )
        data = data[lanes * LANE_BYTES :]
    plain = table.tolist()
    for byte in data:
        state = plain[(state ^ byte) & 255] ^ (state >> 8)
    return state ^ ONES


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C as TensorFlow stores it: rotated and shifted, so that sums of sums do not degenerate."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & ONES


@cache
def _table() -> np.ndarray:
    """Return the sum of each byte, uint32 (256,)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    return table


@cache
def _past_a_lane() -> list[list[int]]:
    """Return, for each byte of a state, what it becomes after a lane of zeros: four lists of 256."""
    table = _table()
    shifted = []
    for byte in range(4):
        state = np.arange(256, dtype=np.uint32) << np.uint32(8 * byte)
        for _ in range(LANE_BYTES):
            state = table[state & 255] ^ (state >> 8)
        shifted.append(state.tolist())
    return shifted
