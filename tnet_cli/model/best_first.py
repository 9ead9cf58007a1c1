"""Best-first traversal: the most probable open cell of any processing level next, until the answer stands still.

It goes beyond the paper (arXiv:2102.10212), whose traversal attends a fixed number of locations and only ever goes
down; its authors name both among its limits. Here all cells that were offered and not yet attended stay open, whatever
their processing level; the next to be attended are those with the largest joint probability, so the traversal comes
back up when what lies below one cell turns out less probable than the cell beside it. The weights are the same.
"""

import heapq
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.traversal import (
    AllowedFunction,
    Look,
    ProcessingLevelRecord,
    Traversal,
    Wanted,
    allowed_cells,
    as_float64,
    check_look,
    check_roots,
    origins,
    positions_below,
)


class StoppingRule(Protocol):
    """Tells when the answer of one slide stands still."""

    def update(self, features: Tensor, closest: np.ndarray) -> bool:
        """Take the features (K, D) of everything looked at so far; say whether more would not change the answer.

        Args:
            closest: bool (K,), as ``Traversal.closest``.
        """
        ...


@dataclass(frozen=True, slots=True)
class BestFirstPlan:
    """How to traverse.

    Attributes:
        processing_levels: As of ``TraversalPlan``.
        budget: Most locations attended, of all processing levels together.
        at_once: Locations attended between one update of the stopping rule and the next.
        start: The processing level of the roots.
        by_response: As of ``TraversalPlan``.
    """

    grid: AttentionGrid
    processing_levels: int
    budget: int
    at_once: int
    start: int = 0
    by_response: bool = False

    def __post_init__(self) -> None:
        """Refuse plans that attend nothing, with a ``ValueError``."""
        if min(self.processing_levels - self.start, self.budget, self.at_once) < 1:
            raise ValueError("processing levels, budget and locations at once must be at least 1")


def traverse_best_first(
    roots: Sequence[Region],
    root_log_probs: Tensor,
    plan: BestFirstPlan,
    allowed: AllowedFunction | None = None,
    stopping: StoppingRule | None = None,
) -> Generator[Wanted, Look, Traversal]:
    """Traverse a slide from its roots, the most probable open cells first.

    What is asked and what is told are those of ``traverse``, and so are the errors; the record has the order of the
    looks beside it.

    Args:
        stopping: Asked whenever ``at_once`` locations more have been looked at and the finest processing level has been
            reached; the traversal ends when it says so. Never asked when None.
    """
    check_roots(roots, root_log_probs)
    seen = _Seen(plan, allowed)
    first = [
        _Place(plan.start, region, position, parent=-1, cell=-1, root=root, location=float(value), path=float(value))
        for root, (region, position, value) in enumerate(
            zip(roots, origins(len(roots), plan.start), root_log_probs, strict=True)
        )
    ]
    yield from seen.look_at(first)
    while (left := plan.budget - seen.attended) > 0:
        if stopping is not None and seen.has_reached_finest and stopping.update(seen.features(), seen.closest()):
            break
        chosen = seen.most_probable(min(plan.at_once, left))
        if not chosen:
            break
        for processing_level in sorted({place.processing_level for place in chosen}):
            yield from seen.look_at([place for place in chosen if place.processing_level == processing_level])
    return seen.traversal()


@dataclass(slots=True, eq=False)
class _Place:
    """A region and how it is reached.

    The parent is its number among all places looked at, -1 for roots; the root is the number of the one it lies in.
    Once it has been looked at: its features (D,), its cells, and of these the log-probabilities, which may be attended
    and, of a distilled model, the mean responses, each (G,).
    """

    processing_level: int
    region: Region
    position: np.ndarray
    parent: int
    cell: int
    root: int
    location: float
    path: float
    features: Tensor | None = None
    cells: Sequence[Region] = ()
    log_probs: np.ndarray | None = None
    means: np.ndarray | None = None
    allowed: np.ndarray | None = None


@dataclass(slots=True, eq=False)
class _Seen:
    """What has been looked at, in that order, and the cells that are open."""

    plan: BestFirstPlan
    allowed: AllowedFunction | None
    places: list[_Place] = field(default_factory=list)
    attended: int = 0
    has_reached_finest: bool = False
    _open: list[tuple[float, int, int]] = field(default_factory=list)  # a heap of -joint log-probability, place, cell

    def look_at(self, places: list[_Place]) -> Generator[Wanted, Look, None]:
        """Have places of one processing level looked at, and open their cells."""
        processing_level = places[0].processing_level
        is_last = processing_level == self.plan.processing_levels - 1
        grids = [] if is_last else [self.plan.grid.cells(place.region) for place in places]
        may_attend = None if is_last else allowed_cells(grids, np.array([place.root for place in places]), self.allowed)
        positions = np.stack([place.position for place in places])
        look = yield Wanted(processing_level, tuple(place.region for place in places), positions, may_attend)
        check_look(look, len(places), may_attend)
        first = len(self.places)
        self.places += places
        for place, features in zip(places, look.features, strict=True):
            place.features = features
        if is_last or places[0].parent >= 0:
            self.attended += len(places)
        self.has_reached_finest |= is_last
        if look.cell_log_probs is None or may_attend is None:
            return
        for row, log_probs in enumerate(as_float64(look.cell_log_probs)):
            places[row].cells, places[row].log_probs, places[row].allowed = grids[row], log_probs, may_attend[row]
            places[row].means = None if look.cell_means is None else as_float64(look.cell_means[row])
            before = 0.0 if self.plan.by_response else places[row].path
            self._open_cells(first + row, before + log_probs, may_attend[row])

    def _open_cells(self, number: int, joint: np.ndarray, allowed: np.ndarray) -> None:
        for cell in np.flatnonzero(allowed):
            if np.isnan(joint[cell]):
                raise ValueError("the network gave NaN as the log-probability of a cell that may be attended")
            heapq.heappush(self._open, (-float(joint[cell]), number, int(cell)))

    def most_probable(self, count: int) -> list[_Place]:
        """Take the open cells of the largest joint probability, at most so many; of equals those offered first."""
        taken = [heapq.heappop(self._open) for _ in range(min(count, len(self._open)))]
        return [self._below(number, cell, -negative) for negative, number, cell in taken]

    def _below(self, number: int, cell: int, joint: float) -> _Place:
        parent = self.places[number]
        return _Place(
            processing_level=parent.processing_level + 1,
            region=parent.cells[cell],
            position=positions_below(parent.position[None], np.array([cell]), self.plan.grid)[0],
            parent=number,
            cell=cell,
            root=parent.root,
            location=joint if self.plan.by_response else joint - parent.path,
            path=joint,
        )

    def features(self) -> Tensor:
        """Return the features of everything looked at, in that order, (K, D)."""
        return _stacked(self.places)

    def closest(self) -> np.ndarray:
        """Return which of these are of the closest processing level that was reached, bool (K,)."""
        reached = np.array([place.processing_level for place in self.places])
        return np.asarray(reached == reached.max())

    def traversal(self) -> Traversal:
        """Put what was seen in the order of a record: by processing level, then parent, then cell."""
        records, order = list[ProcessingLevelRecord](), list[int]()
        rank_of = {-1: -1}
        for processing_level in range(self.plan.start, 1 + max(place.processing_level for place in self.places)):
            mine = [n for n, place in enumerate(self.places) if place.processing_level == processing_level]
            # Roots stay in their order: the sort is stable, and their parents and cells are all -1.
            mine.sort(key=lambda n: (rank_of[self.places[n].parent], self.places[n].cell))
            records.append(self._record(mine, rank_of))
            rank_of |= {number: rank for rank, number in enumerate(mine)}
            order += mine
        return Traversal(levels=tuple(records), order=np.array(order, dtype=np.int64))

    def _record(self, mine: list[int], rank_of: dict[int, int]) -> ProcessingLevelRecord:
        places = [self.places[number] for number in mine]
        log_probs = [place.log_probs for place in places if place.log_probs is not None]
        means = [place.means for place in places if place.means is not None]
        allowed = [place.allowed for place in places if place.allowed is not None]
        return ProcessingLevelRecord(
            processing_level=places[0].processing_level,
            regions=tuple(place.region for place in places),
            positions=np.stack([place.position for place in places]),
            parents=np.array([rank_of[place.parent] for place in places], dtype=np.int64),
            cells=np.array([place.cell for place in places], dtype=np.int64),
            location_log_probs=np.array([place.location for place in places]),
            path_log_probs=np.array([place.path for place in places]),
            features=_stacked(places),
            cell_log_probs=np.stack(log_probs) if log_probs else None,
            cell_means=np.stack(means) if means else None,
            allowed=np.stack(allowed) if allowed else None,
        )


def _stacked(places: Sequence[_Place]) -> Tensor:
    """Return the features of places that were looked at, (N, D)."""
    return torch.stack([place.features for place in places if place.features is not None])
