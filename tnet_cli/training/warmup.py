"""The warm-up: extractor, location module and classifier learn from a pool of patches, taught by annotations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tnet_cli.learning.augment import augment_patch
from tnet_cli.learning.frozen_views import FrozenViews
from tnet_cli.learning.kept import key_of
from tnet_cli.learning.loop import Stage, StepOutput
from tnet_cli.learning.patch_store import PIXELS, TARGETS, SlidePatches, attended_patches, guided_patches
from tnet_cli.learning.slides import NO_LABEL, AnnotationTargets, read_many
from tnet_cli.learning.state import TrainingState, digest_of, random_source
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.encoder import Encoder
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.tnet import joined_looks
from tnet_cli.model.traversal import Look

MEASURED_PATCHES = 256
NO_PIXELS = np.zeros((1, 1, 3), np.uint8)
EDGE_SHARE = 0.25
"""Of the largest share of a region's cells: less is not enough to say that there is something in a cell."""

NEARLY_NOTHING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class PatchBatch:
    """Augmented patches of one step.

    Attributes:
        pixels: uint8 (N, 3, H, W).
        positions: int64 (N, 3).
        allowed: bool (N, G).
        targets: float32 (N, G).
        known: bool (N,): whether there is nothing in a cell without a share.
        labels: int64 (N,), -1 where unknown.
        kept: float32 (N, D): what dropout keeps of each feature.
        taught: Patches of the step that teach where to look, those of all processes.
        labelled: Patches of the step with a label, likewise.
        encoders: Numbers of the encoders that learn from patches of the step, those of all processes.
        views: int64 (N,): numbers of the views that the patches are; -1 where each is one of its own.
    """

    pixels: Tensor
    positions: Tensor
    allowed: Tensor
    targets: Tensor
    known: Tensor
    labels: Tensor
    kept: Tensor
    views: Tensor
    taught: int
    labelled: int
    encoders: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: slice) -> Self:
        """Return some of the patches."""
        names = ("pixels", "positions", "allowed", "targets", "known", "labels", "kept", "views")
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
            fill_pool(state, rng, self.number)
            if self.settings.normalisation == "none" and not state.pretrained:
                measure_statistics(state)
        else:
            grow_pool(state, rng, self.number)
        self.resume()

    def resume(self) -> None:
        """Draw from the run's pool."""
        nothing_teaches = self.state.network.config.cells_stand_alone
        self.weights = self.state.pool.sampling_weights(nothing_teaches=nothing_teaches)
        if self.settings.normalisation == "none":
            freeze_normalisation(self.state.network)
        state, encoders = self.state, self.state.network.config.encoders
        if self.settings.views and state.views is None and any(each.frozen for each in encoders):
            state.views = FrozenViews(state.network, state.device, state.folder)

    def prepare(self, rng: np.random.Generator, step: int) -> PatchBatch:  # noqa: ARG002 (every step draws alike)
        """Draw patches; this process's are turned, mirrored and tinted, each by its own source of randomness."""
        pool, share, jitter = self.state.pool, self.state.group.share, self.settings.colour_jitter
        kept = self.state.views
        columns = {name: pool.column(name) for name in TARGETS}
        chosen = rng.choice(len(pool), size=self.settings.batch_patches, p=self.weights)
        mine, sources = list(share(chosen.tolist())), share(rng.spawn(len(chosen)))
        px, classification = self.state.network.config.base_px, self.state.network.classification
        pixels, views = np.zeros((len(mine), px, px, 3), np.uint8), np.full(len(mine), -1)
        cells = np.stack([columns["allowed"][mine], columns["cell_targets"][mine]], axis=1)  # (N, 2, G)
        for row, (index, source) in enumerate(zip(mine, sources, strict=True)):
            way, processing_level = source, int(columns["positions"][index, 2])
            if kept is not None and kept.serves(processing_level):
                views[row] = index * self.settings.views + int(source.integers(self.settings.views))
                way = random_source(self.settings.seed, 0, 0, int(views[row]))
                if kept.holds(int(views[row]), processing_level):
                    cells[row] = augment_patch(NO_PIXELS, cells[row], jitter, way)[1]
                    continue
            pixels[row], cells[row] = augment_patch(pool.pixels(index), cells[row], jitter, way)
        return PatchBatch(
            pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
            positions=torch.from_numpy(columns["positions"][mine]),
            allowed=torch.from_numpy(cells[:, 0] > 0),
            targets=torch.from_numpy(cells[:, 1].astype(np.float32)),
            known=torch.from_numpy(columns["known"][mine]),
            labels=torch.from_numpy(columns["labels"][mine]),
            kept=torch.cat([classification.draw_kept(1, source) for source in sources] or [torch.empty(0, 0)]),
            views=torch.from_numpy(views),
            taught=self._count_taught({name: column[chosen] for name, column in columns.items()}),
            labelled=int((columns["labels"][chosen] != NO_LABEL).sum()),
            encoders=_learning(self.state.network.config, columns["positions"][chosen, 2]),
        )

    def compute(self, batch: PatchBatch, share: float) -> StepOutput:  # noqa: ARG002 (the batch knows the counts)
        """Compute the location module's term and the classifier's."""
        state = self.state
        # Where statistics are exchanged, a process without a patch of an encoder must be met all the same.
        exchanges = self.settings.normalisation == "frozen" and state.group.size > 1
        met = batch.encoders if exchanges else ()
        if not len(batch) and not met:
            return StepOutput({})
        targets, labels = batch.targets.to(state.device), batch.labels.to(state.device)
        with state.precision.autocast(), state.group.joined_statistics():
            seen = self._look(batch, met)
            logits = state.network.classification(seen.features, batch.kept.to(state.device))
        terms: dict[str, Tensor] = {}
        if seen.cell_log_probs is not None:
            config, log_probs = state.network.config, seen.cell_log_probs.float()
            terms["location"] = places_loss(config, log_probs, targets, batch.known.to(state.device), batch.taught)
        if batch.labelled:
            summed = functional.cross_entropy(logits.float(), labels, ignore_index=NO_LABEL, reduction="sum")
            terms["patch"] = summed / batch.labelled
        return StepOutput(terms)

    def _count_taught(self, columns: Mapping[str, np.ndarray]) -> int:
        """Count the patches, of which these are the pool's columns, that teach where to look."""
        taught = columns["cell_targets"].any(axis=1)
        if self.state.network.config.cells_stand_alone:
            taught = (taught | columns["known"]) & columns["allowed"].any(axis=1)
        return int(taught.sum())

    def _look(self, batch: PatchBatch, met: Sequence[int]) -> Look:
        """Look at the patches of a step: at views by what is held of them, at others by the network."""
        network, device, kept = self.state.network, self.state.device, self.state.views
        positions, allowed, views = batch.positions.to(device), batch.allowed.to(device), batch.views.numpy()
        plain, rows, looks = np.flatnonzero(views < 0).tolist(), list[list[int]](), list[Look]()
        if plain or met:
            pixels = batch.pixels[plain].to(device)
            rows.append(plain)
            looks.append(network.look(pixels, positions[plain], allowed[plain], detach_location=False, through=met))
        if kept is not None:
            encoders = np.array([network.config.encoder_number(n) for n in batch.positions[:, 2].tolist()])
            for number in np.unique(encoders[views >= 0]).tolist():
                mine = np.flatnonzero((encoders == number) & (views >= 0)).tolist()
                numbers, pixels = views[mine].tolist(), batch.pixels[mine]
                rows.append(mine)
                looks.append(kept.look(numbers, pixels, positions[mine], allowed[mine]))
        return looks[0] if len(looks) == 1 else joined_looks(rows, looks)


def _learning(config: TNetConfig, processing_levels: np.ndarray) -> list[int]:
    """Return the numbers of the encoders of these processing levels, without those that are frozen."""
    if not config.encoders:
        return [0]
    numbers = {config.encoder_number(each) for each in np.unique(processing_levels).tolist()}
    return sorted(number for number in numbers if not config.encoders[number].frozen)


def fill_pool(state: TrainingState, rng: np.random.Generator, stage: int = 0) -> None:
    """Fill the run's pool along annotated and random paths, reading several slides at once."""
    _add_to_pool(state, rng, guided_patches, state.settings.readers, "guided", stage)


def grow_pool(state: TrainingState, rng: np.random.Generator, stage: int) -> None:
    """Let the run's pool grow by what the current model attends to on each slide, one slide at a time."""
    network = state.network.eval()

    def read(targets: AnnotationTargets, source: np.random.Generator) -> SlidePatches:
        return attended_patches(targets, network, source, state.device)

    _add_to_pool(state, rng, read, 1, "attended", stage, digest_of(network))


def _add_to_pool(
    state: TrainingState,
    rng: np.random.Generator,
    read: Callable[[AnnotationTargets, np.random.Generator], SlidePatches],
    readers: int,
    *decisive: object,
) -> None:
    """Add patches of every slide, which are read unless they are kept; each slide has its own randomness.

    Args:
        decisive: What decides them, beside the run's settings and the slide, as JSON values.
    """
    kept, sources = state.pool.kept, rng.spawn(len(state.slides))

    def found(number: int) -> tuple[int, str, dict[str, np.ndarray]]:
        slide = state.slides[number]
        # Of a slide that nobody can tell from another one nothing is found again.
        known = slide.read_as or token_hex()
        key = key_of(*decisive, state.run_digest, number, known)
        before = kept.get(key, leave_out=(PIXELS,))
        if before is not None:
            return number, key, before[0]
        arrays = read(AnnotationTargets(slide, state.network.config, state.settings), sources[number]).as_arrays()
        kept.put(key, arrays)
        return number, key, arrays

    for number, key, arrays in read_many(found, range(len(sources)), readers, state.leave_out):
        state.pool.add(number, key, arrays)
        state.tell_doubts(state.slides[number])


def measure_statistics(state: TrainingState) -> None:
    """Set the statistics of normalisation once, to those of patches of all processing levels.

    Random weights need a scale to learn with; their statistics are measured in one pass and never again.
    """
    network, pool = state.network, state.pool
    everything = random_source(state.settings.seed, 0, 0).permutation(len(pool))[:MEASURED_PATCHES]
    frozen = [each for each in network.modules() if isinstance(each, Encoder) and each.settings.frozen]
    of_frozen = {id(module) for encoder in frozen for module in encoder.modules()}
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 (the common base)
    layers = [each for each in norms if id(each) not in of_frozen]
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
            pixels = torch.from_numpy(np.stack([pool.pixels(row) for row in rows.tolist()])).permute(0, 3, 1, 2)
            positions = torch.from_numpy(pool.column("positions")[rows])
            network.look(pixels.to(state.device), positions.to(state.device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def places_loss(
    config: TNetConfig,
    cell_log_probs: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    taught: float | None = None,
) -> Tensor:
    """Return what a location module of this configuration learns by; arguments as of ``presence_loss``."""
    if config.cells_stand_alone:
        return presence_loss(cell_log_probs, targets, known, taught)
    return location_loss(cell_log_probs, targets, taught)


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


def presence_loss(
    cell_log_probs: Tensor, targets: Tensor, known: Tensor | None = None, taught: float | None = None
) -> Tensor:
    """Cross-entropy of whether there is something in each cell, on average over the cells of a region, over regions.

    Cells with a small share of their region's annotated area teach nothing: what they show may be an edge.

    Args:
        cell_log_probs: (N, G), logarithms of sigmoids, -inf where a cell may not be attended.
        targets: As of ``location_loss``.
        known: bool (N,): whether there is nothing in a cell without a share; everywhere when None.
        taught: As of ``location_loss``.

    Returns:
        Scalar; zero when no region teaches anything.
    """
    largest = targets.amax(dim=1, keepdim=True)
    something = targets > EDGE_SHARE * largest
    decided = (something | (targets == 0)) & torch.isfinite(cell_log_probs)
    if known is not None:
        decided &= (known | (largest[:, 0] > 0))[:, None]
    # Cut out before the logarithms, as in ``location_loss``; a probability of one has no logarithm of its complement.
    finite = torch.where(decided, cell_log_probs, -torch.ones_like(cell_log_probs)).clamp(max=-NEARLY_NOTHING)
    loss = torch.where(something, finite, torch.log(-torch.expm1(finite)))
    by_region = -(loss * decided).sum(dim=1) / decided.sum(dim=1).clamp(min=1)
    count = decided.any(dim=1).sum().clamp(min=1) if taught is None else max(taught, 1)
    return by_region.sum() / count
