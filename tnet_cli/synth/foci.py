"""The nuclei of a focus, made so that nothing but their size and shape tells a lesion from a benign focus.

Both kinds stand on the same lattice: where a lesion has one large nucleus a benign focus has a clump of small ones.
Calibration then takes away what is left to see at low power or to read from a histogram: the large nuclei get the size
at which they cover as much as the clumps, and their concentrations are mapped so that each is as frequent as in the
clumps. Rims and nucleoli stay the darkest part of a lesion's nucleus, and are no darker than benign nuclei are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from tnet_cli.synth.design import Arrangement, Nuclei
from tnet_cli.synth.patterns import Scatter
from tnet_cli.synth.sprites import large_nuclei, nuclear_clumps, small_nuclei, stamp_max

BASE_HAEMATOXYLIN = 26
BASE_EOSIN = 62
"""Concentrations between the nuclei of a focus."""

PITCH_UM = 17.0
ACINUS_PITCH_UM = 44.0
ACINUS_RADIUS_UM = 14.5
CLUMPS_PER_ACINUS = 5.0
PROBE_UM = 512.0
PROBE_BOX = (0.0, 0.0, PROBE_UM, PROBE_UM)
PROBE_SEED = 9
PROBE_BANKS = 5


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes the nuclei of a lesion cover as much, and be as dark, as the clumps of a benign focus.

    Attributes:
        scale: Of the diameter of large nuclei.
        darkness: uint8 (256,); the concentration that each concentration of a large nucleus becomes.
        per_acinus: Mean number of clumps or large nuclei in a ring.
    """

    scale: float
    darkness: np.ndarray
    per_acinus: dict[Nuclei, float]

    def banks(self, mpp: float, small: list[np.ndarray], rng: np.random.Generator) -> dict[Nuclei, list[np.ndarray]]:
        """Return what is stamped at a focus's points, uint8 (S, S) of haematoxylin; clumps are of ``small`` nuclei."""
        large = large_nuclei(mpp, rng, self.scale)
        return {"small": nuclear_clumps(small, mpp, rng), "large": [self.darkness[sprite] for sprite in large]}

    def points(
        self, arrangement: Arrangement, nuclei: Nuclei, seed: int, box_um: tuple[float, float, float, float]
    ) -> np.ndarray:
        """Return where clumps or nuclei stand in a box (left, top, right, bottom): x, y in um, a number in [0, 1)."""
        if arrangement == "sheet":
            return _sheet(seed, box_um)
        return _rings(seed, box_um, self.per_acinus[nuclei])


def _sheet(seed: int, box_um: tuple[float, float, float, float]) -> np.ndarray:
    return Scatter(seed, 10, PITCH_UM, 0.38).window(*box_um)[:, [0, 1, 2]]


def _rings(seed: int, box_um: tuple[float, float, float, float], number: float) -> np.ndarray:
    reach = ACINUS_RADIUS_UM + 8
    left, top, right, bottom = box_um
    centres = Scatter(seed, 11, ACINUS_PITCH_UM, 0.16).window(left - reach, top - reach, right + reach, bottom + reach)
    rings = [_ring(centre, number) for centre in centres]
    return np.concatenate(rings) if rings else np.empty((0, 3))


def _ring(centre: np.ndarray, number: float) -> np.ndarray:
    x, y, first, second = centre
    rng = np.random.default_rng(int(first * 2**32))
    count = int(number + second)
    angle = 2 * np.pi * (np.arange(count) / max(count, 1) + first) + rng.normal(0, 0.10, count)
    radius = ACINUS_RADIUS_UM + rng.normal(0, 2.6, count)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle), rng.random(count)], axis=1)


@lru_cache(maxsize=4)
def calibrate(mpp: float) -> Calibration:
    """Match the nuclei of lesions to the clumps of benign foci by drawing a square of each."""
    clumps = _drawn_often(lambda rng: nuclear_clumps(small_nuclei(mpp, rng), mpp, rng))
    sheet = _sheet(PROBE_SEED, PROBE_BOX)
    benign = probe(sheet, clumps, mpp)
    low, high = 0.7, 1.5
    while True:
        scale = (low + high) / 2
        large = _drawn_often(partial(large_nuclei, mpp, scale=scale))
        lesion = probe(sheet, large, mpp)
        low, high = (scale, high) if _cover(lesion) < _cover(benign) else (low, scale)
        if high - low < 0.005:
            break
    darkness = _matching(lesion, benign)
    large = [darkness[sprite] for sprite in large]
    wanted = _cover(probe(_rings(PROBE_SEED, PROBE_BOX, CLUMPS_PER_ACINUS), clumps, mpp))
    number = CLUMPS_PER_ACINUS
    for _ in range(6):
        found = _cover(probe(_rings(PROBE_SEED, PROBE_BOX, number), large, mpp))
        number *= float(np.clip(np.log1p(-wanted) / np.log1p(-found), 0.7, 1.4))
    return Calibration(scale, darkness, {"small": CLUMPS_PER_ACINUS, "large": number})


def probe(points: np.ndarray, bank: list[np.ndarray], mpp: float) -> np.ndarray:
    """Draw a square of ``PROBE_UM`` of a focus without its outline, uint8 (S, S) concentrations of haematoxylin.

    Args:
        points: (N, 3), as ``Calibration.points`` gives them.
        bank: What is stamped there.
    """
    side = round(PROBE_UM / mpp)
    stain = np.full((side, side), BASE_HAEMATOXYLIN, np.uint8)
    for x, y, number in points:
        stamp_max(stain, bank[int(number * len(bank))], int(x / mpp), int(y / mpp))
    return stain


def _drawn_often(draw: Callable[[np.random.Generator], list[np.ndarray]]) -> list[np.ndarray]:
    """Return the nuclei of several slides: one slide's own lot is lighter or darker by chance."""
    rng = np.random.default_rng(PROBE_SEED)
    return [sprite for _ in range(PROBE_BANKS) for sprite in draw(rng)]


def _cover(stain: np.ndarray) -> float:
    return float((stain > BASE_HAEMATOXYLIN).mean())


def _matching(stain: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Return the monotone map after which the nuclei of ``stain`` are distributed as those of ``model``, (256,)."""
    first = BASE_HAEMATOXYLIN + 1
    shares = []
    for drawn in (stain, model):
        counts = np.bincount(drawn.ravel(), minlength=256)[first:].astype(np.float64)
        shares.append((np.cumsum(counts) - counts / 2) / counts.sum())
    mapped = np.interp(shares[0], shares[1], np.arange(first, 256))
    unchanged = np.arange(first)
    return np.concatenate([unchanged, np.rint(np.maximum.accumulate(mapped))]).astype(np.uint8)
