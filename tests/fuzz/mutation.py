"""Damage to slides, seeded: the same seed damages the same file in the same way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

EDGE_VALUES = (0, 1, 2, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def flip_bits(content: bytearray, rng: np.random.Generator) -> None:
    """Flip up to 64 bits anywhere."""
    for place in rng.integers(0, len(content), int(rng.integers(1, 65))):
        content[place] ^= 1 << int(rng.integers(0, 8))


def flip_bits_at_an_end(content: bytearray, rng: np.random.Generator) -> None:
    """Flip up to 16 bits in the first or last 2 KiB, where formats keep what they need to find the rest."""
    reach = min(2048, len(content))
    start = 0 if rng.random() < 0.5 else len(content) - reach
    for place in rng.integers(start, start + reach, int(rng.integers(1, 17))):
        content[place] ^= 1 << int(rng.integers(0, 8))


def truncate(content: bytearray, rng: np.random.Generator) -> None:
    """Cut off the tail."""
    del content[int(rng.integers(0, len(content))) :]


def overwrite(content: bytearray, rng: np.random.Generator) -> None:
    """Overwrite a stretch with zeros or noise, as a failed copy does."""
    length = int(rng.integers(1, max(2, len(content) // 4)))
    start = int(rng.integers(0, max(1, len(content) - length)))
    noise = rng.bytes(length) if rng.random() < 0.5 else bytes(length)
    content[start : start + length] = noise


def edit_tags(content: bytearray, rng: np.random.Generator, places: list[tuple[int, int]], order: str) -> None:
    """Give up to three tags of a TIFF another type, count or value.

    Args:
        content: The file.
        rng: Chooses.
        places: Offset and length of each tag's entry.
        order: ``little`` or ``big``.
    """
    for _ in range(int(rng.integers(1, 4))):
        offset, length = places[int(rng.integers(0, len(places)))]
        wide = 8 if length == 20 else 4
        value = int(rng.choice(EDGE_VALUES)) if rng.random() < 0.7 else int(rng.integers(0, 2**16))
        match int(rng.integers(0, 3)):
            case 0:
                content[offset + 2 : offset + 4] = (value % 20).to_bytes(2, order)  # type: ignore[arg-type]
            case 1:
                content[offset + 4 : offset + 4 + wide] = value.to_bytes(wide, order)  # type: ignore[arg-type]
            case _:
                content[offset + length - wide : offset + length] = value.to_bytes(wide, order)  # type: ignore[arg-type]


def tag_places(path: Path) -> tuple[list[tuple[int, int]], str]:
    """Return offset and length of every tag's entry in a TIFF, and its byte order; none for other files."""
    try:
        with tifffile.TiffFile(path) as tif:
            length = 20 if tif.is_bigtiff else 12
            places = [(tag.offset, length) for page in tif.pages for tag in page.aspage().tags]
            return places, "little" if tif.byteorder == "<" else "big"
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError):
        return [], "little"


def mutant(path: Path, seed: int) -> bytes:
    """Return a damaged copy of a file's content."""
    rng = np.random.default_rng([seed, *path.name.encode()])
    content = bytearray(path.read_bytes())
    places, order = tag_places(path)
    kinds: list[Callable[[bytearray, np.random.Generator], None]] = [
        flip_bits,
        flip_bits_at_an_end,
        truncate,
        overwrite,
    ]
    if places:
        kinds += [lambda content, rng: edit_tags(content, rng, places, order)] * 3
    if content:
        kinds[int(rng.integers(0, len(kinds)))](content, rng)
    return bytes(content)
