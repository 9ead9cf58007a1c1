"""The nuclei of a focus, packed so that every kind of focus is equally dark on average.

Benign foci hold many small nuclei, lesions fewer large ones. How densely each is packed is calibrated by drawing a
square of each and comparing the light that passes, so that mean colour tells nothing at low power.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tnet_cli.synth.design import Arrangement, Nuclei
from tnet_cli.synth.scatter import Scatter
from tnet_cli.synth.sprites import FULL, large_nuclei, small_nuclei, stamp_max

SMALL_PITCH_UM = 9.6
ACINUS_PITCH_UM = 44.0
ACINUS_RADIUS_UM = 14.5
SMALL_PER_ACINUS = 19.0
PROBE_UM = 420.0


@dataclass(frozen=True, slots=True)
class Packing:
    """How densely the nuclei of one kind of focus are packed.

    Attributes:
        arrangement: In an even sheet or in rings.
        nuclei: Small or large.
        density: Relative to the starting guess; found by calibration.
    """

    arrangement: Arrangement
    nuclei: Nuclei
    density: float

    def points(self, seed: int, box_um: tuple[float, float, float, float]) -> np.ndarray:
        """Return where nuclei stand in a box (left, top, right, bottom): x, y in um and a number in [0, 1), (N, 3)."""
        start = SMALL_PITCH_UM if self.nuclei == "small" else 1.95 * SMALL_PITCH_UM
        if self.arrangement == "sheet":
            return Scatter(seed, 10, start / self.density**0.5, 0.38).window(*box_um)[:, [0, 1, 2]]
        reach = ACINUS_RADIUS_UM + 8
        left, top, right, bottom = box_um
        centres = Scatter(seed, 11, ACINUS_PITCH_UM, 0.16).window(
            left - reach, top - reach, right + reach, bottom + reach
        )
        number = SMALL_PER_ACINUS if self.nuclei == "small" else SMALL_PER_ACINUS / 3.9
        rings = [self._ring(centre, number * self.density) for centre in centres]
        return np.concatenate(rings) if rings else np.empty((0, 3))

    def _ring(self, centre: np.ndarray, number: float) -> np.ndarray:
        x, y, first, second = centre
        rng = np.random.default_rng(int(first * 2**32))
        count = int(number + second)
        angle = 2 * np.pi * (np.arange(count) / max(count, 1) + first) + rng.normal(0, 0.10, count)
        radius = ACINUS_RADIUS_UM + rng.normal(0, 2.6, count)
        return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle), rng.random(count)], axis=1)


@lru_cache(maxsize=4)
def calibrate(mpp: float) -> dict[tuple[Arrangement, Nuclei], Packing]:
    """Find the packing of each kind of focus at which all let the same light through.

    Args:
        mpp: Micrometres per pixel the nuclei are drawn at.

    Returns:
        A packing for each arrangement and kind of nuclei.
    """
    rng = np.random.default_rng(9)
    banks: dict[Nuclei, list[np.ndarray]] = {"small": small_nuclei(mpp, rng), "large": large_nuclei(mpp, rng)}
    target = _light(Packing("sheet", "small", 1.0), banks["small"], mpp)
    packings: dict[tuple[Arrangement, Nuclei], Packing] = {}
    arrangements: tuple[Arrangement, ...] = ("sheet", "acini")
    for arrangement in arrangements:
        for nuclei, bank in banks.items():
            density = 1.0
            for _ in range(6):
                light = _light(Packing(arrangement, nuclei, density), bank, mpp)
                density *= float(np.clip(np.log(target) / np.log(light), 0.7, 1.4))
            packings[arrangement, nuclei] = Packing(arrangement, nuclei, density)
    return packings


def _light(packing: Packing, bank: list[np.ndarray], mpp: float) -> float:
    """Return the mean transmission of a square of one kind of focus, in (0, 1)."""
    side = round(PROBE_UM / mpp)
    stain = np.full((side, side), BASE_HAEMATOXYLIN, np.uint8)
    for x, y, number in packing.points(9, (0.0, 0.0, PROBE_UM, PROBE_UM)):
        stamp_max(stain, bank[int(number * len(bank))], int(x / mpp), int(y / mpp))
    return float(np.exp(-stain.astype(np.float64) / FULL).mean())


BASE_HAEMATOXYLIN = 26
BASE_EOSIN = 62
"""Concentrations between the nuclei of a focus."""
