"""Outlines of foci: closed curves around a centre, with soft edges where they are painted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LESION_COLOUR = (200, 30, 30)


@dataclass(frozen=True, slots=True)
class Outline:
    """A closed curve around x, y, given by its mean radius and how it waves.

    Attributes:
        harmonics: (K, 2) cosine and sine amplitudes of the outline's waves 2, 3, ..., relative to the radius.
    """

    x_um: float
    y_um: float
    radius_um: float
    harmonics: np.ndarray

    @property
    def reach_um(self) -> float:
        """Radius of a circle that holds the whole outline."""
        return float(self.radius_um * (1 + np.abs(self.harmonics).sum()))

    def radius_at(self, angle: np.ndarray) -> np.ndarray:
        """Return the outline's radius in micrometres at angles in radians, same shape as ``angle``."""
        radius = np.ones_like(angle)
        for wave, (cosine, sine) in enumerate(self.harmonics, start=2):
            radius = radius + cosine * np.cos(wave * angle) + sine * np.sin(wave * angle)
        return radius * self.radius_um

    def outline_um(self) -> np.ndarray:
        """Return the closed outline, float64 (65, 2), x and y in micrometres."""
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = self.radius_at(angle)
        ring = np.stack([self.x_um + radius * np.cos(angle), self.y_um + radius * np.sin(angle)], axis=1)
        return np.concatenate([ring, ring[:1]])

    def share(self, x_um: np.ndarray, y_um: np.ndarray, softness_um: float) -> np.ndarray:
        """Return how much of each place of a grid is inside: one inside, zero outside, a slope across the edge.

        Args:
            x_um: (W,) columns.
            y_um: (H,) rows.
            softness_um: Width of the slope.

        Returns:
            float32 (H, W).
        """
        dx = (x_um - self.x_um).astype(np.float32)[None, :]
        dy = (y_um - self.y_um).astype(np.float32)[:, None]
        distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
        table = np.asarray(self.radius_at(np.linspace(-np.pi, np.pi, 721)), dtype=np.float32)
        edge = table[((angle + np.float32(np.pi)) * np.float32(720 / (2 * np.pi))).astype(np.int16)]
        return np.asarray(np.clip((edge - distance) / softness_um + 0.5, 0, 1))


def outlines_geojson(outlines: Sequence[Outline], mpp: float, class_name: str) -> dict[str, Any]:
    """Return outlines as QuPath annotations of one class, in level-0 pixels of a slide of a scale."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": f"{class_name}-{number}",
                "geometry": {"type": "Polygon", "coordinates": [np.round(outline.outline_um() / mpp, 1).tolist()]},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": class_name, "color": list(LESION_COLOUR)},
                },
            }
            for number, outline in enumerate(outlines, start=1)
        ],
    }
