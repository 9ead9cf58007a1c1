"""The page that zooms into one slide with the boxes the network looked at. Writes no file; knows no server."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tnet_cli.geometry import Size
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import processing_level_colour
from tnet_cli.report.drawing import percent, resolution
from tnet_cli.report.sections import no_answer, processing_level_words
from tnet_cli.report.templates import render, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerPage:
    """What the page shows.

    Attributes:
        base: What the addresses of the viewer's own files begin with.
        says: What was called, in words.
        tiles_address: Where the slide's tiles are, with a slash at its end.
        notice: A sentence when the slide cannot be shown, or failed.
        reasons: Why the answer does not count, in sentences without a full stop.
        size: Level-0 size, or None where the slide cannot be shown.
        mpp: Micrometres per level-0 pixel, or None when unknown.
        first_zoom_level: Coarsest zoom level to ask for.
        last_zoom_level: Zoom level whose pixels are those of level 0.
        regions: What the network looked at, in any order; a number that is not known is NaN.
        class_names: Of the regions' probabilities.
    """

    slide: str
    path: str
    says: str
    base: str
    tiles_address: str
    notice: str | None = None
    reasons: tuple[str, ...] = ()
    size: Size | None = None
    mpp: float | None = None
    tile_px: int = 512
    first_zoom_level: int = 0
    last_zoom_level: int = 0
    overlay_address: str | None = None
    previous_address: str | None = None
    next_address: str | None = None
    regions: Sequence[AttendedRegion] = ()
    class_names: Sequence[str] = ()


def render_viewer(page: ViewerPage) -> str:
    """Write the page. Its script, style and tiles come from the same server; nothing else may."""
    ranked = sorted(page.regions, key=lambda region: (not region.is_location, -_known(region.weight)))
    view = {
        "width": page.size.width if page.size else 0,
        "height": page.size.height if page.size else 0,
        "mpp": page.mpp,
        "tilePx": page.tile_px,
        "firstZoomLevel": page.first_zoom_level,
        "lastZoomLevel": page.last_zoom_level,
        "tiles": page.tiles_address,
        # Where the slide has no answer, none of its regions has one.
        "boxes": [
            _box(region, () if page.reasons else page.class_names, rank) for rank, region in enumerate(ranked, start=1)
        ],
    }
    legend = []
    for number in sorted({region.processing_level for region in page.regions}):
        members = [region for region in page.regions if region.processing_level == number]
        legend.append((number, _colour(number), processing_level_words(members)))
    without_answer = no_answer(page.reasons) if page.reasons else None
    return render("viewer.html.j2", page=page, view=view, legend=legend, without_answer=without_answer)


def _box(region: AttendedRegion, class_names: Sequence[str], rank: int) -> dict[str, object]:
    shares = [("weight", region.weight)]
    if region.is_location:
        shares.append(("path probability", region.path_probability))
    shares += zip(map(visible, class_names), region.class_probabilities, strict=False)
    scale = f", {resolution(region.mpp)}" if region.mpp else ""
    return {
        "x": region.region.x,
        "y": region.region.y,
        "width": region.region.width,
        "height": region.region.height,
        "processingLevel": region.processing_level,
        "colour": _colour(region.processing_level),
        "weight": _known(region.weight),
        "name": f"Location {rank}" if region.is_location else "Root",
        "lines": [
            f"Processing level {region.processing_level}{scale}",
            *(f"{name} {percent(share)}" for name, share in shares if not math.isnan(share)),
        ],
    }


def _known(weight: float) -> float:
    return 0.0 if math.isnan(weight) else weight


def _colour(processing_level: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*processing_level_colour(processing_level))
