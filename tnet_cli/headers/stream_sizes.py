"""What compressed data say of their own size, which their decoders believe, whatever a file's directory says."""

import re
from collections.abc import Callable, Iterator

from tnet_cli.headers.streams import JPEG_2000_START, START_CODES

StatedSize = tuple[int, int, int]
"""Width, height, and samples of a pixel; zero where the data need not be asked for these."""

FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA})
PROGRESSIVE = frozenset({0xC2, 0xCA})
OTHER_FRAMES = frozenset({0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})
"""Second bytes of the markers of JPEG that say how large it is: all that its decoder knows, those of them after which
many scans may come, and others."""

SCAN = b"\xff\xda"

JPEG_END = b"\xff\xd9"

AFTER_DATA = re.compile(rb"\xff[\x01-\xc3\xc5-\xcf\xd8\xd9\xde\xdf\xf0-\xfd]")
"""A marker that does not occur in compressed data, nor between two scans, or that of their end."""

MOST_SCANS = 100
"""Of a JPEG, each of which is laid over the whole image; encoders write a dozen."""

MOST_PARTS = 4096
"""Tiles within JPEG 2000, for each of which its decoder sets up some thousand bytes."""

JP2_START = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
JXL_START, JXL_BOX_START = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
LERC_START, JPEG_XR_START = b"Lerc2 ", b"WMPHOTO\x00"


def is_torn(data: bytes) -> bool:
    """Tell whether a marker stands in a JPEG's only scan that cannot: other data were written over it.

    Its decoder passes over it, and says nothing of what it makes of the rest.
    """
    frame = _jpeg_frame(data)
    return frame is not None and not frame[3] and _is_torn(data, frame[4])


def _is_torn(data: bytes, scan: int) -> bool:
    found = AFTER_DATA.search(data, scan)
    return found is not None and found[0] != JPEG_END


def jpeg_size(data: bytes) -> StatedSize | None:
    """Return the largest size that the header of a JPEG states; None where that has no end, or too many scans come."""
    frame = _jpeg_frame(data)
    if frame is None or (data.count(SCAN) > MOST_SCANS if frame[3] else _is_torn(data, frame[4])):
        return None
    return frame[:3]


def comes_in_scans(data: bytes) -> bool:
    """Tell whether a JPEG comes in several scans, so that its decoder has to hold more than its pixels."""
    frame = _jpeg_frame(data)
    return frame is not None and frame[3]


def _jpeg_frame(data: bytes) -> tuple[int, int, int, bool, int] | None:
    """Return width, height, samples, whether there are several scans, and where the first begins.

    What is no marker is passed over, as decoders do.
    """
    at, width, height, samples, has_scans = 2, 0, 0, 0, False
    while (at := data.find(b"\xff", at)) >= 0 and at + 10 < len(data):
        code = data[at + 1]
        if code in FRAMES:
            height = max(height, int.from_bytes(data[at + 5 : at + 7]))
            width = max(width, int.from_bytes(data[at + 7 : at + 9]))
            samples = max(samples, data[at + 9])
            has_scans |= code in PROGRESSIVE
        elif code == 0xDA:
            return (width, height, samples, has_scans or data[at + 4] < samples, at + 2) if samples else None
        elif code == 0xD9 or code in OTHER_FRAMES:
            return None
        if code == 0xFF:
            at += 1
        elif code == 0 or code in START_CODES:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def jpeg_2000_size(data: bytes) -> StatedSize | None:
    """Return the size of JPEG 2000, in boxes or not."""
    if data.startswith(JP2_START):
        data = next((content for name, content in _boxes(data) if name == b"jp2c"), b"")
    if not data.startswith(JPEG_2000_START):
        return None
    # The reference grid's end and start, and the same of its tiles; first the length of the segment, and profiles.
    right, bottom, left, top, across, down = (int.from_bytes(data[i : i + 4]) for i in range(8, 32, 4))
    if min(across, down) < 1 or -(-right // across) * -(-bottom // down) > MOST_PARTS:
        return None
    return right - left, bottom - top, int.from_bytes(data[40:42])


def png_size(data: bytes) -> StatedSize | None:
    """Return the size of a PNG, which stands in its first chunk."""
    if data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), 0


def webp_size(data: bytes) -> StatedSize | None:
    """Return the size of a WebP: lossy, lossless, or extended, where it is that of all that follows."""
    kind = data[12:16] if data[8:12] == b"WEBP" else b""
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF, 0
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 0
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1, 0
    return None


def jpeg_xl_size(data: bytes) -> StatedSize | None:
    """Return the size of JPEG XL, in boxes or not (ISO/IEC 18181-1, size header)."""
    if data.startswith(JXL_BOX_START):
        parts = ((name, content) for name, content in _boxes(data) if name in {b"jxlc", b"jxlp"})
        data = next((content[4:] if name == b"jxlp" else content for name, content in parts), b"")
    if not data.startswith(JXL_START):
        return None
    bits = int.from_bytes(data[2:14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio:
        across, down = JXL_RATIOS[ratio - 1]
        return height * across // down, height, 0
    return side(), height, 0


def lerc_size(data: bytes) -> StatedSize | None:
    """Return the size of LERC of version 2 and later; its bands follow one another."""
    if not data.startswith(LERC_START):
        return None
    version = int.from_bytes(data[6:10], "little")
    at = 14 if version >= 3 else 10
    height, width, depth = (int.from_bytes(data[i : i + 4], "little") for i in range(at, at + 12, 4))
    return width, height, data.count(LERC_START) * (depth if version >= 4 else 1)


def jpeg_xr_size(data: bytes) -> StatedSize | None:
    """Return the largest size of what may be the image within JPEG XR."""
    at, found = -1, (0, 0, 0)
    while (at := data.find(JPEG_XR_START, at + 1)) >= 0:
        each = 2 if data[at + 10 : at + 11] >= b"\x80" else 4
        width, height = (int.from_bytes(data[i : i + each]) + 1 for i in (at + 12, at + 12 + each))
        found = max(found[0], width), max(found[1], height), 0
    return found if found[0] else None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the outermost boxes of a container, with their names."""
    at = 0
    while at + 8 <= len(data):
        length, name, head = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16]), 16
        stop = at + length if length else len(data)
        yield name, data[at + head : stop]
        if stop < at + head:
            return
        at = stop


SIZES: dict[int, Callable[[bytes], StatedSize | None]] = {
    **dict.fromkeys((6, 7, 34892, 33007), jpeg_size),
    **dict.fromkeys((33003, 33004, 33005, 34712), jpeg_2000_size),
    **dict.fromkeys((22610, 34934), jpeg_xr_size),
    **dict.fromkeys((50001, 34927), webp_size),
    **dict.fromkeys((50002, 52546), jpeg_xl_size),
    34933: png_size,
    34887: lerc_size,
}
"""By the compression of a TIFF; those that are not here are decoded into room of the tile's size."""
