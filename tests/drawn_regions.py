"""GeoJSON as QuPath exports annotations, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tnet_cli.geometry import Region


def drawn(
    box: Region | Sequence[tuple[float, float]],
    *,
    name: str | None = None,
    of: str | None = None,
    kind: str = "annotation",
) -> dict[str, Any]:
    """Return a feature: a box or the corners of an outline, perhaps with a name, and of a class."""
    corners = (
        [(box.x, box.y), (box.right, box.y), (box.right, box.bottom), (box.x, box.bottom)]
        if isinstance(box, Region)
        else list(box)
    )
    properties: dict[str, Any] = {"objectType": kind}
    if name is not None:
        properties["name"] = name
    if of is not None:
        properties["classification"] = {"name": of}
    ring = [list(corner) for corner in [*corners, corners[0]]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def write_regions(path: Path, *features: dict[str, Any]) -> Path:
    """Write features as a collection."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path
