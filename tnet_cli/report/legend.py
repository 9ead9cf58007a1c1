"""What the colours and the scale bar of an overlay mean, as numbers and words."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import RGB, processing_level_colour
from tnet_cli.report.drawing import length, resolution


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One processing level in the legend.

    Attributes:
        processing_level: 0 is the coarsest.
        colour: Of its boxes.
        text: What stands beside the colour.
    """

    processing_level: int
    colour: RGB
    text: str


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """A bar of a round length.

    Attributes:
        width_px: Of the bar, in panel pixels.
        text: Its length with unit.
    """

    width_px: int
    text: str


def legend_entries(regions: Sequence[AttendedRegion], slide_mpp: float | None) -> list[LegendEntry]:
    """Describe each processing level that was looked at, coarsest first.

    Args:
        regions: Everything the network looked at.
        slide_mpp: Micrometres per level-0 pixel, or None when unknown.
    """
    entries = []
    for processing_level in sorted({region.processing_level for region in regions}):
        members = [region for region in regions if region.processing_level == processing_level]
        width_px = Counter(member.region.width for member in members).most_common(1)[0][0]
        mpp = members[0].mpp
        field = f"{width_px} px" if slide_mpp is None else length(width_px * slide_mpp)
        kind = "root" if processing_level == 0 else "location"
        count = f"{len(members)} {kind}{'' if len(members) == 1 else 's'}"
        scale = "" if mpp is None else f"{resolution(mpp)}, "
        text = f"Processing level {processing_level}: {scale}field {field}, {count}"
        entries.append(LegendEntry(processing_level, processing_level_colour(processing_level), text))
    return entries


def scale_bar(um_per_panel_px: float | None, panel_width_px: int) -> ScaleBar | None:
    """Choose the longest bar of 1, 2 or 5 times a power of ten micrometres within a quarter of a panel's width.

    Args:
        um_per_panel_px: Micrometres per pixel of the panel, or None when unknown.
        panel_width_px: Width of the panel.

    Returns:
        The bar, or None where the scale is unknown.
    """
    if um_per_panel_px is None:
        return None
    longest_um = max(panel_width_px / 4, 40) * um_per_panel_px
    power = 10.0 ** math.floor(math.log10(longest_um))
    # A hundredth more than the room keeps a length that fits exactly from being lost to rounding.
    um = max(step * power for step in (1, 2, 5) if step * power <= 1.01 * longest_um)
    return ScaleBar(width_px=max(1, round(um / um_per_panel_px)), text=length(um))
