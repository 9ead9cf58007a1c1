"""Real tiles of colon, split by where they come from, and their stain."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

CLASS_NAMES = ("benign", "adenocarcinoma")
TILE_PX = 224
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}
SPLIT_SEED = 12142
WHITE = 245.0
"""What the tiles' own glass looks like."""

LEAST_DENSITY = 0.05


@dataclass(frozen=True, slots=True)
class TileFile:
    """A tile on disk.

    Attributes:
        path: Of the JPEG.
        label: ``benign`` or ``adenocarcinoma``.
        source: The tile of which this is a copy, turned or mirrored.
    """

    path: Path
    label: str
    source: str


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile's pixels.

    Attributes:
        pixels: uint8 (224, 224, 3).
        label: ``benign`` or ``adenocarcinoma``.
        source: The tile of which this is a copy.
    """

    pixels: np.ndarray
    label: str
    source: str

    @cached_property
    def density(self) -> np.ndarray:
        """Mean optical density of R, G and B against white glass, float64 (3,)."""
        table = -np.log(np.clip(np.arange(256), 1, WHITE) / WHITE)
        mean = table[self.pixels].mean(axis=(0, 1))
        return np.asarray(np.maximum(mean, LEAST_DENSITY))


def tiles_of_split(folder: Path, split: str) -> list[TileFile]:
    """Return the tiles of a split; copies of one source tile are all in one split.

    Args:
        folder: With ``index.csv`` of columns ``file``, ``label`` and ``source_tile``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        FileNotFoundError: the folder holds no such index.
    """
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sources: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        sources[row["label"]].add(row["source_tile"])
    mine = set[tuple[str, str]]()
    for number, label in enumerate(CLASS_NAMES):
        order = np.random.default_rng([SPLIT_SEED, number]).permutation(sorted(sources[label]))
        ends = np.rint(np.cumsum([0, *SPLITS.values()]) * len(order)).astype(int)
        place = list(SPLITS).index(split)
        mine |= {(label, str(source)) for source in order[ends[place] : ends[place + 1]]}
    return [
        TileFile(folder / row["file"], row["label"], row["source_tile"])
        for row in rows
        if (row["label"], row["source_tile"]) in mine
    ]


def load_tile(file: TileFile) -> Tile:
    """Read a tile.

    Raises:
        ValueError: it has another size.
    """
    pixels = np.asarray(Image.open(file.path).convert("RGB"))
    if pixels.shape != (TILE_PX, TILE_PX, 3):
        raise ValueError(
            f"{file.path}: a tile has {TILE_PX} px a side, this one is {pixels.shape[1]} x {pixels.shape[0]}"
        )
    return Tile(pixels, file.label, file.source)


def draw_tiles(files: Sequence[TileFile], label: str, count: int, rng: np.random.Generator) -> list[Tile]:
    """Read one copy each of up to ``count`` source tiles of a class, chosen at random."""
    copies: dict[str, list[TileFile]] = defaultdict(list)
    for file in files:
        if file.label == label:
            copies[file.source].append(file)
    sources = rng.permutation(sorted(copies))[:count]
    return [load_tile(copies[source][int(rng.integers(len(copies[source])))]) for source in map(str, sources)]


@dataclass(frozen=True, slots=True, eq=False)
class SlideStain:
    """The stain of one slide and how much its tiles differ from it.

    Every tile is brought to the slide's mean density first, whichever its class, so that the mean colour of a tile
    tells nothing.

    Attributes:
        density: Mean optical density of R, G and B, float64 (3,).
        glass: Colour of empty glass, R, G, B in 0..255.
        brightness_spread: Standard deviation of the log of a tile's density.
        hue_spread: The same, of each channel on its own.
    """

    density: np.ndarray
    glass: tuple[float, float, float]
    brightness_spread: float = 0.15
    hue_spread: float = 0.06

    def table(self, tile: Tile, rng: np.random.Generator) -> np.ndarray:
        """Return what each value of each channel of a tile becomes, uint8 (256, 3), by the law of Beer and Lambert."""
        jitter = rng.normal(0, self.brightness_spread) + rng.normal(0, self.hue_spread, 3)
        gain = np.clip(self.density / tile.density, 0.5, 2.2) * np.exp(jitter)
        passed = np.minimum(np.arange(256)[:, None] / WHITE, 1) ** gain
        return np.asarray(np.rint(np.asarray(self.glass) * passed), dtype=np.uint8)


def draw_stain(tiles: Sequence[Tile], rng: np.random.Generator) -> SlideStain:
    """Draw a slide's stain: near that of some tile of either class."""
    density = tiles[int(rng.integers(len(tiles)))].density * np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3))
    grey = rng.uniform(236, 248)
    red, green, blue = grey + rng.uniform(-3, 3, 3)
    return SlideStain(density=density, glass=(red, green, blue))
