"""Reads TensorFlow's tensor bundles: ``PREFIX.index`` and ``PREFIX.data-00000-of-00001``.

The index is a table of the LevelDB format whose values are protocol buffers; the data files are raw memory. What is
read is checked against the sums that TensorFlow stored beside it. It knows no model. It is our own code because no
library reads these files but TensorFlow, which is far larger than all of tnet's packages.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tnet_cli.errors import ModelFileError, UsageError, install_hint

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
BLOCK_TRAILER_BYTES = 5
FLOAT32 = 1
BIG_ENDIAN = 1
LONGEST_VARINT_BITS = 63
MASK_DELTA = 0xA282EAD8

# Far beyond what a checkpoint of the authors' code has (792 entries): an index of a few bytes could claim any number.
MOST_INDEX_BYTES = 2**26
MOST_ENTRIES = 100_000
LONGEST_KEY = 4096
MOST_AXES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor of a bundle lies.

    Attributes:
        dtype: TensorFlow's number of the type; 1 is float32.
        shard: Number of the data file.
        offset: Bytes from the start of the data file.
        checksum: Masked CRC-32C of the bytes, or None where none is stored.
        is_sliced: Whether the tensor is stored in slices, as partitioned variables are.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int | None
    is_sliced: bool


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checkpoint whose index has been read: how many data files it has, and its entries by key."""

    prefix: Path
    shards: int
    entries: dict[str, Entry]

    def read(self, key: str) -> np.ndarray:
        """Read one tensor, float32, of the shape of its entry.

        Raises:
            ModelFileError: the data file is missing, short or damaged, or the tensor is not stored as float32.
            UsageError: the tensorflow extra is not installed.
        """
        entry = self.entries[key]
        if entry.is_sliced or entry.dtype != FLOAT32 or entry.size != 4 * math.prod(entry.shape):
            raise ModelFileError(f"{self.prefix}.index: {key}: expected a float32 tensor in one piece")
        path = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05d}-of-{self.shards:05d}")
        try:
            with path.open("rb") as file:
                there = max(0, file.seek(0, os.SEEK_END) - entry.offset)
                file.seek(entry.offset if there else 0)
                stored = file.read(min(entry.size, there))
        except OSError as exc:
            raise ModelFileError(
                f"{path}: cannot be read ({exc.strerror or exc}); a checkpoint needs its data beside its index"
            ) from exc
        if len(stored) != entry.size:
            raise ModelFileError(
                f"{path}: is truncated: {key} should end at byte {entry.offset + entry.size}; copy the checkpoint again"
            )
        if entry.checksum is not None and masked_crc32c(stored) != entry.checksum:
            raise ModelFileError(f"{path}: is damaged: the check sum of {key} is wrong; copy the checkpoint again")
        return np.frombuffer(stored, "<f4").reshape(entry.shape)


def find_prefix(given: Path) -> Path:
    """Find a checkpoint's prefix from what a user gives: the prefix, one of its files, or the folder it is in.

    In a folder it is the checkpoint that the file ``checkpoint`` names, or the only one.

    Raises:
        ModelFileError: there is no checkpoint.
    """
    if given.is_dir():
        return _prefix_in(given)
    name = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", given.name)
    prefix = given.with_name(name)
    if not _index_of(prefix).is_file():
        raise ModelFileError(
            f"{given}: no checkpoint: {_index_of(prefix)} does not exist; "
            "give the prefix of PREFIX.index and PREFIX.data-00000-of-00001"
        )
    return prefix


def open_bundle(prefix: Path) -> Bundle:
    """Read the index of a checkpoint: ``PREFIX.index``.

    Raises:
        ModelFileError: the index is missing, damaged or of a kind that is not read.
        UsageError: the tensorflow extra is not installed.
    """
    path = _index_of(prefix)
    try:
        with path.open("rb") as file:
            index = file.read(MOST_INDEX_BYTES + 1)
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(index) > MOST_INDEX_BYTES:
        raise ModelFileError(f"{path}: has more than {MOST_INDEX_BYTES} bytes, too many for the index of a checkpoint")
    try:
        stored = dict(_bounded(_table(path, index)))
        header, _ = _fields(stored.pop(b"", b""))
        entries = {key.decode(): _entry(value) for key, value in stored.items()}
    except (IndexError, ValueError, struct.error) as exc:
        raise ModelFileError(f"{path}: is truncated or damaged; copy the checkpoint again") from exc
    if header.get(2) == BIG_ENDIAN:
        raise ModelFileError(f"{path}: was written on a big-endian machine, which is not supported")
    return Bundle(prefix, shards=header.get(1) or 1, entries=entries)


def _bounded(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for number, pair in enumerate(pairs):
        if number == MOST_ENTRIES:
            raise ValueError(f"more than {MOST_ENTRIES} entries")
        yield pair


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def _prefix_in(folder: Path) -> Path:
    found = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    record = folder / "checkpoint"
    latest = None
    if record.is_file():
        named = re.search(r'^model_checkpoint_path: "(.+)"$', record.read_text(errors="replace"), re.MULTILINE)
        latest = folder / Path(named[1]).name if named else None
    if latest in found:
        return latest
    if len(found) == 1:
        return found[0]
    held = ", ".join(prefix.name for prefix in found) or "none"
    raise ModelFileError(f"{folder}: expected one checkpoint in the folder, found {held}; give its prefix")


def _table(path: Path, index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a LevelDB table."""
    footer = index[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise ModelFileError(f"{path}: is not the index of a TensorFlow checkpoint, or is truncated")
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _block(path, index[offset:], size):
        block_offset, after = _varint(handle, 0)
        block_size, _ = _varint(handle, after)
        yield from _block(path, index[block_offset:], block_size)


def _block(path: Path, stored: bytes, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of the first block, whose keys leave out what they share with the one before."""
    stored = stored[: size + BLOCK_TRAILER_BYTES]
    if len(stored) != size + BLOCK_TRAILER_BYTES:
        raise ModelFileError(f"{path}: is truncated; copy the checkpoint again")
    if stored[size] != 0:
        raise ModelFileError(
            f"{path}: is compressed, which checkpoints of the authors' code are not; "
            "save it again with TensorFlow's own saver"
        )
    if masked_crc32c(stored[: size + 1]) != struct.unpack("<I", stored[size + 1 :])[0]:
        raise ModelFileError(f"{path}: is damaged: a check sum is wrong; copy the checkpoint again")
    block = stored[:size]
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        if len(key) > LONGEST_KEY:
            raise ValueError(f"a key of {len(key)} bytes")
        at += unshared
        yield key, block[at : at + length]
        at += length


def _entry(value: bytes) -> Entry:
    # Protocol buffers leave zeros out; each axis of the shape is a message of its own.
    numbers, messages = _fields(value)
    axes = [axis for shape in messages.get(2, []) for axis in _fields(shape)[1].get(2, [])]
    sides = tuple(_fields(axis)[0].get(1, 0) for axis in axes[: MOST_AXES + 1])
    if len(sides) > MOST_AXES or any(side >= 2**31 for side in sides):
        raise ValueError(f"a tensor of shape {sides}")
    return Entry(
        dtype=numbers.get(1, 0),
        shape=sides,
        shard=numbers.get(3, 0),
        offset=numbers.get(4, 0),
        size=numbers.get(5, 0),
        checksum=numbers.get(6),
        is_sliced=7 in messages,
    )


def _fields(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Read a protocol buffer: its numbers and its messages, by tag."""
    numbers: dict[int, int] = {}
    messages: dict[int, list[bytes]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                numbers[tag >> 3], at = _varint(message, at)
            case 2:
                length, at = _varint(message, at)
                if length > len(message) - at:
                    raise ValueError("a message goes on beyond its end")
                messages.setdefault(tag >> 3, []).append(message[at : at + length])
                at += length
            case 5:
                (numbers[tag >> 3],) = struct.unpack("<I", message[at : at + 4])
                at += 4
            case wire:
                raise ValueError(f"wire type {wire} does not occur in a checkpoint's index")
    return numbers, messages


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C as TensorFlow stores it: rotated and shifted, so that sums of sums do not degenerate.

    Raises:
        UsageError: the tensorflow extra is not installed.
    """
    try:
        import google_crc32c
    except ImportError as exc:
        raise UsageError(
            f"importing needs the tensorflow extra; install it with: {install_hint('tensorflow')}"
        ) from exc
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift <= LONGEST_VARINT_BITS:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number has no end")
