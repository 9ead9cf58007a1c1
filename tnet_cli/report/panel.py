"""The slide with the regions that were looked at: where a region falls on a thumbnail, dimming, boxes, ranks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tnet_cli.geometry import Region, Size
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import ASKED_FOR, PAGE, RGB, processing_level_colour
from tnet_cli.report.drawing import blank, text_width, write

FRAME_PX = 6
"""Page around the slide, over which the outlines of boxes at its edge may reach."""

RANK_SIZE_PX = 15

OUTLINE_PX = 2
"""Width of the border of a mask, inside it."""

_DIMMED = 0.5
"""What remains of brightness where the network did not look closer."""

_OWN = 3
"""How often a value counts there beside the three of its pixel: half of the colour remains."""


class PanelBox(NamedTuple):
    """A box of panel pixels; right and bottom are the first column and row outside."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: "PanelBox") -> bool:
        """Tell whether two boxes share a pixel."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def box_on_thumbnail(region: Region, slide_size: Size, panel_size: Size, origin: tuple[int, int] = (0, 0)) -> PanelBox:
    """Return the panel pixels on which any part of a region falls.

    Args:
        region: Level-0 pixels; what lies beyond the slide is cut off.
        slide_size: Level-0 pixels that the panel shows.
        origin: x and y of the panel's corner on the page.

    Returns:
        The box on the page, never without area.

    Raises:
        ValueError: the region lies outside the slide.
    """
    inside = region.intersect(Region(0, 0, slide_size.width, slide_size.height))
    if inside is None:
        raise ValueError(f"{region} lies outside the slide of {slide_size.width} x {slide_size.height} px")
    return PanelBox(
        left=origin[0] + inside.x * panel_size.width // slide_size.width,
        top=origin[1] + inside.y * panel_size.height // slide_size.height,
        right=origin[0] - (-inside.right * panel_size.width // slide_size.width),
        bottom=origin[1] - (-inside.bottom * panel_size.height // slide_size.height),
    )


def plain_panel(slide_image: Image.Image) -> Image.Image:
    """Put a slide on a piece of page, inside a frame."""
    page = blank(slide_image.width + 2 * FRAME_PX, slide_image.height + 2 * FRAME_PX)
    page.paste(slide_image, (FRAME_PX, FRAME_PX))
    return page


def outlined(slide_image: Image.Image, asked_for: np.ndarray) -> Image.Image:
    """Draw the border of a mask, bool (H, W) of any size over the whole slide, onto the slide."""
    size = (slide_image.width, slide_image.height)
    mask = np.asarray(Image.fromarray(asked_for).resize(size, Image.Resampling.NEAREST))
    padded = np.pad(mask, OUTLINE_PX)
    height, width = mask.shape
    around = range(2 * OUTLINE_PX + 1)
    inner = np.all([padded[y : y + height, x : x + width] for y in around for x in around], axis=0)
    canvas = np.array(slide_image)
    canvas[mask & ~inner] = ASKED_FOR
    return Image.fromarray(canvas)


def attended_panel(
    slide_image: Image.Image, slide_size: Size, regions: Sequence[AttendedRegion], ranked: Sequence[AttendedRegion]
) -> Image.Image:
    """Draw what the network looked at over the slide.

    Outside the attended regions the slide is dimmed; roots dim nothing, since they cover all tissue. Outlines lie
    just outside the pixels their region falls on. The more a region weighs, the bolder its outline.

    Args:
        slide_image: The slide at the panel's size.
        slide_size: Level-0 pixels that it shows.
        ranked: Regions that are numbered, from 1, in this order.

    Returns:
        The slide inside a frame of ``FRAME_PX``.
    """
    panel_size = Size(slide_image.width, slide_image.height)
    origin = (FRAME_PX, FRAME_PX)
    whole = Region(0, 0, slide_size.width, slide_size.height)
    drawn = [region for region in regions if region.region.intersect(whole) is not None]
    boxes = [box_on_thumbnail(region.region, slide_size, panel_size, origin) for region in drawn]
    canvas = np.array(plain_panel(slide_image))
    _dim(canvas, [box for box, region in zip(boxes, drawn, strict=True) if region.is_location])
    heaviest = max((region.weight for region in drawn if math.isfinite(region.weight)), default=0.0)
    order = sorted(range(len(drawn)), key=lambda i: (drawn[i].processing_level, drawn[i].weight))
    for i in order:
        share = drawn[i].weight / heaviest if heaviest > 0 else 1.0
        thinnest_px = 2 if drawn[i].is_location else 1
        _outline(canvas, boxes[i], processing_level_colour(drawn[i].processing_level), share, thinnest_px)
    panel = Image.fromarray(canvas)
    shown = [region for region in ranked if region.region.intersect(whole) is not None]
    _number(panel, [box_on_thumbnail(region.region, slide_size, panel_size, origin) for region in shown], shown)
    return panel


def _dim(canvas: np.ndarray, lit: Sequence[PanelBox]) -> None:
    """Darken and pale the slide in place, but for the given boxes; without any nothing is dimmed."""
    if not lit:
        return
    inner = canvas[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX]
    keep = np.zeros(canvas.shape[:2], dtype=np.bool_)
    for box in lit:
        keep[box.top : box.bottom, box.left : box.right] = True
    # By table: a value and the three of its pixel add up to few whole numbers, and there are many pixels.
    total = _OWN * inner.astype(np.uint16) + inner.sum(axis=2, keepdims=True, dtype=np.uint16)
    dimmed = np.rint(np.arange(255 * (_OWN + 3) + 1) * _DIMMED / (_OWN + 3)).astype(np.uint8)[total]
    inner_keep = keep[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX, None]
    inner[...] = np.where(inner_keep, inner, dimmed)


def _outline(canvas: np.ndarray, box: PanelBox, colour: RGB, share: float, thinnest_px: int) -> None:
    """Draw an outline just outside a box, in place.

    Args:
        canvas: uint8 (H, W, 3).
        share: Weight over the greatest weight, in [0, 1]: up to 3 px are added, and it is 60 to 100 % opaque.
        thinnest_px: Thickness without weight.
    """
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    thickness, opacity = thinnest_px + round(3 * share), 0.6 + 0.4 * share
    rows = slice(max(0, box.top - thickness), box.bottom + thickness)
    for strip in (
        (slice(rows.start, box.top), slice(max(0, box.left - thickness), box.right + thickness)),
        (slice(box.bottom, rows.stop), slice(max(0, box.left - thickness), box.right + thickness)),
        (slice(box.top, box.bottom), slice(max(0, box.left - thickness), box.left)),
        (slice(box.top, box.bottom), slice(box.right, box.right + thickness)),
    ):
        part = canvas[strip]
        part[...] = np.rint((1 - opacity) * part + opacity * np.array(colour)).astype(np.uint8)


def _number(panel: Image.Image, boxes: Sequence[PanelBox], regions: Sequence[AttendedRegion]) -> None:
    """Write ranks beside their boxes, or in the corner of a large one; a rank without room is left out."""
    page, labels = ImageDraw.Draw(panel), list[PanelBox]()
    for rank, (box, region) in enumerate(zip(boxes, regions, strict=True), start=1):
        place = _place(text_width(str(rank), RANK_SIZE_PX) + 6, box, boxes, labels, Size(panel.width, panel.height))
        if place is not None:
            labels.append(place)
            colour = processing_level_colour(region.processing_level)
            page.rectangle((place.left, place.top, place.right - 1, place.bottom - 1), fill=colour)
            write(page, (place.left + 3, place.top), str(rank), RANK_SIZE_PX, PAGE)


def _place(
    width: int, box: PanelBox, boxes: Sequence[PanelBox], labels: Sequence[PanelBox], panel_size: Size
) -> PanelBox | None:
    """Find room for a rank: beside its box where it hides neither box nor rank, else inside; None for no room."""
    height, reach = RANK_SIZE_PX + 3, 5
    beside = (
        PanelBox(box.right + reach, box.top, box.right + reach + width, box.top + height),
        PanelBox(box.left - reach - width, box.top, box.left - reach, box.top + height),
        PanelBox(box.left, box.top - reach - height, box.left + width, box.top - reach),
        PanelBox(box.left, box.bottom + reach, box.left + width, box.bottom + reach + height),
    )
    for place in beside:
        fits = min(place.left, place.top) >= 0 and place.right <= panel_size.width and place.bottom <= panel_size.height
        if fits and not any(place.overlaps(other) for other in (*boxes, *labels)):
            return place
    inside = PanelBox(box.left, box.top, box.left + width, box.top + height)
    is_large = min(box.right - box.left, box.bottom - box.top) >= 3 * max(width, height)
    return inside if is_large and not any(inside.overlaps(other) for other in labels) else None
