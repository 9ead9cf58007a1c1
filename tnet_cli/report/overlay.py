"""The overlay: one page that says what was called, where the network looked, and what it saw there.

Drawn as a value from the level-0 boxes that were read. Writes no file, and knows no model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from tnet_cli.geometry import Size
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import FAINT_INK, INK
from tnet_cli.report.drawing import blank, length, line_height, resample, stack, text_width, write
from tnet_cli.report.panel import FRAME_PX, attended_panel, outlined, plain_panel
from tnet_cli.report.sections import (
    GAP_PX,
    SMALL_PX,
    OverlayPatch,
    OverlaySubject,
    header,
    legend,
    legend_entries,
    patch_grid,
)

__all__ = ["OverlayPatch", "OverlaySubject", "draw_overlay"]

PAGE_PX = 1600
MARGIN_PX = 32
PANEL_MAX_HEIGHT_PX = 1000
SECTION_GAP_PX = 28
COLUMN_GAP_PX = 48

PANEL_KEY = "tnet-panel"
"""Name, in the image's ``info``, of where the slide with its boxes stands: left, top, right, bottom in page pixels."""

COLUMN_MIN_PX = 640
"""Beside panels of a tall slide that leave at least this, legend and patches stand in a column of their own."""

STACK_ASPECT = 4.0
"""Slides wider than this many heights are shown one below the other, at the page's full width."""


@dataclass(frozen=True, slots=True)
class PanelPlan:
    """Where the slide is drawn.

    Attributes:
        size: Of the slide's image, in page pixels.
        is_stacked: Whether the second panel stands below the first instead of beside it.
        is_beside_patches: Whether there is room for legend and patches beside the panels.
    """

    size: Size
    is_stacked: bool
    is_beside_patches: bool


def draw_overlay(
    thumbnail: np.ndarray,
    subject: OverlaySubject,
    regions: Sequence[AttendedRegion],
    patches: Sequence[OverlayPatch],
    asked_for: np.ndarray | None = None,
) -> Image.Image:
    """Draw the page.

    Args:
        thumbnail: uint8 (H, W, 3), the whole slide.
        regions: Everything the network looked at, roots included.
        patches: The patches to show, in order of rank.
        asked_for: bool (H, W) of any size, the whole slide: where its user says to look, which is outlined; or None.

    Returns:
        An RGB image, 1600 px wide; ``info[PANEL_KEY]`` says where the slide with its boxes stands.

    Raises:
        ValueError: the thumbnail is not uint8 (H, W, 3), or probabilities and classes differ in number.
    """
    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8 or thumbnail.size == 0:
        raise ValueError(f"a thumbnail is a uint8 (H, W, 3) array, not {thumbnail.dtype} {thumbnail.shape}")
    width_px = PAGE_PX - 2 * MARGIN_PX
    thumbnail_size = Size(thumbnail.shape[1], thumbnail.shape[0])
    plan = plan_panels(thumbnail_size, width_px)
    slide_image = resample(thumbnail, plan.size)
    if asked_for is not None:
        slide_image = outlined(slide_image, asked_for)
    ranked = [patch.attended for patch in patches]
    left = _captioned(plain_panel(slide_image), "The slide", plan, subject)
    right = _captioned(
        attended_panel(slide_image, subject.slide_size, regions, ranked), "Where the model looked", plan, None
    )
    panels = stack([left, right], left.width, GAP_PX) if plan.is_stacked else _side_by_side(left, right, GAP_PX)
    key_width_px = width_px - panels.width - COLUMN_GAP_PX if plan.is_beside_patches else width_px
    below = [legend(legend_entries(regions, subject.mpp, is_outlined=asked_for is not None), key_width_px)]
    if patches:
        below.append(patch_grid(patches, subject, key_width_px))
    top = header(subject, width_px)
    if plan.is_beside_patches:
        body = [_side_by_side(panels, stack(below, key_width_px, SECTION_GAP_PX), COLUMN_GAP_PX)]
    else:
        body = [panels, *below]
    content = stack([top, *body], width_px, SECTION_GAP_PX)
    page = blank(PAGE_PX, content.height + 2 * MARGIN_PX)
    page.paste(content, (MARGIN_PX, MARGIN_PX))
    left_px = MARGIN_PX + FRAME_PX + (0 if plan.is_stacked else left.width + GAP_PX)
    top_px = MARGIN_PX + top.height + SECTION_GAP_PX + FRAME_PX + (left.height + GAP_PX if plan.is_stacked else 0)
    page.info[PANEL_KEY] = (left_px, top_px, left_px + plan.size.width, top_px + plan.size.height)
    return page


def plan_panels(thumbnail_size: Size, width_px: int) -> PanelPlan:
    """Choose how large the slide is drawn, and how its two panels stand.

    A thumbnail smaller than its room is enlarged by a whole factor, so that its pixels stay squares. The width is that
    of the page without margins.
    """
    is_stacked = thumbnail_size.width > STACK_ASPECT * thumbnail_size.height
    room = (width_px if is_stacked else (width_px - GAP_PX) // 2) - 2 * FRAME_PX
    scale = min(room / thumbnail_size.width, PANEL_MAX_HEIGHT_PX / thumbnail_size.height)
    scale = float(int(scale)) if scale >= 1 else scale
    size = Size(max(1, round(thumbnail_size.width * scale)), max(1, round(thumbnail_size.height * scale)))
    left_over = width_px - 2 * (size.width + 2 * FRAME_PX) - GAP_PX - COLUMN_GAP_PX
    is_beside = not is_stacked and size.height > 1.2 * size.width and left_over >= COLUMN_MIN_PX
    return PanelPlan(size=size, is_stacked=is_stacked, is_beside_patches=is_beside)


def _side_by_side(left: Image.Image, right: Image.Image, gap_px: int) -> Image.Image:
    page = blank(left.width + gap_px + right.width, max(left.height, right.height))
    page.paste(left, (0, 0))
    page.paste(right, (left.width + gap_px, 0))
    return page


def _captioned(panel: Image.Image, title: str, plan: PanelPlan, subject: OverlaySubject | None) -> Image.Image:
    """Put a caption below a panel, and for a subject of known scale a bar beside it."""
    caption_px = line_height(SMALL_PX) + 8
    page = blank(panel.width, panel.height + caption_px)
    page.paste(panel, (0, 0))
    draw = ImageDraw.Draw(page)
    um_per_px = None
    if subject is not None and subject.mpp is not None:
        um_per_px = subject.mpp * subject.slide_size.width / plan.size.width
    bar = scale_bar(um_per_px, plan.size.width)
    room_px = panel.width - 2 * FRAME_PX
    middle = panel.height + 4 + SMALL_PX // 2
    if bar is not None:
        bar_px, words = bar
        right = panel.width - FRAME_PX
        text_px = text_width(words, SMALL_PX)
        bar_left = right - text_px - 8 - bar_px
        draw.rectangle((bar_left, middle - 2, bar_left + bar_px - 1, middle + 1), fill=INK)
        for end in (bar_left, bar_left + bar_px - 1):
            draw.line((end, middle - 6, end, middle + 5), fill=INK)
        write(draw, (right - text_px, panel.height + 2), words, SMALL_PX, INK)
        room_px -= text_px + bar_px + 20
    if text_width(title, SMALL_PX) <= room_px:
        write(draw, (FRAME_PX, panel.height + 2), title, SMALL_PX, FAINT_INK)
    return page


def scale_bar(um_per_panel_px: float | None, panel_width_px: int) -> tuple[int, str] | None:
    """Choose the longest bar of 1, 2 or 5 times a power of ten micrometres within a quarter of a panel's width.

    Args:
        um_per_panel_px: Micrometres per pixel of the panel, or None when unknown.

    Returns:
        Panel pixels and length in words, or None where the scale is unknown.
    """
    if um_per_panel_px is None:
        return None
    longest_um = max(panel_width_px / 4, 40) * um_per_panel_px
    power = 10.0 ** math.floor(math.log10(longest_um))
    # A hundredth more than the room keeps a length that fits exactly from being lost to rounding.
    um = max(step * power for step in (1, 2, 5) if step * power <= 1.01 * longest_um)
    return max(1, round(um / um_per_panel_px)), length(um)
