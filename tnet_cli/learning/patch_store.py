"""The pool of patches the warm-up learns from, with what annotations say of each.

Patches enter in two ways: along the annotated and along random paths down the grids, before anything is learnt; and
along the paths the current model takes, so that it meets its own mistakes.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from tnet_cli.errors import ManifestError, SlideError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.classify import look_with
from tnet_cli.learning.slides import NO_LABEL, AnnotationTargets, TrainingSlide
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import positions_below


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

    def extend(self, other: "PatchPool") -> None:
        """Add another pool's patches."""
        for mine in fields(self):
            getattr(self, mine.name).extend(getattr(other, mine.name))

    def add(
        self,
        targets: AnnotationTargets,
        number: int,
        regions: Sequence[Region],
        positions: np.ndarray,
        allowed: Sequence[np.ndarray],
        pixels: Sequence[np.ndarray],
        *,
        is_finest: bool,
    ) -> None:
        """Add N patches of one processing level of slide ``number``, with what its annotations teach of them."""
        self.pixels.extend(pixels)
        self.positions.extend(positions)
        self.allowed.extend(allowed)
        self.slides.extend([number] * len(regions))
        self.regions.extend(regions)
        for region, open_cells in zip(regions, allowed, strict=True):
            taught = np.zeros(len(open_cells), np.float32) if is_finest else targets.cells(region, open_cells)
            self.cell_targets.append(taught)
            self.labels.append(targets.label(region) if is_finest else NO_LABEL)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return everything but the pixels, one array for each list."""
        arrays = {mine.name: np.array(getattr(self, mine.name)) for mine in fields(self)[1:] if mine.name != "regions"}
        boxes = [[region.x, region.y, region.width, region.height] for region in self.regions]
        return arrays | {"regions": np.array(boxes)}

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


def read_again(arrays: dict[str, np.ndarray], slides: Sequence[TrainingSlide], base_px: int, readers: int) -> PatchPool:
    """Make a pool as it was from its arrays, reading the pixels again.

    Args:
        arrays: Of ``PatchPool.as_arrays``.
        slides: The slides the numbers stand for.
        readers: Slides that are read at once.

    Raises:
        SlideError: a slide cannot be read any more.
    """
    pool = PatchPool(
        pixels=[np.empty(0)] * len(arrays["labels"]),
        regions=[Region(*box) for box in arrays["regions"].tolist()],
        **{name: list(values) for name, values in arrays.items() if name != "regions"},
    )
    places = [np.flatnonzero(arrays["slides"] == number) for number in range(len(slides))]

    def read(number: int) -> list[np.ndarray]:
        wanted = [pool.regions[place] for place in places[number]]
        return slides[number].read(wanted, base_px) if wanted else []

    with ThreadPoolExecutor(readers, thread_name_prefix="tnet-pool") as threads:
        for number, patches in enumerate(threads.map(read, range(len(slides)))):
            for place, patch in zip(places[number], patches, strict=True):
                pool.pixels[place] = patch
    return pool


def add_guided_patches(pool: PatchPool, targets: AnnotationTargets, rng: np.random.Generator, number: int = 0) -> None:
    """Add a slide's roots, and below them cells of which half are annotated and half are any tissue.

    Args:
        pool: Grows.
        targets: Of the slide; its settings say how many patches.
        number: The slide's, noted with each patch.

    Raises:
        SlideError: the slide cannot be read.
    """
    slide, config, grid = (
        targets.slide,
        targets.config,
        AttentionGrid(targets.config.grid, targets.config.cell_fraction),
    )
    may_attend = slide.preparation.allowed()
    regions = list(slide.root_regions)
    positions = np.zeros((len(regions), 3), dtype=np.int64)
    last = slide.scale.processing_levels - 1
    for processing_level in range(last + 1):
        is_finest = processing_level == last
        grids = [grid.cells(region) for region in regions]
        allowed = [np.ones(grid.cell_count, dtype=bool) if is_finest else may_attend(cells) for cells in grids]
        pixels = slide.read(regions, config.base_px)
        pool.add(targets, number, regions, positions, allowed, pixels, is_finest=is_finest)
        parents, cells = np.nonzero(allowed)
        if is_finest or not len(cells):
            return
        children = [grids[parent][cell] for parent, cell in zip(parents, cells, strict=True)]
        covered = targets.annotated_fractions(children)
        chosen = _half_annotated(covered, targets.settings.patches_per_slide, rng)
        regions = [children[index] for index in chosen]
        positions = positions_below(positions[parents[chosen]], cells[chosen], grid)


def _half_annotated(covered: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(len(covered))
    annotated = order[covered[order] > 0][: count // 2]
    others = order[covered[order] == 0][: count - len(annotated)]
    return np.sort(np.concatenate([annotated, others]))


def add_attended_patches(
    pool: PatchPool,
    targets: Iterable[AnnotationTargets],
    network: TNet,
    rng: np.random.Generator,
    *,
    device: torch.device,
    on_bad: Callable[[SlideError], None],
) -> None:
    """Add what the current model attends to, with the exploration of Gumbel top-k.

    Args:
        pool: Grows.
        targets: Of each slide; its settings' ``hard_locations`` are attended, and each patch notes the slide's number.
        network: The current model, left in evaluation mode.
        device: Where the network is.
        on_bad: Told of slides that cannot be read, which are left out.
    """
    network.eval()
    look = look_with(network, device)
    for number, each in enumerate(targets):
        slide, settings = each.slide, each.settings
        size, readers = settings.batch_patches, settings.readers
        try:
            result = slide.traverse(
                look, network.config, settings.hard_locations, GumbelTopK(rng), batch_size=size, readers=readers
            )
        except SlideError as error:
            on_bad(error)
            continue
        everything = np.ones(network.config.grid**2, dtype=bool)
        for record, patches in zip(result.traversal.levels, result.patches, strict=True):
            is_finest = record.processing_level == slide.scale.processing_levels - 1
            allowed = [everything] * len(record.regions) if record.allowed is None else list(record.allowed)
            pool.add(each, number, record.regions, record.positions, allowed, list(patches), is_finest=is_finest)
