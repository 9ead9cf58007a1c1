"""Damage to slides, seeded: the same seed damages the same file in the same way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import tifffile

EDGE_VALUES = (0, 1, 2, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)

Span = tuple[int, int]
"""Offset and length in bytes."""


@dataclass(frozen=True)
class Anatomy:
    """Where a file keeps what: all empty for a file that is neither a TIFF nor DICOM.

    Attributes:
        order: ``little`` or ``big``.
        wide: Bytes of an offset.
        tags: Each tag's entry.
        chain: Where the offset of each directory stands, the header's first, and that offset.
        scans: The compressed data of each tile, strip or frame.
        elements: Each DICOM element: where its value stands and how long it is.
    """

    order: str = "little"
    wide: int = 4
    tags: tuple[Span, ...] = ()
    chain: tuple[tuple[int, int], ...] = ()
    scans: tuple[Span, ...] = ()
    elements: tuple[Span, ...] = ()


def anatomy(path: Path) -> Anatomy:
    """Find out where a file keeps what."""
    if path.read_bytes()[128:132] == b"DICM":
        return _dicom_anatomy(path)
    try:
        with tifffile.TiffFile(path) as tif:
            pages = [page.aspage() for page in tif.pages]
            wide, length = (8, 20) if tif.is_bigtiff else (4, 12)
            first = 8 if tif.is_bigtiff else 4
            counted = 8 if tif.is_bigtiff else 2
            nexts = [first] + [page.offset + counted + len(page.tags) * length for page in pages[:-1]]
            return Anatomy(
                order="little" if tif.byteorder == "<" else "big",
                wide=wide,
                tags=tuple((tag.offset, length) for page in pages for tag in page.tags),
                chain=tuple(zip(nexts, (page.offset for page in pages), strict=True)),
                scans=tuple(
                    span
                    for page in pages
                    for span in zip(page.dataoffsets, page.databytecounts, strict=True)
                    if span[1]
                ),
            )
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError):
        content = path.read_bytes()
        start = content.find(b"\xff\xda") if content[:2] == b"\xff\xd8" else content.find(b"IDAT")
        return Anatomy(scans=((start, len(content) - start),) if start > 0 else ())


def _dicom_anatomy(path: Path) -> Anatomy:
    found: list[Span] = []
    scans: list[Span] = []

    def look(_: pydicom.Dataset, element: pydicom.DataElement) -> None:
        place = element.file_tell
        if place and element.VR != "SQ":
            length = len(element.value) if isinstance(element.value, bytes | str) else 4
            (scans if element.keyword == "PixelData" else found).append((place, max(1, length)))

    try:
        pydicom.dcmread(path, force=True).walk(look)
    except Exception:  # noqa: BLE001 (some seeds are damaged themselves)
        return Anatomy()
    return Anatomy(elements=tuple(found), scans=tuple(scans))


@dataclass
class Patient:
    """What is being damaged."""

    content: bytearray
    rng: np.random.Generator
    anatomy: Anatomy = field(default_factory=Anatomy)
    other: bytes = b""

    def one_of(self, spans: tuple[Span, ...]) -> Span:
        """Choose one; those of short values as often as of long ones."""
        return spans[int(self.rng.integers(0, len(spans)))]

    def put(self, offset: int, value: int, length: int) -> None:
        """Overwrite a number."""
        self.content[offset : offset + length] = (value % 256**length).to_bytes(length, self.anatomy.order)


def flip_bits(some: Patient) -> None:
    """Flip up to 64 bits anywhere."""
    for place in some.rng.integers(0, len(some.content), int(some.rng.integers(1, 65))):
        some.content[place] ^= 1 << int(some.rng.integers(0, 8))


def flip_bits_at_an_end(some: Patient) -> None:
    """Flip up to 16 bits in the first or last 2 KiB, where formats keep what they need to find the rest."""
    reach = min(2048, len(some.content))
    start = 0 if some.rng.random() < 0.5 else len(some.content) - reach
    for place in some.rng.integers(start, start + reach, int(some.rng.integers(1, 17))):
        some.content[place] ^= 1 << int(some.rng.integers(0, 8))


def truncate(some: Patient) -> None:
    """Cut off the tail."""
    del some.content[int(some.rng.integers(0, len(some.content))) :]


def overwrite(some: Patient) -> None:
    """Overwrite a stretch with zeros or noise, as a failed copy does."""
    length = int(some.rng.integers(1, max(2, len(some.content) // 4)))
    start = int(some.rng.integers(0, max(1, len(some.content) - length)))
    some.content[start : start + length] = some.rng.bytes(length) if some.rng.random() < 0.5 else bytes(length)


def splice(some: Patient) -> None:
    """Go on with another file from some place, as two copies into one file do."""
    at = int(some.rng.integers(0, len(some.content)))
    start = at if some.rng.random() < 0.5 else int(some.rng.integers(0, max(1, len(some.other))))
    if some.rng.random() < 0.5:
        some.content[at:] = some.other[start:]
    else:
        length = int(some.rng.integers(1, max(2, len(some.content) // 2)))
        some.content[at : at + length] = some.other[start : start + length]


def edit_tags(some: Patient) -> None:
    """Give up to three tags of a TIFF another type, count, value or number."""
    wide = some.anatomy.wide
    for _ in range(int(some.rng.integers(1, 4))):
        offset, length = some.one_of(some.anatomy.tags)
        value = int(some.rng.choice(EDGE_VALUES)) if some.rng.random() < 0.7 else int(some.rng.integers(0, 2**16))
        match int(some.rng.integers(0, 4)):
            case 0:
                some.put(offset + 2, value % 20, 2)
            case 1:
                some.put(offset + 4, value, wide)
            case 2:
                some.put(offset + length - wide, value, wide)
            case _:
                other, _ = some.one_of(some.anatomy.tags)
                some.content[offset + 2 : offset + length] = some.content[other + 2 : other + length]


def retype_tags(some: Patient) -> None:
    """Give one tag each of the types in turn: floats and rationals where numbers are due, texts, offsets."""
    offset, _ = some.one_of(some.anatomy.tags)
    some.put(offset + 2, int(some.rng.integers(0, 19)), 2)


def rearrange_directories(some: Patient) -> None:
    """Let directories of a TIFF follow each other in another order: swapped, twice, in a ring, none, anywhere."""
    chain, wide = some.anatomy.chain, some.anatomy.wide
    place, _ = some.one_of(chain)
    other, directory = some.one_of(chain)
    match int(some.rng.integers(0, 5)):
        case 0:
            some.put(place, directory, wide)
        case 1:
            order = some.rng.permutation(len(chain))
            for (at, _), index in zip(chain, order, strict=True):
                some.put(at, chain[int(index)][1], wide)
        case 2:
            some.put(place, 0, wide)
        case 3:
            some.put(place, int(some.rng.integers(0, len(some.content))), wide)
        case _:
            some.content[other : other + wide] = some.content[place : place + wide]


def damage_scans(some: Patient) -> None:
    """Damage the compressed data alone, in up to three tiles: what every directory says of them stays true."""
    for _ in range(int(some.rng.integers(1, 4))):
        start, length = some.one_of(some.anatomy.scans)
        length = min(length, len(some.content) - start)
        if length < 2:
            continue
        at = start + int(some.rng.integers(0, length))
        rest = start + length - at
        match int(some.rng.integers(0, 5)):
            case 0:
                for place in some.rng.integers(start, start + length, int(some.rng.integers(1, 9))):
                    some.content[place] ^= 1 << int(some.rng.integers(0, 8))
            case 1:
                some.content[at : at + rest] = bytes(rest)
            case 2:
                some.content[at : at + rest] = some.rng.bytes(rest)
            case 3:
                other, long = some.one_of(some.anatomy.scans)
                moved = some.content[other : other + min(length, long)]
                some.content[start : start + len(moved)] = moved
            case _:
                _damage_marker(some, start, length)


def _damage_marker(some: Patient, start: int, length: int) -> None:
    """Change what follows a marker of a JPEG or JPEG 2000 stream: sizes, tables, components, scans."""
    stream = some.content[start : start + length]
    markers = [at for at in range(min(len(stream) - 12, 700)) if stream[at] == 0xFF and stream[at + 1] not in (0, 0xFF)]
    if markers:
        at = start + markers[int(some.rng.integers(0, len(markers)))] + int(some.rng.integers(1, 12))
        some.content[at] = int(some.rng.choice([0, 1, 2, 3, 4, 8, 12, 16, 0x7F, 0xFF]))


def edit_elements(some: Patient) -> None:
    """Give up to three elements of a DICOM file another value, length or representation."""
    for _ in range(int(some.rng.integers(1, 4))):
        offset, length = some.one_of(some.anatomy.elements)
        match int(some.rng.integers(0, 4)):
            case 0:
                some.put(offset, int(some.rng.choice(EDGE_VALUES)), min(4, length))
            case 1:
                some.put(offset - 2, int(some.rng.choice((0, 1, 2, 4, 8, 255, 65534, 65535))), 2)
            case 2:
                some.content[offset - 4 : offset - 2] = [b"US", b"FD", b"SQ", b"OB", b"UN", b"IS"][some.rng.integers(6)]
            case _:
                other, long = some.one_of(some.anatomy.elements)
                moved = some.content[other : other + min(length, long)]
                some.content[offset : offset + len(moved)] = moved


def mutant(path: Path, seed: int, *, other: Path | None = None) -> bytes:
    """Return a damaged copy of a file's content.

    Args:
        other: The file that parts are taken from; none are where it is None.
    """
    rng = np.random.default_rng([seed, *path.name.encode()])
    some = Patient(bytearray(path.read_bytes()), rng, anatomy(path), other.read_bytes() if other else b"")
    found = some.anatomy
    kinds: list[Callable[[Patient], None]] = [flip_bits, flip_bits_at_an_end, truncate, overwrite]
    kinds += [splice] * 2 if some.other else []
    kinds += [edit_tags] * 3 + [retype_tags] if found.tags else []
    kinds += [rearrange_directories] * 2 if found.chain else []
    kinds += [damage_scans] * 3 if found.scans else []
    kinds += [edit_elements] * 5 if found.elements else []
    if some.content:
        kinds[int(rng.integers(0, len(kinds)))](some)
    return bytes(some.content)
