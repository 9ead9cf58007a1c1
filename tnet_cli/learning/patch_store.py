"""The pool of patches the warm-up learns from, with what annotations say of each.

Patches enter in two ways: along the annotated and along random paths down the grids, before anything is learnt; and
along the paths the current model takes, so that it meets its own mistakes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from tnet_cli.errors import ManifestError, SlideError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.classify import look_with
from tnet_cli.inference.engine import TraversalResult, drive
from tnet_cli.inference.traversal_job import slide_job
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.slide.opening import open_slide

NO_LABEL = -1


@dataclass(slots=True)
class PatchPool:
    """Patches with their targets; one entry of each list for every patch.

    Attributes:
        pixels: uint8 (base_px, base_px, 3).
        positions: int64 (3,): y, x, scale.
        allowed: bool (G,): cells that may be attended.
        cell_targets: float32 (G,): share of the annotated area in each allowed cell; all zero where there is none.
        labels: Index of the class, or -1 where the annotations do not decide it.
        slides: Number of the slide each patch was read from.
        regions: Where on it, so that the pool can be read again.
    """

    pixels: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    allowed: list[np.ndarray] = field(default_factory=list)
    cell_targets: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    slides: list[int] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def clear(self) -> None:
        """Drop all patches."""
        for mine in fields(self):
            getattr(self, mine.name).clear()

    def extend(self, other: "PatchPool") -> None:
        """Add another pool's patches."""
        for mine in fields(self):
            getattr(self, mine.name).extend(getattr(other, mine.name))

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return everything but the pixels, one array for each list."""
        boxes = [[region.x, region.y, region.width, region.height] for region in self.regions]
        return {
            "positions": np.stack(self.positions),
            "allowed": np.stack(self.allowed),
            "cell_targets": np.stack(self.cell_targets),
            "labels": np.array(self.labels, dtype=np.int64),
            "slides": np.array(self.slides, dtype=np.int64),
            "regions": np.array(boxes, dtype=np.int64),
        }

    def sampling_weights(self) -> np.ndarray:
        """Return the probability of drawing each patch, float64 (N,).

        Patches that teach something are drawn alike from every group: each processing level's located patches, and
        each class's labelled ones. Patches that teach nothing are not drawn.

        Raises:
            ManifestError: no patch teaches anything.
        """
        scale = np.array([position[2] for position in self.positions])
        located = np.array([target.sum() > 0 for target in self.cell_targets])
        labels = np.array(self.labels)
        groups = np.full(len(self), -1)
        groups[located] = scale[located]
        groups[labels >= 0] = 100 + labels[labels >= 0]
        present, members = np.unique(groups[groups >= 0], return_counts=True)
        if len(present) == 0:
            raise ManifestError(
                "no patch can be learnt from: give annotations of some slides, or the class of what is not annotated"
            )
        weights = np.zeros(len(self))
        for group, count in zip(present, members, strict=True):
            weights[groups == group] = 1 / (len(present) * count)
        return weights


@dataclass(frozen=True, slots=True)
class Teacher:
    """What annotations teach of regions of one slide.

    Attributes:
        slide: The slide.
        config: The model's configuration.
        settings: ``lesion_share`` and ``normal_class``.
    """

    slide: TrainingSlide
    config: TNetConfig
    settings: TrainingSettings

    @property
    def finest(self) -> int:
        """The last processing level the slide serves; a traversal may be asked to stop before it."""
        mpp = self.slide.scale.mpp
        return len(mpp) - 1

    def cell_targets(self, region: Region, allowed: np.ndarray) -> np.ndarray:
        """Return the share of the region's annotated area that each allowed cell holds, float32 (G,)."""
        cells = AttentionGrid(self.config.grid, self.config.cell_fraction).cells(region)
        covered = self.slide.annotated_fractions(cells) * allowed
        total = covered.sum()
        shares: np.ndarray = covered / total if total > 0 else np.zeros_like(covered)
        return shares.astype(np.float32)

    def label(self, region: Region) -> int:
        """Return the class of a finest region, or -1 where the annotations do not decide it."""
        if self.slide.annotated is None:
            # Nobody drew anything: only on a slide that is normal as a whole is every patch known to be.
            is_normal = self.config.class_names[self.slide.label] == self.settings.normal_class
            return self.slide.label if is_normal or self.settings.slide_labels_teach_patches else NO_LABEL
        covered = float(self.slide.annotated_fractions([region])[0])
        if covered >= self.settings.lesion_share:
            return self.slide.label
        if covered > 0 or self.settings.normal_class is None:
            return NO_LABEL
        return self.config.class_names.index(self.settings.normal_class)

    def feature_label(self, region: Region, *, is_finest: bool) -> int:
        """Return the class of any region's own features: by annotation where there is one, else the slide's."""
        if self.slide.annotated is None or self.settings.normal_class is None:
            return self.slide.label
        if is_finest:
            return self.label(region)
        if float(self.slide.annotated_fractions([region])[0]) > 0:
            return self.slide.label
        return self.config.class_names.index(self.settings.normal_class)


def add_guided_patches(
    pool: PatchPool,
    slide: TrainingSlide,
    config: TNetConfig,
    settings: TrainingSettings,
    rng: np.random.Generator,
    *,
    number: int = 0,
) -> None:
    """Add a slide's roots, and below them cells of which half are annotated and half are any tissue.

    Args:
        pool: Grows.
        slide: Read from.
        config: The model.
        settings: How many patches.
        rng: Source of randomness.
        number: The slide's, noted with each patch.

    Raises:
        SlideError: the slide cannot be read.
    """
    teacher = Teacher(slide, config, settings)
    grid = AttentionGrid(config.grid, config.cell_fraction)
    may_attend = slide.preparation.allowed()
    regions = list(slide.held.root_regions)
    positions = [np.zeros(3, dtype=np.int64) for _ in regions]
    last = slide.scale.processing_levels - 1
    for processing_level in range(last + 1):
        children: list[Region] = []
        child_positions: list[np.ndarray] = []
        everything = np.ones(grid.cell_count, dtype=bool)
        allowed = [everything if processing_level == last else may_attend(grid.cells(region)) for region in regions]
        _append(
            pool,
            teacher,
            regions,
            positions,
            allowed,
            slide.read(regions, config.base_px),
            number,
            is_finest=processing_level == last,
        )
        for region, position, open_cells in zip(regions, positions, allowed, strict=True):
            for cell, child in enumerate(grid.cells(region)):
                if open_cells[cell]:
                    children.append(child)
                    child_positions.append(_child_position(position, cell, config.grid))
        if not children:
            return
        chosen = _half_annotated(slide.annotated_fractions(children), settings.patches_per_slide, rng)
        regions = [children[index] for index in chosen]
        positions = [child_positions[index] for index in chosen]


def _half_annotated(covered: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    order = rng.permutation(len(covered))
    annotated = [int(index) for index in order if covered[index] > 0][: count // 2]
    others = [int(index) for index in order if covered[index] == 0][: count - len(annotated)]
    return sorted(annotated + others)


def _child_position(position: np.ndarray, cell: int, grid: int) -> np.ndarray:
    row, column = divmod(cell, grid)
    return np.array([position[0] * grid + row, position[1] * grid + column, position[2] + 1], dtype=np.int64)


def _append(
    pool: PatchPool,
    teacher: Teacher,
    regions: Sequence[Region],
    positions: Sequence[np.ndarray],
    allowed: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray],
    number: int,
    *,
    is_finest: bool,
) -> None:
    for region, position, open_cells, patch in zip(regions, positions, allowed, pixels, strict=True):
        pool.pixels.append(patch)
        pool.positions.append(np.asarray(position, dtype=np.int64))
        pool.allowed.append(open_cells)
        targets = np.zeros(len(open_cells), np.float32) if is_finest else teacher.cell_targets(region, open_cells)
        pool.cell_targets.append(targets)
        pool.labels.append(teacher.label(region) if is_finest else NO_LABEL)
        pool.slides.append(number)
        pool.regions.append(region)


def read_again(arrays: dict[str, np.ndarray], slides: Sequence[TrainingSlide], base_px: int, readers: int) -> PatchPool:
    """Make a pool as it was from its arrays, reading the pixels again.

    Args:
        arrays: Of ``PatchPool.as_arrays``.
        slides: The slides the numbers stand for.
        base_px: Side of a patch.
        readers: Slides that are read at once.

    Raises:
        SlideError: a slide cannot be read any more.
    """
    pool = PatchPool(
        positions=list(arrays["positions"]),
        allowed=list(arrays["allowed"]),
        cell_targets=list(arrays["cell_targets"]),
        labels=arrays["labels"].tolist(),
        slides=arrays["slides"].tolist(),
        regions=[Region(*box) for box in arrays["regions"].tolist()],
    )
    places = [np.flatnonzero(arrays["slides"] == number) for number in range(len(slides))]

    def read(number: int) -> list[np.ndarray]:
        wanted = [pool.regions[place] for place in places[number]]
        return slides[number].read(wanted, base_px) if wanted else []

    pixels: list[np.ndarray] = [np.empty(0)] * len(pool)
    with ThreadPoolExecutor(readers, thread_name_prefix="tnet-pool") as threads:
        for number, patches in enumerate(threads.map(read, range(len(slides)))):
            for place, patch in zip(places[number], patches, strict=True):
                pixels[place] = patch
    pool.pixels = pixels
    return pool


def add_attended_patches(
    pool: PatchPool,
    slides: Sequence[TrainingSlide],
    network: TNet,
    settings: TrainingSettings,
    rng: np.random.Generator,
    *,
    device: torch.device | None = None,
    on_bad: Callable[[SlideError], None] | None = None,
) -> None:
    """Add what the current model attends to, with the exploration of Gumbel top-k.

    Args:
        pool: Grows.
        slides: Traversed; a patch notes the number of its slide among them.
        network: The current model, left in evaluation mode.
        settings: ``hard_locations`` are attended.
        rng: Source of randomness.
        device: Where the network is; the CPU when None.
        on_bad: Told of slides that cannot be read, which are left out; without it the first one is raised.

    Raises:
        SlideError: a slide cannot be read.
    """
    config = network.config
    network.eval()
    look = look_with(network, device or torch.device("cpu"))
    for number, slide in enumerate(slides):
        locations = settings.hard_locations[: slide.scale.processing_levels - 1]
        try:
            with open_slide(slide.entry.path, mpp=slide.entry.mpp) as handle:
                job = slide_job(handle, slide.preparation, config, locations, GumbelTopK(rng))
                for _, traversed in drive([job], look, batch_size=settings.batch_patches, readers=settings.readers):
                    if not isinstance(traversed, TraversalResult):
                        raise traversed
                    _append_traversal(pool, Teacher(slide, config, settings), traversed, number)
        except SlideError as error:
            if on_bad is None:
                raise
            on_bad(error)


def _append_traversal(pool: PatchPool, teacher: Teacher, traversed: TraversalResult, number: int) -> None:
    last = teacher.slide.scale.processing_levels - 1
    everything = np.ones(teacher.config.grid**2, dtype=bool)
    for record, patches in zip(traversed.traversal.levels, traversed.patches, strict=True):
        is_finest = record.processing_level == last
        allowed = [everything] * len(record.regions) if record.allowed is None else list(record.allowed)
        _append(
            pool, teacher, record.regions, list(record.positions), allowed, list(patches), number, is_finest=is_finest
        )
