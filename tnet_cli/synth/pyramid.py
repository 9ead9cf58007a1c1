"""Slides that are made window by window, on disk: pyramidal tiled JPEG BigTIFFs, streamed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tnet_cli.geometry import Size

WINDOW_PX = 1024
"""Side of a window."""

TILE_PX = 256
JPEG_QUALITY = 80
STEP = 4
"""Each stored pyramid level is this much smaller than the one before; a window of 1024 px is one tile of the next."""


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """A window of 1024 px as it is stored: 16 tiles, the tile of the next pyramid level, and pixels for the rest."""

    tiles: list[bytes]
    coarser_tile: bytes
    reduced: np.ndarray  # uint8 (64, 64, 3)


def window_places(size: Size) -> list[tuple[int, int]]:
    """Return x and y of the windows of a slide, in level-0 pixels, in the order they are stored."""
    return [(x, y) for y in range(0, size.height, WINDOW_PX) for x in range(0, size.width, WINDOW_PX)]


def encode_window(pixels: np.ndarray, *, quality: int = JPEG_QUALITY) -> EncodedWindow:
    """Compress a window and what the coarser pyramid levels need of it.

    Args:
        pixels: uint8 (1024, 1024, 3).
        quality: Of the JPEG, but for pyramid levels after the second.
    """
    starts = range(0, WINDOW_PX, TILE_PX)
    coarser = Image.fromarray(pixels).reduce(STEP)
    return EncodedWindow(
        tiles=[_jpeg(pixels[y : y + TILE_PX, x : x + TILE_PX], quality) for y in starts for x in starts],
        coarser_tile=_jpeg(np.asarray(coarser), quality),
        reduced=np.asarray(coarser.reduce(STEP)),
    )


def _jpeg(tile: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(tile), level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
        )
    )


def write_pyramid(
    path: Path,
    size: Size,
    mpp: float,
    windows: Iterator[EncodedWindow],
    *,
    description: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a slide from its windows.

    Args:
        windows: In the order of ``window_places``; what lies beyond the slide's edge is cut off.
        description: Stored in the first page.
        on_progress: Told how many windows of how many are written.
    """
    columns = -(-size.width // WINDOW_PX)
    rows = -(-size.height // WINDOW_PX)
    coarser_tiles: list[bytes] = []
    side = WINDOW_PX // STEP**2
    # A sixteenth of the slide a side: 117 MB for 100 000 px.
    reduced = np.empty((rows * side, columns * side, 3), np.uint8)

    def finest() -> Iterator[bytes]:
        tiles_a_side = WINDOW_PX // TILE_PX
        tile_columns, tile_rows = -(-size.width // TILE_PX), -(-size.height // TILE_PX)
        for row in range(rows):
            strip = []
            for column in range(columns):
                window = next(windows)
                strip.append(window.tiles)
                coarser_tiles.append(window.coarser_tile)
                reduced[row * side : (row + 1) * side, column * side : (column + 1) * side] = window.reduced
            if on_progress is not None:
                on_progress((row + 1) * columns, rows * columns)
            for tile_row in range(min(tiles_a_side, tile_rows - row * tiles_a_side)):
                tiles = [
                    tile for tiles in strip for tile in tiles[tile_row * tiles_a_side : (tile_row + 1) * tiles_a_side]
                ]
                yield from tiles[:tile_columns]

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        _write_page(file, finest(), size, mpp, 0, description)
        _write_page(file, iter(coarser_tiles), size, mpp, 1, None)
        power = 2
        while max(stored_size(size, power)) >= TILE_PX:
            width, height = stored_size(size, power)
            _write_page(file, _tiles(reduced[:height, :width]), size, mpp, power, None)
            reduced, power = _box_average(reduced), power + 1


def stored_size(size: Size, power: int) -> tuple[int, int]:
    """Return width and height of a pyramid level, the power of ``STEP`` by which it is smaller than the slide."""
    return max(1, size.width // STEP**power), max(1, size.height // STEP**power)


def _tiles(pixels: np.ndarray) -> Iterator[bytes]:
    height, width = pixels.shape[:2]
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            tile = pixels[y : y + TILE_PX, x : x + TILE_PX]
            missing = TILE_PX - tile.shape[0], TILE_PX - tile.shape[1]
            yield _jpeg(np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge"))


def _box_average(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels ``STEP`` times smaller, in strips, because Pillow copies what it reduces."""
    strips = range(0, pixels.shape[0], TILE_PX)
    return np.concatenate([np.asarray(Image.fromarray(pixels[y : y + TILE_PX]).reduce(STEP)) for y in strips])


def _write_page(
    file: tifffile.TiffWriter, tiles: Iterator[bytes], size: Size, mpp: float, power: int, description: str | None
) -> None:
    width, height = stored_size(size, power)
    pixels_per_cm = 10_000 / (mpp * size.width / width)
    file.write(
        tiles,
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(2, 2),
        resolution=(pixels_per_cm, pixels_per_cm),
        resolutionunit="CENTIMETER",
        subfiletype=0 if power == 0 else 1,
        metadata=None,
        description=description,
        software="tnet",
    )
