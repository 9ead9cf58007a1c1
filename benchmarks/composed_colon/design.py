"""What is on one composed slide: pieces of tissue and foci of tumour, decided before a pixel is laid."""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.composed_colon.tiles import CLASS_NAMES
from tnet_cli.geometry import Size
from tnet_cli.synth.design import tissue_depth
from tnet_cli.synth.outline import Outline

MPP = 0.8
"""Of the tiles. Their source states none; lymphocytes of 7 um and crypts of 80 um in them give about this."""

MAP_UM = 16.0
SHARES = {"easy": (0.01, 0.05), "hard": (0.001, 0.01), "training": (0.003, 0.08)}
"""Tumour over tissue on positive slides."""

MOST_FOCI = 4
LEAST_RADIUS_UM = 110.0
"""A focus any smaller would be less than one and a half tiles across."""

WAVES = np.array([0.12, 0.08, 0.05, 0.04])[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class ComposedDesign:
    """Everything that is on one slide but the tiles.

    Attributes:
        seed: Names the slide.
        size: Level-0 pixels.
        label: ``benign`` or ``adenocarcinoma``.
        difficulty: Key of ``SHARES``; of positive slides.
        depth_um: float32 map, ``MAP_UM`` a pixel; distance inside the tissue's edge, negative on glass.
        foci: Of tumour.
        tumour_share: Area of the foci that lies on tissue, over the tissue's.
    """

    seed: int
    size: Size
    label: str
    difficulty: str
    depth_um: np.ndarray
    foci: tuple[Outline, ...]
    tumour_share: float


def design_composed(seed: int, side_px: int, label: str, difficulty: str) -> ComposedDesign:
    """Decide what is on a slide.

    Args:
        seed: Names the slide; everything follows from it and the other arguments.
        side_px: Side of the square slide in level-0 pixels.
        label: ``benign`` or ``adenocarcinoma``.
        difficulty: Key of ``SHARES``.

    Raises:
        ValueError: the label is unknown.
    """
    if label not in CLASS_NAMES:
        raise ValueError(f"label {label!r}: expected one of {', '.join(CLASS_NAMES)}")
    rng = np.random.default_rng([seed, 1499])
    depth_um = tissue_depth(math.ceil(side_px * MPP / MAP_UM), MAP_UM, rng)
    foci: tuple[Outline, ...] = ()
    if label == CLASS_NAMES[1]:
        foci = _place_foci(depth_um, SHARES[difficulty], rng)
    return ComposedDesign(
        seed=seed,
        size=Size(side_px, side_px),
        label=label,
        difficulty=difficulty,
        depth_um=depth_um,
        foci=foci,
        tumour_share=_tumour_share(depth_um, foci),
    )


def _place_foci(depth_um: np.ndarray, share: tuple[float, float], rng: np.random.Generator) -> tuple[Outline, ...]:
    """Place one to four foci whose areas add up to a share of the tissue, log-uniform within its bounds."""
    wanted = math.exp(rng.uniform(*np.log(share))) * float((depth_um > 0).sum()) * MAP_UM**2
    most = max(1, min(MOST_FOCI, int(wanted / (math.pi * LEAST_RADIUS_UM**2))))
    parts = rng.dirichlet(np.full(int(rng.integers(1, most + 1)), 4.0))
    placed: list[Outline] = []
    for part in sorted(parts, reverse=True):
        # A small slide with little tumour has one focus that is larger than its share.
        radius = max(LEAST_RADIUS_UM, math.sqrt(wanted * part / math.pi))
        for _ in range(200):
            focus = _draw_focus(depth_um, radius, rng)
            if all(_are_apart(focus, other) for other in placed):
                placed.append(focus)
                break
    return tuple(placed)


def _draw_focus(depth_um: np.ndarray, radius_um: float, rng: np.random.Generator) -> Outline:
    rows, columns = np.nonzero(depth_um >= min(0.8 * radius_um, 0.9 * float(depth_um.max())))
    pick = int(rng.integers(len(rows)))
    x, y = (columns[pick] + rng.random()) * MAP_UM, (rows[pick] + rng.random()) * MAP_UM
    return Outline(x, y, radius_um, rng.normal(0, 1, (4, 2)) * WAVES)


def _are_apart(one: Outline, other: Outline) -> bool:
    return math.hypot(one.x_um - other.x_um, one.y_um - other.y_um) > one.reach_um + other.reach_um + 200


def _tumour_share(depth_um: np.ndarray, foci: tuple[Outline, ...]) -> float:
    tissue = depth_um > 0
    centres = (np.arange(len(depth_um)) + 0.5) * MAP_UM
    inside = np.zeros(tissue.shape, bool)
    for focus in foci:
        inside |= focus.share(centres, centres, MAP_UM) > 0.5
    return float((inside & tissue).sum() / max(1, tissue.sum()))
