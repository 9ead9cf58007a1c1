"""What covers a whole slide: textures and scattered points, the same whatever windows are cut out of them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True)
class Texture:
    """A periodic picture, stored so that any window up to its period can be cut out without wrapping.

    Attributes:
        doubled: uint8 (2 * period, 2 * period).
        period: Pixels after which it repeats.
    """

    doubled: np.ndarray
    period: int

    def window(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return the texture at absolute pixels, uint8 (height, width); sides must not exceed the period."""
        left, top = x % self.period, y % self.period
        return self.doubled[top : top + height, left : left + width]


def _filtered_noise(period: int, spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((period, period))) * spectrum).real
    return np.asarray(noise / noise.std())


def fibres(period: int, angle: float, mpp: float, rng: np.random.Generator) -> Texture:
    """Return wavy collagen in one main direction, in radians: eosin concentration, with pale clefts between bundles."""
    frequency = np.fft.fftfreq(period)
    fx, fy = np.meshgrid(frequency, frequency)
    along = fx * np.cos(angle) + fy * np.sin(angle)
    across = fy * np.cos(angle) - fx * np.sin(angle)
    fine = np.exp(-0.5 * ((along * 2 * np.pi * 14 / mpp) ** 2 + (across * 2 * np.pi * 1.1 / mpp) ** 2))
    broad = np.exp(-0.5 * ((along * 2 * np.pi * 45 / mpp) ** 2 + (across * 2 * np.pi * 6 / mpp) ** 2))
    strands = _filtered_noise(period, fine, rng)
    bundles = _filtered_noise(period, broad, rng)
    eosin = 88 + 16 * strands + 16 * bundles
    cleft = np.clip((-bundles - 0.9) * 1.6 + 0.45 * -strands, 0, 1)
    return _as_texture(_waved(eosin * (1 - 0.75 * cleft), 9 / mpp))


def _waved(values: np.ndarray, amplitude_px: float) -> np.ndarray:
    """Bend a periodic picture along sines that keep it periodic."""
    period = values.shape[0]
    turn = 2 * np.pi * np.arange(period) / period
    rows = np.arange(period)[:, None] + amplitude_px * (np.sin(5 * turn) + 0.6 * np.sin(9 * turn + 1))[None, :]
    columns = np.arange(period)[None, :] + amplitude_px * (np.sin(4 * turn) + 0.6 * np.sin(11 * turn + 2))[:, None]
    return np.asarray(values[np.rint(rows).astype(int) % period, np.rint(columns).astype(int) % period])


def blotches(period: int, wavelength_um: float, mpp: float, rng: np.random.Generator) -> Texture:
    """Return a slowly changing mask, uint8 around 128, to blend two textures with."""
    frequency = np.fft.fftfreq(period)
    fx, fy = np.meshgrid(frequency, frequency)
    spectrum = np.exp(-0.5 * ((fx**2 + fy**2) * (2 * np.pi * wavelength_um / 4 / mpp) ** 2))
    return _as_texture(128 + 110 * _filtered_noise(period, spectrum, rng))


def grain(period: int, amplitude: float, rng: np.random.Generator) -> Texture:
    """Return the scanner's noise, uint8 around 16."""
    return _as_texture(16 + amplitude * rng.standard_normal((period, period)))


def _as_texture(values: np.ndarray) -> Texture:
    clipped = np.clip(values, 0, 255).astype(np.uint8)
    return Texture(doubled=np.tile(clipped, (2, 2)), period=clipped.shape[0])


SQUARE_UM = 256.0
"""Points are drawn in squares of this side, each from its own seed."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points of one kind over the whole plane, on a jittered grid.

    Attributes:
        seed: Of the slide.
        kind: Tells the scatters of a slide apart.
        pitch_um: Mean distance between neighbours.
        jitter: Largest shift of a point, in pitches.
    """

    seed: int
    kind: int
    pitch_um: float
    jitter: float

    def window(self, left_um: float, top_um: float, right_um: float, bottom_um: float) -> np.ndarray:
        """Return the points in a box, float64 (N, 4): x and y in micrometres, and two uniform random numbers."""
        found = [
            _square(self, column, row) for row in _steps(top_um, bottom_um) for column in _steps(left_um, right_um)
        ]
        points = np.concatenate(found)
        inside = (points[:, :2] >= (left_um, top_um)) & (points[:, :2] < (right_um, bottom_um))
        return points[inside.all(axis=1)]


@lru_cache(maxsize=2048)
def _square(scatter: Scatter, column: int, row: int) -> np.ndarray:
    """Draw the points of one square; windows beside each other ask for the same ones."""
    # Shifted by a large number because seeds must not be negative.
    rng = np.random.default_rng([scatter.seed, scatter.kind, column + 2**20, row + 2**20])
    across = max(1, round(SQUARE_UM / scatter.pitch_um))
    step = SQUARE_UM / across
    grid = (np.arange(across) + 0.5) * step
    x, y = np.meshgrid(grid + column * SQUARE_UM, grid + row * SQUARE_UM)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.uniform(-scatter.jitter * step, scatter.jitter * step, points.shape)
    return np.concatenate([points, rng.random(points.shape)], axis=1)


def _steps(low: float, high: float) -> range:
    # One square further on each side: jitter may carry a point over its square's edge.
    return range(int(np.floor(low / SQUARE_UM)) - 1, int(np.floor(high / SQUARE_UM)) + 2)
