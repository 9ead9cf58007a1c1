"""What is on one synthetic slide: pieces of tissue, foci and stain, all decided before a pixel is drawn.

A design is cheap (fractions of a second for most sizes) and a pure function of seed, size, scale and label. Lengths
are in micrometres and maps are rasters of 16 um a pixel or more, so that the same design can be drawn at any scale.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from tnet_cli.geometry import Size
from tnet_cli.synth.outline import Outline

CLASS_NAMES = ("benign", "lesion")

FINEST_MAP_UM = 16.0
"""Side of a pixel of the design's maps, unless the slide is so large that they would not stay small."""

LARGEST_MAP_PX = 2500
"""Maps with more pixels a side get coarser ones: 40 mm, or 80 000 px at 0.5 um a pixel, are the limit of the finest."""

LEAST_SIDE_UM = 400.0
"""A slide any smaller has no place for a focus whose kind of nuclei can be told."""

TISSUE_SHARE = (0.22, 0.28)
FOCI = (4, 8)
FOCUS_RADIUS_UM = (180.0, 280.0)
FOCUS_MARGIN_UM = 90.0

Arrangement = Literal["sheet", "acini"]
Nuclei = Literal["small", "large"]


@dataclass(frozen=True, slots=True)
class Focus(Outline):
    """One cellular focus, dark at low power whatever it is made of.

    Attributes:
        arrangement: Nuclei in an even sheet, as in lymphoid tissue, or in rings, as in crowded glands.
        nuclei: Small and even (benign) or large with a nucleolus (lesion).
    """

    arrangement: Arrangement
    nuclei: Nuclei

    @property
    def is_lesion(self) -> bool:
        """Whether the focus is what the label is about."""
        return self.nuclei == "large"


@dataclass(frozen=True, slots=True)
class Appearance:
    """Stain and scanner of one slide.

    Attributes:
        haematoxylin, eosin: Optical density of a full concentration in R, G, B, float64 (3,).
        glass: Colour of empty glass, R, G, B in 0..255.
        gamma: Of the scanner's response.
        noise: Amplitude of the grain, in concentration steps of 1 / 255.
    """

    haematoxylin: np.ndarray
    eosin: np.ndarray
    glass: tuple[int, int, int]
    gamma: float
    noise: float


@dataclass(frozen=True, slots=True)
class SlideDesign:
    """Everything that is on one slide.

    Attributes:
        size: Level-0 pixels.
        depth_um: float32 map; distance inside the tissue's edge, negative on glass.
        thickness: float32 map; relative thickness of the section, high in folds.
        mucosa: float32 map; above zero where glands stand.
        map_um: Side of a pixel of the three maps.
    """

    seed: int
    size: Size
    mpp: float
    label: str
    appearance: Appearance
    depth_um: np.ndarray
    thickness: np.ndarray
    mucosa: np.ndarray
    map_um: float
    foci: tuple[Focus, ...]

    @property
    def lesions(self) -> tuple[Focus, ...]:
        """The foci that are lesions."""
        return tuple(focus for focus in self.foci if focus.is_lesion)

    def is_glass(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether a window, in level-0 pixels, holds nothing but glass."""
        return is_glass(self.depth_um, self.map_um, self.mpp, x, y, width, height)


def design_slide(seed: int, side_px: int, *, mpp: float = 0.5, label: str | None = None) -> SlideDesign:
    """Decide everything that is on a square slide; all follows from the seed.

    Args:
        side_px: Level-0 pixels.
        label: ``benign`` or ``lesion``; drawn from the seed when None.

    Returns:
        The design; one with a lesion holds at least one, and one without holds as many foci.

    Raises:
        ValueError: the label is unknown, or the slide is too small to hold a focus.
    """
    rng = np.random.default_rng([seed, 20211206])
    drawn = CLASS_NAMES[int(rng.integers(2))]
    label = drawn if label is None else label
    if label not in CLASS_NAMES:
        raise ValueError(f"label {label!r}: expected one of {', '.join(CLASS_NAMES)}")
    side_um = side_px * mpp
    if side_um < LEAST_SIDE_UM:
        least_px = math.ceil(LEAST_SIDE_UM / mpp)
        raise ValueError(f"a slide of {side_px} px is too small for a focus: at {mpp} um a pixel it needs {least_px}")
    map_um = FINEST_MAP_UM
    while side_um / map_um > LARGEST_MAP_PX:
        map_um *= 2
    cells = math.ceil(side_um / map_um)
    depth_um = tissue_depth(cells, map_um, rng)
    mucosa = smooth_noise(cells, 700 / map_um, rng) + 0.15
    appearance = _draw_appearance(rng)
    thickness = _section_thickness(cells, map_um, rng)
    foci = _place_foci(depth_um, map_um, label, rng)
    if not foci:
        raise ValueError(f"seed {seed} found no place for a focus on a slide of {side_px} px: take a larger one")
    return SlideDesign(
        seed=seed,
        size=Size(side_px, side_px),
        mpp=mpp,
        label=label,
        appearance=appearance,
        depth_um=depth_um,
        thickness=thickness,
        mucosa=mucosa.astype(np.float32),
        map_um=map_um,
        foci=foci,
    )


def is_glass(depth_um: np.ndarray, map_um: float, mpp: float, x: int, y: int, width: int, height: int) -> bool:
    """Tell whether a window, in level-0 pixels, is clear of the tissue whose depth a map gives."""
    step = map_um / mpp
    rows = slice(max(0, int(y / step) - 2), int((y + height) / step) + 3)
    columns = slice(max(0, int(x / step) - 2), int((x + width) / step) + 3)
    near = depth_um[rows, columns]
    return near.size == 0 or float(near.max()) < -3 * map_um


def smooth_noise(cells: int, period: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise of unit variance whose features are about ``period`` map pixels wide, (cells, cells)."""
    coarse = max(4, math.ceil(cells / max(1.0, period / 4)) + 4)
    noise = ndimage.gaussian_filter(rng.standard_normal((coarse, coarse)), 2.0, mode="wrap")
    noise /= noise.std()
    zoomed = ndimage.zoom(noise, cells / (coarse - 3), order=1)[:cells, :cells]
    return np.asarray(zoomed)


def tissue_depth(cells: int, map_um: float, rng: np.random.Generator) -> np.ndarray:
    """Lay out one to four pieces of tissue that cover about a quarter of the slide.

    Returns:
        float32 (cells, cells), distance inside the tissue's edge in micrometres, negative on glass.
    """
    axis = (np.arange(cells) + 0.5) / cells
    x, y = axis[None, :], axis[:, None]
    pieces = int(rng.integers(1, 5)) if cells > 200 else 1
    spots = rng.permutation(4)[:pieces]
    height = np.full((cells, cells), -np.inf)
    for spot in spots:
        centre = (
            np.array([0.5, 0.5]) if pieces == 1 else np.array([0.27 + 0.46 * (spot % 2), 0.27 + 0.46 * (spot // 2)])
        )
        cx, cy = centre + rng.uniform(-0.04, 0.04, 2)
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.8)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        scale = (0.30 if pieces == 1 else 0.17) * rng.uniform(0.85, 1.15)
        np.maximum(height, 1 - np.hypot(u / stretch, v * stretch**0.3) / scale, out=height)
    height += 0.16 * smooth_noise(cells, cells / 5, rng)
    height += 0.05 * smooth_noise(cells, cells / 18, rng)
    border = np.minimum(axis, 1 - axis) < 0.02
    height[border, :] = -np.inf
    height[:, border] = -np.inf
    tissue = height > np.quantile(height, 1 - rng.uniform(*TISSUE_SHARE))
    tissue = ndimage.binary_opening(tissue, iterations=2)
    inside = ndimage.distance_transform_edt(tissue)
    inside -= ndimage.distance_transform_edt(~tissue)
    return np.asarray(inside * map_um, dtype=np.float32)


def _section_thickness(cells: int, map_um: float, rng: np.random.Generator) -> np.ndarray:
    """Return the section's relative thickness: slow waves, and a few narrow folds that are twice as dark."""
    thickness = 1 + 0.07 * smooth_noise(cells, 2500 / map_um, rng)
    axis = np.arange(cells, dtype=np.float64)
    x, y = axis[None, :], axis[:, None]
    for _ in range(int(rng.integers(0, 4))):
        cx, cy = rng.uniform(0.2, 0.8, 2) * cells
        angle, length = rng.uniform(0, np.pi), rng.uniform(400, 1500) / map_um
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        bend = rng.uniform(-0.5, 0.5) * along**2 / length
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle) - bend
        # On a coarse map a narrower fold would break up into beads.
        width = max(rng.uniform(15, 35) / map_um, 0.9)
        thickness = thickness + 0.7 * np.exp(-((across / width) ** 2) - (along / length) ** 4)
    return np.asarray(np.clip(thickness, 0.75, 2.2), dtype=np.float32)


def _place_foci(depth_um: np.ndarray, map_um: float, label: str, rng: np.random.Generator) -> tuple[Focus, ...]:
    """Place foci inside the tissue, clear of its edge and of each other, the same number for both labels."""
    wanted = int(rng.integers(FOCI[0], FOCI[1] + 1))
    lesions = int(rng.integers(1, 3))
    placed: list[Focus] = []
    shrink = 1.0
    for _ in range(12):
        for _ in range(60):
            if len(placed) == wanted:
                break
            focus = _draw_focus(depth_um, map_um, shrink, rng)
            if focus is not None and all(_are_apart(focus, other) for other in placed):
                placed.append(focus)
        if len(placed) >= 1:
            break
        # Only a slide too small for a focus of the usual size gets smaller ones.
        shrink *= 0.8
    if label == CLASS_NAMES[0]:
        return tuple(placed)
    return tuple(replace(focus, nuclei="large") for focus in placed[:lesions]) + tuple(placed[lesions:])


def _draw_focus(depth_um: np.ndarray, map_um: float, shrink: float, rng: np.random.Generator) -> Focus | None:
    radius = shrink * rng.uniform(*FOCUS_RADIUS_UM)
    harmonics = rng.normal(0, 1, (4, 2)) * np.array([0.09, 0.06, 0.04, 0.03])[:, None]
    arrangement: Arrangement = "sheet" if rng.random() < 0.5 else "acini"
    rows, columns = np.nonzero(depth_um > radius + shrink * FOCUS_MARGIN_UM)
    if len(rows) == 0:
        return None
    pick = int(rng.integers(len(rows)))
    x, y = (columns[pick] + rng.random()) * map_um, (rows[pick] + rng.random()) * map_um
    return Focus(x, y, radius, harmonics, arrangement, "small")


def _are_apart(one: Focus, other: Focus) -> bool:
    return math.hypot(one.x_um - other.x_um, one.y_um - other.y_um) > one.reach_um + other.reach_um + 60


LABORATORIES = (
    # haematoxylin, eosin (optical density in R, G, B), glass, gamma
    ((1.05, 1.25, 0.62), (0.10, 0.62, 0.32), (243, 243, 244), 1.00),
    ((1.20, 1.15, 0.48), (0.13, 0.52, 0.20), (247, 245, 242), 0.92),
    ((0.90, 1.20, 0.75), (0.06, 0.66, 0.46), (238, 236, 242), 1.08),
)
"""Three laboratories: balanced, blue, and pink."""


def _draw_appearance(rng: np.random.Generator) -> Appearance:
    haematoxylin, eosin, glass, gamma = LABORATORIES[int(rng.integers(len(LABORATORIES)))]
    return Appearance(
        haematoxylin=np.array(haematoxylin) * rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3),
        eosin=np.array(eosin) * rng.uniform(0.8, 1.2) * rng.uniform(0.93, 1.07, 3),
        glass=tuple(int(value + rng.integers(-3, 4)) for value in glass),  # type: ignore[arg-type]
        gamma=gamma * rng.uniform(0.95, 1.05),
        noise=rng.uniform(2.0, 5.0),
    )
