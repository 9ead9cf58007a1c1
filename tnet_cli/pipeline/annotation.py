"""Annotations: polygons in QuPath GeoJSON, as shares of regions that they cover."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from tnet_cli.errors import ManifestError
from tnet_cli.geometry import Size
from tnet_cli.slide.tissue import TissueMask

MASK_PX = 1024
"""Longest side of the raster that polygons are filled into; hundreds of slides are held at once in training."""


def read_annotation(path: Path, slide_size: Size) -> TissueMask:
    """Fill the polygons of a GeoJSON FeatureCollection into a mask over the slide.

    Args:
        path: GeoJSON as QuPath exports it: Polygon and MultiPolygon features in level-0 pixels.
        slide_size: Level-0 size of the slide.

    Returns:
        A mask whose ``fractions`` give the share of a region that is annotated.

    Raises:
        ManifestError: the file is missing or is not such a collection.
    """
    shrink = max(1.0, max(slide_size.width, slide_size.height) / MASK_PX)
    mask = np.zeros((math.ceil(slide_size.height / shrink), math.ceil(slide_size.width / shrink)), dtype=bool)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        for feature in document["features"]:
            for outer, holes in _rings(feature["geometry"]):
                inside = _filled(outer, mask.shape, shrink)
                for hole in holes:
                    inside &= ~_filled(hole, mask.shape, shrink)
                mask |= inside
    except (OSError, ValueError, KeyError, TypeError, IndexError) as exc:
        raise ManifestError(f"{path}: not a GeoJSON FeatureCollection of polygons: {exc}") from exc
    return TissueMask(mask=mask, slide_size=slide_size)


def _rings(geometry: dict[str, Any]) -> list[tuple[list[Any], list[Any]]]:
    match geometry["type"]:
        case "Polygon":
            polygons = [geometry["coordinates"]]
        case "MultiPolygon":
            polygons = geometry["coordinates"]
        case other:
            raise ValueError(f"a {other} where a Polygon was expected")
    return [(polygon[0], polygon[1:]) for polygon in polygons]


def _filled(ring: list[Any], shape: tuple[int, ...], shrink: float) -> np.ndarray:
    """Fill a ring of x, y (and perhaps z) in level-0 pixels into a mask of ``shape``, bool (H, W)."""
    rows_and_columns = np.asarray(ring, dtype=np.float64)[:, 1::-1] / shrink - 0.5
    return np.asarray(polygon2mask(shape, rows_and_columns), dtype=bool)  # type: ignore[no-untyped-call]
