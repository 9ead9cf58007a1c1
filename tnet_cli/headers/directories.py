"""What a file may claim of its size, looked at before any reader makes room for it.

A TIFF of a few kilobytes may name tiles of gigabytes, a thousand million offsets, or images without end. All of its
directories are read here first, as they stand, so that tifffile, OpenSlide and Pillow meet none of these.
"""

import struct
from collections.abc import Callable
from typing import Literal

import tifffile

from tnet_cli.errors import SlideError

ReadFunction = Callable[[int, int], bytes]
"""Count and offset -> bytes, fewer only where the file ends."""

LARGEST_TILE_BYTES = 68_000_000
"""Of a decoded tile, 4096 x 4096 pixels of four samples, so that a tiled slide stays within what is promised of it."""

LARGEST_STRIP_BYTES = 256_000_000
"""Of a decoded strip, or of an image in one piece."""

MOST_DIRECTORIES = 1000
"""Images and sub-images of a TIFF; a slide has a dozen, and stacks are refused whatever they hold."""

MOST_HELD_BYTES = 160_000_000
"""Of memory, for all tags of a TIFF: of slides, two numbers for each tile, for two million tiles."""

NUMBER_BYTES, TAG_BYTES = 40, 300
"""What each takes as an object."""

NOTICED = 100
"""So long a circle of directories is refused like any other long list of them; in a shorter one all are there."""

LONGEST_TAG = 16 * 1024 * 1024
"""Bytes of a text, a colour profile and the like; most have a few thousand."""

LONGEST_TABLES = 64 * 1024
"""Bytes of JPEG tables, which are read again with every tile."""

MOST_TAGS = 4096
"""In a directory; what has more is none."""

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
USUAL = frozenset({3, 4, 16})
NO_NUMBERS = frozenset({1, 2, 6, 7})
NO_WHOLE_NUMBERS = frozenset({2, 5, 10, 11, 12})

SAMPLES, TILE_WIDTH, TILE_LENGTH, SUB_IFDS, TABLES = 277, 322, 323, 330, 347
COUNTS = frozenset({256, 257, 258, 259, 262, 273, SAMPLES, 278, 279, 284, TILE_WIDTH, TILE_LENGTH, 324, 325})
"""Tags of whole numbers, without which no pixel is found."""

NO_TAG = (0, 0, b"")
FEW = 8
"""So many numbers are no burden."""

NDPI = 65420
LONG_BY_RIGHT = frozenset({37724, 65426, 65432})
"""Layers of Photoshop and lists of NDPI, of which no reader makes numbers or texts."""


def check_directories(path: str, read: ReadFunction, size: int) -> None:
    """Refuse a TIFF whose directories claim more than a slide needs, or give sizes that are no whole numbers.

    What makes no sense, or lies beyond the end of the file, is left to who reads it.

    Args:
        size: Bytes of the file.

    Raises:
        SlideError: it lists too many images or tiles, too large ones, or too long texts.
    """
    walk = _Walk(read, size)
    waiting, seen, below, held = walk.first(), set[int](), 0, 0
    while waiting:
        at = waiting.pop()
        if at in seen or not 8 <= at < size:
            continue
        seen.add(at)
        tags, onward = walk.directory(at)
        waiting.append(onward)
        held += TAG_BYTES * len(tags)
        for code, kind, count, _ in tags:
            if count > FEW or (kind not in USUAL and code in COUNTS):
                held += _held_bytes(path, code, kind, count, size)
        if held > MOST_HELD_BYTES:
            raise SlideError(
                path, "lists more tiles, or has longer texts, than fit into memory; export it with larger tiles"
            )
        by_code = {tag[0]: tag[1:] for tag in tags}
        _check_tile(path, *(walk.number(*by_code.get(code, NO_TAG)) for code in (TILE_WIDTH, TILE_LENGTH, SAMPLES)))
        if SUB_IFDS in by_code:
            kind, count, value = by_code[SUB_IFDS]
            below += count
            waiting += walk.offsets(kind, count, value) if below <= MOST_DIRECTORIES else []
        # A circle of that many is one that tifffile does not notice.
        if len(seen) + below > MOST_DIRECTORIES or (onward in seen and len(seen) >= NOTICED):
            raise SlideError(
                path, f"lists more than {MOST_DIRECTORIES} images; export the one that is the slide as OME-TIFF or SVS"
            )


def _held_bytes(path: str, code: int, kind: int, count: int, size: int) -> int:
    """Return the memory that a tag takes; what lies beyond the end of the file is not read by anybody.

    Raises:
        SlideError: it is too long for what it is, or of a type that cannot be.
    """
    if kind in NO_WHOLE_NUMBERS and code in COUNTS:
        name = tifffile.TIFF.TAGS.get(code, str(code))
        raise SlideError(path, f"its tag {name} is no whole number; it is damaged, copy or export it again")
    count_bytes = count * TYPE_BYTES.get(kind, 0)
    if count_bytes > size or code in LONG_BY_RIGHT:
        return 0
    if kind not in NO_NUMBERS:
        return NUMBER_BYTES * count
    if count_bytes > (LONGEST_TABLES if code == TABLES else LONGEST_TAG):
        name = tifffile.TIFF.TAGS.get(code, str(code))
        raise SlideError(path, f"its tag {name} has {count_bytes} bytes, and no slide's has; it is damaged")
    return count_bytes


def _check_tile(path: str, width: int, height: int, samples: int) -> None:
    # OpenSlide makes four bytes of each pixel.
    if width * height * max(4, samples) > LARGEST_TILE_BYTES:
        raise too_large_piece(path, width, height)


def too_large_piece(path: str, width: int, height: int) -> SlideError:
    """Say that a tile or strip is too large to be decoded."""
    return SlideError(
        path,
        f"stores {width} x {height} pixels in one piece, which must be decoded at once and would not fit into memory; "
        "convert it to a TIFF with tiles of 512 x 512",
    )


class _Walk:
    """Reads directories one by one, and of tags no more than they hold themselves."""

    def __init__(self, read: ReadFunction, size: int) -> None:
        self._read, self._size = read, size
        self._start = read(16, 0)
        self._order: Literal["little", "big"] = "little" if self._start[:2] == b"II" else "big"
        sign = "<" if self._order == "little" else ">"
        self._is_big = self._start[2:4] in {b"+\x00", b"\x00+"}
        self._head = struct.Struct(sign + ("Q" if self._is_big else "H"))
        self._tag = struct.Struct(sign + ("HHQ8s" if self._is_big else "HHI4s"))

    def first(self) -> list[int]:
        """Return where the first directory may lie: in NDPI files an offset has eight bytes."""
        if self._is_big:
            return [int.from_bytes(self._start[8:16], self._order)]
        far = int.from_bytes(self._start[4:12], self._order)
        is_ndpi = 2**32 <= far < self._size and any(code == NDPI for code, *_ in self.directory(far)[0])
        return [far if is_ndpi else int.from_bytes(self._start[4:8], self._order)]

    def directory(self, at: int) -> tuple[list[tuple[int, int, int, bytes]], int]:
        """Return tags, each with its type, count and what it holds itself, and where the next directory lies."""
        data = self._read(1024, at)
        head, size = self._head.size, self._tag.size
        count = int.from_bytes(data[:head], self._order)
        stop = head + count * size
        if count <= MOST_TAGS and len(data) < stop + 8:
            data = self._read(stop + 8, at)
        if count > MOST_TAGS or len(data) < stop:
            return [], 0
        tags = list(self._tag.iter_unpack(data[head:stop]))
        has_long_links = self._is_big or any(code == NDPI for code, *_ in tags)
        return tags, int.from_bytes(data[stop : stop + (8 if has_long_links else 4)], self._order)

    def number(self, kind: int, count: int, value: bytes) -> int:
        """Return the one number that a tag holds; zero where it holds others."""
        return int.from_bytes(value[: TYPE_BYTES.get(kind, 0)], self._order) if count == 1 else 0

    def offsets(self, kind: int, count: int, value: bytes) -> list[int]:
        """Return the numbers of a tag, wherever they lie."""
        each = TYPE_BYTES.get(kind, 1)
        if each * count > len(value):
            # No more than the file has.
            value = self._read(each * count, int.from_bytes(value, self._order))
        return [int.from_bytes(value[i : i + each], self._order) for i in range(0, each * count, each)]
