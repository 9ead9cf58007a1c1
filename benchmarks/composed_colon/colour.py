"""How far colour alone goes: histograms of tiles and of whole slides against their label.

Run: python -m benchmarks.composed_colon.colour --tiles COLON_TILES --slides FOLDER
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.composed_colon.compose import difficulty_of
from benchmarks.composed_colon.design import MPP
from benchmarks.composed_colon.tiles import CLASS_NAMES, Tile, draw_stain, load_tile, tiles_of_split
from benchmarks.composed_colorectal.colour import GLASS, histogram, score
from tnet_cli.geometry import Region
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.slide.opening import open_slide

SCALES_MPP = (12.8, 51.2)


def tile_aurocs(folder: Path) -> dict[str, float]:
    """Return the AUROC of tiles as they come, and of tiles as slides are composed of them."""
    aurocs = {}
    for name, is_stained in (("as they come", False), ("as they are laid", True)):
        rows, labels = {}, {}
        for split in ("train", "test"):
            tiles = [load_tile(file) for file in tiles_of_split(folder, split)]
            rows[split] = np.stack([_pixels_of(tile, tiles, n, is_stained=is_stained) for n, tile in enumerate(tiles)])
            labels[split] = [CLASS_NAMES.index(tile.label) for tile in tiles]
        aurocs[name] = float(roc_auc_score(labels["test"], score(rows["train"], labels["train"], rows["test"])))
    return aurocs


def _pixels_of(tile: Tile, tiles: Sequence[Tile], number: int, *, is_stained: bool) -> np.ndarray:
    pixels = tile.pixels.reshape(-1, 3)
    if is_stained:
        # Each as on a slide of its own.
        rng = np.random.default_rng([number, 7])
        table = draw_stain(tiles, rng).table(tile, rng)
        pixels = np.stack([table[pixels[:, channel], channel] for channel in range(3)], axis=1)
    return histogram(pixels)


def slide_aurocs(manifest: Path) -> dict[str, dict[str, float]]:
    """Return the AUROC of histograms of whole slides, at each scale, of easy and of hard foci."""
    inputs = [entry for entry in read_manifest(manifest) if entry.split in ("train", "test")]
    train = np.array([entry.split == "train" for entry in inputs])
    labels = np.array([CLASS_NAMES.index(str(entry.label)) for entry in inputs])
    kinds = np.array([difficulty_of(entry.shown_path) if entry.split == "test" else "" for entry in inputs])
    aurocs = {}
    for mpp in SCALES_MPP:
        rows = np.stack([_slide_histogram(entry, mpp) for entry in inputs])
        scores = score(rows[train], labels[train], rows)
        aurocs[f"{mpp:g} um"] = {
            kind: float(roc_auc_score(labels[chosen], scores[chosen]))
            for kind in ("easy", "hard")
            if (chosen := ~train & ((labels == 0) | (kinds == kind))).any()
        }
    return aurocs


def _slide_histogram(entry: SlideInput, mpp: float) -> np.ndarray:
    with open_slide(entry.path) as slide:
        whole = Region(0, 0, slide.size.width, slide.size.height)
        width, height = (round(side * MPP / mpp) for side in (whole.width, whole.height))
        pixels = slide.read(whole, width, height).reshape(-1, 3)
    return histogram(pixels[pixels.min(axis=1) < GLASS])


def main() -> None:
    """Print both as one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composed_colon.colour", description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--slides", type=Path, required=True, help="folder with labels.csv")
    given = parser.parse_args()
    document = {"tiles": tile_aurocs(given.tiles), "slides": slide_aurocs(given.slides / "labels.csv")}
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
