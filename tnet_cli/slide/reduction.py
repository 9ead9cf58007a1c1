"""Slides without a pyramid, reduced once in bounded memory; then they behave like any other."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tnet_cli.geometry import Region, Size
from tnet_cli.slide.resample import covering_box, resample

STEP = 4
BAND_PX = 8 * 1024 * 1024
"""Stored pixels decoded at a time."""

IN_MEMORY_BYTES = 160 * 1024 * 1024
"""Larger reductions go to an unnamed temporary file."""

SMALLEST_PX = 256


@dataclass(frozen=True, slots=True)
class _Reduced:
    pixels: np.ndarray  # uint8 (H, W, 3), perhaps mapped from a file
    downsample: float


class ReducedLevels:
    """Reductions of a stored resolution by 4, 16, 64, ..., made in one pass over its rows.

    Args:
        read_rows: First row and number of rows -> uint8 (rows, width, 3).
        size: Of the stored resolution.
        downsample: Of the stored resolution.
        on_progress: Told rows done and rows in all.
    """

    def __init__(
        self,
        read_rows: Callable[[int, int], np.ndarray],
        size: Size,
        downsample: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        pixels = _reduce(read_rows, size, on_progress)
        self._levels = [_Reduced(pixels, downsample * STEP)]
        while max(pixels.shape[:2]) > SMALLEST_PX:
            finer = pixels
            pixels = _reduce(lambda y, rows, finer=finer: finer[y : y + rows], Size(finer.shape[1], finer.shape[0]))
            self._levels.append(_Reduced(pixels, self._levels[-1].downsample * STEP))

    def read(self, region: Region, width_px: int, height_px: int, background: tuple[int, int, int]) -> np.ndarray:
        """Read a region, as ``Slide.read`` does.

        Args:
            region: Level-0 pixels; may reach beyond the slide.
            width_px, height_px: Size of the result.
            background: Colour outside the slide.

        Returns:
            uint8 (height_px, width_px, 3).
        """
        wanted = min(region.width / width_px, region.height / height_px)
        fitting = [level for level in self._levels if level.downsample <= wanted * 1.02]
        chosen = fitting[-1] if fitting else self._levels[0]
        x, y, width, height = covering_box(region, chosen.downsample)
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[...] = background
        stored_height, stored_width = chosen.pixels.shape[:2]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, stored_width), min(y + height, stored_height)
        if x0 < x1 and y0 < y1:
            pixels[y0 - y : y1 - y, x0 - x : x1 - x] = chosen.pixels[y0:y1, x0:x1]
        return resample(pixels, region, chosen.downsample, (x, y), width_px, height_px)


def _reduce(
    read_rows: Callable[[int, int], np.ndarray], size: Size, on_progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Average squares of 4 x 4 pixels, band by band; the last row and column average what there is."""
    reduced = _empty(-(-size.height // STEP), -(-size.width // STEP))
    rows = max(STEP, BAND_PX // size.width // STEP * STEP)
    for y in range(0, size.height, rows):
        band = Image.fromarray(np.ascontiguousarray(read_rows(y, min(rows, size.height - y)))).reduce(STEP)
        reduced[y // STEP : y // STEP + band.height] = np.asarray(band)
        if on_progress is not None:
            on_progress(min(y + rows, size.height), size.height)
    return reduced


def _empty(height: int, width: int) -> np.ndarray:
    if height * width * 3 <= IN_MEMORY_BYTES:
        return np.empty((height, width, 3), np.uint8)
    with tempfile.TemporaryFile(prefix="tnet-") as file:
        # The map keeps the file's space alive after its name and handle are gone.
        return np.memmap(file, np.uint8, "w+", shape=(height, width, 3))
