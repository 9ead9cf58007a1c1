"""The warm-up: extractor, location module and classifier learn from a pool of patches, taught by annotations."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tnet_cli.learning.loop import Stage, StepOutput
from tnet_cli.learning.patch_store import PatchPool, add_attended_patches, add_guided_patches
from tnet_cli.learning.slides import NO_LABEL, AnnotationTargets, read_many
from tnet_cli.learning.state import TrainingState, random_source
from tnet_cli.model.normalisation import freeze_normalisation

MEASURED_PATCHES = 256


@dataclass(frozen=True, slots=True, eq=False)
class PatchBatch:
    """Augmented patches of one step.

    Attributes:
        pixels: uint8 (N, 3, H, W).
        positions: int64 (N, 3).
        allowed: bool (N, G).
        targets: float32 (N, G).
        labels: int64 (N,), -1 where unknown.
        taught: Patches of the step that hold annotations, those of all processes.
        labelled: Patches of the step with a label, likewise.
    """

    pixels: Tensor
    positions: Tensor
    allowed: Tensor
    targets: Tensor
    labels: Tensor
    taught: int
    labelled: int

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: slice) -> Self:
        """Return some of the patches."""
        names = ("pixels", "positions", "allowed", "targets", "labels")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def close(self) -> None:
        """Do nothing: no file is open."""


class WarmUp(Stage[PatchBatch]):
    """A round of the warm-up. Patches are drawn from the pool, every processing level in every batch.

    The location module learns the share of the annotated area in each cell; gradients pass into the extractor here,
    unlike in the hard phase. Batch statistics are those of all processing levels together, and are frozen afterwards.
    Before the first round the pool is filled along annotated and random paths; before each other round it grows by
    what the model now attends to.

    Args:
        round_number: From 1.
    """

    def __init__(self, state: TrainingState, round_number: int) -> None:
        super().__init__(
            state=state,
            name=f"warm-up {round_number}",
            steps=state.settings.warmup_steps,
            learning_rate=state.settings.warmup_learning_rate,
            report_every=25,
        )
        self.round_number = round_number
        self.weights = np.empty(0)

    def begin(self) -> None:
        """Fill the pool, or let it grow, and go on from there."""
        state, rng = self.state, random_source(self.settings.seed, self.number, 0)
        if self.round_number == 1:
            fill_pool(state, rng)
            if self.settings.normalisation == "none" and not state.pretrained:
                measure_statistics(state)
        else:
            targets = (AnnotationTargets(slide, state.network.config, self.settings) for slide in state.slides)
            add_attended_patches(state.pool, targets, state.network, rng, device=state.device, on_bad=state.leave_out)
        self.resume()

    def resume(self) -> None:
        """Draw from the run's pool."""
        self.weights = self.state.pool.sampling_weights()
        if self.settings.normalisation == "none":
            freeze_normalisation(self.state.network)

    def prepare(self, rng: np.random.Generator, step: int) -> PatchBatch:  # noqa: ARG002 (every step draws alike)
        """Draw patches; this process's are turned, mirrored and tinted, each by its own source of randomness."""
        pool, share, jitter = self.state.pool, self.state.group.share, self.settings.colour_jitter
        chosen = rng.choice(len(pool), size=self.settings.batch_patches, p=self.weights).tolist()
        mine, pixels, cells = share(chosen), [], []
        for index, source in zip(mine, share(rng.spawn(len(chosen))), strict=True):
            targets = np.stack([pool.allowed[index], pool.cell_targets[index]])
            changed, carried = augment_patch(pool.pixels[index], targets, jitter, source)
            pixels.append(changed)
            cells.append(carried)
        carried_cells = np.stack(cells)  # (N, 2, G)
        return PatchBatch(
            pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
            positions=torch.from_numpy(np.stack([pool.positions[index] for index in mine])),
            allowed=torch.from_numpy(carried_cells[:, 0] > 0),
            targets=torch.from_numpy(carried_cells[:, 1].astype(np.float32)),
            labels=torch.tensor([pool.labels[index] for index in mine]),
            taught=sum(bool(pool.cell_targets[index].any()) for index in chosen),
            labelled=sum(pool.labels[index] != NO_LABEL for index in chosen),
        )

    def compute(self, batch: PatchBatch, share: float) -> StepOutput:  # noqa: ARG002 (the batch knows the counts)
        """Compute the location module's term and the classifier's."""
        if len(batch) == 0:
            return StepOutput({})
        state = self.state
        targets, labels = batch.targets.to(state.device), batch.labels.to(state.device)
        with state.precision.autocast():
            seen = state.network.look(
                batch.pixels.to(state.device),
                batch.positions.to(state.device),
                batch.allowed.to(state.device),
                detach_location=False,
            )
            logits = state.network.classification(seen.features)
        terms: dict[str, Tensor] = {}
        if seen.cell_log_probs is not None:
            terms["location"] = location_loss(seen.cell_log_probs.float(), targets, batch.taught)
        if batch.labelled:
            summed = functional.cross_entropy(logits.float(), labels, ignore_index=NO_LABEL, reduction="sum")
            terms["patch"] = summed / batch.labelled
        return StepOutput(terms)


def fill_pool(state: TrainingState, rng: np.random.Generator) -> None:
    """Fill the run's pool along annotated and random paths, reading several slides at once."""
    sources = rng.spawn(len(state.slides))

    def read(number: int) -> PatchPool:
        part = PatchPool()
        targets = AnnotationTargets(state.slides[number], state.network.config, state.settings)
        add_guided_patches(part, targets, sources[number], number)
        return part

    for part in read_many(read, range(len(sources)), state.settings.readers, state.leave_out):
        state.pool.extend(part)


def measure_statistics(state: TrainingState) -> None:
    """Set the statistics of normalisation once, to those of patches of all processing levels.

    Random weights need a scale to learn with; their statistics are measured in one pass and never again.
    """
    network, pool = state.network, state.pool
    everything = random_source(state.settings.seed, 0, 0).permutation(len(pool))[:MEASURED_PATCHES]
    layers = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 (the common base)
    if not layers or len(everything) < 2:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean of all batches
    network.train()
    with torch.no_grad():
        # Batches interleave what the permutation mixed: every batch holds patches of all processing levels.
        for rows in np.array_split(everything, max(1, len(everything) // 32)):
            pixels = torch.from_numpy(np.stack([pool.pixels[row] for row in rows])).permute(0, 3, 1, 2)
            network.feature(pixels.to(state.device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def augment_patch(
    pixels: np.ndarray, cells: np.ndarray, colour_jitter: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Turn, mirror and tint a patch, and carry its cells along: changes that leave its label alone.

    Args:
        pixels: uint8 (H, W, 3), square.
        cells: (K, G) any values per cell of the n x n attention grid, row-major.
        colour_jitter: Largest relative change of each colour channel.

    Returns:
        The changed pixels uint8 (H, W, 3) and cells (K, G).
    """
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    side = round(cells.shape[1] ** 0.5)
    grid = cells.reshape(-1, side, side)
    pixels, grid = np.rot90(pixels, turns, axes=(0, 1)), np.rot90(grid, turns, axes=(1, 2))
    if mirrored:
        pixels, grid = pixels[:, ::-1], grid[:, :, ::-1]
    gain = 1 + rng.uniform(-colour_jitter, colour_jitter, size=3)
    table = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)  # (256, 3)
    tinted = np.stack([table[:, channel][pixels[..., channel]] for channel in range(3)], axis=-1)
    return tinted, grid.reshape(cells.shape)


def location_loss(cell_log_probs: Tensor, targets: Tensor, taught: float | None = None) -> Tensor:
    """Cross-entropy between the annotated shares and the attention, over the regions that hold annotations.

    Args:
        cell_log_probs: (N, G), -inf where a cell may not be attended.
        targets: (N, G) float32; rows sum to one, or to zero where nothing is annotated.
        taught: Divides the sum: regions with annotations in the whole batch; of these rows when None.

    Returns:
        Scalar; zero when no region holds annotations.
    """
    # -inf times a zero target would be NaN, in the gradient too: those cells are cut out before the product.
    finite = torch.where(targets > 0, cell_log_probs, torch.zeros_like(cell_log_probs))
    count = (targets.sum(dim=1) > 0).sum().clamp(min=1) if taught is None else max(taught, 1)
    return -(targets * finite).sum() / count
