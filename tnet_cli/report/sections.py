"""The sections of the overlay's page: header, legend, and the patches that mattered most. Each returns an image."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from tnet_cli.geometry import Size
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import (
    ASKED_FOR,
    BAR,
    BAR_OF_THE_LABEL,
    FAINT_INK,
    INK,
    NOTICE,
    NOTICE_GROUND,
    PAGE,
    RGB,
    RULE,
    processing_level_colour,
)
from tnet_cli.report.drawing import (
    blank,
    length,
    line_height,
    percent,
    resample,
    resolution,
    shorten,
    stack,
    text_width,
    wrap,
    write,
)

TITLE_PX = 30
LABEL_PX = 24
TEXT_PX = 18
SMALL_PX = 16
PATCH_MIN_PX = 236
"""Least side of a patch on the page."""
GAP_PX = 20
FEW_CLASSES = 6
"""More classes than these are listed in smaller type."""


@dataclass(frozen=True, slots=True)
class OverlayPatch:
    """A region with the pixels the network saw, uint8 (H, W, 3)."""

    attended: AttendedRegion
    pixels: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlaySubject:
    """The slide and what was found.

    Attributes:
        slide_size: Level-0 pixels.
        mpp: Micrometres per level-0 pixel, or None when unknown.
        probabilities: One for each class, of the whole slide.
        prediction: The class that is called; None where there is no answer that counts.
        intended_use: A sentence that is always shown when there is one.
        location_count: Attended locations.
        fraction_read: Pixels read over the slide's, in [0, 1].
        seconds: Work on the slide.
        reasons: Why the answer does not count, in sentences without a full stop; none where it does.
        calibration: How far the probabilities can be relied on, in a few words.
        score: What the answer was made of by the rule of a distilled model, with its interval; empty of any other.
    """

    slide_name: str
    slide_size: Size
    mpp: float | None
    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    prediction: str | None
    model_name: str
    intended_use: str | None
    location_count: int
    fraction_read: float
    seconds: float
    reasons: tuple[str, ...] = ()
    calibration: str = ""
    score: str = ""


def header(subject: OverlaySubject, width_px: int) -> Image.Image:
    """Name the slide, the call with every class's probability, the model, its intended use and what was read.

    Where the answer does not count, that stands first.
    """
    lines = [_title(subject, width_px)]
    if subject.reasons:
        lines.append(_notice(no_answer(subject.reasons), width_px, LABEL_PX))
    if subject.prediction is not None:
        lines.append(_classes(subject, width_px))
    lines.append(_facts(subject, width_px))
    if subject.intended_use:
        lines.append(_notice(subject.intended_use, width_px))
    return stack(lines, width_px, 12)


def no_answer(reasons: Sequence[str]) -> str:
    """Say that there is no answer that counts, and why, in full sentences."""
    return " ".join(["No answer that counts.", *(f"{reason[:1].upper()}{reason[1:]}." for reason in reasons)])


def _title(subject: OverlaySubject, width_px: int) -> Image.Image:
    page = blank(width_px, line_height(TITLE_PX))
    draw = ImageDraw.Draw(page)
    model = shorten(f"Model: {subject.model_name}", TEXT_PX, width_px // 3)
    model_left = width_px - text_width(model, TEXT_PX)
    write(draw, (0, 0), shorten(subject.slide_name, TITLE_PX, model_left - 2 * GAP_PX), TITLE_PX, INK)
    write(draw, (model_left, TITLE_PX - TEXT_PX - 2), model, TEXT_PX, FAINT_INK)
    return page


def _classes(subject: OverlaySubject, width_px: int) -> Image.Image:
    """List every class with its probability as number and bar, the most probable first, in as many rows as needed."""
    ranked = sorted(
        zip(subject.class_names, subject.probabilities, strict=True),
        key=lambda entry: (entry[0] != subject.prediction, -entry[1]),
    )
    size_px = LABEL_PX if len(ranked) <= FEW_CLASSES else TEXT_PX
    bar_px, row_px = 90, line_height(size_px) + 4
    texts = [shorten(f"{name}  {percent(p)}", size_px, width_px - bar_px - 10) for name, p in ranked]
    places = _flow([bar_px + 10 + text_width(text, size_px) for text in texts], width_px, row_px)
    page = blank(width_px, places[-1][1] + row_px if places else 1)
    draw = ImageDraw.Draw(page)
    for (name, p), text, (x, y) in zip(ranked, texts, places, strict=True):
        called = name == subject.prediction and not subject.reasons
        middle = y + size_px // 2 + 2
        draw.rectangle((x, middle - 6, x + bar_px - 1, middle + 6), outline=RULE)
        full_px = round(bar_px * min(max(p, 0.0), 1.0)) if math.isfinite(p) else 0
        if full_px:
            draw.rectangle((x, middle - 6, x + full_px - 1, middle + 6), fill=BAR_OF_THE_LABEL if called else BAR)
        write(draw, (x + bar_px + 10, y), text, size_px, INK if called else FAINT_INK)
        if called:  # twice, a pixel apart, makes it bold
            write(draw, (x + bar_px + 11, y), text, size_px, INK)
    return page


def _flow(widths_px: Sequence[int], width_px: int, row_px: int) -> list[tuple[int, int]]:
    """Place items from left to right in as many rows as they need; returns x and y of each."""
    places: list[tuple[int, int]] = []
    left = top = 0
    for item_px in widths_px:
        if left and left + item_px > width_px:
            left, top = 0, top + row_px
        places.append((left, top))
        left += item_px + 2 * GAP_PX
    return places


def _facts(subject: OverlaySubject, width_px: int) -> Image.Image:
    count, size = subject.location_count, subject.slide_size
    scale = "scale unknown" if subject.mpp is None else f"{subject.mpp:.3g} µm/px"
    read = (
        "all of the slide" if subject.fraction_read >= 1 else f"{percent(subject.fraction_read)} of the slide's pixels"
    )
    text = (
        f"Read: {count} location{'' if count == 1 else 's'}, {read}, {subject.seconds:.1f} s. "
        f"Slide: {size.width} x {size.height} px, {scale}."
    )
    if subject.calibration and subject.prediction is not None:
        text += f" Probabilities: {subject.calibration}."
    if subject.score:
        text += f" Score: {subject.score}."
    lines = wrap(text, TEXT_PX, width_px)
    page = blank(width_px, line_height(TEXT_PX) * len(lines))
    _write_lines(ImageDraw.Draw(page), (0, 0), lines, INK)
    return page


def _notice(text: str, width_px: int, size_px: int = TEXT_PX) -> Image.Image:
    """Set a sentence apart: it must not be overlooked."""
    lines = wrap(text, size_px, width_px - 2 * GAP_PX)
    page = Image.new("RGB", (width_px, line_height(size_px) * len(lines) + 14), NOTICE_GROUND)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 5, page.height - 1), fill=NOTICE)
    _write_lines(draw, (GAP_PX, 8), lines, NOTICE, size_px)
    return page


def _write_lines(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], colour: RGB, size_px: int = TEXT_PX
) -> None:
    for i, line in enumerate(lines):
        write(draw, (at[0], at[1] + i * line_height(size_px)), line, size_px, colour)


def processing_level_words(members: Sequence[AttendedRegion], field: str = "") -> str:
    """Describe the regions of one processing level, at least one: number, scale, field where given, and count."""
    first, count = members[0], len(members)
    kind = "location" if first.is_location else "root"
    scale = "" if first.mpp is None else f"{resolution(first.mpp)}, "
    return f"Processing level {first.processing_level}: {scale}{field}{count} {kind}{'' if count == 1 else 's'}"


def legend_entries(
    regions: Sequence[AttendedRegion], slide_mpp: float | None, *, is_outlined: bool = False
) -> list[tuple[RGB, str]]:
    """Return colour and words of each processing level that was looked at, coarsest first.

    Args:
        slide_mpp: Micrometres per level-0 pixel, or None when unknown.
        is_outlined: Whether the user said where to look.
    """
    entries = [(ASKED_FOR, "Where to look, as given")] if is_outlined else []
    for processing_level in sorted({region.processing_level for region in regions}):
        members = [region for region in regions if region.processing_level == processing_level]
        width_px = Counter(member.region.width for member in members).most_common(1)[0][0]
        field = f"{width_px} px" if slide_mpp is None else length(width_px * slide_mpp)
        entries.append((processing_level_colour(processing_level), processing_level_words(members, f"field {field}, ")))
    return entries


def legend(entries: Sequence[tuple[RGB, str]], width_px: int) -> Image.Image:
    """Explain the boxes: colours, resolutions, field widths, and what a bold outline means."""
    row_px, swatch_px = line_height(SMALL_PX) + 6, 28
    closing = shorten("Bolder outline: greater weight. Numbers: the patches shown.", SMALL_PX, width_px)
    texts = [*(shorten(words, SMALL_PX, width_px - swatch_px) for _, words in entries), closing]
    indents = [swatch_px] * len(entries) + [0]
    widths = [indent + text_width(text, SMALL_PX) for indent, text in zip(indents, texts, strict=True)]
    places = _flow(widths, width_px, row_px)
    page = blank(width_px, places[-1][1] + row_px)
    draw = ImageDraw.Draw(page)
    for (colour, _), (x, y) in zip(entries, places, strict=False):
        draw.rectangle((x, y + 1, x + 17, y + 17), outline=colour, width=4)
    for text, indent, (x, y) in zip(texts, indents, places, strict=True):
        write(draw, (x + indent, y), text, SMALL_PX, INK if indent else FAINT_INK)
    return page


def patch_grid(shown: Sequence[OverlayPatch], subject: OverlaySubject, width_px: int) -> Image.Image:
    """Show patches in the order given, each with its rank, weight, own class probability and resolution."""
    title_px = line_height(LABEL_PX) + 8
    columns = max(1, (width_px + GAP_PX) // (PATCH_MIN_PX + GAP_PX))
    side_px = min((width_px - (columns - 1) * GAP_PX) // columns, width_px)
    caption_px = 3 * line_height(SMALL_PX) + 6
    rows = -(-len(shown) // columns)
    page = blank(width_px, title_px + rows * (side_px + caption_px) + (rows - 1) * GAP_PX)
    draw = ImageDraw.Draw(page)
    write(draw, (0, 0), "The patches that weighed most", LABEL_PX, INK)
    for i, patch in enumerate(shown):
        x = (i % columns) * (side_px + GAP_PX)
        y = title_px + (i // columns) * (side_px + caption_px + GAP_PX)
        page.paste(_patch(patch, i + 1, subject, side_px, caption_px), (x, y))
    return page


def _patch(patch: OverlayPatch, rank: int, subject: OverlaySubject, side_px: int, caption_px: int) -> Image.Image:
    page = blank(side_px, side_px + caption_px)
    draw = ImageDraw.Draw(page)
    colour = processing_level_colour(patch.attended.processing_level)
    border = 4
    draw.rectangle((0, 0, side_px - 1, side_px - 1), fill=RULE, outline=colour, width=border)
    height, width = patch.pixels.shape[:2]
    room = side_px - 2 * border
    scale = room / max(height, width)
    size = Size(max(1, round(width * scale)), max(1, round(height * scale)))
    if scale <= 1:
        image = resample(patch.pixels, size)
    else:
        image = Image.fromarray(np.ascontiguousarray(patch.pixels)).resize((size.width, size.height))
    page.paste(image, ((side_px - size.width) // 2, (side_px - size.height) // 2))
    badge_px = text_width(str(rank), SMALL_PX) + 12
    top = side_px + 6
    draw.rectangle((0, top - 1, badge_px - 1, top + SMALL_PX + 3), fill=colour)
    write(draw, (6, top), str(rank), SMALL_PX, PAGE)
    write(draw, (badge_px + 8, top), f"weight {percent(patch.attended.weight)}", SMALL_PX, INK)
    step = line_height(SMALL_PX)
    call = _own_call(patch.attended, subject, side_px)
    write(draw, (0, top + step), call, SMALL_PX, INK)
    mpp = patch.attended.mpp
    seen = f"{patch.attended.region.width} px wide" if mpp is None else resolution(mpp)
    where = shorten(f"{seen}, processing level {patch.attended.processing_level}", SMALL_PX, side_px)
    write(draw, (0, top + (2 if call else 1) * step), where, SMALL_PX, FAINT_INK)
    return page


def _own_call(region: AttendedRegion, subject: OverlaySubject, width_px: int) -> str:
    """Say what the patch by itself says of the slide's label, so that patches for and against it are told apart.

    Nothing where the slide has no answer.
    """
    if subject.prediction is None:
        return ""
    by_name = dict(zip(subject.class_names, region.class_probabilities, strict=True))
    name = subject.prediction if subject.prediction in by_name else max(by_name, key=lambda key: by_name[key])
    number = percent(by_name[name])
    return f"{shorten(name, SMALL_PX, width_px - text_width(number, SMALL_PX) - 10)} {number}"
