"""The pool of patches the warm-up learns from, with what annotations say of each; the pixels lie on disk.

Patches enter in two ways: along the annotated and along random paths down the grids, before anything is learnt; and
along the paths the current model takes, so that it meets its own mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tnet_cli.errors import ManifestError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.classify import look_with
from tnet_cli.learning.kept import KeptReads
from tnet_cli.learning.slides import NO_LABEL, AnnotationTargets, TrainingSlide, read_many
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import allowed_cells, origins, positions_below

PIXELS = "pixels"
TARGETS = ("positions", "allowed", "cell_targets", "known", "labels")


@dataclass(slots=True)
class SlidePatches:
    """Patches of one slide with their targets, while they are read; one entry of each list for every patch.

    Attributes:
        pixels: uint8 (base_px, base_px, 3).
        positions: int64 (3,): y, x, scale.
        allowed: bool (G,): cells that may be attended.
        cell_targets: float32 (G,): share of the annotated area in each allowed cell; all zero where there is none.
        known: Whether it is known of every cell that it holds nothing where that share is zero.
        labels: Index of the class, or -1 where the annotations do not decide it.
        regions: Where they were read, so that they can be read again.
    """

    pixels: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    allowed: list[np.ndarray] = field(default_factory=list)
    cell_targets: list[np.ndarray] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)

    def add(
        self,
        targets: AnnotationTargets,
        regions: Sequence[Region],
        positions: np.ndarray,
        allowed: Sequence[np.ndarray],
        pixels: Sequence[np.ndarray],
        *,
        is_finest: bool,
    ) -> None:
        """Add N patches of one processing level, with what the slide's annotations teach of them."""
        self.pixels.extend(pixels)
        self.positions.extend(positions)
        self.allowed.extend(allowed)
        self.regions.extend(regions)
        for region, open_cells in zip(regions, allowed, strict=True):
            taught = np.zeros(len(open_cells), np.float32) if is_finest else targets.cells(region, open_cells)
            self.cell_targets.append(taught)
            self.known.append(targets.know_places and not is_finest)
            self.labels.append(targets.label(region) if is_finest else NO_LABEL)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return one array for each list."""
        arrays = {name: np.array(getattr(self, name)) for name in (PIXELS, *TARGETS)}
        boxes = [[region.x, region.y, region.width, region.height] for region in self.regions]
        return arrays | {"regions": np.array(boxes)}


@dataclass(slots=True, eq=False)
class PatchPool:
    """Patches of many slides. Their targets are held, their pixels are read whenever a patch is drawn.

    Attributes:
        kept: Where the pixels lie.
        slides: Number of the slide of each part, as the parts were added.
        keys: Of each part among what is kept.
    """

    kept: KeptReads = field(default_factory=KeptReads)
    slides: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    _parts: list[dict[str, np.ndarray]] = field(default_factory=list)
    _joined: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(part["labels"]) for part in self._parts)

    def add(self, number: int, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Add the patches of slide ``number``, whose pixels are kept under the key; arrays as of ``SlidePatches``."""
        self.slides.append(number)
        self.keys.append(key)
        self._parts.append({name: values for name, values in arrays.items() if name != PIXELS})
        self._joined.clear()

    def column(self, name: str) -> np.ndarray:
        """Return a column of ``TARGETS``, or ``regions``, of all patches, a row each."""
        if name not in self._joined:
            self._joined[name] = np.concatenate([part[name] for part in self._parts])
        return self._joined[name]

    def pixels(self, index: int) -> np.ndarray:
        """Return the pixels of a patch, uint8 (base_px, base_px, 3).

        Raises:
            OSError: the file that held them is gone.
        """
        if "ends" not in self._joined:
            self._joined["ends"] = np.cumsum([len(part["labels"]) for part in self._parts])
        part = int(np.searchsorted(self._joined["ends"], index, side="right"))
        before = int(self._joined["ends"][part - 1]) if part else 0
        return self.kept.row(self.keys[part], PIXELS, index - before)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return everything but the pixels: an array for each list, and the number of patches of each part."""
        counts = [len(part["labels"]) for part in self._parts]
        joined = {name: self.column(name) for name in (*TARGETS, "regions")}
        return joined | {"parts": np.array([self.slides, counts]).T}

    def sampling_weights(self, *, nothing_teaches: bool = False) -> np.ndarray:
        """Return the probability of drawing each patch, float64 (N,).

        Patches that teach something are drawn alike from every group: each processing level's located patches, and
        each class's labelled ones. Patches that teach nothing are not drawn.

        Args:
            nothing_teaches: Whether a patch of which it is known that there is nothing in it teaches where to look:
                then those of each processing level are a group too.

        Raises:
            ManifestError: no patch teaches anything.
        """
        nothing = ManifestError(
            "no patch can be learnt from: give annotations of some slides, or the class of what is not annotated"
        )
        if not len(self):
            raise nothing
        groups, labels = np.full(len(self), -1), self.column("labels")
        located = self.column("cell_targets").sum(axis=1) > 0
        processing_levels = self.column("positions")[:, 2]
        groups[located] = processing_levels[located]
        if nothing_teaches:
            empty = self.column("known") & ~located & self.column("allowed").any(axis=1)
            groups[empty] = 1000 + processing_levels[empty]
        groups[labels >= 0] = 2000 + labels[labels >= 0]
        present, members = np.unique(groups[groups >= 0], return_counts=True)
        if len(present) == 0:
            raise nothing
        weights = np.zeros(len(self))
        for group, count in zip(present, members, strict=True):
            weights[groups == group] = 1 / (len(present) * count)
        return weights


def restored_pool(
    arrays: dict[str, np.ndarray],
    keys: Sequence[str],
    kept: KeptReads,
    slides: Sequence[TrainingSlide],
    base_px: int,
    readers: int,
) -> PatchPool:
    """Make a pool as it was from its arrays and keys, reading again only pixels that are kept no more.

    Args:
        arrays: Of ``PatchPool.as_arrays``.
        slides: The slides the numbers stand for.
        readers: Slides that are read at once.

    Raises:
        SlideError: a slide cannot be read any more.
    """
    pool, parts = PatchPool(kept), arrays["parts"].tolist()
    ends = np.cumsum([count for _, count in parts])[:-1]
    columns = {name: np.split(values, ends) for name, values in arrays.items() if name != "parts"}
    for position, ((number, _), key) in enumerate(zip(parts, keys, strict=True)):
        pool.add(number, key, {name: values[position] for name, values in columns.items()})

    def read(position: int) -> None:
        number, key = pool.slides[position], pool.keys[position]
        held, part = kept.get(key, leave_out=(PIXELS,)), {name: values[position] for name, values in columns.items()}
        if held is None or len(held[0]["labels"]) != len(part["labels"]):
            regions = [Region(*box) for box in part["regions"].tolist()]
            kept.put(key, part | {PIXELS: np.array(slides[number].read(regions, base_px))})

    for _ in read_many(read, range(len(parts)), readers, None):
        pass
    return pool


def guided_patches(targets: AnnotationTargets, rng: np.random.Generator) -> SlidePatches:
    """Read a slide's roots, and below them cells of which half are annotated and half are any tissue.

    Args:
        targets: Of the slide; its settings say how many patches.

    Raises:
        SlideError: the slide cannot be read.
    """
    slide, config, grid = (
        targets.slide,
        targets.config,
        AttentionGrid(targets.config.grid, targets.config.cell_fraction),
    )
    found = SlidePatches()
    may_attend = slide.preparation.allowed()
    regions = list(slide.root_regions)
    positions, root_of = origins(len(regions), slide.scale.start), np.arange(len(regions))
    last = slide.scale.processing_levels - 1
    with slide.opened() as handle:
        for processing_level in range(slide.scale.start, last + 1):
            is_finest = processing_level == last
            grids = [grid.cells(region) for region in regions]
            everything = np.ones((len(grids), grid.cell_count), dtype=bool)
            allowed = list(everything if is_finest else allowed_cells(grids, root_of, may_attend))
            pixels = [handle.read(region, config.base_px, config.base_px) for region in regions]
            found.add(targets, regions, positions, allowed, pixels, is_finest=is_finest)
            parents, cells = np.nonzero(allowed)
            if is_finest or not len(cells):
                break
            children = [grids[parent][cell] for parent, cell in zip(parents, cells, strict=True)]
            covered = targets.annotated_fractions(children)
            chosen = _half_annotated(covered, targets.settings.patches_per_slide, rng)
            regions = [children[index] for index in chosen]
            positions = positions_below(positions[parents[chosen]], cells[chosen], grid)
            root_of = root_of[parents[chosen]]
    return found


def _half_annotated(covered: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(len(covered))
    annotated = order[covered[order] > 0][: count // 2]
    others = order[covered[order] == 0][: count - len(annotated)]
    return np.sort(np.concatenate([annotated, others]))


def attended_patches(
    targets: AnnotationTargets, network: TNet, rng: np.random.Generator, device: torch.device
) -> SlidePatches:
    """Read what the current model attends to on a slide, with the exploration of Gumbel top-k.

    Args:
        targets: Of the slide; its settings' ``hard_locations`` are attended.
        network: The current model, in evaluation mode.
        device: Where the network is.

    Raises:
        SlideError: the slide cannot be read.
    """
    slide, settings, found = targets.slide, targets.settings, SlidePatches()
    result = slide.traverse(
        look_with(network, device),
        network.config,
        settings.hard_locations,
        GumbelTopK(rng),
        batch_size=settings.batch_patches,
        readers=settings.readers,
    )
    everything = np.ones(network.config.grid**2, dtype=bool)
    for record, patches in zip(result.traversal.levels, result.patches, strict=True):
        is_finest = record.processing_level == slide.scale.processing_levels - 1
        allowed = [everything] * len(record.regions) if record.allowed is None else list(record.allowed)
        found.add(targets, record.regions, record.positions, allowed, patches, is_finest=is_finest)
    return found
