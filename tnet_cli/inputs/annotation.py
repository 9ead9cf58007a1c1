"""Annotations: areas drawn on a slide, as shares of regions that they cover."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from skimage.draw import polygon

from tnet_cli.geometry import Size
from tnet_cli.inputs.geojson import AnnotationArea, read_annotation_areas
from tnet_cli.tissue.tissue import TissueMask

MASK_PX = 1024
"""Longest side of the raster that polygons are filled into; hundreds of slides are held at once in training."""


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
    mask = np.zeros((math.ceil(slide_size.height / shrink), math.ceil(slide_size.width / shrink)), dtype=bool)

    def inside(ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of the pixels in a ring, whose centres are whole numbers."""
        rows, columns = ((ring + origin)[:, ::-1] / shrink - 0.5).T
        if len(ring) == 0:
            return rows.astype(int), columns.astype(int)
        # It looks at the box around the ring only: an export may hold a million cells.
        return polygon(rows, columns, mask.shape)  # type: ignore[no-untyped-call, no-any-return]

    for part in (part for area in areas for part in area.polygons):
        rows, columns = inside(part.outline)
        if part.holes:
            cut = np.zeros_like(mask)
            for hole in part.holes:
                cut[inside(hole)] = True
            kept = ~cut[rows, columns]
            rows, columns = rows[kept], columns[kept]
        mask[rows, columns] = True
    return mask
