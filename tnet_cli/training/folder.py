"""The folder of a training run: what is in it, whose it is, and whether it is done."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnet_cli.errors import TnetError, UsageError
from tnet_cli.files import write_json, write_text_whole
from tnet_cli.modelfile.card import MODEL_FILE
from tnet_cli.results.layout import RUN_RECORD
from tnet_cli.training.config_file import ConfigTables, TrainConfig

CONFIG, SPLITS = "config.toml", "splits.csv"
METRICS, CURVES, VALIDATION = "metrics.csv", "curves.png", "validation.csv"
CARD, FOLDS = "model.md", "folds.csv"
CHECKPOINTS, BOARD = "checkpoints", "tensorboard"
FILES = (CONFIG, SPLITS, METRICS, CURVES, VALIDATION, MODEL_FILE, CARD, FOLDS, RUN_RECORD)


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """The folder of one run, or of one fold of it. Nothing in it that tnet did not write is touched."""

    path: Path

    def fold(self, number: int) -> "TrainingFolder":
        """Return the folder of a fold, counted from 1."""
        return TrainingFolder(self.path / f"fold-{number}")

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` says; empty when there is none that can be read."""
        try:
            record = json.loads((self.path / RUN_RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    @property
    def is_done(self) -> bool:
        """Whether the run in the folder has ended."""
        return bool(self.record().get("finished"))

    def check(self, config: TrainConfig, manifest_digest: str) -> None:
        """Make sure that the folder is empty of runs, or holds this very run, or one that has learnt nothing yet.

        Raises:
            UsageError: it holds another run, or files of the same names that no run wrote.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file; give a folder with --out")
        record = self.record()
        if not record:
            strange = next((name for name in FILES if (self.path / name).exists()), None)
            if strange is not None:
                raise UsageError(
                    f"{self.path}: holds a file {strange} that no run of tnet train left there; "
                    "give another folder with --out"
                )
            return
        if not self.has_begun:
            return
        difference = self._difference(config)
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
        learnt = [self.path / METRICS, self.path / MODEL_FILE, *(self.path / CHECKPOINTS).glob("*")]
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
            before, now = section.model_dump(), config.sections()[name].model_dump()
            for key in before:
                # Whoever meets an unreadable slide may go on without it, and whoever runs out of memory with less.
                if before[key] != now[key] and key not in {"skip_bad", "accumulate"}:
                    return f"{name}.{key} is {before[key]!r} there and {now[key]!r} here"
        return None

    def begin(self, config: TrainConfig, splits: str, record: dict[str, Any]) -> None:
        """Write what is known before the first step: configuration, split as CSV text, and the record.

        The record is written last: with it the folder is this run's.
        """
        write_text_whole(self.path / CONFIG, config.as_toml())
        write_text_whole(self.path / SPLITS, splits)
        write_json(self.path / RUN_RECORD, record)

    def clear(self) -> None:
        """Remove what a run wrote here, its folds too; files of other names stay. Nothing is done without a run."""
        if not self.record():
            return
        for fold in sorted(self.path.glob("fold-*")):
            TrainingFolder(fold).clear()
            if fold.is_dir() and not any(fold.iterdir()):
                fold.rmdir()
        for folder in (CHECKPOINTS, BOARD):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
