"""Damage to what is no slide, seeded: annotations, manifests, model files with their cards, indexes of checkpoints."""

import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from tnet_cli.modelfile.card import CARD_KEY

Rng = np.random.Generator

HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, "", "=1+1", "\x1b[31m", "\u202e", "x" * 70_000, [], {}, [[]], -1, 0, 0.5, 10**9, 2**63, 10**400, 1e308,
    float("nan"), float("inf"), "NaN", "../../x", "https://user:secret@host/x",
)  # fmt: skip


def damaged_bytes(content: bytes, rng: Rng) -> bytes:
    """Flip, cut, repeat or blank bytes anywhere."""
    some = bytearray(content)
    at = int(rng.integers(0, max(1, len(some))))
    match int(rng.integers(0, 4)):
        case 0:
            for place in rng.integers(0, len(some), int(rng.integers(1, 17))):
                some[place] ^= 1 << int(rng.integers(0, 8))
        case 1:
            del some[at:]
        case 2:
            some[at:at] = some[at : at + int(rng.integers(1, 200))]
        case _:
            length = int(rng.integers(1, 64))
            some[at : at + length] = rng.bytes(length)
    return bytes(some)


def damaged_value(document: Any, rng: Rng) -> Any:
    """Return a JSON document in which one value, at any depth, is another, gone, doubled or deeply nested."""
    places: list[tuple[Any, Any]] = []

    def find(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                find(part[key])

    copy = json.loads(json.dumps(document))
    find(copy)
    if not places:
        return copy
    part, key = places[int(rng.integers(0, len(places)))]
    match int(rng.integers(0, 5)):
        case 0 | 1:
            part[key] = HOSTILE_VALUES[int(rng.integers(0, len(HOSTILE_VALUES)))]
        case 2:
            del part[key]
        case 3:
            part[key] = [part[key]] * int(rng.integers(2, 2000))
        case _:
            for _ in range(int(rng.choice([2, 50, 250]))):
                part[key] = [part[key]]
    return copy


def damaged_json(content: bytes, rng: Rng) -> bytes:
    """Damage a JSON document in its values or in its bytes."""
    if rng.random() < 0.35:
        return damaged_bytes(content, rng)
    document = json.loads(content)
    for _ in range(int(rng.integers(1, 4))):
        document = damaged_value(document, rng)
    return json.dumps(document).encode()


def damaged_table(content: bytes, rng: Rng) -> bytes:
    """Damage a manifest: cells, separators, quotes, encodings, bytes."""
    text = content.decode()
    lines = text.splitlines()
    match int(rng.integers(0, 8)):
        case 0 | 1:
            row = int(rng.integers(0, len(lines)))
            cells = lines[row].split(",")
            value = HOSTILE_VALUES[int(rng.integers(0, len(HOSTILE_VALUES)))]
            cells[int(rng.integers(0, len(cells)))] = str(value)
            lines[row] = ",".join(cells)
        case 2:
            return text.replace(",", str(rng.choice([";", "\t", "|", ",,", '","']))).encode()
        case 3:
            return text.encode(str(rng.choice(["utf-16", "utf-8-sig", "utf-32", "utf-16-le", "cp037"])))
        case 4:
            lines.insert(
                int(rng.integers(0, len(lines))), str(rng.choice(["", '"', "\0", "sep=;", "a" * 200_000, ",,,,,,"]))
            )
        case 5:
            lines[0] = lines[0].upper() if rng.random() < 0.5 else lines[0].replace("slide", "label")
        case _:
            return damaged_bytes(content, rng)
    return "\n".join(lines).encode()


def damaged_model(content: bytes, rng: Rng) -> bytes:
    """Damage a safetensors file: the length of its header, names, types, shapes, places, the card, the tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    match int(rng.integers(0, 6)):
        case 0:
            return struct.pack("<Q", int(rng.choice([0, 1, length - 1, length + 1, 2**31, 2**62]))) + content[8:]
        case 1:
            return damaged_bytes(content, rng)
        case 2:
            tensors = damaged_bytes(tensors, rng)
        case 3:
            header = damaged_value(header, rng)
        case _:
            card = json.loads(header["__metadata__"][CARD_KEY])
            for _ in range(int(rng.integers(1, 3))):
                card = damaged_value(card, rng)
            header["__metadata__"][CARD_KEY] = json.dumps(card)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + tensors


def damaged_index(content: bytes, rng: Rng) -> bytes:
    """Damage the index of a checkpoint in its bytes, its numbers of variable length above all."""
    some = io.BytesIO(damaged_bytes(content, rng))
    for _ in range(int(rng.integers(0, 3))):
        some.seek(int(rng.integers(0, max(1, len(content)))))
        some.write(bytes([int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))]) * int(rng.integers(1, 11)))
    return some.getvalue()


DAMAGE: dict[str, Callable[[bytes, Rng], bytes]] = {
    "annotation": damaged_json,
    "manifest": damaged_table,
    "model": damaged_model,
    "checkpoint": damaged_index,
}
