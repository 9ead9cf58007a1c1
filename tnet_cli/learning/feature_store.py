"""Features of frozen encoders on disk: a folder for an encoder and how it is shown patches, in it a file for a slide.

The name of a folder is a digest of all that decides a feature but the slide and the region; it holds a record of what
that is. The name of a file is a digest of the slide's fingerprint. Files are replaced whole: of two processes that add
to one slide at once one may lose what it added, which is then computed again, and a half-written file is never read.
So no feature is ever wrong, only missing.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tnet_cli.errors import DISTRIBUTION, UsageError
from tnet_cli.files import read_record, remove_drafts, write_json
from tnet_cli.geometry import Region
from tnet_cli.learning.kept import KeptReads, key_of

RECORD = "encoder.json"
OF, REGIONS, FEATURES = "of", "regions", "features"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
_FILES = "[0-9a-f]" * 40 + ".safetensors"
SHORTEST_BEGINNING = 4


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """The features of one encoder that is shown patches in one way.

    Attributes:
        path: Of the folder; made with the first file.
        encoder: What the encoder is, JSON values: ``digest`` of its weights and settings, ``backbone`` its name.
        transform: How patches are read and computed, JSON values.
    """

    path: Path
    encoder: Mapping[str, Any]
    transform: Mapping[str, Any]

    @classmethod
    def within(cls, store: Path, encoder: Mapping[str, Any], transform: Mapping[str, Any]) -> "EncoderFolder":
        """Return the folder of an encoder in a store."""
        return cls(store / _name_of(encoder, transform), encoder, transform)

    @property
    def name(self) -> str:
        """What it is called in lists and by those who remove it."""
        return self.path.name

    def get(self, fingerprint: str) -> dict[Region, np.ndarray]:
        """Return what is kept of a slide: float32 (L,) for each region, level-0 pixels; empty where nothing is whole.

        Args:
            fingerprint: Of the slide, as ``key_of`` makes it.
        """
        found = KeptReads(self.path).get(fingerprint)
        if found is None or found[1].get(OF) != self.name:
            return {}
        boxes, features = found[0].get(REGIONS), found[0].get(FEATURES)
        if boxes is None or features is None or boxes.ndim != 2 or features.ndim != 2:
            return {}
        if boxes.shape[1] != 4 or len(boxes) != len(features) or features.dtype != np.float32:
            return {}
        return {Region(*box): row for box, row in zip(boxes.tolist(), features, strict=True)}

    def add(self, fingerprint: str, features: Mapping[Region, np.ndarray]) -> None:
        """Keep features of a slide, float32 (L,) each, beside what is kept of it.

        Raises:
            OSError: they cannot be written.
        """
        if self.path.is_symlink():
            raise OSError(f"{self.path} is a link, and tnet follows none where it writes")
        if not (self.path / RECORD).exists():
            write_json(self.path / RECORD, self._record())
        kept = dict(features) | self.get(fingerprint)
        boxes = np.array([[each.x, each.y, each.width, each.height] for each in kept], dtype=np.int64)
        arrays = {REGIONS: boxes, FEATURES: np.stack(list(kept.values()))}
        KeptReads(self.path).put(fingerprint, arrays, {OF: self.name})

    def _record(self) -> dict[str, Any]:
        said = {"program": DISTRIBUTION, "version": version(DISTRIBUTION), "holds": FEATURES}
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return {**said, "since": since, "encoder": dict(self.encoder), "transform": dict(self.transform)}

    def document(self) -> dict[str, Any]:
        """Return what is in it as JSON values: slides, regions, bytes, and whose features they are."""
        files = sorted(self.path.glob(_FILES))
        counts = [self._count(file.name.partition(".")[0]) for file in files]
        return {
            "name": self.name,
            "encoder": dict(self.encoder),
            "transform": dict(self.transform),
            "slides": sum(count > 0 for count in counts),
            "regions": sum(counts),
            "bytes": sum(file.stat().st_size for file in files),
        }

    def _count(self, fingerprint: str) -> int:
        found = KeptReads(self.path).get(fingerprint, leave_out=(FEATURES,))
        return 0 if found is None or found[1].get(OF) != self.name else len(found[0].get(REGIONS, ()))

    def clear(self) -> bool:
        """Remove the features and the record; return whether nothing of other names kept the folder from going."""
        KeptReads(self.path).clear()
        remove_drafts(self.path / RECORD)
        (self.path / RECORD).unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.path.rmdir()
        return not self.path.exists()


def _name_of(encoder: Mapping[str, Any], transform: Mapping[str, Any]) -> str:
    return f"{str(encoder['digest'])[:16]}-{key_of(dict(transform))[:8]}"


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """A folder of features, which runs share. Anything else that is in it stays as it is."""

    path: Path

    def check_usable(self) -> None:
        """Make sure that features can be kept here, before anything is computed.

        Raises:
            UsageError: the path is no folder, or one that cannot be written.
        """
        nearest = next(each for each in (self.path, *self.path.absolute().parents) if os.path.lexists(each))
        if not nearest.is_dir():
            raise UsageError(f"--features {self.path}: {nearest} is no folder; give a folder")
        if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
            raise UsageError(f"--features {self.path}: {nearest} cannot be written; give another folder")

    def folders(self) -> list[EncoderFolder]:
        """Return what was made here and is known again by its name and its record; no links.

        Raises:
            UsageError: the store is no folder, or cannot be read.
        """
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: is no folder of features; give one that was given to tnet train --features")
        try:
            paths = sorted(each for each in self.path.iterdir() if _NAME.fullmatch(each.name))
        except OSError as exc:
            raise UsageError(f"{self.path}: cannot be read: {exc.strerror or exc}") from exc
        return [folder for path in paths if (folder := _recognised(path)) is not None]

    def chosen(self, beginning: str) -> list[EncoderFolder]:
        """Return the folders of one encoder, by the beginning of their name.

        Raises:
            UsageError: there is none, or there are some of several encoders.
        """
        folders = self.folders()
        known = ", ".join(folder.name for folder in folders) or "nothing"
        if len(beginning) < SHORTEST_BEGINNING:
            raise UsageError(
                f"--remove {beginning}: is too short; give at least {SHORTEST_BEGINNING} characters of a name; "
                f"{self.path} holds {known}"
            )
        found = [folder for folder in folders if folder.name.startswith(beginning)]
        if not found:
            raise UsageError(f"--remove {beginning}: {self.path} holds no features of it; it holds {known}")
        if len({folder.encoder["digest"] for folder in found}) > 1:
            names = ", ".join(folder.name for folder in found)
            raise UsageError(f"--remove {beginning}: is the beginning of several encoders: {names}; give more of one")
        return found


def _recognised(path: Path) -> EncoderFolder | None:
    if path.is_symlink() or not path.is_dir():
        return None
    record = read_record(path / RECORD)
    encoder, transform = record.get("encoder"), record.get("transform")
    if record.get("program") != DISTRIBUTION or record.get("holds") != FEATURES:
        return None
    if not isinstance(encoder, dict) or not isinstance(transform, dict) or "digest" not in encoder:
        return None
    return EncoderFolder(path, encoder, transform) if _name_of(encoder, transform) == path.name else None


def list_features(store: Path) -> list[dict[str, Any]]:
    """Return what a store holds, a document for each encoder and way of showing it patches.

    Raises:
        UsageError: the store is no folder, or cannot be read.
    """
    return [folder.document() for folder in FeatureStore(store).folders()]


def remove_features(store: Path, beginning: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Remove the features of one encoder, or all.

    Args:
        beginning: Of the name that ``list_features`` gives; None for all.

    Returns:
        What was removed, as listed before; and the names of folders that stay, since something else is in them.

    Raises:
        UsageError: the store is no folder, holds nothing of that name, or cannot be written.
    """
    held = FeatureStore(store)
    folders: Sequence[EncoderFolder] = held.folders() if beginning is None else held.chosen(beginning)
    documents = [folder.document() for folder in folders]
    try:
        return documents, [folder.name for folder in folders if not folder.clear()]
    except OSError as exc:
        raise UsageError(f"{exc.filename or store}: cannot be removed: {exc.strerror or exc}") from exc
