"""Made slides whose every pixel is known, and what several test files of the readers share."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import tifffile

PixelFunction = Callable[..., np.ndarray]


def coded_pixels(width: int, height: int, pyramid_level: int = 0) -> np.ndarray:
    """Pixels that tell where they are: x and y modulo 256, and both above that with the pyramid level."""
    y, x = np.mgrid[:height, :width]
    code = (x // 256 % 4) + (y // 256 % 4) * 4 + pyramid_level * 16
    return np.stack([x % 256, y % 256, code], axis=2).astype(np.uint8)


@lru_cache(maxsize=8)
def smooth_pixels(width: int, height: int, pyramid_level: int = 0) -> np.ndarray:
    """Slow waves in all channels, with some grain, that survive JPEG recognisably; drawn once, so read-only."""
    y, x = np.mgrid[:height, :width] * 2.0**pyramid_level
    waves = [np.sin(x / 23) + np.cos(y / 31), np.sin((x + y) / 41), np.cos((x - 2 * y) / 53)]
    grain = np.random.default_rng(pyramid_level).normal(0, 6, (height, width, 3))
    pixels = np.clip(np.stack(waves, axis=2) * 60 + 128 + grain, 0, 255).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def averages(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Averages of whole squares, float64: the obvious oracle of every reduction."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    cut = pixels[: height * factor, : width * factor].astype(float)
    averaged: np.ndarray = cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))
    return averaged


def write_pyramid(path: Path, levels: Sequence[np.ndarray], *, subifds: bool = False, **options) -> Path:
    """Write one image at falling resolutions: as sub-pages of the first, or as pages after it."""
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as tif:
        tif.write(levels[0], subifds=len(levels) - 1 if subifds else 0, metadata=None, **options)
        options.pop("description", None)
        for pixels in levels[1:]:
            tif.write(pixels, subfiletype=1, metadata=None, **options)
    return path


@pytest.fixture
def coded() -> PixelFunction:
    return coded_pixels


@pytest.fixture
def smooth() -> PixelFunction:
    return smooth_pixels


@pytest.fixture
def averaged() -> PixelFunction:
    return averages


@pytest.fixture
def write_tiff(tmp_path: Path) -> Callable[..., Path]:
    """Write levels, or one image, to a TIFF of a test's own; options are those of tifffile."""

    def write(levels: np.ndarray | Sequence[np.ndarray], name: str = "slide.tif", **options) -> Path:
        images = [levels] if isinstance(levels, np.ndarray) else levels
        return write_pyramid(tmp_path / name, images, **options)

    return write


@pytest.fixture
def spoil_tile(rng) -> Callable[[Path, int], None]:
    """Write junk over one of the tiles of a TIFF's first page."""

    def spoil(path: Path, number: int) -> None:
        with tifffile.TiffFile(path) as tif:
            offset, count = tif.pages.first.dataoffsets[number], tif.pages.first.databytecounts[number]
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(rng.bytes(count))

    return spoil


@pytest.fixture
def slides(shared: Path) -> Path:
    return shared / "data" / "slides"
