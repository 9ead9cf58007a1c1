"""Where things stand: points on jittered grids that depend on the seed and the place, never on the window drawn."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points of one kind over the whole plane.

    Attributes:
        seed: Of the slide.
        kind: Tells the scatters of a slide apart.
        pitch_um: Mean distance between neighbours.
        jitter: Largest shift of a point, in pitches.
        patch_um: The plane is drawn in squares of this side, each from its own seed.
    """

    seed: int
    kind: int
    pitch_um: float
    jitter: float
    patch_um: float = 256.0

    def window(self, left_um: float, top_um: float, right_um: float, bottom_um: float) -> np.ndarray:
        """Return the points in a box, float64 (N, 4): x and y in micrometres, and two uniform random numbers."""
        found = [
            self._patch(column, row)
            for row in _steps(top_um, bottom_um, self.patch_um)
            for column in _steps(left_um, right_um, self.patch_um)
        ]
        points = np.concatenate(found) if found else np.empty((0, 4))
        inside = (
            (points[:, 0] >= left_um)
            & (points[:, 0] < right_um)
            & (points[:, 1] >= top_um)
            & (points[:, 1] < bottom_um)
        )
        return points[inside]

    def _patch(self, column: int, row: int) -> np.ndarray:
        # Shifted by a large number because seeds must not be negative.
        rng = np.random.default_rng([self.seed, self.kind, column + 2**20, row + 2**20])
        across = max(1, round(self.patch_um / self.pitch_um))
        step = self.patch_um / across
        grid = (np.arange(across) + 0.5) * step
        x, y = np.meshgrid(grid + column * self.patch_um, grid + row * self.patch_um)
        points = np.stack([x.ravel(), y.ravel()], axis=1)
        points += rng.uniform(-self.jitter * step, self.jitter * step, points.shape)
        return np.concatenate([points, rng.random(points.shape)], axis=1)


def _steps(low: float, high: float, patch_um: float) -> Iterator[int]:
    # One patch further on each side: jitter may carry a point over its patch's edge.
    return iter(range(int(np.floor(low / patch_um)) - 1, int(np.floor(high / patch_um)) + 2))
