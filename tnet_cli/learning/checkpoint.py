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
from tnet_cli.files import written_whole
from tnet_cli.learning.state import Course

FILE_NAME = "checkpoint.safetensors"
HEADER_KEY = "tnet_checkpoint"
VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a run stands.

    Attributes:
        stage: Number of the stage, from 0; the number of stages when the run has ended.
        step: Steps done in it.
        state: What the stage carries from step to step.
        sums: Figures since the last report.
        schedule: Of the learning rate.
        groups: The optimiser's parameter groups.
        optimiser: Its tensors: one dictionary for each parameter it has seen.
    """

    stage: int
    step: int
    state: dict[str, float] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    optimiser: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def save_checkpoint(course: Course, checkpoint: Checkpoint) -> None:
    """Write a run's checkpoint, in the place of the one before, which stays until the new one is whole.

    Args:
        course: The run; nothing is written where it has no folder, or by any process but the first.
        checkpoint: Where it stands.
    """
    if course.folder is None or course.group.rank != 0:
        return
    tensors = {f"network.{name}": tensor for name, tensor in course.network.state_dict().items()}
    for index, states in checkpoint.optimiser.items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in states.items()}
    if len(course.pool):
        tensors |= {f"pool.{name}": torch.from_numpy(values) for name, values in course.pool.as_arrays().items()}
    header = {
        "version": VERSION,
        "fingerprint": course.fingerprint,
        "slides": [slide.entry.path for slide in course.slides],
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "state": checkpoint.state,
        "sums": checkpoint.sums,
        "schedule": checkpoint.schedule,
        "groups": checkpoint.groups,
        "halved": course.halved,
    }
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(course.folder / FILE_NAME) as draft:
        draft.write_bytes(save(whole, metadata={HEADER_KEY: json.dumps(header)}))


def load_checkpoint(course: Course) -> tuple[Checkpoint, dict[str, np.ndarray]] | None:
    """Restore a run's network from the checkpoint in its folder.

    Args:
        course: Its network is loaded in place.

    Returns:
        Where the run stands and the pool's arrays, or None where there is no checkpoint.

    Raises:
        ModelFileError: the file is damaged.
        UsageError: it is of another run.
    """
    if course.folder is None:
        return None
    path = course.folder / FILE_NAME
    if course.group.rank == 0:
        for draft in course.folder.glob(f".{FILE_NAME}.*"):  # what a killed run was writing
            draft.unlink(missing_ok=True)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as exc:
        raise ModelFileError(f"{path}: is no whole checkpoint ({exc}); move it away to train from the start") from exc
    _check_same_run(path, header, course)
    course.halved = header["halved"]
    course.network.load_state_dict(_below("network.", tensors))
    optimiser: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimiser.", tensors).items():
        index, _, key = name.partition(".")
        optimiser.setdefault(int(index), {})[key] = tensor
    checkpoint = Checkpoint(
        stage=header["stage"],
        step=header["step"],
        state=header["state"],
        sums=header["sums"],
        schedule=header["schedule"],
        groups=header["groups"],
        optimiser=optimiser,
    )
    return checkpoint, {name: tensor.numpy() for name, tensor in _below("pool.", tensors).items()}


def _check_same_run(path: Path, header: dict[str, Any], course: Course) -> None:
    if header.get("version") != VERSION or header.get("fingerprint") != course.fingerprint:
        raise UsageError(
            f"{path}: is a checkpoint of another training (other slides, model or settings); "
            "give the same ones to go on with it, or another folder to begin anew"
        )
    paths = [slide.entry.path for slide in course.slides]
    if header["slides"] != paths:
        changed = sorted(set(header["slides"]) ^ set(paths))
        raise UsageError(
            f"{path}: was written with {len(header['slides'])} readable slides, now there are {len(paths)}; "
            f"different: {', '.join(changed[:3])}"
        )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimiser_parts(optimiser: torch.optim.Optimizer) -> tuple[list[dict[str, Any]], dict[int, dict[str, Tensor]]]:
    """Take an optimiser's state apart into what JSON can hold and tensors."""
    state = optimiser.state_dict()
    return state["param_groups"], {index: dict(tensors) for index, tensors in state["state"].items()}


def restore_optimiser(
    optimiser: torch.optim.Optimizer, groups: Sequence[dict[str, Any]], tensors: dict[int, dict[str, Tensor]]
) -> None:
    """Put an optimiser's state together again."""
    whole = [{**group, "betas": tuple(group["betas"])} for group in groups]
    optimiser.load_state_dict({"param_groups": whole, "state": tensors})
