"""Seamless textures, stored so that any window up to their period can be cut out without wrapping."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Texture:
    """A periodic picture.

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
    """Return wavy collagen in one main direction: eosin concentration, with pale clefts between bundles.

    Args:
        period: Side of the texture in pixels.
        angle: Main direction in radians.
        mpp: Micrometres per pixel.
        rng: Source of randomness.
    """
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


def patches(period: int, wavelength_um: float, mpp: float, rng: np.random.Generator) -> Texture:
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
