"""What compressed data say of themselves in their headers."""

from collections.abc import Iterator

START_CODES = frozenset({0x01, 0x4F, 0xD8, *range(0xD0, 0xD8)})
"""Second bytes of the markers that nothing belongs to, in JPEG and JPEG 2000."""

END_CODES = frozenset({0x90, 0xD9, 0xDA})
"""Second bytes of the markers that end a header."""

JPEG_START = b"\xff\xd8"
JPEG_2000_START = b"\xff\x4f\xff\x51"

SYCC = (18).to_bytes(4, "big")

HEADER_BYTES = 16 * 1024
"""Of compressed data, in which their header is looked for."""


def stream_colours(*streams: bytes) -> str | None:
    """Return what compressed data say their samples are: ``RGB`` or ``YCbCr``; None where they do not say.

    A JPEG says it by the marker of JFIF (which is YCbCr), that of Adobe, or the names of its components; JPEG 2000 by
    its own transform of colours, which gives RGB.

    Args:
        streams: A JPEG's tables, if it has any apart, and its data; or the data alone.
    """
    found = None
    for data in streams:
        for code, body in _segments(data):
            if code == 0xE0 and body.startswith(b"JFIF\x00"):
                return "YCbCr"
            if code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
                found = {0: "RGB", 1: "YCbCr"}.get(body[11])
            if 0xC0 <= code <= 0xC2 and body[5:6] == b"\x03" and body[6::3][:3] == b"RGB" and found is None:
                found = "RGB"
            if code == 0x52 and JPEG_2000_START in data and body[4:5] == b"\x01":
                found = "RGB"
    return found


def becomes_rgb(data: bytes) -> bool:
    """Tell whether its decoder makes RGB of YCbCr in JPEG 2000.

    That of imagecodecs does where chroma is subsampled, as in most of Aperio's files, or where a box says sYCC.
    """
    box = data.find(b"colr", 0, max(0, data.find(JPEG_2000_START)))
    if box >= 0 and data[box + 4] == 1 and data[box + 7 : box + 11] == SYCC:
        return True
    size = next((body for code, body in _segments(data) if code == 0x51), b"")
    # Of each component after the first 36 bytes: depth, and its steps across and down.
    return size[34:36] == b"\x00\x03" and len(size) >= 45 and size[37] == size[38] and size[40] != 1


def jpeg_2000_bits(data: bytes) -> int:
    """Return how many bits the samples of JPEG 2000 have by their header; 0 where it is none."""
    size = next((body for code, body in _segments(data) if code == 0x51), b"")
    return (size[36] & 0x7F) + 1 if len(size) > 36 else 0


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the segments of a header, each by the second byte of its marker; none once it makes no sense."""
    at = 0 if data[:2] == JPEG_START else max(0, data.find(JPEG_2000_START, 0, HEADER_BYTES))
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in END_CODES:
        if data[at + 1] in START_CODES:
            at += 2
        elif data[at + 1] == 0xFF:
            at += 1
        else:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            yield data[at + 1], data[at + 4 : at + 2 + length]
            at += 2 + length
