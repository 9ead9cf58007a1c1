"""From samples of any depth to eight bits, from YCbCr to RGB, and what shows through what is transparent."""

from dataclasses import dataclass

import numpy as np

DEPTHS = (8, 10, 12, 14, 16, 24, 32)
"""Bits of cameras and files: where the data have to tell, white is the last value of one of these."""

BRIGHT_PERCENT = 99
"""Percentile of the samples that counts as the brightest, so that hot pixels do not."""

DARKEST_WHITE = 16
"""A slide whose brightest samples are this many times darker than the stated white was not stored with it."""


@dataclass(frozen=True, slots=True)
class SampleRange:
    """Which samples are black and white.

    Attributes:
        doubt: A sentence about the slide where ``high`` was taken from its samples.
    """

    high: float
    low: float = 0
    doubt: str | None = None

    def eight_bits(self, samples: np.ndarray) -> np.ndarray:
        """Scale samples to uint8 of the same shape.

        Of whole numbers whose white fills its bits the highest eight are taken; all others are rounded.
        """
        if samples.dtype == np.uint8 and self.high == 255:
            return samples
        bits = int(self.high + 1).bit_length() - 1
        if samples.dtype.kind in "ui" and self.low == 0 and self.high + 1 == 2**bits >= 256:
            return np.asarray(np.clip(samples, 0, int(self.high)) >> (bits - 8), np.uint8)
        numbers = np.nan_to_num(samples.astype(np.float64))
        scaled = (np.clip(numbers, self.low, self.high) - self.low) * (255 / (self.high - self.low))
        return np.asarray(scaled + 0.5).astype(np.uint8)


def range_of(samples: np.ndarray, bits: int, stated: SampleRange | None = None) -> SampleRange:
    """Find out which samples are black and white.

    Up to eight bits, and where the depth is none of 16, 32 or 64, white is the last value of the type. Otherwise it is
    the stated one, unless the samples are all beyond it, or hardly differ from black by it; and else the least last
    value of a usual depth (or 1 for fractions) that the samples do not exceed.

    Args:
        samples: Any number of them, as an example, of the type in which they are stored.
        bits: For each sample in the file.
        stated: What the file says.

    Raises:
        ValueError: many samples are negative, and the file does not say what is black.
    """
    kind = samples.dtype.kind
    top = np.inf if kind == "f" else 2.0 ** (bits - (kind == "i")) - 1
    if kind in "bu" and (bits <= 8 or bits not in {16, 32, 64}):
        return SampleRange(top)
    values = samples[np.isfinite(samples) & (samples != 0)]
    if not values.size:
        return stated or SampleRange(1.0 if kind == "f" else top)
    bright = float(np.percentile(values, BRIGHT_PERCENT))
    if stated is not None and stated.high / DARKEST_WHITE < bright <= stated.high * 1.01:
        return stated
    if np.percentile(values, 100 - BRIGHT_PERCENT) < -0.05 * max(bright, 1e-9):
        raise ValueError(
            f"they reach from {values.min():g} to {values.max():g}, and the file does not say what is black"
        )
    usual = [1.0] * (kind == "f") + [2.0**depth - 1 for depth in DEPTHS]
    high = next((white for white in usual if bright <= white * 1.01), top)
    if kind == "f" and not np.isfinite(high):
        raise ValueError(f"they reach to {bright:g}, and the file does not say what is white")
    if high >= top or high == 1:
        return SampleRange(min(high, top))
    return SampleRange(
        high,
        doubt=f"its {bits}-bit samples are shown with {high:g} as white, because they reach to {bright:g} and the file "
        + ("says otherwise" if stated is not None else "does not say which value is white"),
    )


def rgb_of_ycbcr(values: np.ndarray) -> np.ndarray:
    """Turn YCbCr into RGB, both uint8 (H, W, 3); full range, coefficients of JFIF (ITU-R BT.601)."""
    y, cb, cr = (values[..., i].astype(np.float32) for i in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.asarray(np.clip(rgb, 0, 255) + 0.5).astype(np.uint8)


def over(
    colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int], *, is_premultiplied: bool = False
) -> np.ndarray:
    """Lay colours (H, W, 3) over a background by their opacity (H, W, 1), all uint8; what is opaque stays as it is."""
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    share = alpha.astype(np.float32) / 255
    shown = colour.astype(np.float32) * (1 if is_premultiplied else share)
    return np.clip(shown + np.asarray(background, np.float32) * (1 - share) + 0.5, 0, 255).astype(np.uint8)
