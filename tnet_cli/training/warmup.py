"""The warm-up: extractor, location module and classifier learn from a pool of patches, taught by annotations."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tnet_cli.errors import SlideError
from tnet_cli.learning.patch_store import PatchPool, add_attended_patches, add_guided_patches
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.stage import Computed
from tnet_cli.learning.state import Course, random_source
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.training.augment import augment_patch


@dataclass(frozen=True, slots=True, eq=False)
class PatchBatch:
    """Augmented patches of one step.

    Attributes:
        pixels: uint8 (N, 3, H, W).
        positions: int64 (N, 3).
        allowed: bool (N, G).
        targets: float32 (N, G).
        labels: int64 (N,), -1 where unknown.
    """

    pixels: Tensor
    positions: Tensor
    allowed: Tensor
    targets: Tensor
    labels: Tensor

    def part(self, rows: slice) -> "PatchBatch":
        """Return some of the patches."""
        return PatchBatch(
            self.pixels[rows], self.positions[rows], self.allowed[rows], self.targets[rows], self.labels[rows]
        )


@dataclass(slots=True, eq=False)
class WarmUp:
    """A round of the warm-up; a ``Stage``. Patches are drawn from the pool, every processing level in every batch.

    The location module learns the share of the annotated area in each cell; gradients pass into the extractor here,
    unlike in the hard phase. Batch statistics are those of all processing levels together, and are frozen afterwards.
    Before the first round the pool is filled along annotated and random paths; before each other round it grows by
    what the model now attends to.

    Args:
        settings: Of the run.
        number: Of the round, from 1.
    """

    settings: TrainingSettings
    number: int
    name: str = ""
    steps: int = 0
    learning_rate: float = 0.0
    report_every: int = 25
    gradient_clip: float = float("inf")
    epoch: int = 0
    depth: int | None = None
    state: dict[str, float] = field(default_factory=dict)
    pool: PatchPool = field(default_factory=PatchPool)
    weights: np.ndarray = field(default_factory=lambda: np.empty(0))
    share: slice = field(default_factory=lambda: slice(None))

    def __post_init__(self) -> None:
        """Take the settings' numbers."""
        self.name = f"warm-up {self.number}"
        self.steps = self.epoch = self.settings.warmup_steps
        self.learning_rate = self.settings.warmup_learning_rate

    def begin(self, course: Course, number: int) -> None:
        """Fill the pool, or let it grow, and go on from there."""
        rng = random_source(self.settings.seed, number, 0)
        if self.number == 1:
            fill_pool(course, rng)
            if self.settings.normalisation == "none" and not course.pretrained:
                measure_statistics(course)
        else:
            add_attended_patches(
                course.pool,
                course.slides,
                course.network,
                self.settings,
                rng,
                device=course.device,
                on_bad=course.leave_out,
            )
        self.resume(course, number)

    def resume(self, course: Course, number: int) -> None:  # noqa: ARG002 (of the protocol)
        """Draw from the run's pool."""
        self.pool, self.weights = course.pool, course.pool.sampling_weights()
        self.share = slice(course.group.rank, None, course.group.size)
        if self.settings.normalisation == "none":
            freeze_normalisation(course.network)

    def prepare(self, rng: np.random.Generator, step: int) -> PatchBatch:  # noqa: ARG002 (of the protocol)
        """Draw patches and augment this process's."""
        chosen = rng.choice(len(self.pool), size=self.settings.batch_patches, p=self.weights)
        sources = rng.spawn(len(chosen))
        return augmented_batch(self.pool, chosen[self.share], sources[self.share], self.settings.colour_jitter)

    def compute(self, course: Course, work: PatchBatch) -> Computed:
        """Compute the location module's term and the classifier's."""
        targets, labels = work.targets.to(course.device), work.labels.to(course.device)
        counts = torch.stack([(work.targets.sum(dim=1) > 0).sum(), (work.labels >= 0).sum()]).double()
        taught, labelled = course.group.total(counts).tolist()
        if len(labels) == 0:
            return Computed({})
        with course.precision.autocast():
            seen = course.network.look(
                work.pixels.to(course.device),
                work.positions.to(course.device),
                work.allowed.to(course.device),
                detach_location=False,
            )
            logits = course.network.classification(seen.features)
        terms: dict[str, Tensor] = {}
        if seen.cell_log_probs is not None:
            terms["location"] = location_loss(seen.cell_log_probs.float(), targets, taught)
        if labelled:
            terms["patch"] = (
                functional.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum") / labelled
            )
        return Computed(terms)

    def halves(self, work: PatchBatch) -> Sequence[tuple[float, PatchBatch]]:
        """Split the batch."""
        count = len(work.labels)
        if count < 2:
            return [(1.0, work)]
        half = count // 2
        return [(half / count, work.part(slice(half))), (1 - half / count, work.part(slice(half, None)))]

    def release(self, work: PatchBatch) -> None:
        """Hold nothing open."""


def fill_pool(course: Course, rng: np.random.Generator) -> None:
    """Fill the run's pool along annotated and random paths, reading several slides at once."""
    sources = rng.spawn(len(course.slides))

    def read(number: int) -> PatchPool | SlideError:
        part = PatchPool()
        try:
            add_guided_patches(
                part, course.slides[number], course.network.config, course.settings, sources[number], number=number
            )
        except SlideError as error:
            return error
        return part

    with ThreadPoolExecutor(course.settings.readers, thread_name_prefix="tnet-pool") as threads:
        for part in threads.map(read, range(len(course.slides))):
            if isinstance(part, SlideError):
                course.leave_out(part)
            else:
                course.pool.extend(part)


MEASURED_PATCHES = 256


def measure_statistics(course: Course) -> None:
    """Set the statistics of normalisation once, to those of patches of all processing levels.

    Random weights need a scale to learn with; their statistics are measured in one pass and never again.
    """
    network, pool = course.network, course.pool
    everything = random_source(course.settings.seed, 0, 0).permutation(len(pool))[:MEASURED_PATCHES]
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
            network.feature(pixels.to(course.device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def augmented_batch(
    pool: PatchPool, chosen: np.ndarray, sources: Sequence[np.random.Generator], colour_jitter: float
) -> PatchBatch:
    """Take patches from a pool, each turned, mirrored and tinted by its own source of randomness."""
    pixels, cells = [], []
    for index, rng in zip(chosen, sources, strict=True):
        changed, carried = augment_patch(
            pool.pixels[index], np.stack([pool.allowed[index], pool.cell_targets[index]]), colour_jitter, rng
        )
        pixels.append(changed)
        cells.append(carried)
    carried_cells = np.stack(cells)  # (N, 2, G)
    return PatchBatch(
        pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
        positions=torch.from_numpy(np.stack([pool.positions[index] for index in chosen])),
        allowed=torch.from_numpy(carried_cells[:, 0] > 0),
        targets=torch.from_numpy(carried_cells[:, 1].astype(np.float32)),
        labels=torch.tensor([pool.labels[index] for index in chosen]),
    )


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
