"""From an open slide and a model to what a traversal needs: scale, tissue, roots and the cells that may be attended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from tnet_cli.errors import MissingMppError, SlideError, UsageError
from tnet_cli.geometry import Region, Size
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import AllowedFunction
from tnet_cli.slide.slide import Slide
from tnet_cli.tissue.limits import Limits
from tnet_cli.tissue.roots import Root, cover_with_roots
from tnet_cli.tissue.tissue import TissueMask, find_tissue

COARSER_THAN_WANTED = 1.25
"""A slide may be this much coarser than a processing level before that processing level is skipped."""

SNAP = 0.02
"""Region sides within this share of a whole number of stored pixels are read at that size, without resampling."""

TISSUE_IN_A_CELL = 0.25
"""A cell may be attended when it holds this share of a finest cell's area as tissue."""

FILLED = 0.5
"""Share of a region that can lie on a slide which fills its processing level."""

THUMBNAIL_MIN_PX = 800
THUMBNAIL_MAX_PX = 2048

THUMBNAIL_AS_STORED_PX = 3200
"""Pyramid levels with a longest side of up to this are a thumbnail as they are: less than shrinking them costs."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How the processing levels of a slide model fall on one slide.

    Attributes:
        root_side_px: Side of a root in level-0 pixels.
        start: The processing level of the roots.
        finest_side_px: Side of a region of the last processing level in level-0 pixels.
        processing_levels: How many processing levels the slide's resolution serves.
        mpp: Micrometres per pixel actually given to the network at each of them, coarsest first.
        notes: One sentence for each processing level that is skipped.
    """

    root_side_px: int
    finest_side_px: int
    processing_levels: int
    mpp: tuple[float, ...]
    notes: tuple[str, ...]
    start: int = 0

    @property
    def least_tissue_px(self) -> float:
        """How much tissue a cell must hold to be attended, in level-0 pixels."""
        return TISSUE_IN_A_CELL * self.finest_side_px**2

    def processing_level_of(self, region: Region, grid: int) -> int:
        """Return the processing level of a region, by its side."""
        return self.processing_levels - 1 - round(math.log(region.width / self.finest_side_px, grid))

    def where_filled(self, slide_size: Size, grid: int) -> Self:
        """Return the scale of a slide that begins at the first processing level that it fills.

        A slide fills a processing level when at least half of a region can lie on it, or at the finest: so nothing is
        shown mostly padding, and a slide that all but fills a region has that one root and not sixteen. What counts is
        area: on a strip of 20 x 1 mm a region of 2 mm is half padding and does, one of 8 mm is seven eighths padding.

        Args:
            grid: Cells of an attention grid along each axis.
        """
        last = self.processing_levels - 1
        sides_px = [self.finest_side_px * grid ** (last - at) for at in range(self.processing_levels)]
        shares = [min(1, slide_size.width / px) * min(1, slide_size.height / px) for px in sides_px]
        start = next((at for at, share in enumerate(shares) if share >= FILLED), last)
        return replace(self, start=start, root_side_px=sides_px[start])


@dataclass(frozen=True, slots=True)
class Preparation:
    """A slide made ready for a traversal.

    Attributes:
        thumbnail: uint8 (H, W, 3), the whole slide.
        roots: Where it begins; empty when the slide holds no tissue.
        limits: What its user says of where to look; the tissue is what is left of it then.
    """

    scale: Scale
    thumbnail: np.ndarray
    tissue: TissueMask
    roots: tuple[Root, ...]
    limits: Limits | None = None

    @property
    def within(self) -> TissueMask | None:
        """Where the regions of interest are; None for the whole slide."""
        return None if self.limits is None else self.limits.within

    def with_most_tissue(self, count: int) -> Self:
        """Return the preparation with no more roots than these: those with the most tissue, of equals the first."""
        ranked = sorted(range(len(self.roots)), key=lambda number: -self.roots[number].tissue_share)
        return replace(self, roots=tuple(self.roots[number] for number in sorted(ranked[:count])))

    @property
    def root_regions(self) -> tuple[Region, ...]:
        """The roots' boxes, level-0 pixels."""
        return tuple(root.region for root in self.roots)

    @property
    def root_log_probs(self) -> torch.Tensor:
        """Log of each root's share of the tissue, float32 (R,)."""
        return torch.tensor([root.tissue_share for root in self.roots]).log()

    def allowed(self) -> AllowedFunction:
        """Return the test whether cells hold enough tissue to be attended.

        Where roots overlap a cell holds only what is its root's own, so that nothing is attended through two of them.
        """
        least_px = self.scale.least_tissue_px
        own = {number: root.own for number, root in enumerate(self.roots) if root.own is not None}

        def holds_tissue(cells: Sequence[Region], roots: np.ndarray) -> np.ndarray:
            area = np.array([cell.area for cell in cells], dtype=np.float64)
            holds = np.asarray(self.tissue.fractions(cells) * area >= least_px)
            if own:
                for number in np.flatnonzero(holds & np.isin(roots, list(own))).tolist():
                    part = cells[number].intersect(own[int(roots[number])])
                    holds[number] = part is not None and self.tissue.fractions([part])[0] * part.area >= least_px
            return holds

        return holds_tissue


def fit_scale(slide_path: str, slide_mpp: float | None, config: TNetConfig) -> Scale:
    """Lay a slide model's processing levels over a slide's resolution.

    The side of the finest region is rounded to a whole number of stored pixels for each network pixel when that
    changes the scale by at most 2 %, so that patches are read without resampling.

    Args:
        slide_mpp: Micrometres per level-0 pixel, or None when unknown.
        config: A slide model's configuration.

    Raises:
        MissingMppError: the slide's mpp is unknown, or coarser than even the coarsest processing level.
        ValueError: the configuration is that of an image model.
    """
    if config.mpp is None:
        raise ValueError("an image model has no physical scale")
    if slide_mpp is None:
        raise MissingMppError(
            slide_path, "no micrometres per pixel in the file, and the model needs them; give them with --mpp"
        )
    usable = [mpp for mpp in config.mpp if slide_mpp <= mpp * COARSER_THAN_WANTED]
    if not usable:
        raise MissingMppError(
            slide_path,
            f"{slide_mpp:g} µm per pixel is coarser than the model's coarsest view ({config.mpp[0]:g}); "
            "give a slide of higher resolution, or the right value with --mpp",
        )
    notes = tuple(
        f"the slide's {slide_mpp:g} µm per pixel is too coarse for the view at {mpp:g} µm per pixel, which is skipped"
        for mpp in config.mpp[len(usable) :]
    )
    stored_per_px = usable[-1] / slide_mpp
    whole = max(1, round(stored_per_px))
    if abs(stored_per_px / whole - 1) <= SNAP:
        stored_per_px = whole
    finest_side_px = max(1, round(config.input_px(len(usable) - 1) * stored_per_px))
    root_side_px = finest_side_px * config.grid ** (len(usable) - 1)
    mpp = tuple(
        slide_mpp * root_side_px / config.grid**processing_level / config.input_px(processing_level)
        for processing_level in range(len(usable))
    )
    return Scale(
        root_side_px=root_side_px,
        finest_side_px=finest_side_px,
        processing_levels=len(usable),
        mpp=mpp,
        notes=notes,
    )


def thumbnail_side_px(slide: Slide) -> int:
    """Return the longest side of the thumbnail that is cheapest to read and still shows small tissue.

    The coarsest pyramid level of at least 800 px is taken as it is, or shrunk to 2048 px where it has more than 3200.
    """
    sides = [max(pyramid_level.size.width, pyramid_level.size.height) for pyramid_level in slide.pyramid]
    enough = [side for side in sides if side >= THUMBNAIL_MIN_PX]
    stored = min(enough, default=max(sides))
    return stored if stored <= THUMBNAIL_AS_STORED_PX else THUMBNAIL_MAX_PX


def prepare(slide: Slide, config: TNetConfig, limits: Limits | None = None) -> Preparation:
    """Find a slide's tissue and lay the roots over it.

    Args:
        config: A slide model's configuration.
        limits: Where to look. A region of interest is begun at the processing level that it fills, as a slide of its
            size would be: of several at that of the one which begins coarsest.

    Raises:
        MissingMppError: the slide's scale is unknown or too coarse.
        SlideError: the thumbnail cannot be read, or there is no tissue where to look.
    """
    not_believed = next((doubt.sentence for doubt in slide.doubts if doubt.name == "scale"), None)
    if slide.mpp is None and not_believed is not None:
        raise MissingMppError(slide.path, f"{not_believed}; give one value with --mpp")
    scale = fit_scale(slide.path, slide.mpp, config)
    thumbnail = slide.thumbnail(thumbnail_side_px(slide))
    thumbnail_mpp = None if slide.mpp is None else slide.mpp * slide.size.width / thumbnail.shape[1]
    given = None if limits is None else limits.mask
    tissue = find_tissue(thumbnail, slide.size, thumbnail_mpp) if given is None else given
    if limits is not None:
        tissue = limits.applied(tissue)
        if tissue.is_empty:
            raise SlideError(slide.path, f"no tissue was found in {limits.words}; give another that holds some")
    inward = config.starts_where_filled
    if inward:
        parts = () if limits is None else limits.parts
        filling = [Size(part.width, part.height) for part in parts] or [slide.size]
        scale = min((scale.where_filled(size, config.grid) for size in filling), key=lambda each: each.start)
    step_px, least_px = max(1, scale.root_side_px // config.grid), scale.least_tissue_px if inward else 0.0
    roots = cover_with_roots(tissue, scale.root_side_px, step_px, inward=inward, least_px=least_px)
    return Preparation(scale=scale, thumbnail=thumbnail, tissue=tissue, roots=tuple(roots), limits=limits)


def choose_locations(
    config: TNetConfig, scale: Scale, locations: tuple[int, ...] | None, budget: int | None
) -> tuple[int, ...]:
    """Say how many locations are attended at each processing level after that of the roots.

    Args:
        config: Its ``locations`` are the default.
        scale: Gives the processing levels the slide serves.
        locations: The user's own numbers, or None.
        budget: At most this many in all, shared out as the default is, or None.

    Returns:
        One number for each processing level after that of the roots.

    Raises:
        UsageError: both are given, or the numbers do not fit the model.
    """
    if locations is not None and budget is not None:
        raise UsageError("--locations and --budget exclude each other; give one")
    wanted = config.locations
    if locations is not None:
        if len(locations) != len(wanted) or min(locations) < 1:
            raise UsageError(
                f"--locations needs {len(wanted)} positive numbers for this model, coarse to fine, "
                f"such as {','.join(str(k) for k in wanted)}"
            )
        wanted = locations
    used = wanted[scale.start : scale.processing_levels - 1]
    if budget is None or not used:
        return used
    if config.choice == "per_grid":
        raise UsageError("this model chooses locations for each grid, so it has no --budget; give --locations")
    if budget < len(used):
        raise UsageError(f"--budget must be at least {len(used)} for this model: one location a processing level")
    shares = [max(1, math.floor(budget * k / sum(used))) for k in used]
    while sum(shares) > budget:
        shares[shares.index(max(shares))] -= 1
    # What rounding left over goes to the finest processing level, where the classes differ.
    shares[-1] += budget - sum(shares)
    return tuple(shares)
