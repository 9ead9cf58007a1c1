"""A TIFF writer that writes what it is told, sense or not: tags, and tiles that were compressed elsewhere."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHORT, LONG, RATIONAL, ASCII, LONG8 = 3, 4, 5, 2, 16
CODES = {ASCII: "s", SHORT: "H", LONG: "I", RATIONAL: "I", 11: "f", LONG8: "Q", 12: "d"}

SUB_IFDS = 330

Value = Sequence[float] | str


@dataclass
class RawPage:
    """A page: its tags by number, each with its type, and the bytes of its tiles or strips."""

    tags: dict[int, tuple[int, Value]]
    segments: list[bytes]
    is_tiled: bool
    below: "list[RawPage]" = field(default_factory=list)


def write_raw_tiff(path: Path, pages: Sequence[RawPage], byteorder: str = "<", *, is_big: bool = False) -> Path:
    """Write pages one after the other; those below a page become its SubIFDs."""
    out = bytearray({"<": b"II", ">": b"MM"}[byteorder])
    out += struct.pack(byteorder + ("HHHQ" if is_big else "HI"), *((43, 8, 0, 0) if is_big else (42, 0)))
    link = len(out) - (8 if is_big else 4)
    for page in pages:
        start, next_link = _write_page(out, page, byteorder, is_big=is_big)
        struct.pack_into(byteorder + ("Q" if is_big else "I"), out, link, start)
        link = next_link
    path.write_bytes(out)
    return path


def _write_page(out: bytearray, page: RawPage, byteorder: str, *, is_big: bool) -> tuple[int, int]:
    """Append a page; return where its directory starts, and where the offset of the next one belongs."""
    word, size = ("Q", 8) if is_big else ("I", 4)
    offset_type = LONG8 if is_big else LONG
    offsets = []
    for segment in page.segments:
        offsets.append(len(out) if segment else 0)
        out += segment + b"\x00" * (len(segment) % 2)
    tags = dict(page.tags)
    tags[324 if page.is_tiled else 273] = (offset_type, offsets)
    tags[325 if page.is_tiled else 279] = (LONG, [len(segment) for segment in page.segments])
    if page.below:
        tags[SUB_IFDS] = (offset_type, [_write_page(out, below, byteorder, is_big=is_big)[0] for below in page.below])
    entries = bytearray()
    for number, (kind, value) in sorted(tags.items()):
        data, count = _packed(byteorder, kind, value)
        if len(data) > size:
            place = len(out)
            out += data + b"\x00" * (len(data) % 2)
            data = struct.pack(byteorder + word, place)
        entries += struct.pack(f"{byteorder}HH{word}", number, kind, count) + data.ljust(size, b"\x00")
    start = len(out)
    out += struct.pack(byteorder + ("Q" if is_big else "H"), len(tags)) + entries
    out += bytes(size)
    return start, len(out) - size


def _packed(byteorder: str, kind: int, value: Value) -> tuple[bytes, int]:
    if isinstance(value, str):
        data = value.encode("latin-1") + b"\x00"
        return data, len(data)
    return struct.pack(f"{byteorder}{len(value)}{CODES[kind]}", *value), len(value) // (2 if kind == RATIONAL else 1)


def pack_bits(samples: np.ndarray, bits: int) -> bytes:
    """Pack whole numbers (H, W, S) tightly, each row from a new byte on, the highest bit first."""
    rows = samples.reshape(len(samples), -1).astype(np.uint32)
    bit_rows = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(bit_rows.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def cut(samples: np.ndarray, width: int, height: int, *, is_tiled: bool) -> list[np.ndarray]:
    """Cut samples (H, W, S) into tiles, filled up with zeros, or into strips, of which the last may be lower."""
    pieces = []
    for top in range(0, samples.shape[0], height):
        for left in range(0, samples.shape[1], width):
            piece = samples[top : top + height, left : left + width]
            if is_tiled:
                fill = [(0, height - piece.shape[0]), (0, width - piece.shape[1]), (0, 0)]
                piece = np.pad(piece, fill)
            pieces.append(np.ascontiguousarray(piece))
    return pieces


def plain_tags(values: Mapping[int, int | Sequence[float] | str]) -> dict[int, tuple[int, Value]]:
    """Give tags their type: text, or numbers of 16 or 32 bits."""
    tags: dict[int, tuple[int, Value]] = {}
    for number, value in values.items():
        if isinstance(value, str):
            tags[number] = (ASCII, value)
        else:
            numbers = [value] if isinstance(value, int) else list(value)
            tags[number] = (SHORT if max(numbers) < 2**16 else LONG, numbers)
    return tags
