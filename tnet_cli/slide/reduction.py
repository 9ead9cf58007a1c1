"""Slides without a pyramid, reduced once in bounded memory; then they behave like any other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tnet_cli.files import scratch_file
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.resample import WHOLE, BoxReader, PyramidLevel, block_size, read_region

STEP = WHOLE
BLOCK_PX = 8 * 1024 * 1024
"""Stored pixels decoded at a time."""

IN_MEMORY_BYTES = 160 * 1024 * 1024
"""Larger reductions go to an unnamed temporary file."""

SMALLEST_PX = 256

FINER = 4
"""A read is served from a reduction at least this much finer than wanted, if there is one, to lose no sharpness."""

EXACT_PX = 2 * 1024 * 1024
"""Reduced pixels that are averaged exactly at a time, in float32."""


@dataclass(frozen=True, slots=True)
class _Reduced:
    pixels: np.ndarray  # uint8 (H, W, 3), perhaps mapped from a file
    stored: PyramidLevel

    def read_box(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self.pixels[y : y + height, x : x + width]


class ReducedLevels:
    """Reductions of a stored resolution by 4, 16, 64, ..., made in one pass over it.

    Args:
        read_box: Reads a box of the stored resolution.
        stored: The resolution that is reduced.
        unit: What the file decodes together, as in ``block_size``.
        on_progress: Told rows done and rows in all.
    """

    def __init__(
        self,
        read_box: BoxReader,
        stored: PyramidLevel,
        *,
        unit: Size,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._reductions = [_reduce(read_box, stored, unit, on_progress)]
        while max(self._reductions[-1].pixels.shape[:2]) > SMALLEST_PX:
            finer = self._reductions[-1]
            self._reductions.append(_reduce(finer.read_box, finer.stored, Size(finer.stored.size.width, 1), None))

    def read(self, region: Region, width_px: int, height_px: int, background: tuple[int, int, int]) -> np.ndarray:
        """Read a region, as ``Slide.read`` does, uint8 (height_px, width_px, 3)."""
        wanted = min(region.width / width_px, region.height / height_px)
        fitting = [reduced for reduced in self._reductions if reduced.stored.downsample * FINER <= wanted]
        chosen = fitting[-1] if fitting else self._reductions[0]
        return read_region(
            chosen.read_box,
            chosen.stored,
            region,
            width_px,
            height_px,
            background=background,
            unit=Size(chosen.stored.size.width, 1),
            most_px=EXACT_PX,
            exact=True,
        )


def _reduce(
    read_box: BoxReader, stored: PyramidLevel, unit: Size, on_progress: Callable[[int, int], None] | None
) -> _Reduced:
    """Average squares of 4 x 4 pixels, block by block; the last row and column average what there is."""
    size, reduced = stored.size, _empty(-(-stored.size.height // STEP), -(-stored.size.width // STEP))
    block, done = block_size(size, unit, BLOCK_PX), 0
    for y in range(0, size.height, block.height):
        for x in range(0, size.width, block.width):
            width, height = min(block.width, size.width - x), min(block.height, size.height - y)
            part = np.asarray(Image.fromarray(np.ascontiguousarray(read_box(x, y, width, height))).reduce(STEP))
            reduced[y // STEP : y // STEP + part.shape[0], x // STEP : x // STEP + part.shape[1]] = part
            done += width * height
            if on_progress is not None:
                on_progress(done // size.width, size.height)
    return _Reduced(reduced, PyramidLevel(Size(reduced.shape[1], reduced.shape[0]), stored.downsample * STEP))


def _empty(height: int, width: int) -> np.ndarray:
    if height * width * 3 <= IN_MEMORY_BYTES:
        return np.empty((height, width, 3), np.uint8)
    with scratch_file(height * width * 3) as file:
        # The map keeps the file's space alive after its name and handle are gone.
        return np.memmap(file, np.uint8, "w+", shape=(height, width, 3))
