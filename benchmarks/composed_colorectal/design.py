"""What is on one composed slide: pieces of tissue and foci, decided before a pixel is laid."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from benchmarks.composed_colorectal.tiles import CLASS_NAMES, Collection
from tnet_cli.geometry import Size
from tnet_cli.synth.design import smooth_noise
from tnet_cli.synth.outline import Outline

SCALE_SPREAD = 0.25
"""A collection's scale is only estimated: that of a slide's tiles may be so much larger or smaller."""

SHARES = {
    "easy": (0.01, 0.05),
    "hard": (0.001, 0.01),
    "training": (0.003, 0.08),
    "crowded": (0.05, 0.2),
    "field": (0.25, 0.9),
}
"""Area of the foci over that of the tissue, by difficulty."""

WHOLE_FIELD = 0.6
"""Share of fields that are of one class from edge to edge."""

MOST_FOCI = 4
MOST_CROWDED = 20
"""Foci on a slide that teaches where to look: each region beside one teaches it."""

LEAST_RADIUS_UM = 110.0
WAVES = np.array([0.12, 0.08, 0.05, 0.04])[:, None]
MOST_FIELD_PX = 3600
INSIDE_UM = 1e4
"""Depth of tissue that goes on beyond a field."""


@dataclass(frozen=True, slots=True, eq=False)
class Focus:
    """A focus, whole or not.

    Attributes:
        outline: Where it is.
        label: Its class; ``non_neoplastic`` is a pseudo-focus: tissue of another origin, laid like a focus.
    """

    outline: Outline
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class ComposedDesign:
    """Everything that is on one slide but the tiles.

    Attributes:
        kind: ``slide``, ``biopsy``, ``core`` or ``field``.
        size: Level-0 pixels.
        mpp: Micrometres per level-0 pixel.
        tile_mpp: Of the tiles as they are laid.
        depth_um: float32 map, ``map_um`` a pixel; distance inside the tissue's edge, negative on glass.
        foci: Those of the slide's class, and pseudo-foci.
        whole: Whether the tissue is a focus from edge to edge.
        focus_share: Area of the foci of the slide's class on tissue, over the tissue's.
    """

    seed: int
    collection: Collection
    kind: str
    label: str
    size: Size
    mpp: float
    tile_mpp: float
    depth_um: np.ndarray
    map_um: float
    foci: tuple[Focus, ...]
    whole: bool
    focus_share: float


def design_composed(
    seed: int, collection: Collection, kind: str, label: str, difficulty: str, *, sides_mm: tuple[float, float]
) -> ComposedDesign:
    """Decide what is on a slide; everything follows from the arguments.

    Args:
        seed: Names the slide.
        label: Of ``tiles.CLASS_NAMES``, or another of the collection's for a whole field.
        difficulty: Key of ``SHARES``.
        sides_mm: Range of the longer side of a slide.
    """
    rng = np.random.default_rng([seed, 1768])
    tile_mpp = collection.mpp * math.exp(rng.uniform(-1, 1) * math.log(1 + SCALE_SPREAD))
    width_um, height_um, mpp = _glass(kind, sides_mm, rng)
    map_um = min(16.0, width_um / 120)
    shape = math.ceil(height_um / map_um), math.ceil(width_um / map_um)
    depth_um, anchors = _tissue(kind, shape, map_um, rng)
    foci: list[Focus] = []
    whole = kind == "field" and rng.random() < WHOLE_FIELD
    share, most = SHARES["field" if kind == "field" else difficulty], MOST_FOCI
    if difficulty == "crowded":
        most = MOST_CROWDED
    if not whole:
        outlines = _place_foci(depth_um, map_um, share, most, anchors, rng)
        foci += [Focus(outline, label) for outline in outlines]
        if label != CLASS_NAMES[0] and (difficulty == "crowded" or rng.random() < 0.5):
            # On some positives too, so that a change of patient tells nothing.
            beside = _place_foci(depth_um, map_um, SHARES["training"] if most == MOST_FOCI else share, most, (), rng)
            foci += [
                Focus(each, CLASS_NAMES[0]) for each in beside if all(_are_apart(each, other) for other in outlines)
            ]
    return ComposedDesign(
        seed=seed,
        collection=collection,
        kind=kind,
        label=label,
        size=Size(round(width_um / mpp), round(height_um / mpp)),
        mpp=mpp,
        tile_mpp=tile_mpp,
        depth_um=depth_um,
        map_um=map_um,
        foci=tuple(foci),
        whole=whole,
        focus_share=1.0 if whole else _share(depth_um, map_um, [f.outline for f in foci if f.label == label]),
    )


def _glass(kind: str, sides_mm: tuple[float, float], rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw width and height of the glass in micrometres, and the scale of the scan."""
    if kind == "field":
        side = 300 * 10 ** rng.uniform(0, 1)
        least = max(0.25, side / MOST_FIELD_PX)
        return side, side * rng.uniform(0.6, 1.0), math.exp(rng.uniform(math.log(least), 0.0))
    mpp = rng.uniform(0.45, 0.9)
    if kind == "core":
        side = rng.uniform(900, 2600)
        return side, side, mpp
    if kind == "biopsy":
        return rng.uniform(2500, 9000), rng.uniform(2500, 6000), mpp
    width = 1000 * math.exp(rng.uniform(*np.log(sides_mm)))
    return width, min(25_000.0, width * rng.uniform(0.5, 0.9)), mpp


def _tissue(
    kind: str, shape: tuple[int, int], map_um: float, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[tuple[float, float], ...]]:
    """Lay out tissue.

    Returns:
        The depth map, and how far each serial section lies from the first, in micrometres; nothing where there are
        none.
    """
    if kind == "field" and rng.random() < 0.7:
        return np.full(shape, INSIDE_UM, np.float32), ()
    rows, columns = shape
    waves = [smooth_noise(max(shape), max(shape) / count, rng)[:rows, :columns] for count in (7, 20)]
    height, sections_px = _pieces(kind, shape, map_um, rng)
    if sections_px:
        # Sections of one block have one outline.
        waves = [np.tile(wave[:, : sections_px[1]], (1, len(sections_px) + 1))[:, :columns] for wave in waves]
    for wave, share in zip(waves, ROUGHNESS[kind], strict=True):
        height = height + share * wave
    tissue = height > 0
    if kind != "field":
        tissue[[0, -1], :] = tissue[:, [0, -1]] = False
        tissue = ndimage.binary_opening(tissue, iterations=2)
    if not tissue.any():
        return _tissue(kind, shape, map_um, rng)
    inside = ndimage.distance_transform_edt(tissue) - ndimage.distance_transform_edt(~tissue)
    return np.asarray(inside * map_um, dtype=np.float32), tuple((left * map_um, 0.0) for left in sections_px)


ROUGHNESS = {"field": (0.05, 0.02), "core": (0.012, 0.01), "biopsy": (0.18, 0.1), "slide": (0.2, 0.07)}
"""How far the outline of tissue wanders, in waves of a seventh and of a twentieth of the glass."""


def _pieces(
    kind: str, shape: tuple[int, int], map_um: float, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a map that is above zero on tissue, and the left edges of serial sections, map pixels."""
    rows, columns = shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    if kind == "field":
        angle = rng.uniform(0, 2 * np.pi)
        across = (x / columns - 0.5) * np.cos(angle) + (y / rows - 0.5) * np.sin(angle)
        return across + rng.uniform(0.0, 0.3), ()
    if kind == "core":
        return 0.42 - np.hypot(x / columns - 0.5, y / rows - 0.5), ()
    height = np.full(shape, -1.0, np.float32)
    if kind == "biopsy":
        for _ in range(int(rng.integers(1, 6))):
            # What forceps take: 1 to 4.5 mm long, 0.6 to 1.5 mm wide.
            length, width = rng.uniform(1000, 4500) / map_um / 2, rng.uniform(600, 1500) / map_um / 2
            centre = rng.uniform(0.2, 0.8) * columns, rng.uniform(0.2, 0.8) * rows
            np.maximum(height, _ellipse(x, y, centre, length, width, rng.uniform(0, np.pi)), out=height)
        return height, ()
    pieces, serial = int(rng.integers(1, 5)), rng.random() < 0.4
    step = columns // pieces
    reach = 0.46 * min(step, rows)
    form = rng.uniform(0.7, 1.0), rng.uniform(0.45, 0.8), rng.uniform(0, np.pi)
    for number in range(pieces):
        long, thick, angle = form if serial else (rng.uniform(0.6, 1), rng.uniform(0.4, 0.8), rng.uniform(0, np.pi))
        centre = (number + 0.5) * step, rows / 2
        np.maximum(height, _ellipse(x, y, centre, long * reach, thick * reach, angle), out=height)
    return height, tuple(number * step for number in range(pieces)) if serial and pieces > 1 else ()


def _ellipse(
    x: np.ndarray, y: np.ndarray, centre: tuple[float, float], length: float, width: float, angle: float
) -> np.ndarray:
    along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    across = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    return np.asarray(1 - np.hypot(along / length, across / width), np.float32)


def _place_foci(
    depth_um: np.ndarray,
    map_um: float,
    share: tuple[float, float],
    most: int,
    anchors: tuple[tuple[float, float], ...],
    rng: np.random.Generator,
) -> list[Outline]:
    """Place foci, at most so many, whose areas add up to a share of the tissue, log-uniform within its bounds.

    Of serial sections each has the same foci.
    """
    copies = anchors or ((0.0, 0.0),)
    wanted = math.exp(rng.uniform(*np.log(share))) * float((depth_um > 0).sum()) * map_um**2 / len(copies)
    room = max(1, min(most, int(wanted / (math.pi * LEAST_RADIUS_UM**2))))
    count = int(rng.integers(1 if most == MOST_FOCI else (room + 1) // 2, room + 1))
    parts = rng.dirichlet(np.full(count, 4.0))
    placed: list[Outline] = []
    for part in sorted(parts, reverse=True):
        # Where there is little tissue one focus is larger than its share.
        radius = max(LEAST_RADIUS_UM, math.sqrt(wanted * part / math.pi))
        for _ in range(100):
            focus = _draw_focus(depth_um, map_um, radius, rng)
            step_um = copies[1][0] if len(copies) > 1 else math.inf
            first_um = focus.x_um % step_um
            again = [Outline(first_um + dx, focus.y_um + dy, radius, focus.harmonics) for dx, dy in copies]
            if all(_are_apart(one, other) for one in again for other in placed):
                placed += again
                break
    return placed


def _draw_focus(depth_um: np.ndarray, map_um: float, radius_um: float, rng: np.random.Generator) -> Outline:
    rows, columns = np.nonzero(depth_um >= min(0.8 * radius_um, 0.9 * float(depth_um.max())))
    pick = int(rng.integers(len(rows)))
    x, y = (columns[pick] + rng.random()) * map_um, (rows[pick] + rng.random()) * map_um
    return Outline(x, y, radius_um, rng.normal(0, 1, (4, 2)) * WAVES)


def _are_apart(one: Outline, other: Outline) -> bool:
    return math.hypot(one.x_um - other.x_um, one.y_um - other.y_um) > one.reach_um + other.reach_um + 200


def _share(depth_um: np.ndarray, map_um: float, outlines: list[Outline]) -> float:
    tissue = depth_um > 0
    rows, columns = ((np.arange(count) + 0.5) * map_um for count in depth_um.shape)
    inside = np.zeros(tissue.shape, bool)
    for outline in outlines:
        inside |= outline.share(columns, rows, map_um) > 0.5
    return float((inside & tissue).sum() / max(1, tissue.sum()))
