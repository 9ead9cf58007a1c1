"""Fingerprints of slides, cheap: enough to tell a slide that was changed from one that was not."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from tnet_cli.errors import SlideError
from tnet_cli.places import Place
from tnet_cli.remote.ranges import version_of

Fingerprint = dict[str, Any]
"""JSON values; equal fingerprints mean the same content."""

SAMPLED_BYTES = 64 * 1024
"""Hashed at the head and at the tail of a file: where formats keep their directories."""

MOST_COMPANIONS = 512
"""Files beside a slide that belong to it; of a folder with more, only as many are looked at."""

FOLDER_FORMATS = frozenset({".mrxs"})
"""Formats whose pixels lie in a folder of the slide's name."""

SIBLING_FORMATS = frozenset({".vms", ".vmu", ".svslide"})
"""Formats whose pixels lie in files beside the slide that begin with its name, or share its folder."""


def fingerprint_of(slide: str | Path | Place) -> Fingerprint | None:
    """Return a slide's fingerprint, or None when nobody can tell: it is missing, or far away and mute.

    Of a file: size, time of change, and a hash of its first and last 64 KiB; of the files that belong to it: names,
    sizes and times. Of a URL: what its server says, if that names the content.
    """
    place = Place(slide)
    if place.is_url:
        try:
            size, version = version_of(place)
        except SlideError:
            return None  # then opening it says why
        return {"size": size, "version": version} if version else None
    file = Path(place)
    try:
        if file.is_dir():
            return {"files": _listing(file)}
        facts = file.stat()
        if not stat.S_ISREG(facts.st_mode):
            return None  # a pipe may never end
        fingerprint: Fingerprint = {"size": facts.st_size, "mtime_ns": facts.st_mtime_ns, "ends": _hash_of_ends(file)}
        companions = _companions(file)
    except OSError:
        return None
    return fingerprint | {"files": companions} if companions else fingerprint


def content_of(slide: str | Path | Place) -> str:
    """Return what a slide is known by wherever it lies, 32 hexadecimal digits: a file's size and ends, an address.

    Of what is not there, and of a slide in many files that were copied without their times, it is another each time
    the place is.
    """
    place = Place(slide)
    found = None if place.is_url else fingerprint_of(place)
    lasting = {name: value for name, value in found.items() if name != "mtime_ns"} if found else str(place)
    return hashlib.blake2b(repr(lasting).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _hash_of_ends(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(SAMPLED_BYTES))
        size = file.seek(0, os.SEEK_END)
        if size > SAMPLED_BYTES:
            file.seek(max(SAMPLED_BYTES, size - SAMPLED_BYTES))
            digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def _companions(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in FOLDER_FORMATS:
        folder = path.with_suffix("")
        return _listing(folder) if folder.is_dir() else None
    if suffix in SIBLING_FORMATS:
        return _listing(path.parent, path.stem)
    return None


def _listing(folder: Path, prefix: str = "") -> str:
    """Hash names, sizes and times of the files in a folder."""
    with os.scandir(folder) as found:
        files = sorted((entry for entry in found if entry.name.startswith(prefix)), key=lambda entry: entry.name)
        digest = hashlib.blake2b(str(len(files)).encode(), digest_size=16)
        for entry in files[:MOST_COMPANIONS]:
            if entry.is_file():
                facts = entry.stat()
                digest.update(f"{entry.name}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
