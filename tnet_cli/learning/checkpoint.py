"""Checkpoints: one safetensors file, written whole, from which a run goes on exactly as if it had not been stopped.

Tensors hold the network, the optimiser and what the pool of patches is read again from; the header holds the rest as
JSON. No state of a random generator is among it: everything random in a step follows from the seed, the stage and the
step, for numpy and for torch on every device, so that where a run stands says all.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.files import remove_drafts, write_bytes_whole
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.state import TrainingState

FILE_NAME = "checkpoint.safetensors"
HEADER_KEY = "tnet_checkpoint"
VERSION = 3


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a run stands.

    Attributes:
        stage: Number of the stage, from 0; the number of stages when the run has ended.
        step: Steps done in it.
        is_validated: Whether the validation that is due after the step has been made.
        has_ended: Whether there is nothing left to do.
        carried: What the stage carries from step to step.
        sums: Metrics since the last report.
        schedule: Of the learning rate.
        groups: The optimiser's parameter groups.
        optimiser: Its tensors: one dictionary for each parameter it has seen.
    """

    stage: int
    step: int
    carried: dict[str, float] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    optimiser: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    is_validated: bool = True
    has_ended: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StoredRun:
    """A checkpoint as it was read.

    Attributes:
        network: Its tensors by name.
        pool: Arrays of the pool of patches; empty without one.
        pool_keys: Where the patches are kept.
        slides: Of each slide its identity, and what it was called.
    """

    path: Path
    checkpoint: Checkpoint
    network: dict[str, Tensor]
    pool: dict[str, np.ndarray]
    pool_keys: list[str]
    slides: list[tuple[str, str]]

    def check_slides(self, slides: Sequence[TrainingSlide]) -> None:
        """Make sure that these are the slides that it was trained on, wherever they lie now.

        Raises:
            UsageError: they are others, or fewer of them could be read.
        """
        now = [(slide.identity, slide.entry.shown_path) for slide in slides]
        there, here = ([identity for identity, _ in rows] for rows in (self.slides, now))
        if there != here:
            named = dict([*self.slides, *now])
            changed = sorted({named[identity] for identity in set(there) ^ set(here)}) or ["their order"]
            raise UsageError(
                f"{self.path}: was written with {len(there)} readable slides, now there are {len(here)}; "
                f"different: {', '.join(changed[:3])}"
            )


IN_HEADER = ("stage", "step", "carried", "sums", "schedule", "groups", "is_validated", "has_ended")
"""What of a checkpoint is JSON; the rest is tensors."""


def save_checkpoint(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Write a run's checkpoint, in the place of the one before, which stays until the new one is whole.

    Nothing is written where the run has no folder, or by any process but the first.
    """
    if state.folder is None or state.group.rank != 0:
        return
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    for index, moments in checkpoint.optimiser.items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
    if len(state.pool):
        tensors |= {f"pool.{name}": torch.from_numpy(values) for name, values in state.pool.as_arrays().items()}
    header = {
        "version": VERSION,
        "run_digest": state.run_digest,
        "slides": [[slide.identity, slide.entry.shown_path] for slide in state.slides],
        "pool_keys": state.pool.keys,
        **{name: getattr(checkpoint, name) for name in IN_HEADER},
    }
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes_whole(state.folder / FILE_NAME, save(whole, metadata={HEADER_KEY: json.dumps(header)}))


def load_checkpoint(state: TrainingState) -> StoredRun | None:
    """Read the checkpoint in a run's folder; None where there is none.

    Raises:
        ModelFileError: the file is damaged.
        UsageError: it is of another run.
    """
    if state.folder is None:
        return None
    path = state.folder / FILE_NAME
    if state.group.rank == 0:
        remove_drafts(path)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if header["version"] != VERSION:
            raise UsageError(f"{path}: was written by another version of tnet; move it away to train from the start")
        if header["run_digest"] != state.run_digest:
            raise UsageError(
                f"{path}: is a checkpoint of another training (another model or other settings); "
                "give the same ones to go on with it, or another folder to begin anew"
            )
        optimiser: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimiser.", tensors).items():
            index, _, key = name.partition(".")
            optimiser.setdefault(int(index), {})[key] = tensor
        return StoredRun(
            path,
            Checkpoint(**{name: header[name] for name in IN_HEADER}, optimiser=optimiser),
            network=_below("network.", tensors),
            pool={name: tensor.numpy() for name, tensor in _below("pool.", tensors).items()},
            pool_keys=header["pool_keys"],
            slides=[(row, shown) for row, shown in header["slides"]],
        )
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as exc:
        raise ModelFileError(f"{path}: is no whole checkpoint ({exc}); move it away to train from the start") from exc


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimiser_parts(optimiser: torch.optim.Optimizer) -> tuple[list[dict[str, Any]], dict[int, dict[str, Tensor]]]:
    """Take an optimiser's state apart into what JSON can hold and tensors."""
    whole = optimiser.state_dict()
    return whole["param_groups"], {index: dict(tensors) for index, tensors in whole["state"].items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Put an optimiser's state together again."""
    groups = [{**group, "betas": tuple(group["betas"])} for group in checkpoint.groups]
    optimiser.load_state_dict({"param_groups": groups, "state": checkpoint.optimiser})
