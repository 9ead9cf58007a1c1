"""The folder of a training run: what is in it, whose it is, and whether it is done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnet_cli.errors import TnetError, UsageError
from tnet_cli.files import (
    STATE,
    FolderKind,
    claim,
    held_by_command,
    is_sha256,
    read_record,
    remove_drafts,
    write_json,
    write_text_whole,
)
from tnet_cli.learning.checkpoint import FILE_NAME
from tnet_cli.learning.kept import KeptReads
from tnet_cli.learning.settings import identity_of
from tnet_cli.modelfile.card import MODEL_FILE
from tnet_cli.results.layout import RUN_RECORD
from tnet_cli.training.config_file import ConfigTables, TrainConfig
from tnet_cli.training.manifest import TrainingManifest
from tnet_cli.training.train import KEPT_PATCHES, KEPT_SLIDES

CONFIG, SPLITS = "config.toml", "splits.csv"
METRICS, CURVES, VALIDATION = "metrics.csv", "curves.png", "validation.csv"
CARD, FOLDS = "model.md", "folds.csv"
CHECKPOINTS, BOARD = "checkpoints", "tensorboard"
FILES = (CONFIG, SPLITS, METRICS, CURVES, VALIDATION, MODEL_FILE, CARD, FOLDS, RUN_RECORD)
CHECKPOINT, EVENTS, FOLD = f"{CHECKPOINTS}/{FILE_NAME}", f"{BOARD}/events.out.tfevents.*", "fold-[0-9]*/"
CONTENTS = f"{CHECKPOINTS}/manifest.json"
KEPT_FOLDERS = tuple(f"{CHECKPOINTS}/{name}" for name in (KEPT_SLIDES, KEPT_PATCHES))


def _wrote_unclaimed(folder: Path) -> bool:
    record = read_record(folder / RUN_RECORD)
    names = {"version", "started", "finished", "manifest", "settings", "options", "machine", "classes", "slides"}
    manifest = record.get("manifest")
    is_of_a_manifest = isinstance(manifest, dict) and is_sha256(manifest.get("digest"))
    return names <= record.keys() and is_of_a_manifest and is_sha256(record["settings"])


TRAINING = FolderKind(
    "train",
    (
        *(*FILES, f"{CHECKPOINTS}/", CHECKPOINT, CONTENTS, *(f"{name}/" for name in KEPT_FOLDERS)),
        *(f"{BOARD}/", EVENTS, FOLD),
    ),
    _wrote_unclaimed,
)


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """The folder of one run, or of one fold of it. Nothing in it that tnet did not write is touched."""

    path: Path

    def fold(self, number: int) -> "TrainingFolder":
        """Return the folder of a fold, counted from 1."""
        return TrainingFolder(self.path / f"fold-{number}")

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` says; empty when there is none that can be read."""
        return read_record(self.path / RUN_RECORD)

    @property
    def is_done(self) -> bool:
        """Whether the run in the folder has ended."""
        return bool(self.record().get("finished"))

    def check(self, config: TrainConfig, manifest_digest: str) -> None:
        """Make sure that the folder is empty of runs, or holds this very run, or one that has learnt nothing yet.

        Raises:
            UsageError: it holds another run, or is not one that tnet train writes into.
        """
        if not held_by_command(self.path, TRAINING) or not self.has_begun:
            return
        record = self.record()
        difference = self._difference(config) if record else f"its {RUN_RECORD} is gone or cannot be read"
        if difference is None and record.get("manifest", {}).get("digest") != manifest_digest:
            difference = "the manifest's rows have changed since"
        if difference is not None:
            raise UsageError(
                f"{self.path}: holds another run: {difference}; "
                "give another folder with --out, or replace it with --overwrite"
            )

    @property
    def has_begun(self) -> bool:
        """Whether anything has been learnt here that another run would replace."""
        learnt = [self.path / name for name in (METRICS, MODEL_FILE, CHECKPOINT)]
        folds = (TrainingFolder(fold) for fold in self.path.glob("fold-*"))
        return any(path.exists() for path in learnt) or any(fold.record() for fold in folds)

    def _difference(self, config: TrainConfig) -> str | None:
        """Say where the run in the folder differs from this one; None where it does not."""
        try:
            tables = ConfigTables.read(self.path / CONFIG)
            earlier = tables.complete(tables.data.classes or (), on_gpu=False)
        except TnetError as error:
            return f"its configuration cannot be read ({error})"
        for name, section in earlier.sections().items():
            before, now = identity_of(section), identity_of(config.sections()[name])
            for key in before:
                if before[key] != now[key]:
                    return f"{name}.{key} is {before[key]!r} there and {now[key]!r} here"
        return None

    def named_as_before(self, manifest: TrainingManifest) -> TrainingManifest:
        """Return the manifest as it was when the run in the folder began, where since then slides were only moved."""
        digest = self.record().get("manifest", {}).get("digest")
        if digest in {None, manifest.digest}:
            return manifest
        before = manifest.named_by(read_record(self.path / CONTENTS))
        return before if before.digest == digest else manifest

    def begin(self, config: TrainConfig, manifest: TrainingManifest, splits: str, record: dict[str, Any]) -> None:
        """Write what is known before the first step: configuration, split as CSV text, and the record.

        The record is written last: with it the folder is this run's.

        Raises:
            UsageError: the folder cannot be written to.
        """
        try:
            claim(self.path, TRAINING)
            write_text_whole(self.path / CONFIG, config.as_toml())
            write_text_whole(self.path / SPLITS, splits)
            write_json(self.path / CONTENTS, manifest.contents())
            write_json(self.path / RUN_RECORD, record)
        except OSError as exc:
            raise UsageError(
                f"{self.path}: cannot be written: {exc.strerror or exc}; give another folder with --out"
            ) from exc

    def clear(self) -> None:
        """Remove what a run wrote here, its folds too; files of other names stay. Nothing is done without a run.

        Raises:
            UsageError: the folder is not one that tnet train writes into.
        """
        if not held_by_command(self.path, TRAINING):
            return
        folds = [TrainingFolder(fold) for fold in sorted(self.path.glob(FOLD.rstrip("/")))]
        folds = [fold for fold in folds if held_by_command(fold.path, TRAINING)]
        claim(self.path, TRAINING)  # what is left when a process is killed here is still known to be tnet's
        for fold in folds:
            fold.clear()
            if [path.name for path in fold.path.iterdir()] == [STATE]:
                (fold.path / TRAINING.claim).unlink()
                _remove_if_empty(fold.path / STATE)
                _remove_if_empty(fold.path)
        for name in KEPT_FOLDERS:
            KeptReads(self.path / name).clear()
        for name in (*FILES, CHECKPOINT, CONTENTS):
            remove_drafts(self.path / name)
            (self.path / name).unlink(missing_ok=True)
        for events in (self.path / BOARD).glob(Path(EVENTS).name):
            events.unlink()
        for folder in (CHECKPOINTS, BOARD):
            _remove_if_empty(self.path / folder)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
