"""The roots: the boxes of processing level 0 that cover all tissue of a slide."""

from dataclasses import dataclass

import numpy as np

from tnet_cli.geometry import Region
from tnet_cli.tissue.tissue import TissueMask


@dataclass(frozen=True, slots=True)
class Root:
    """A region of processing level 0.

    Attributes:
        region: Level-0 pixels; may reach beyond the slide on any side.
        tissue_share: Its part of the slide's tissue area; the shares of a slide's roots sum to one.
    """

    region: Region
    tissue_share: float


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

    @property
    def rank(self) -> tuple[int, int]:
        """What is compared: few boxes with tissue first, then as much as possible in the emptiest of them."""
        bearing = self.tissue[self.tissue > 0]
        return bearing.size, -int(bearing.min())


def cover_with_roots(tissue: TissueMask, root_side_px: int, step_px: int) -> list[Root]:
    """Cover all tissue with the fewest boxes of a lattice.

    The lattice's pitch is the root's side and its origin a multiple of ``step_px``, so that regions stay aligned to
    the file's tiles. Among the possible origins the one with the fewest tissue-bearing boxes is taken; of those the
    one whose emptiest box holds most; of those the first, row by row.

    Args:
        tissue: Where the tissue is.
        root_side_px: Side of a root in level-0 pixels.
        step_px: The origin's grain in level-0 pixels, at most the side.

    Returns:
        Boxes that do not overlap, row-major; none when there is no tissue. A slide smaller than a root has one,
        which reaches beyond it.

    Raises:
        ValueError: ``step_px`` is outside [1, ``root_side_px``].
    """
    if not 1 <= step_px <= root_side_px:
        raise ValueError(f"the step must lie in [1, {root_side_px}] (the root's side), not {step_px}")
    if tissue.is_empty:
        return []
    offsets = range(0, root_side_px, step_px)
    lattices = (_lay(tissue, root_side_px, x, y) for y in offsets for x in offsets)
    best = min(lattices, key=lambda lattice: lattice.rank)
    total = int(best.tissue.sum())
    return [
        Root(Region(int(best.lefts[c]), int(best.tops[r]), root_side_px, root_side_px), int(best.tissue[r, c]) / total)
        for r, c in np.argwhere(best.tissue > 0)
    ]


def _lay(tissue: TissueMask, side_px: int, offset_x: int, offset_y: int) -> _Lattice:
    """Lay the lattice through a point of the slide, and measure the tissue in its boxes."""
    xs = np.arange(offset_x - side_px if offset_x else 0, tissue.slide_size.width + side_px, side_px, dtype=np.int64)
    ys = np.arange(offset_y - side_px if offset_y else 0, tissue.slide_size.height + side_px, side_px, dtype=np.int64)
    before = tissue.tissue_before(xs[None, :], ys[:, None])  # (rows + 1, columns + 1)
    return _Lattice(lefts=xs[:-1], tops=ys[:-1], tissue=np.diff(np.diff(before, axis=0), axis=1))
