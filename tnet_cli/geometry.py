"""Boxes in level-0 pixels of a slide, and the attention grids that cut them into cells.

Everything here is exact integer arithmetic, so that the box that is read, the box that is written to a table and the
box that is drawn are the same box.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A width and a height, in pixels of whatever the context names."""

    width: int
    height: int

    @property
    def area(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A box in level-0 pixels: left, top, width and height. It may reach beyond the slide."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        """Refuse boxes without area.

        Raises:
            ValueError: width or height is not positive.
        """
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"a region needs a positive width and height, not {self.width} x {self.height}")

    @property
    def right(self) -> int:
        """The first column right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """The first row below the box."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """The number of level-0 pixels inside."""
        return self.width * self.height

    def intersect(self, other: "Region") -> "Region | None":
        """Return the part shared with another box, or None when they do not overlap."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        if right <= left or bottom <= top:
            return None
        return Region(left, top, right - left, bottom - top)

    def contains(self, other: "Region") -> bool:
        """Tell whether another box lies wholly inside this one."""
        return self.x <= other.x and self.y <= other.y and other.right <= self.right and other.bottom <= self.bottom


@dataclass(frozen=True, slots=True)
class AttentionGrid:
    """The n x n candidate cells of a region, row-major.

    A cell's side is ``cell_fraction`` of the region's side; with ``1 / n`` the cells tile the region, with more they
    overlap. Source: arXiv:2102.10212, Sec. 3 (candidate regions on an equally spaced grid).

    Attributes:
        n: Cells along each axis, at least 2.
        cell_fraction: Side of a cell over the side of the region, in [1 / n, 1].
    """

    n: int
    cell_fraction: float

    def __post_init__(self) -> None:
        """Refuse grids whose cells would leave gaps.

        Raises:
            ValueError: n is below 2 or cell_fraction is outside [1 / n, 1].
        """
        if self.n < 2:
            raise ValueError(f"an attention grid needs n >= 2, not {self.n}")
        if not 1 / self.n - 1e-9 <= self.cell_fraction <= 1:
            raise ValueError(f"cell_fraction must lie in [1/{self.n}, 1], not {self.cell_fraction}")

    @property
    def cell_count(self) -> int:
        """Number of cells, n x n."""
        return self.n * self.n

    @property
    def tiles_the_region(self) -> bool:
        """Whether the cells partition the region, so that no two paths denote the same box."""
        return abs(self.cell_fraction * self.n - 1) < 1e-9

    def spans(self, side_px: int) -> list[tuple[int, int]]:
        """Return offset and length of each cell along one axis of a region.

        The side of a cell is rounded half to even and the stride rounded up, and the overhang is split with the odd
        pixel in front, so a first offset may be -1: the convention of the published models. Cells that tile share
        the region's side to the pixel instead.

        Args:
            side_px: Side of the region along this axis, in level-0 pixels.

        Returns:
            n pairs (offset from the region's edge, length), in level-0 pixels.
        """
        if self.tiles_the_region:
            edges = [side_px * i // self.n for i in range(self.n + 1)]
            return [(edges[i], edges[i + 1] - edges[i]) for i in range(self.n)]
        cell = round(side_px * self.cell_fraction)
        stride = math.ceil((side_px - cell) / (self.n - 1))
        overhang = (self.n - 1) * stride + cell - side_px
        before = math.ceil(overhang / 2)
        return [(i * stride - before, cell) for i in range(self.n)]

    def cells(self, region: Region) -> list[Region]:
        """Cut a region into its cells, row-major.

        Args:
            region: The region that was looked at, level-0 pixels.

        Returns:
            n * n boxes in level-0 pixels; cell r * n + c stands in row r and column c.
        """
        columns, rows = self.spans(region.width), self.spans(region.height)
        return [Region(region.x + dx, region.y + dy, width, height) for dy, height in rows for dx, width in columns]
