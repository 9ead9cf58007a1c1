"""The roots: the boxes, of the processing level at which a slide begins, that cover all its tissue."""

from dataclasses import dataclass, replace

import numpy as np

from tnet_cli.geometry import Region, Size
from tnet_cli.tissue.tissue import TissueMask

LEFT_OUT = 0.1
"""Most of a slide's tissue that boxes with too little of it may hold together to be left out."""


@dataclass(frozen=True, slots=True)
class Root:
    """A region from which a slide is traversed.

    Attributes:
        region: Level-0 pixels; may reach beyond the slide on any side.
        tissue_share: Its part of the slide's tissue area; the shares of a slide's roots sum to one.
        own: The part of the slide that counts as this root's, level-0 pixels, where roots overlap: the parts do not.
            None for the region itself.
    """

    region: Region
    tissue_share: float
    own: Region | None = None


@dataclass(frozen=True, slots=True)
class _Lattice:
    """Square boxes side by side over the slide, and the tissue in each.

    Attributes:
        lefts: int64 (columns,), level-0 pixels.
        tops: int64 (rows,), level-0 pixels.
        tissue: int64 (rows, columns), in the unit of ``TissueMask.tissue_before``.
    """

    lefts: np.ndarray
    tops: np.ndarray
    tissue: np.ndarray

    def without(self, least: float) -> "_Lattice":
        """Return the lattice without the tissue of boxes that hold less; as it is where that would be too much."""
        kept = np.where(self.tissue >= least, self.tissue, 0)
        return replace(self, tissue=kept) if kept.sum() >= (1 - LEFT_OUT) * self.tissue.sum() else self

    @property
    def rank(self) -> tuple[int, int]:
        """What is compared: few boxes with tissue first, then as much as possible in the emptiest of them."""
        bearing = self.tissue[self.tissue > 0]
        return bearing.size, -int(bearing.min())


def cover_with_roots(
    tissue: TissueMask, root_side_px: int, step_px: int, *, inward: bool = False, least_px: float = 0.0
) -> list[Root]:
    """Cover all tissue with the fewest boxes of a lattice.

    The lattice's pitch is the root's side and its origin a multiple of ``step_px``, so that regions stay aligned to
    the file's tiles. Among the possible origins the one with the fewest tissue-bearing boxes is taken; of those the
    one whose emptiest box holds most; of those the first, row by row.

    Args:
        tissue: Where the tissue is.
        root_side_px: Side of a root in level-0 pixels.
        step_px: The origin's grain in level-0 pixels, at most the side.
        inward: Move boxes that hang over an edge of the slide inward, as far as the slide is large enough. They then
            overlap their neighbours, and what is their own remains the box of the lattice.
        least_px: Boxes with less tissue than this, in level-0 pixels, are left out where all of them together hold no
            more than a tenth of it.

    Returns:
        Boxes that do not overlap unless they were moved inward, row-major; none when there is no tissue. A slide
        smaller than a root has one, which reaches beyond it.

    Raises:
        ValueError: ``step_px`` is outside [1, ``root_side_px``].
    """
    if not 1 <= step_px <= root_side_px:
        raise ValueError(f"the step must lie in [1, {root_side_px}] (the root's side), not {step_px}")
    if tissue.is_empty:
        return []
    # Along an axis on which the slide fits into one box no other origin is better.
    across, down = (
        range(0, root_side_px if length > root_side_px else 1, step_px)
        for length in (tissue.slide_size.width, tissue.slide_size.height)
    )
    lattices = [_lay(tissue, root_side_px, x, y).without(least_px * tissue.mask.size) for y in down for x in across]
    best = min(lattices, key=lambda lattice: lattice.rank)
    total = int(best.tissue.sum())
    roots = []
    for row, column in np.argwhere(best.tissue > 0):
        box = Region(int(best.lefts[column]), int(best.tops[row]), root_side_px, root_side_px)
        region = _moved_inward(box, tissue.slide_size) if inward else box
        roots.append(Root(region, int(best.tissue[row, column]) / total, None if region == box else box))
    return roots


def _moved_inward(box: Region, slide_size: Size) -> Region:
    """Move a box so that it lies on the slide, or the slide in the box where that is larger, along each axis."""
    x, y = (
        min(max(start, min(0, length - box.width)), max(0, length - box.width))
        for start, length in ((box.x, slide_size.width), (box.y, slide_size.height))
    )
    return Region(x, y, box.width, box.height)


def _lay(tissue: TissueMask, side_px: int, offset_x: int, offset_y: int) -> _Lattice:
    """Lay the lattice through a point of the slide, and measure the tissue in its boxes."""
    xs = np.arange(offset_x - side_px if offset_x else 0, tissue.slide_size.width + side_px, side_px, dtype=np.int64)
    ys = np.arange(offset_y - side_px if offset_y else 0, tissue.slide_size.height + side_px, side_px, dtype=np.int64)
    before = tissue.tissue_before(xs[None, :], ys[:, None])  # (rows + 1, columns + 1)
    return _Lattice(lefts=xs[:-1], tops=ys[:-1], tissue=np.diff(np.diff(before, axis=0), axis=1))
