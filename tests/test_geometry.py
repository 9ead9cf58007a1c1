"""Boxes and attention grids."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet_cli.geometry import AttentionGrid, Region, Size


def offsets(grid: AttentionGrid, side_px: int) -> list[int]:
    return [offset for offset, _ in grid.spans(side_px)]


@pytest.mark.parametrize(
    ("n", "fraction", "side", "expected", "cell"),
    [
        (3, 0.5, 448, [0, 112, 224], 224),
        (3, 0.5, 896, [0, 224, 448], 448),
        (5, 0.34375, 224, [-1, 36, 73, 110, 147], 77),
        (5, 0.35, 448, [-1, 72, 145, 218, 291], 157),
    ],
)
def test_overlapping_cells_lie_where_the_published_models_put_them(n, fraction, side, expected, cell):
    grid = AttentionGrid(n, fraction)
    assert offsets(grid, side) == expected
    assert {length for _, length in grid.spans(side)} == {cell}


@given(st.integers(2, 8), st.integers(8, 50_000), st.integers(-9999, 9999), st.integers(-9999, 9999))
def test_cells_of_a_tiling_grid_partition_the_region(n: int, side: int, x: int, y: int):
    region = Region(x, y, side, side + 3)
    cells = AttentionGrid(n, 1 / n).cells(region)
    assert len(cells) == n * n
    assert sum(cell.area for cell in cells) == region.area
    assert all(region.contains(cell) for cell in cells)
    assert all(first.intersect(second) is None for i, first in enumerate(cells) for second in cells[:i])


@given(st.integers(2, 6), st.floats(0.5, 1.0), st.integers(64, 5000))
def test_overlapping_cells_cover_the_region_without_gaps(n: int, fraction: float, side: int):
    spans = AttentionGrid(n, fraction).spans(side)
    assert spans[0][0] <= 0
    assert spans[-1][0] + spans[-1][1] >= side
    assert all(start <= before + length for (before, length), (start, _) in pairwise(spans))


def test_cells_are_row_major():
    cells = AttentionGrid(2, 0.5).cells(Region(10, 20, 8, 4))
    assert cells == [Region(10, 20, 4, 2), Region(14, 20, 4, 2), Region(10, 22, 4, 2), Region(14, 22, 4, 2)]


def test_regions_intersect_and_contain():
    region = Region(0, 0, 10, 10)
    assert region.intersect(Region(8, 8, 10, 10)) == Region(8, 8, 2, 2)
    assert region.intersect(Region(10, 0, 5, 5)) is None
    assert region.contains(Region(0, 0, 10, 10))
    assert not region.contains(Region(1, 1, 10, 1))
    assert (region.right, region.bottom, region.area, Size(3, 4).area) == (10, 10, 100, 12)


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-1, 1)])
def test_a_region_without_area_is_refused(width: int, height: int):
    with pytest.raises(ValueError, match="positive width and height"):
        Region(0, 0, width, height)


@pytest.mark.parametrize(("n", "fraction"), [(1, 1.0), (3, 0.2), (3, 1.1)])
def test_a_grid_with_gaps_is_refused(n: int, fraction: float):
    with pytest.raises(ValueError, match=r"attention grid|cell_fraction"):
        AttentionGrid(n, fraction)
