"""Laying tiles: any window of a composed slide, the same whatever windows are painted around it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.composed_colon.design import MAP_UM, MPP, ComposedDesign
from benchmarks.composed_colon.tiles import (
    CLASS_NAMES,
    TILE_PX,
    SlideStain,
    Tile,
    TileFile,
    draw_stain,
    draw_tiles,
)
from tnet_cli.synth.design import is_glass
from tnet_cli.synth.outline import Outline
from tnet_cli.synth.paint import cut_map
from tnet_cli.synth.patterns import blotches

OVERLAP_PX = 32
"""Neighbouring tiles fade into each other over this many pixels."""

PITCH_PX = TILE_PX - OVERLAP_PX
BENIGN_TILES, TUMOUR_TILES = 60, 24
"""Source tiles that one slide is made of, at most."""

STAININGS = 6
"""Ways in which one tile is stained on one slide."""

EDGE_UM = 4.0
FOCUS_EDGE_UM = 40.0
"""Width over which tumour and mucosa fade into each other."""


class Composer:
    """Paints windows of one slide.

    Args:
        design: What is on the slide.
        files: Tiles of the slide's split.
    """

    def __init__(self, design: ComposedDesign, files: Sequence[TileFile]) -> None:
        self.design = design
        rng = np.random.default_rng([design.seed, 2])
        benign = draw_tiles(files, CLASS_NAMES[0], BENIGN_TILES, rng)
        # Read on benign slides too: the stain is drawn the same way on both.
        tumour = draw_tiles(files, CLASS_NAMES[1], TUMOUR_TILES, rng)
        self.stain = draw_stain([*benign, *tumour], rng)
        self._benign = _Layer(benign, self.stain, design.seed, 0)
        self._tumour = _Layer(tumour, self.stain, design.seed, 1)
        self._rough = blotches(1280, 30, MPP, rng)
        # As large as a window: numpy is slow along an axis of three.
        self._glass = np.broadcast_to(np.asarray(self.stain.glass, np.float32), (1024, 1024, 3)).copy()
        self._noise = _in_colour(rng.normal(0, rng.uniform(0.5, 1.5), (1024, 1024)))

    def is_glass(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether a window, in level-0 pixels, holds nothing but glass."""
        return is_glass(self.design.depth_um, MAP_UM, MPP, x, y, width, height)

    def window(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Paint a window.

        Args:
            x: Left edge, level-0 pixels.
            y: Top edge, level-0 pixels.
            width: At most 1024.
            height: At most 1024.

        Returns:
            uint8 (height, width, 3).
        """
        glass = self._glass[:height, :width]
        if self.is_glass(x, y, width, height):
            return np.asarray(np.rint(glass), dtype=np.uint8)
        tissue = self._benign.window(x, y, width, height)
        x_um, y_um = (np.arange(x, x + width) + 0.5) * MPP, (np.arange(y, y + height) + 0.5) * MPP
        near = [focus for focus in self.design.foci if _touches(focus, x_um, y_um)]
        if near:
            share = np.max([focus.share(x_um, y_um, FOCUS_EDGE_UM) for focus in near], axis=0)
            tissue += _in_colour(share) * (self._tumour.window(x, y, width, height) - tissue)
        depth = cut_map(self.design.depth_um, MAP_UM / MPP, x, y, width, height)
        if float(depth.min()) < 3 * MAP_UM:
            depth += (self._rough.window(x, y, width, height).astype(np.float32) - 128) / 10
            tissue -= glass
            tissue *= _in_colour(np.clip(depth / EDGE_UM, 0, 1))
            tissue += glass
        tissue += self._noise[:height, :width]
        np.rint(tissue, out=tissue)
        np.clip(tissue, 0, 255, out=tissue)
        return tissue.astype(np.uint8)


class _Layer:
    """An endless plane of tiles of one class, each turned, mirrored and stained on its own."""

    def __init__(self, tiles: Sequence[Tile], stain: SlideStain, seed: int, number: int) -> None:
        self._key = (seed, 3, number)
        rng = np.random.default_rng([*self._key, 0])
        self._tiles = [_stained(tile, stain.table(tile, rng)) for tile in tiles for _ in range(STAININGS)]
        rise = (np.arange(OVERLAP_PX, dtype=np.float32) + 0.5) / OVERLAP_PX
        slope = np.concatenate([rise, np.ones(TILE_PX - 2 * OVERLAP_PX, np.float32), 1 - rise])
        self._weight = _in_colour(slope[:, None] * slope[None, :])

    def window(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return the layer at absolute pixels, float32 (height, width, 3)."""
        painted = np.zeros((height, width, 3), np.float32)
        for row in range((y - TILE_PX) // PITCH_PX + 1, (y + height - 1) // PITCH_PX + 1):
            for column in range((x - TILE_PX) // PITCH_PX + 1, (x + width - 1) // PITCH_PX + 1):
                left, top = column * PITCH_PX - x, row * PITCH_PX - y
                x0, y0 = max(0, left), max(0, top)
                x1, y1 = min(width, left + TILE_PX), min(height, top + TILE_PX)
                cut = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
                painted[y0:y1, x0:x1] += self._weight[cut] * self._tile(row, column)[cut]
        return painted

    def _tile(self, row: int, column: int) -> np.ndarray:
        """Return the tile of a site, uint8 (224, 224, 3)."""
        rng = np.random.default_rng([*self._key, row + 2, column + 2])
        tile, turns = self._tiles[int(rng.integers(len(self._tiles)))], int(rng.integers(8))
        return np.rot90(tile if turns < 4 else tile[:, ::-1], turns % 4)


def _stained(tile: Tile, table: np.ndarray) -> np.ndarray:
    # Pillow looks values up ten times as fast as numpy.
    return np.asarray(Image.fromarray(tile.pixels).point(table.T.ravel().tolist()))


def _in_colour(plane: np.ndarray) -> np.ndarray:
    """Return a plane (H, W) three times over, float32 (H, W, 3): numpy is slow along an axis of one."""
    colours = np.empty((*plane.shape, 3), np.float32)
    for channel in range(3):
        colours[:, :, channel] = plane
    return colours


def _touches(focus: Outline, x_um: np.ndarray, y_um: np.ndarray) -> bool:
    reach = focus.reach_um + FOCUS_EDGE_UM
    return bool(
        x_um[0] < focus.x_um + reach
        and x_um[-1] > focus.x_um - reach
        and y_um[0] < focus.y_um + reach
        and y_um[-1] > focus.y_um - reach
    )
