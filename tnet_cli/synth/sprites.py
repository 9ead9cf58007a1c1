"""Small pictures that are stamped into the tissue: nuclei and whole glands, as stain concentrations.

A concentration is a uint8; ``FULL`` of them are the optical density that the slide's look gives a stain.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FULL = 160
"""Concentration at which a stain has its full optical density."""

VARIANTS = 64

CHROMATIN = 32
"""Spread of the concentration inside a nucleus without rim and nucleolus."""


@dataclass(frozen=True, slots=True)
class Gland:
    """A gland seen across, as concentrations.

    Attributes:
        haematoxylin, eosin: uint8 (S, S).
        solid: bool (S, S); where the gland replaces the stroma.
    """

    haematoxylin: np.ndarray
    eosin: np.ndarray
    solid: np.ndarray


def _polar(side: int) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(side) - (side - 1) / 2
    x, y = np.meshgrid(axis, axis)
    return np.hypot(x, y), np.arctan2(y, x)


def _outline(angle: np.ndarray, roughness: float, rng: np.random.Generator) -> np.ndarray:
    radius = np.ones_like(angle)
    for wave in range(2, 6):
        amplitude = rng.normal(0, roughness / wave)
        radius = radius + amplitude * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return radius


def small_nuclei(mpp: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Return benign nuclei: 5.6 to 7.2 um, round, without rim or nucleolus; uint8 (S, S) of haematoxylin."""
    bank = []
    for _ in range(VARIANTS):
        long_px = rng.uniform(5.6, 7.2) / mpp
        bank.append(_even_nucleus(long_px, long_px / rng.uniform(1.0, 1.3), rng.uniform(105, 145), rng))
    return bank


def nuclear_clumps(nuclei: list[np.ndarray], mpp: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Return clumps of three to seven benign nuclei, each as large as one nucleus of a lesion; uint8 (S, S)."""
    side = 2 * math.ceil(12 / mpp)
    bank = []
    for _ in range(VARIANTS):
        clump = np.zeros((side, side), np.uint8)
        centres: list[np.ndarray] = []
        wanted = int(rng.integers(3, 8))
        for _ in range(60):
            angle, away = rng.uniform(0, 2 * np.pi), 5.8 * math.sqrt(rng.random())
            centre = np.array([away * np.cos(angle), away * np.sin(angle)])
            if len(centres) < wanted and all(np.hypot(*(centre - other)) > 4.6 for other in centres):
                centres.append(centre)
        for x_um, y_um in centres:
            nucleus = nuclei[int(rng.integers(len(nuclei)))]
            stamp_max(clump, nucleus, round(side / 2 + x_um / mpp), round(side / 2 + y_um / mpp))
        bank.append(clump)
    return bank


def spindle_nuclei(mpp: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Return nuclei of fibroblasts: thin and long, in all directions; uint8 (S, S)."""
    return [
        _even_nucleus(rng.uniform(11, 17) / mpp, rng.uniform(2.6, 4.0) / mpp, rng.uniform(100, 135), rng)
        for _ in range(VARIANTS)
    ]


def _even_nucleus(long_px: float, short_px: float, dark: float, rng: np.random.Generator) -> np.ndarray:
    side = int(np.ceil(long_px)) + 4
    distance, angle = _polar(side)
    turned = angle - rng.uniform(0, np.pi)
    edge = 0.5 * long_px * short_px / np.hypot(short_px * np.cos(turned), long_px * np.sin(turned))
    inside = np.clip(edge - distance + 0.5, 0, 1)
    chromatin = ndimage.gaussian_filter(rng.standard_normal((side, side)), 0.9)
    chromatin *= CHROMATIN / chromatin.std()
    return np.asarray(np.clip(inside * (dark + chromatin), 0, 255), dtype=np.uint8)


def large_nuclei(mpp: float, rng: np.random.Generator, scale: float = 1.0) -> list[np.ndarray]:
    """Return a lesion's nuclei: 11 to 15 um, irregular, pale inside with a dark rim and nucleolus; uint8 (S, S).

    One in twenty-four is in mitosis: a dark ragged plate without a rim.

    Args:
        scale: Of their diameter.
    """
    bank = []
    for number in range(VARIANTS):
        radius = scale * rng.uniform(5.6, 7.6) / mpp
        side = int(np.ceil(2.5 * radius)) + 4
        distance, angle = _polar(side)
        if number % 24 == 0:
            bank.append(_mitosis(distance, angle, radius, rng))
            continue
        depth = (
            radius * _outline(angle, 0.26, rng) * (1 + 0.16 * np.cos(2 * (angle - rng.uniform(0, np.pi)))) - distance
        )
        inside = np.clip(depth + 0.5, 0, 1)
        rim = np.exp(-(((depth - 0.6 / mpp) / (0.75 / mpp)) ** 2))
        clumps = ndimage.gaussian_filter(rng.standard_normal((side, side)), 0.9 / mpp)
        clumps *= 20 / max(clumps.std(), 1e-6)
        body = rng.uniform(50, 106) + 105 * rim + clumps
        for _ in range(int(rng.integers(1, 3))):
            body = np.maximum(body, _nucleolus(side, radius, mpp, rng))
        bank.append(np.clip(inside * body, 0, 255).astype(np.uint8))
    return bank


def _nucleolus(side: int, radius: float, mpp: float, rng: np.random.Generator) -> np.ndarray:
    axis = np.arange(side) - (side - 1) / 2
    cx, cy = rng.uniform(-0.4, 0.4, 2) * radius
    away = np.hypot(axis[None, :] - cx, axis[:, None] - cy)
    # Its concentrations are spread, because calibration would make a single one stand out of the histogram.
    dark = rng.normal(225, 12, away.shape)
    return np.asarray(dark * np.clip(rng.uniform(1.2, 1.7) / mpp - away + 0.5, 0, 1))


def _mitosis(distance: np.ndarray, angle: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    turned = angle - rng.uniform(0, np.pi)
    across, along = np.abs(distance * np.sin(turned)), np.abs(distance * np.cos(turned))
    ragged = ndimage.gaussian_filter(rng.standard_normal(distance.shape), 1.6) * 9
    plate = np.clip(0.34 * radius + ragged - across, 0, 1) * np.clip(0.85 * radius + ragged - along, 0, 1)
    return np.asarray(np.clip(rng.normal(220, 12, plate.shape), 0, 255) * plate, dtype=np.uint8)


def gland_bank(mpp: float, nuclei: list[np.ndarray], rng: np.random.Generator) -> list[Gland]:
    """Return fourteen glands of 80 to 150 um: a ring of tall cells with nuclei at the base around a lumen."""
    return [_gland(mpp, nuclei, rng) for _ in range(14)]


def _gland(mpp: float, nuclei: list[np.ndarray], rng: np.random.Generator) -> Gland:
    outer = rng.uniform(40, 75) / mpp
    wall = min(rng.uniform(20, 27) / mpp, 0.75 * outer)
    side = int(np.ceil(2.6 * outer)) + 4
    distance, angle = _polar(side)
    stretched = distance * (1 + 0.14 * np.cos(2 * (angle - rng.uniform(0, np.pi))))
    depth = outer * _outline(angle, 0.10, rng) - stretched  # distance inside the gland's edge
    solid = depth > -0.5
    grain = ndimage.gaussian_filter(rng.standard_normal((side, side)), 1.5 / mpp)
    grain /= max(grain.std(), 1e-6)
    cell = np.clip((wall - depth) / (1.5 / mpp), 0, 1)  # one in the wall, zero in the lumen
    mucin = np.exp(-(((depth - 0.62 * wall) / (0.22 * wall)) ** 2))
    eosin = cell * (72 + 7 * grain - 38 * mucin) + (1 - cell) * 8
    haematoxylin = cell * (26 + 4 * grain - 12 * mucin)
    membrane = np.exp(-((depth / (0.8 / mpp)) ** 2))
    eosin = np.where(solid, eosin + 60 * membrane, 0)
    gland = Gland(
        haematoxylin=np.clip(np.where(solid, haematoxylin, 0), 0, 255).astype(np.uint8),
        eosin=np.clip(eosin, 0, 255).astype(np.uint8),
        solid=solid,
    )
    # Nuclei stand side by side at the base of the cells.
    base = np.argwhere(np.abs(depth - 6.5 / mpp) <= 1.5 / mpp)
    base_angle = angle[tuple(base.T)]
    for theta in np.arange(0, 2 * np.pi, 6.6 / mpp / outer):
        row, column = base[np.argmin(np.abs(base_angle - np.arctan2(np.sin(theta), np.cos(theta))))]
        dx, dy = rng.normal(0, 0.8 / mpp, 2)
        stamp_max(gland.haematoxylin, nuclei[int(rng.integers(len(nuclei)))], int(column + dx), int(row + dy))
    return gland


def stamp_max(target: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Lay a sprite, uint8 (h, w), over a map, uint8 (H, W), where it is darker, in place.

    It is centred at column x and row y; parts outside are cut off.
    """
    height, width = sprite.shape
    left, top = x - width // 2, y - height // 2
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, target.shape[1]), min(top + height, target.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    view = target[y0:y1, x0:x1]
    np.maximum(view, sprite[y0 - top : y1 - top, x0 - left : x1 - left], out=view)
