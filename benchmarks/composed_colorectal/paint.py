"""Laying tiles: any window of a composed slide, the same whatever windows are painted around it."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from benchmarks.composed_colorectal.artefacts import Artefacts
from benchmarks.composed_colorectal.design import ComposedDesign
from benchmarks.composed_colorectal.tiles import (
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
from tnet_cli.synth.patterns import blotches, grain

OVERLAP = 1 / 7
"""Neighbouring tiles fade into each other over this share of a tile's side."""

GROUND_ORIGINS = {"slide": 8, "biopsy": 3, "core": 2, "field": 1}
FOCUS_ORIGINS = 2
COPIES_ORIGINS = 7
"""Where each origin is one tile, as many give the variety of a patient."""

STAININGS = 3
"""Ways in which one tile is stained on one slide."""

EDGE_UM = 4.0
FOCUS_EDGE_UM = 40.0
"""Width over which a focus and the ground fade into each other."""

WINDOW_PX = 960


class Composer:
    """Paints windows of one slide.

    Args:
        design: What is on the slide.
        files: Tiles of the slide's split and collection.
        artefacts: What has befallen it.
    """

    def __init__(self, design: ComposedDesign, files: Sequence[TileFile], artefacts: Artefacts) -> None:
        self.design, self.artefacts = design, artefacts
        rng = np.random.default_rng([design.seed, 2])
        many = COPIES_ORIGINS if design.collection.origin == "source_tile" else 1
        # Half of the origins at most, so that some are left for foci.
        most = len({file.origin for file in files if file.label == CLASS_NAMES[0]}) // 2
        origins = min(most, GROUND_ORIGINS[design.kind] * many)
        ground, taken = draw_tiles(files, CLASS_NAMES[0], origins, rng)
        beside, _ = draw_tiles(files, CLASS_NAMES[0], FOCUS_ORIGINS * many, rng, taken)
        foci = {CLASS_NAMES[0]: beside}
        if design.label != CLASS_NAMES[0]:
            foci[design.label], _ = draw_tiles(files, design.label, FOCUS_ORIGINS * many, rng, taken)
        # Of tissue that every slide has: a stain near that of tumour would tell the label.
        self.stain = draw_stain([*ground, *beside], np.random.default_rng([design.seed, 4]))
        side_px = TILE_PX * design.tile_mpp / design.mpp
        self._ground = _Layer(ground, self.stain, side_px, (design.seed, 3, 0))
        self._foci = {
            label: _Layer(some, self.stain, side_px, (design.seed, 3, 1 + number))
            for number, (label, some) in enumerate(foci.items())
        }
        self._rough = blotches(1280, 30, design.mpp, rng)
        self._grain = grain(1152, rng.uniform(0.5, 2.0), rng)

    def is_glass(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether a window, in level-0 pixels, holds nothing but clean glass."""
        design = self.design
        if not self.artefacts.is_clean(x, y, width, height):
            return False
        return is_glass(design.depth_um, design.map_um, design.mpp, x, y, width, height)

    def window(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Paint a window.

        Args:
            x: Left edge, level-0 pixels.
            y: Top edge, level-0 pixels.
            width: At most ``WINDOW_PX``.
            height: At most ``WINDOW_PX``.

        Returns:
            uint8 (height, width, 3), perhaps not to be written to.
        """
        if self.is_glass(x, y, width, height):
            glass = np.rint(self.stain.glass).astype(np.uint8)
            return np.broadcast_to(glass, (height, width, 3))
        margin = self.artefacts.margin_px
        painted = self._tissue(x - margin, y - margin, width + 2 * margin, height + 2 * margin)
        return self.artefacts.applied(painted, x, y, self.stain.glass)

    def _tissue(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Paint a window without artefacts, uint8."""
        design, glass = self.design, np.asarray(self.stain.glass, np.float32)
        if design.whole:
            tissue = self._foci[design.label].window(x, y, width, height)
        else:
            tissue = self._ground.window(x, y, width, height)
        x_um, y_um = (np.arange(x, x + width) + 0.5) * design.mpp, (np.arange(y, y + height) + 0.5) * design.mpp
        for label, layer in self._foci.items():
            near = [f.outline for f in design.foci if f.label == label and _touches(f.outline, x_um, y_um)]
            if near:
                share = np.max([focus.share(x_um, y_um, FOCUS_EDGE_UM) for focus in near], axis=0)[:, :, None]
                tissue += share * (layer.window(x, y, width, height) - tissue)
        depth = cut_map(design.depth_um, design.map_um / design.mpp, x, y, width, height)
        if float(depth.min()) < 3 * design.map_um:
            depth = depth + (self._rough.window(x, y, width, height).astype(np.float32) - 128) / 10
            tissue = glass + np.clip(depth / EDGE_UM, 0, 1)[:, :, None] * (tissue - glass)
        tissue += self._grain.window(x, y, width, height).astype(np.float32)[:, :, None] - 16
        pixels: np.ndarray = np.clip(np.rint(tissue), 0, 255).astype(np.uint8)
        return pixels


class _Layer:
    """An endless plane of tiles of one class, each turned, mirrored and stained on its own.

    Args:
        side_px: Of a tile, in level-0 pixels.
        key: Seeds what is drawn.
    """

    def __init__(self, tiles: Sequence[Tile], stain: SlideStain, side_px: float, key: tuple[int, ...]) -> None:
        self._tiles, self._stain, self._key = tiles, stain, key
        self._side = max(8, round(side_px))
        self._overlap = max(1, round(side_px * OVERLAP))
        rise = (np.arange(self._overlap, dtype=np.float32) + 0.5) / self._overlap
        slope = np.concatenate([rise, np.ones(self._side - 2 * self._overlap, np.float32), 1 - rise])
        self._weight = (slope[:, None] * slope[None, :])[:, :, None]
        self._made = lru_cache(maxsize=256)(self._make)

    def window(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return the layer at absolute pixels, float32 (height, width, 3)."""
        side, pitch = self._side, self._side - self._overlap
        painted = np.zeros((height, width, 3), np.float32)
        for row in range((y - side) // pitch + 1, (y + height - 1) // pitch + 1):
            for column in range((x - side) // pitch + 1, (x + width - 1) // pitch + 1):
                left, top = column * pitch - x, row * pitch - y
                x0, y0 = max(0, left), max(0, top)
                x1, y1 = min(width, left + side), min(height, top + side)
                cut = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
                painted[y0:y1, x0:x1] += self._weight[cut] * self._tile(row, column)[cut]
        return painted

    def _tile(self, row: int, column: int) -> np.ndarray:
        """Return the tile of a site, uint8 (side, side, 3)."""
        rng = np.random.default_rng([*self._key, row + 64, column + 64])
        tile = self._made(int(rng.integers(len(self._tiles))), int(rng.integers(STAININGS)))
        turns = int(rng.integers(8))
        turned: np.ndarray = np.rot90(tile if turns < 4 else tile[:, ::-1], turns % 4)
        return turned

    def _make(self, number: int, staining: int) -> np.ndarray:
        stained = self._stain.stained(self._tiles[number], np.random.default_rng([*self._key, number, staining]))
        # Lanczos in Pillow widens with the reduction, so it averages where tiles are shrunk.
        resized = Image.fromarray(stained).resize((self._side, self._side), Image.Resampling.LANCZOS)
        return np.asarray(resized)


def _touches(focus: Outline, x_um: np.ndarray, y_um: np.ndarray) -> bool:
    reach = focus.reach_um + FOCUS_EDGE_UM
    return bool(
        x_um[0] < focus.x_um + reach
        and x_um[-1] > focus.x_um - reach
        and y_um[0] < focus.y_um + reach
        and y_um[-1] > focus.y_um - reach
    )
