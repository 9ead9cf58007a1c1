"""What the engine needs to traverse one slide or image: the traversal, and how its regions are read."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tnet_cli.errors import UsageError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.prepare import Preparation, Scale, choose_locations
from tnet_cli.inference.prepare_image import ImagePreparation
from tnet_cli.inference.stopping import AT_ONCE
from tnet_cli.inference.within import read_within
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.model.best_first import BestFirstPlan, StoppingRule, traverse_best_first
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import Look, Traversal, TraversalPlan, Wanted, traverse
from tnet_cli.slide.opening import READERS
from tnet_cli.slide.slide import Slide

ReadFunction = Callable[[Region], np.ndarray]
TraversalSteps = Generator[Wanted, Look, Traversal]


@dataclass(slots=True)
class Work:
    """What the engine did for one traversal, without what it did meanwhile for others.

    Attributes:
        seconds: Of reading the regions, each by itself, and its patches' share of the time of each batch.
    """

    seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class TraversalJob:
    """One slide's traversal and the way to read its regions.

    Attributes:
        traversal: The sans-IO generator of ``tnet_cli.model.traversal.traverse``.
        read: Region -> (H, W, 3), uint8 or float32 in [0, 1], the same for every region; called from many threads.
        keeps_patches: Whether the result has the pixels, which of a whole slide are too many to hold.
        work: Counts up while the engine is at it.
        encoder_of: Processing level -> the number of its encoder; patches of several do not share a batch.
    """

    traversal: TraversalSteps
    read: ReadFunction
    keeps_patches: bool = True
    work: Work = field(default_factory=Work)
    encoder_of: Callable[[int], int] = lambda _processing_level: 0


def reader_of(slide: Slide, config: TNetConfig, preparation: Preparation) -> ReadFunction:
    """Return what reads a slide's regions at the side that the encoder of their processing level sees."""
    scale, within = preparation.scale, preparation.within
    if within is None and len({config.input_px(number) for number in range(config.processing_levels)}) == 1:
        return partial(slide.read, width_px=config.base_px, height_px=config.base_px)

    def read(region: Region) -> np.ndarray:
        side_px = config.input_px(scale.processing_level_of(region, config.grid))
        return slide.read(region, side_px, side_px) if within is None else read_within(slide, region, side_px, within)

    return read


OpenJob = Callable[[], TraversalJob | None]
"""Opens a slide and returns its job, or None where there is nothing to look at; called in a reading thread."""


@dataclass(frozen=True, slots=True)
class TraversalResult:
    """What came back from one traversal.

    Attributes:
        traversal: The record of the traversal.
        patches: The pixels the network saw, as they were read, (H, W, 3) each, in a list for each processing level;
            none where the job does not keep them.
    """

    traversal: Traversal
    patches: tuple[list[np.ndarray], ...]


def refuse_unfit(options: TraversalOptions, config: TNetConfig) -> None:
    """Refuse options that no slide could follow, before any slide is opened.

    Raises:
        UsageError: the locations or the budget do not fit the model, or there is no such reader.
    """
    if options.reader is not None and options.reader not in READERS:
        raise UsageError(f"--reader {options.reader}: expected one of {', '.join(READERS)}")
    whole = Scale(root_side_px=1, finest_side_px=1, processing_levels=config.processing_levels, mpp=(), notes=())
    _locations_of(config, whole, options)


def _locations_of(config: TNetConfig, scale: Scale, options: TraversalOptions) -> tuple[int, ...]:
    if options.stop_at is None:
        return choose_locations(config, scale, options.locations, options.budget)
    if config.is_distilled:
        raise UsageError("--stop-at ends when the probabilities stand still, and a distilled model has one at its end")
    if options.locations is not None or config.choice == "per_grid" or config.image_px is not None:
        raise UsageError(
            "--stop-at takes the most probable locations of the whole slide, so it goes with --budget and not with "
            "--locations, nor with a model that chooses locations for each grid"
        )
    return choose_locations(config, scale, None, None)


def traversal_job(
    slide: Slide,
    preparation: Preparation | ImagePreparation,
    config: TNetConfig,
    options: TraversalOptions,
    sampler: LocationSampler,
    *,
    stopping: StoppingRule | None = None,
    read: ReadFunction | None = None,
) -> TraversalJob | None:
    """Return the job of a slide or an image that is open and prepared; None where there is nothing to look at.

    Roots of the finest processing level, with which a small slide may begin, are attended locations: where they are
    more than the budget, or than the locations of all processing levels, those with the most tissue are looked at.

    Args:
        slide: Open until the traversal has ended.
        preparation: Of this slide for this model.
        config: The model's.
        options: Locations or budget; ``stop_at`` makes the traversal best-first.
        sampler: How locations are chosen; a best-first traversal takes the most probable.
        stopping: Tells when a best-first traversal ends before its budget; None for never.
        read: Reads a slide's region in place of the slide itself, where some of it was read ahead.

    Raises:
        UsageError: the locations or the budget do not fit the model.
    """
    locations = _locations_of(config, preparation.scale, options)
    if not preparation.roots:
        return None
    grid = AttentionGrid(config.grid, config.cell_fraction)
    start, stop = preparation.scale.start, preparation.scale.processing_levels
    plan = TraversalPlan(grid, stop, locations, config.choice, sampler, start, by_response=config.ranks_cells_alone)
    if isinstance(preparation, ImagePreparation):
        return TraversalJob(preparation.traverse(plan), partial(preparation.read, side_px=config.base_px))
    most = options.budget or max(1, sum(locations))
    if config.starts_where_filled and start == stop - 1:
        most = options.budget or max(1, sum(options.locations or config.locations))
        preparation = preparation.with_most_tissue(most)
    roots, shares, allowed = preparation.root_regions, preparation.root_log_probs, preparation.allowed()
    if options.stop_at is None:
        steps = traverse(roots, shares, plan, allowed)
    else:
        best_first = BestFirstPlan(grid, stop, most, AT_ONCE, start, by_response=config.ranks_cells_alone)
        steps = traverse_best_first(roots, shares, best_first, allowed, stopping)
    return TraversalJob(steps, read or reader_of(slide, config, preparation), encoder_of=config.encoder_number)
