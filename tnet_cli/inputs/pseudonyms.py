"""Keyed hashes in place of names and paths, so that what is written of slides says nothing of whose they are.

The hashes are HMAC-SHA256 (RFC 2104), cut to 80 bits: nobody without the key can tell whether a name that he guesses is
the one behind a hash, and whoever has the key finds the names again by hashing those of the slides once more.
"""

import hmac
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tnet_cli.errors import UsageError
from tnet_cli.inputs.inputs import SlideInput

LEAST_KEY = 16
"""Bytes; a shorter key could be guessed."""

LARGEST_KEY = 1 << 20

DIGITS = 20

SHORTEST_WORD = 4
"""A file's name without its suffix is looked for in sentences from so many characters on; a shorter one is a number."""


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Makes hashes of names with one key."""

    key: bytes

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a key: all of a file but spaces and line ends around it. None is ever made.

        Raises:
            UsageError: the file is missing, cannot be read, or is too short.
        """
        make = f"make a key with: openssl rand -hex 32 > {file}"
        try:
            if file.stat().st_size > LARGEST_KEY or not file.is_file():
                raise UsageError(f"--hash-names {file}: is no file with a key; {make}")
            key = file.read_bytes().strip()
        except OSError as exc:
            raise UsageError(f"--hash-names {file}: cannot be read: {exc.strerror or exc}; {make}") from exc
        if len(key) < LEAST_KEY:
            raise UsageError(f"--hash-names {file}: has {len(key)} bytes, fewer than {LEAST_KEY}; {make}")
        return cls(key)

    def of(self, kind: str, text: str) -> str:
        """Return the hash of a name of some kind, ``DIGITS`` hexadecimal digits."""
        said = f"{kind}\0{text}".encode(errors="surrogateescape")
        return hmac.digest(self.key, said, "sha256").hex()[:DIGITS]

    def hidden(self, entry: SlideInput) -> SlideInput:
        """Return a slide under hashes of its name, its absolute path and its patient."""
        return replace(
            entry,
            name=self.of("slide", entry.name),
            alias=self.of("path", entry.from_anywhere().shown_path),
            patient=entry.patient and self.of("patient", entry.patient),
        )


def without_names(text: str, entry: SlideInput) -> str:
    """Return a sentence about a hidden slide without the names and paths of its files; as it is for any other."""
    if entry.alias is None:
        return text
    texts = [entry.path.opened_whole(), str(entry.path)]
    files = [Path(each) for each in (None if entry.path.is_url else texts[0], entry.roi, entry.mask) if each]
    folders: set[str] = set()
    for file in files:
        paths = [str(file), os.path.abspath(file), os.path.realpath(file)]  # noqa: PTH100
        texts += [*paths, *(os.path.splitext(path)[0] for path in paths), file.name]  # noqa: PTH122
        folders |= {os.path.dirname(path) for path in paths} - {"", "/"}  # noqa: PTH120
    for each in sorted(set(texts), key=len, reverse=True):
        if len(each) >= SHORTEST_WORD:
            text = text.replace(each, entry.alias)
    # Other files of the slide's folder are named after people too.
    for folder in sorted(folders, key=len, reverse=True):
        text = re.sub(rf"{re.escape(folder)}/[^\s,;:)]*", entry.alias, text)
    stems = [re.escape(file.stem) for file in files if len(file.stem) >= SHORTEST_WORD]
    return re.sub(rf"(?<!\w)({'|'.join(stems)})(?!\w)", entry.alias, text) if stems else text
