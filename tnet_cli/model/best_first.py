"""Best-first traversal: the most probable open cell of any processing level next, until the answer is settled.

It goes beyond the paper (arXiv:2102.10212), whose traversal attends a fixed number of locations and only ever goes
down; its authors name both among its limits. Here all cells that were offered and not yet attended stay open, whatever
their processing level; the next to be attended are those with the largest joint probability, so the traversal comes
back up when what lies below one cell turns out less probable than the cell beside it. The weights are the same.
"""

import heapq
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.traversal import (
    Look,
    ProcessingLevelRecord,
    Traversal,
    Wanted,
    allowed_cells,
    check_answer,
)

Settled = Callable[[Tensor], bool]
"""Told the features (K, D) of everything looked at so far; says whether more would not change the answer."""


@dataclass(frozen=True, slots=True)
class BestFirstPlan:
    """How to traverse.

    Attributes:
        grid: Cuts every region into cells.
        processing_levels: Most steps down.
        budget: Most locations attended, of all processing levels together.
        at_once: Locations attended between one look at the answer and the next.
    """

    grid: AttentionGrid
    processing_levels: int
    budget: int
    at_once: int

    def __post_init__(self) -> None:
        """Refuse plans that attend nothing.

        Raises:
            ValueError: a number is below 1.
        """
        if min(self.processing_levels, self.budget, self.at_once) < 1:
            raise ValueError("processing levels, budget and locations at once must be at least 1")


def traverse_best_first(
    roots: Sequence[Region],
    root_log_probs: Tensor,
    plan: BestFirstPlan,
    allowed: Callable[[Sequence[Region]], np.ndarray] | None = None,
    settled: Settled | None = None,
) -> Generator[Wanted, Look, Traversal]:
    """Traverse a slide from its roots, the most probable open cells first.

    Args:
        roots: Boxes of processing level 0, level-0 pixels; at least one.
        root_log_probs: (R,) log-probabilities of the roots.
        plan: Grid, depth and budget.
        allowed: Tells which cells may be attended: regions -> bool (N,); all of them when None.
        settled: Asked whenever ``at_once`` locations more have been looked at and the finest processing level has been
            reached; the traversal ends when it says so. Never asked when None.

    Yields:
        The regions wanted at one processing level; send a ``Look`` of the same length.

    Returns:
        The record, as ``traverse`` gives it, with the order of the looks beside it.

    Raises:
        ValueError: there is no root or not one log-probability for each, a look does not answer what was wanted, or
            a cell that may be attended has NaN for its log-probability.
    """
    if len(roots) == 0 or len(roots) != len(root_log_probs):
        raise ValueError(f"{len(roots)} roots with {len(root_log_probs)} log-probabilities cannot be traversed")
    seen = _Seen(plan, allowed)
    first = [
        _Place(0, root, (0, 0, 0), parent=-1, cell=-1, location=float(value), path=float(value))
        for root, value in zip(roots, root_log_probs, strict=True)
    ]
    yield from seen.look_at(first)
    while (left := plan.budget - seen.attended) > 0:
        if settled is not None and seen.has_reached_finest and settled(seen.features()):
            break
        chosen = seen.most_probable(min(plan.at_once, left))
        if not chosen:
            break
        for processing_level in sorted({place.processing_level for place in chosen}):
            yield from seen.look_at([place for place in chosen if place.processing_level == processing_level])
    return seen.traversal()


@dataclass(frozen=True, slots=True)
class _Place:
    """A region and how it is reached; the parent is its number among all places looked at, -1 for roots."""

    processing_level: int
    region: Region
    position: tuple[int, int, int]
    parent: int
    cell: int
    location: float
    path: float


@dataclass(slots=True, eq=False)
class _Seen:
    """What has been looked at, in that order, and the cells that are open."""

    plan: BestFirstPlan
    allowed: Callable[[Sequence[Region]], np.ndarray] | None
    places: list[_Place] = field(default_factory=list)
    attended: int = 0
    has_reached_finest: bool = False
    _looks: list[Look] = field(default_factory=list)
    _grids: list[list[Region]] = field(default_factory=list)  # of each place, its cells; none at the finest
    _log_probs: list[np.ndarray | None] = field(default_factory=list)  # of each place, (G,)
    _may_attend: list[np.ndarray | None] = field(default_factory=list)
    _open: list[tuple[float, int, int]] = field(default_factory=list)  # a heap of -joint log-probability, place, cell

    def look_at(self, places: list[_Place]) -> Generator[Wanted, Look, None]:
        """Have places of one processing level looked at, and open their cells."""
        processing_level = places[0].processing_level
        is_last = processing_level == self.plan.processing_levels - 1
        grids = [] if is_last else [self.plan.grid.cells(place.region) for place in places]
        may_attend = None if is_last else allowed_cells(grids, self.allowed)
        positions = np.array([place.position for place in places], dtype=np.int64)
        look = yield Wanted(processing_level, tuple(place.region for place in places), positions, may_attend)
        check_answer(look, len(places), may_attend)
        self._looks.append(look)
        if processing_level > 0:
            self.attended += len(places)
        self.has_reached_finest |= is_last
        log_probs = None if look.cell_log_probs is None else _as_numpy(look.cell_log_probs)
        for row, place in enumerate(places):
            number = len(self.places)
            self.places.append(place)
            self._grids.append([] if is_last else grids[row])
            if log_probs is None or may_attend is None:
                self._log_probs.append(None)
                self._may_attend.append(None)
                continue
            self._log_probs.append(log_probs[row])
            self._may_attend.append(may_attend[row])
            self._open_cells(number, place.path + log_probs[row], may_attend[row])

    def most_probable(self, count: int) -> list[_Place]:
        """Take the open cells of the largest joint probability, at most so many; of equals those offered first."""
        taken = [heapq.heappop(self._open) for _ in range(min(count, len(self._open)))]
        return [self._below(number, cell, -negative) for negative, number, cell in taken]

    def features(self) -> Tensor:
        """Return the features of everything looked at, in that order, (K, D)."""
        return torch.cat([look.features for look in self._looks])

    def traversal(self) -> Traversal:
        """Put what was seen in the order of a record: by processing level, then parent, then cell."""
        features, records, order = self.features(), list[ProcessingLevelRecord](), list[int]()
        rank_of = {-1: -1}
        for processing_level in range(1 + max(place.processing_level for place in self.places)):
            mine = [n for n, place in enumerate(self.places) if place.processing_level == processing_level]
            # Roots stay in their order: the sort is stable, and their parents and cells are all -1.
            mine.sort(key=lambda n: (rank_of[self.places[n].parent], self.places[n].cell))
            records.append(self._record(processing_level, mine, rank_of, features))
            rank_of |= {number: rank for rank, number in enumerate(mine)}
            order += mine
        return Traversal(levels=tuple(records), order=np.array(order, dtype=np.int64))

    def _record(
        self, processing_level: int, mine: list[int], rank_of: dict[int, int], features: Tensor
    ) -> ProcessingLevelRecord:
        places = [self.places[number] for number in mine]
        log_probs = [each for number in mine if (each := self._log_probs[number]) is not None]
        may_attend = [each for number in mine if (each := self._may_attend[number]) is not None]
        return ProcessingLevelRecord(
            processing_level=processing_level,
            regions=tuple(place.region for place in places),
            positions=np.array([place.position for place in places], dtype=np.int64),
            parents=np.array([rank_of[place.parent] for place in places], dtype=np.int64),
            cells=np.array([place.cell for place in places], dtype=np.int64),
            location_log_probs=np.array([place.location for place in places]),
            path_log_probs=np.array([place.path for place in places]),
            features=features[torch.tensor(mine, device=features.device)],
            cell_log_probs=np.stack(log_probs) if log_probs else None,
            allowed=np.stack(may_attend) if may_attend else None,
        )

    def _open_cells(self, number: int, joint: np.ndarray, may_attend: np.ndarray) -> None:
        for cell in np.flatnonzero(may_attend):
            if np.isnan(joint[cell]):
                raise ValueError("the network gave NaN as the log-probability of a cell that may be attended")
            heapq.heappush(self._open, (-float(joint[cell]), number, int(cell)))

    def _below(self, number: int, cell: int, joint: float) -> _Place:
        parent, n = self.places[number], self.plan.grid.n
        row, column = divmod(cell, n)
        y, x, scale = parent.position
        return _Place(
            processing_level=parent.processing_level + 1,
            region=self._grids[number][cell],
            position=(y * n + row, x * n + column, scale + 1),
            parent=number,
            cell=cell,
            location=joint - parent.path,
            path=joint,
        )


def _as_numpy(values: Tensor | np.ndarray) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.asarray(array, dtype=np.float64)
