"""The traversal, without input or output: a generator that says what it wants to see and is sent what was seen.

It opens no file, calls no network and knows no device. Log-probabilities and features may be numpy arrays or tensors;
tensors keep their gradients. Source: arXiv:2102.10212, Sec. 3 and Fig. 1.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.choice import LocationSampler, largest

Values = Any
"""A numpy array or a tensor: both index, add and reshape alike."""

AllowedFunction = Callable[[Sequence[Region], np.ndarray], np.ndarray]
"""Tells which cells may be attended: N regions and, int64 (N,), the number of the root each is in -> bool (N,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Regions the traversal wants looked at, all of one processing level.

    Attributes:
        regions: N boxes in level-0 pixels.
        positions: int64 (N, 3): y, x and scale for the positional encoding.
        allowed: bool (N, G): the cells that may be attended next; None at the last processing level.
    """

    processing_level: int
    regions: tuple[Region, ...]
    positions: np.ndarray
    allowed: np.ndarray | None


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the network saw.

    Attributes:
        features: (N, D).
        cell_log_probs: (N, G), -inf where not allowed; None when no cells were asked for. Of a distilled model, the
            logarithm of the highest response of its teacher that is predicted in each cell.
        cell_means: (N, G): the mean response that a distilled model predicts in each cell; None of any other.
    """

    features: Values
    cell_log_probs: Values | None
    cell_means: Values | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ProcessingLevelRecord:
    """One processing level of a finished traversal; N regions.

    Attributes:
        regions: Boxes in level-0 pixels, parents in order and cells ascending.
        positions: int64 (N, 3).
        parents: int64 (N,): index among the regions of the processing level before; -1 for roots.
        cells: int64 (N,): cell of the parent's grid; -1 for roots.
        location_log_probs: (N,): log-probability of the cell within its grid; for roots that of the root.
        path_log_probs: (N,): sum of these from the root.
        features: (N, D); None only until the regions have been looked at.
        cell_log_probs: (N, G), or None at the last processing level.
        cell_means: (N, G) of a distilled model, as of ``Look``.
        allowed: bool (N, G), or None at the last processing level.
        perturbed: float64 (N,): the perturbed log-probabilities by which a ``PerturbingSampler`` chose the regions;
            their order is the order of the draws. None for roots and for what was not sampled.
    """

    processing_level: int
    regions: tuple[Region, ...]
    positions: np.ndarray
    parents: np.ndarray
    cells: np.ndarray
    location_log_probs: Values
    path_log_probs: Values
    features: Values = None
    cell_log_probs: Values | None = None
    cell_means: Values | None = None
    allowed: np.ndarray | None = None
    perturbed: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Traversal:
    """A finished traversal.

    Attributes:
        levels: One record for each processing level that was reached, coarsest first.
        order: int64 (K,): when each region was looked at, the processing levels one after the other; None where they
            were looked at in that order.
        sampled: How many finest regions were drawn at random beside those attended, of a distilled model: they are the
            last record, without parents.
    """

    levels: tuple[ProcessingLevelRecord, ...]
    order: np.ndarray | None = None
    sampled: int = 0

    @property
    def location_count(self) -> int:
        """How many locations were attended; roots are some only where nothing lies below them."""
        return sum(len(record.regions) for number, record in enumerate(self.levels) if number or record.allowed is None)

    @property
    def closest(self) -> np.ndarray:
        """Whether each region looked at is of the closest processing level that was reached, bool (K,)."""
        last = self.levels[-1].processing_level
        return np.concatenate([np.full(len(each.regions), each.processing_level == last) for each in self.levels])


@dataclass(frozen=True, slots=True)
class TraversalPlan:
    """How to traverse.

    Attributes:
        processing_levels: Of the model, as far as the slide serves them; the last is the finest.
        locations: k for each processing level after that of the roots.
        choice: ``per_grid``: k cells of every grid; ``beam``: k cells of the whole slide, by the probability of
            their paths.
        start: The processing level of the roots.
        by_response: Whether a cell is ranked by what is predicted of it alone (``TNetConfig.ranks_cells_alone``), which
            is no share of the region's it lies in.
    """

    grid: AttentionGrid
    processing_levels: int
    locations: tuple[int, ...]
    choice: Literal["per_grid", "beam"]
    sampler: LocationSampler
    start: int = 0
    by_response: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers of locations that are not one for each processing level after that of the roots."""
        steps = self.processing_levels - 1 - self.start
        if min(self.start, steps) < 0 or len(self.locations) != steps:
            raise ValueError(
                f"from {self.start} to {self.processing_levels} processing levels it is {steps} numbers of locations, "
                f"not {len(self.locations)}"
            )


def traverse(
    roots: Sequence[Region],
    root_log_probs: Values,
    plan: TraversalPlan,
    allowed: AllowedFunction | None = None,
) -> Generator[Wanted, Look, Traversal]:
    """Traverse a slide from its roots down.

    Args:
        roots: Boxes of the processing level where the plan starts, level-0 pixels; at least one.
        allowed: Tells which cells may be attended; all of them when None.

    Yields:
        The regions wanted at one processing level; send a ``Look`` of the same length.

    Returns:
        The record. It ends early where nothing may be attended.

    Raises:
        ValueError: there is no root or not one log-probability for each, a look does not answer what was wanted, or
            a cell that may be attended has NaN for its log-probability.
    """
    check_roots(roots, root_log_probs)
    origin, none = origins(len(roots), plan.start), np.full(len(roots), -1, dtype=np.int64)
    reached = ProcessingLevelRecord(plan.start, tuple(roots), origin, none, none, root_log_probs, root_log_probs)
    records: list[ProcessingLevelRecord] = []
    root_of = np.arange(len(roots))
    for processing_level in range(plan.start, plan.processing_levels):
        is_last = processing_level == plan.processing_levels - 1
        grids = [] if is_last else [plan.grid.cells(region) for region in reached.regions]
        may_attend = None if is_last else allowed_cells(grids, root_of, allowed)
        look = yield Wanted(processing_level, reached.regions, reached.positions, may_attend)
        check_look(look, len(reached.regions), may_attend)
        if processing_level == plan.start and look.cell_log_probs is not None:
            beside = _beside(root_log_probs, look.cell_log_probs)
            reached = replace(reached, location_log_probs=beside, path_log_probs=beside)
        seen = {"features": look.features, "cell_log_probs": look.cell_log_probs, "cell_means": look.cell_means}
        reached = replace(reached, **seen, allowed=may_attend)
        records.append(reached)
        if look.cell_log_probs is None or may_attend is None:
            break
        own = look.cell_log_probs  # (N, G)
        joint = own if plan.by_response else reached.path_log_probs[:, None] + own
        chosen, perturbed = _choose(joint, may_attend, reached.perturbed, plan, plan.locations[len(records) - 1])
        if len(chosen) == 0:
            break
        parents, cells = np.divmod(chosen, plan.grid.cell_count)
        root_of = root_of[parents]
        reached = ProcessingLevelRecord(
            processing_level=processing_level + 1,
            regions=tuple(grids[parent][cell] for parent, cell in zip(parents, cells, strict=True)),
            positions=positions_below(reached.positions[parents], cells, plan.grid),
            parents=parents,
            cells=cells,
            location_log_probs=look.cell_log_probs[parents, cells],
            path_log_probs=joint[parents, cells],
            perturbed=perturbed,
        )
    return Traversal(levels=tuple(records))


def _beside(root_log_probs: Values, log_probs: Values) -> Values:
    """Bring the log-probabilities of the roots to the kind and device of the network's."""
    if not hasattr(log_probs, "new_tensor"):
        return np.asarray(root_log_probs)
    if hasattr(root_log_probs, "new_tensor"):
        return root_log_probs.to(log_probs.device)
    return log_probs.new_tensor(root_log_probs)


def check_roots(roots: Sequence[Region], root_log_probs: Values) -> None:
    """Refuse roots from which nothing can be traversed.

    Raises:
        ValueError: there is none, or not one log-probability for each.
    """
    if len(roots) == 0 or len(roots) != len(root_log_probs):
        raise ValueError(f"{len(roots)} roots with {len(root_log_probs)} log-probabilities cannot be traversed")


def origins(roots: int, start: int) -> np.ndarray:
    """Return the positions of roots of a processing level, int64 (R, 3): y, x and scale."""
    return np.tile(np.array([0, 0, start], dtype=np.int64), (roots, 1))


def positions_below(positions: np.ndarray, cells: np.ndarray, grid: AttentionGrid) -> np.ndarray:
    """Return the positions of cells, int64 (N, 3): y, x and scale.

    Args:
        positions: int64 (N, 3) of the regions the cells are in.
        cells: int64 (N,), row-major.
    """
    rows, columns = np.divmod(cells, grid.n)
    y, x, scale = positions.T
    return np.stack([y * grid.n + rows, x * grid.n + columns, scale + 1], axis=1)


def check_look(look: Look, wanted: int, allowed: np.ndarray | None) -> None:
    """Refuse a look that does not answer what was wanted: so many regions, and where asked for their cells.

    Raises:
        ValueError: it is of other regions or other cells.
    """
    if len(look.features) != wanted:
        raise ValueError(f"{wanted} regions were wanted, {len(look.features)} were looked at")
    if look.cell_log_probs is None or allowed is None:
        return
    if tuple(look.cell_log_probs.shape) != allowed.shape:
        raise ValueError(
            f"log-probabilities of shape {tuple(look.cell_log_probs.shape)} do not fit cells of {allowed.shape}"
        )


def as_float64(values: Values) -> np.ndarray:
    """Return a tensor or an array as an array without gradients."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def allowed_cells(grids: list[list[Region]], roots: np.ndarray, allowed: AllowedFunction | None) -> np.ndarray:
    """Tell which cells of N regions, in these roots, may be attended, bool (N, G); all when ``allowed`` is None."""
    if allowed is None:
        return np.ones((len(grids), len(grids[0])), dtype=bool)
    flat = [cell for grid in grids for cell in grid]
    return np.asarray(allowed(flat, np.repeat(roots, len(grids[0]))), dtype=bool).reshape(len(grids), -1)


def _choose(
    joint: Values, allowed: np.ndarray, parents: np.ndarray | None, plan: TraversalPlan, k: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the chosen cells as ascending indices into the flattened (N, G), and their perturbed values if sampled."""
    values = np.where(allowed, as_float64(joint), -np.inf)
    if np.isnan(values).any():
        raise ValueError("the network gave NaN as the log-probability of a cell that may be attended")
    is_beam = plan.choice == "beam"
    rows = values.reshape(1, -1) if is_beam else values  # k of all cells together, or k of each grid
    keys = None
    perturb = getattr(plan.sampler, "perturb", None)  # of a PerturbingSampler
    if perturb is not None:
        keys = perturb(values, parents if is_beam else None).reshape(rows.shape)
        chosen = [largest(own, row, k) for own, row in zip(keys, rows, strict=True)]
    else:
        chosen = [plan.sampler(row, k) for row in rows]
    flat = np.concatenate([each + number * rows.shape[1] for number, each in enumerate(chosen)])
    return flat, None if keys is None else keys.ravel()[flat]
