"""The page that zooms into one slide with the boxes the network looked at. Writes no file; knows no server."""

from collections.abc import Sequence
from dataclasses import dataclass

from tnet_cli.geometry import Region, Size
from tnet_cli.report.colours import processing_level_colour
from tnet_cli.report.drawing import percent, resolution
from tnet_cli.report.templates import render, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerBox:
    """A region the network looked at.

    Attributes:
        region: Level-0 pixels; may reach beyond the slide.
        processing_level: 0 is the coarsest.
        mpp: Micrometres per pixel the network saw, or None when unknown.
        weight: Share in the slide's feature vector, or None when unknown.
        path_probability: Product of the location probabilities from the root, or None when unknown.
        probabilities: Class names and probabilities from this region's own features.
    """

    region: Region
    processing_level: int
    mpp: float | None
    weight: float | None
    path_probability: float | None
    probabilities: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerPage:
    """What the page shows.

    Attributes:
        slide: Its name in the run.
        path: As the user gave it.
        says: What was called, in words.
        notice: A sentence when the slide cannot be shown, or failed.
        size: Level-0 size, or None where the slide cannot be shown.
        mpp: Micrometres per level-0 pixel, or None when unknown.
        tile_px: Side of the tiles.
        first_zoom_level: Coarsest zoom level to ask for.
        last_zoom_level: Zoom level whose pixels are those of level 0.
        tiles_address: Where the slide's tiles are, with a slash at its end.
        overlay_address: Where its overlay is, or None.
        previous_address: Page of the slide before it in the run, or None.
        next_address: Page of the slide after it, or None.
        boxes: In any order.
    """

    slide: str
    path: str
    says: str
    tiles_address: str
    notice: str | None = None
    size: Size | None = None
    mpp: float | None = None
    tile_px: int = 512
    first_zoom_level: int = 0
    last_zoom_level: int = 0
    overlay_address: str | None = None
    previous_address: str | None = None
    next_address: str | None = None
    boxes: Sequence[ViewerBox] = ()


def render_viewer(page: ViewerPage) -> str:
    """Write the page. Its script, style and tiles come from the same server; nothing else may."""
    ranked = sorted(page.boxes, key=lambda box: (box.processing_level == 0, -(box.weight or 0.0)))
    levels = sorted({box.processing_level for box in page.boxes})
    view = {
        "width": page.size.width if page.size else 0,
        "height": page.size.height if page.size else 0,
        "mpp": page.mpp,
        "tilePx": page.tile_px,
        "firstZoomLevel": page.first_zoom_level,
        "lastZoomLevel": page.last_zoom_level,
        "tiles": page.tiles_address,
        "boxes": [_box_document(box, rank) for rank, box in enumerate(ranked, start=1)],
    }
    legend = [(level, _colour(level), _level_text(level, page.boxes)) for level in levels]
    return render("viewer.html.j2", page=page, view=view, legend=legend)


def _box_document(box: ViewerBox, rank: int) -> dict[str, object]:
    is_root = box.processing_level == 0
    lines = [f"Processing level {box.processing_level}" + (f", {resolution(box.mpp)}" if box.mpp else "")]
    if box.weight is not None:
        lines.append(f"weight {percent(box.weight)}")
    if box.path_probability is not None and not is_root:
        lines.append(f"path probability {percent(box.path_probability)}")
    lines.extend(f"{visible(name)} {percent(share)}" for name, share in box.probabilities)
    return {
        "x": box.region.x,
        "y": box.region.y,
        "width": box.region.width,
        "height": box.region.height,
        "level": box.processing_level,
        "colour": _colour(box.processing_level),
        "weight": box.weight or 0.0,
        "name": "Root" if is_root else f"Location {rank}",
        "lines": lines,
    }


def _colour(processing_level: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*processing_level_colour(processing_level))


def _level_text(processing_level: int, boxes: Sequence[ViewerBox]) -> str:
    members = [box for box in boxes if box.processing_level == processing_level]
    kind = "root" if processing_level == 0 else "location"
    scale = f"{resolution(members[0].mpp)}, " if members[0].mpp else ""
    return f"Processing level {processing_level}: {scale}{len(members)} {kind}{'' if len(members) == 1 else 's'}"
