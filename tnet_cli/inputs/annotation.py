"""Annotations: areas drawn on a slide, as shares of regions that they cover."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from tnet_cli.geometry import Size
from tnet_cli.inputs.geojson import AnnotationArea, AnnotationPolygon, read_annotation_areas
from tnet_cli.tissue.tissue import TissueMask

MASK_PX = 1024
"""Longest side of the raster that polygons are filled into; hundreds of slides are held at once in training."""

AT_ONCE = 2_000_000
"""Edges of outlines, and places where they cross the rows of a raster, that are held at a time."""


def read_annotation(
    path: Path,
    slide_size: Size,
    *,
    origin: tuple[int, int] = (0, 0),
    on_note: Callable[[str], None] | None = None,
) -> TissueMask:
    """Fill what a pathologist drew into a mask over the slide.

    What a program found, detections and cells, counts only where nobody drew anything; areas of a class whose name
    ends in an asterisk, QuPath's ``Ignore*``, never count. Points and lines have no area.

    Args:
        path: GeoJSON as QuPath exports it, in its frame; plain, gzipped or zipped.
        slide_size: Level-0 pixels.
        origin: x and y, level-0 pixels, of that frame's corner: of the slide's bounds, to which QuPath crops
            (``report.geojson.regions_geojson``).

    Returns:
        A mask whose ``fractions`` give the share of a region that is annotated.

    Raises:
        ManifestError: the file is missing or is not such a document.
    """
    areas = areas_that_count(path, on_note)
    return TissueMask(mask=rasterised(areas, slide_size, origin=origin), slide_size=slide_size)


def areas_that_count(path: Path, on_note: Callable[[str], None] | None) -> list[AnnotationArea]:
    """Read the areas of a file that ``read_annotation`` fills; ``on_note`` is told what is left out.

    Raises:
        ManifestError: as of ``read_annotation``.
    """
    areas = read_annotation_areas(path, on_note)
    chosen = [area for area in areas if not area.is_ignored]
    drawn = [area for area in chosen if not area.is_computed] or chosen
    if on_note is not None and len(drawn) < len(areas):
        on_note(
            f"{path}: left out {len(areas) - len(drawn)} of {len(areas)} objects: found by a program, or of a class "
            "that is to be ignored"
        )
    return drawn


def rasterised(areas: Iterable[AnnotationArea], slide_size: Size, *, origin: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Fill areas into a raster of at most ``MASK_PX`` a side; no area's hole cuts another.

    Args:
        areas: In the frame whose corner is ``origin``; parts outside the slide are left out.
        slide_size: Level-0 pixels, as is ``origin``.

    Returns:
        bool (H, W); a pixel is set where its centre lies in an area.
    """
    shrink = max(1.0, max(slide_size.width, slide_size.height) / MASK_PX)
    shape = (math.ceil(slide_size.height / shrink), math.ceil(slide_size.width / shrink))
    return _filled([part for area in areas for part in area.polygons], _Raster(shape, origin, (shrink, shrink)))


def mask_of(
    areas: Iterable[AnnotationArea], slide_size: Size, *, origin: tuple[int, int] = (0, 0), longest_px: int
) -> TissueMask:
    """Fill areas into a mask whose pixels divide the slide exactly, the longest side into at most ``longest_px``.

    Args:
        areas: In the frame whose corner is ``origin``, level-0 pixels; parts outside the slide are left out.
    """
    size = slide_size
    shrink = max(1.0, max(size.width, size.height) / longest_px)
    shape = (max(1, round(size.height / shrink)), max(1, round(size.width / shrink)))
    raster = _Raster(shape, origin, (size.width / shape[1], size.height / shape[0]))
    return TissueMask(_filled([part for area in areas for part in area.polygons], raster), slide_size)


@dataclass(frozen=True, slots=True)
class _Raster:
    """Pixels over a slide.

    Attributes:
        shape: Rows and columns.
        origin: x and y of where rings count from, level-0 pixels.
        shrink: Level-0 pixels a pixel, along x and y.
    """

    shape: tuple[int, int]
    origin: tuple[int, int]
    shrink: tuple[float, float]


def _filled(polygons: Sequence[AnnotationPolygon], raster: _Raster) -> np.ndarray:
    """Return the pixels whose centres lie in some polygon; where a ring crosses itself, in and out alternate.

    Row by row: the time for an outline grows as the rows that its edges cross, and not as its box times its edges.

    Returns:
        bool (rows, columns).
    """
    whole = [(part.outline, *part.holes) for part in polygons if len(part.outline)]
    rings = [ring for part in whole for ring in part if len(ring)]
    if not rings:
        return np.zeros(raster.shape, dtype=bool)
    half = len(polygons) // 2
    edges = None if half and sum(map(len, rings)) > AT_ONCE else _Edges.of(rings, raster)
    if half and (edges is None or edges.counts.sum() > AT_ONCE):
        return np.asarray(_filled(polygons[:half], raster) | _filled(polygons[half:], raster))
    if edges is None or edges.counts.sum() > AT_ONCE:
        outline, *holes = (_filled_ring(ring, raster) for ring in rings)
        return np.asarray(outline & ~np.any(holes, axis=0)) if holes else outline
    of_ring = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    of_part = np.array([number for number, part in enumerate(whole) for ring in part if len(ring)])
    is_hole = np.array([index > 0 for part in whole for index, ring in enumerate(part) if len(ring)])
    rows, columns = raster.shape
    size = rows * (columns + 1)
    crossings, places = edges.crossings(np.arange(len(edges.counts)))
    # Along a row a ring begins and ends in turn.
    place = np.sort(of_ring[crossings] * size + places)
    ring, place = np.divmod(place, size)
    begins = np.tile([1, -1], len(place) // 2)
    order = np.argsort(of_part[ring] * size + place, kind="stable")
    place, begins, hole = place[order], begins[order], is_hole[ring[order]]
    inside = (np.cumsum(np.where(hole, 0, begins)) > 0) & (np.cumsum(np.where(hole, begins, 0)) == 0)
    # How many parts begin at a pixel, less those that end before it.
    steps = np.zeros(size, dtype=np.int64)
    np.add.at(steps, place[:-1][inside[:-1]], 1)
    np.add.at(steps, place[1:][inside[:-1]], -1)
    return np.asarray(steps.reshape(rows, columns + 1).cumsum(axis=1)[:, :columns] > 0)


def _filled_ring(ring: np.ndarray, raster: _Raster) -> np.ndarray:
    """Return as ``_filled`` the pixels in a ring of which not all crossings are to be held at once."""
    edges = _Edges.of([ring], raster)
    rows, columns = raster.shape
    flips = np.zeros(rows * (columns + 1), dtype=bool)
    batches = np.cumsum(edges.counts) // AT_ONCE
    for batch in range(int(batches[-1]) + 1):
        _, places = edges.crossings(np.flatnonzero(batches == batch))
        flips ^= (np.bincount(places, minlength=len(flips)) & 1).astype(bool)
    return np.asarray(np.logical_xor.accumulate(flips.reshape(rows, columns + 1), axis=1)[:, :columns])


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Edges of rings over rows of pixels, in pixels whose centres are whole numbers.

    Attributes:
        starts: Where each begins, float64 (edges, 2), x and y.
        ends: Where it ends.
        tops: The first row whose middle each crosses.
        counts: How many it crosses, inside the raster.
        columns: Of the raster.
    """

    starts: np.ndarray
    ends: np.ndarray
    tops: np.ndarray
    counts: np.ndarray
    columns: int

    @classmethod
    def of(cls, rings: Sequence[np.ndarray], raster: _Raster) -> Self:
        """Return the edges of rings, ring by ring; each ring is closed, whether or not it ends where it began."""
        starts = (np.concatenate(rings) + raster.origin) / np.array(raster.shrink) - 0.5
        after = np.cumsum([len(ring) for ring in rings])
        following = np.arange(1, len(starts) + 1)
        following[after - 1] = np.concatenate([[0], after[:-1]])
        ends = starts[following]
        tops, bottoms = (
            np.clip(np.ceil(pick(starts[:, 1], ends[:, 1])), 0, raster.shape[0]).astype(np.int64)
            for pick in (np.minimum, np.maximum)
        )
        return cls(starts, ends, tops, bottoms - tops, raster.shape[1])

    def crossings(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find where some edges cross the middles of rows.

        Returns:
            Of each crossing the edge, and where it is: its row times ``columns + 1``, and the first pixel whose centre
            is not left of it.
        """
        counts = self.counts[some]
        edges = np.repeat(some, counts)
        rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + self.tops[edges]
        (x, y), (to_x, to_y) = self.starts[edges].T, self.ends[edges].T
        column = np.clip(np.ceil(x + (rows - y) / (to_y - y) * (to_x - x)), 0, self.columns)
        return edges, rows * (self.columns + 1) + column.astype(np.int64)
