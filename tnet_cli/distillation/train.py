"""The coarse encoders learn to predict, in each cell of a region, how the teacher responds to what lies in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tnet_cli.inference.progress import Progress
from tnet_cli.learning.augment import augment_patch
from tnet_cli.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tnet_cli.learning.distributed import ProcessGroup
from tnet_cli.learning.kept import KeptReads
from tnet_cli.learning.loop import Stage, StageRun, StepOutput
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.state import Precision, TrainingState
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.tnet import TNet

PIXELS = "pixels"
COLUMNS = ("positions", "allowed", "top", "mean", "stands_for")

RESPONDS = 0.5
"""Patches with a cell of at least this response are drawn as often as those without."""

LARGEST_WEIGHT = 20.0

PRETRAINED_RATE = 0.5
"""Learning rate of pretrained encoders over that of random ones."""


@dataclass(frozen=True, slots=True, eq=False)
class ResponseBatch:
    """Augmented patches of one step.

    Attributes:
        pixels: uint8 (N, 3, H, W).
        positions: int64 (N, 3).
        known: bool (N, G): cells whose response is known.
        top, mean: float32 (N, G): the teacher's highest response, and the mean.
        weights: float32 (N,): how many patches of all each stands for, on average one.
        cells: Known cells of the whole step.
    """

    pixels: Tensor
    positions: Tensor
    known: Tensor
    top: Tensor
    mean: Tensor
    weights: Tensor
    cells: int

    def __len__(self) -> int:
        return len(self.weights)

    def part(self, rows: slice) -> Self:
        """Return some of the patches."""
        names = ("pixels", "positions", "known", "top", "mean", "weights")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def close(self) -> None:
        """Do nothing: no file is open."""


class LearnResponses(Stage[ResponseBatch]):
    """Regression of the teacher's responses through a sigmoid, on patches of all coarse processing levels at once.

    Patches to which the teacher responds are rare, and drawn as often as others; the predicted mean, which estimates
    build on, is learnt as if all had been drawn alike.

    Args:
        keys: Of each slide's patches among what is kept.
        kept: Where they lie.
        learning_rate: Peak of a cosine schedule.
    """

    def __init__(
        self, state: TrainingState, keys: Sequence[str], kept: KeptReads, steps: int, learning_rate: float
    ) -> None:
        super().__init__(
            state=state,
            name="distillation",
            steps=steps,
            learning_rate=learning_rate,
            report_every=25,
            gradient_clip=state.settings.gradient_clip,
        )
        self.kept = kept
        self.rows: list[tuple[str, int]] = []
        columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        for key in keys:
            found = kept.get(key, leave_out=(PIXELS,))
            if found is None or not found[0]:
                continue
            self.rows += [(key, row) for row in range(len(found[0]["positions"]))]
            for name in COLUMNS:
                columns[name].append(found[0][name])
        self.columns = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
        self.draws: np.ndarray
        self.weights: np.ndarray
        self.draws, self.weights = _draws(self.columns)

    def begin(self) -> None:
        """Do nothing: the patches are there."""

    def resume(self) -> None:
        """Do nothing: they are still there."""

    def prepare(self, rng: np.random.Generator, step: int) -> ResponseBatch:  # noqa: ARG002 (every step draws alike)
        """Draw patches, and turn, mirror and tint them."""
        settings = self.settings
        chosen = rng.choice(len(self.rows), size=settings.batch_patches, p=self.draws)
        pixels, cells = [], []
        for index, source in zip(chosen.tolist(), rng.spawn(len(chosen)), strict=True):
            own = np.stack([self.columns[name][index].astype(np.float32) for name in ("allowed", "top", "mean")])
            changed, moved = augment_patch(
                self.kept.row(self.rows[index][0], PIXELS, self.rows[index][1]), own, settings.colour_jitter, source
            )
            pixels.append(changed)
            cells.append(moved)
        known, top, mean = torch.from_numpy(np.stack(cells)).unbind(dim=1)
        return ResponseBatch(
            pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
            positions=torch.from_numpy(self.columns["positions"][chosen]),
            known=known > 0,
            top=top.contiguous(),
            mean=mean.contiguous(),
            weights=torch.from_numpy(self.weights[chosen].astype(np.float32)),
            cells=int((known > 0).sum()),
        )

    def compute(self, batch: ResponseBatch, share: float) -> StepOutput:  # noqa: ARG002 (the batch knows the counts)
        """Compute the cross-entropy of both predictions, summed over the cells that are known."""
        device = self.state.device
        with self.state.precision.autocast():
            logits = self.state.network.response_logits(batch.pixels.to(device), batch.positions.to(device)).float()
        known = batch.known.to(device).float() / max(1, batch.cells)
        losses = [
            functional.binary_cross_entropy_with_logits(logits[:, number], target.to(device), reduction="none")
            for number, target in enumerate((batch.top, batch.mean))
        ]
        weights = batch.weights.to(device)[:, None]
        return StepOutput({"top": (losses[0] * known).sum(), "mean": (losses[1] * known * weights).sum()})


def _draws(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return how probably each patch is drawn, and how many of all patches it then stands for, on average one."""
    responds = np.where(columns["allowed"], columns["top"], 0.0).max(axis=1) >= RESPONDS
    groups = columns["positions"][:, 2] * 2 + responds
    _, which, members = np.unique(groups, return_inverse=True, return_counts=True)
    draws = 1 / (len(members) * members[which])
    stands_for = columns["stands_for"] / columns["stands_for"].sum()
    weights = np.minimum(stands_for / draws, LARGEST_WEIGHT)
    return draws, weights / (weights * draws).sum()


def learn_responses(
    network: TNet,
    keys: Sequence[str],
    kept: KeptReads,
    settings: TrainingSettings,
    *,
    steps: int,
    pretrained: bool = False,
    run_digest: str,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> TNet:
    """Teach a network's coarse encoders, in place; a run that was stopped goes on from its checkpoint.

    Args:
        keys: Of the patches of each slide.
        kept: Where these lie.
        pretrained: Whether the encoders begin with weights that have learnt something.
        run_digest: Names the run; only its own checkpoints can resume it.
        folder: Of checkpoints.

    Returns:
        The network, in evaluation mode.

    Raises:
        UsageError: the folder holds the checkpoint of another run.
        ModelFileError: the checkpoint is damaged.
        TrainingError: the loss is not finite any more, or memory does not suffice.
    """
    state = TrainingState(
        network=network.to(device),
        slides=[],
        settings=settings,
        device=device,
        group=ProcessGroup(),
        precision=Precision(device, mixed=settings.mixed_precision),
        progress=progress,
        run_digest=run_digest,
        folder=folder,
    )
    rate = settings.warmup_learning_rate * (PRETRAINED_RATE if pretrained else 1.0)
    stage = LearnResponses(state, keys, kept, steps, rate)
    stored = load_checkpoint(state)
    if stored is not None:
        network.load_state_dict(stored.network)
    if stored is None or not stored.checkpoint.has_ended:
        run = StageRun(stage)
        if stored is not None:
            state.note(f"going on from the checkpoint at step {stored.checkpoint.step}")
            run.restore(stored.checkpoint)
        run.run()
        save_checkpoint(state, Checkpoint(stage=1, step=0, has_ended=True))
    freeze_normalisation(network)
    return network.eval()
