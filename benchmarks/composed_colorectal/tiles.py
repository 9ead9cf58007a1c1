"""Real tiles of two collections of colorectal tissue, split by where they come from, and their stain."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

CLASS_NAMES = ("non_neoplastic", "adenoma", "adenocarcinoma")
SERRATED = "serrated_adenoma"
"""Left out of training: 46 tiles of ten patients, most without dysplasia, nearer to a hyperplastic polyp than to an
adenoma by their looks and neoplastic by their course. Judged apart."""

TILE_PX = 224
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}
SPLIT_SEED = 21540159
WHITE = 245.0
"""What the tiles' own glass looks like."""

LEAST_DENSITY = 0.05
DENSITY_OF = -np.log(np.clip(np.arange(256), 1, WHITE) / WHITE)


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection of tiles.

    Attributes:
        name: Short, of files.
        title: With its terms, for descriptions.
        licence: Its terms, as an SPDX identifier.
        source: Who has made it.
        mpp: Micrometres per pixel, estimated: neither collection states it.
        classes: What its own labels mean; a label that is missing is not used.
        origin: Column of ``index.csv`` that says what must not be torn apart by a split.
    """

    name: str
    title: str
    licence: str
    source: str
    mpp: float
    classes: dict[str, str]
    origin: str


COLLECTIONS = {
    "lc": Collection(
        name="lc",
        title="LC25000 (CC BY-SA 4.0)",
        licence="CC-BY-SA-4.0",
        source="A. A. Borkowski et al., 2019, arXiv:1912.12142: tiles of colon; no patient is known.",
        mpp=0.71,
        classes={"benign": CLASS_NAMES[0], "adenocarcinoma": CLASS_NAMES[2]},
        origin="source_tile",
    ),
    "ebhi": Collection(
        name="ebhi",
        title="EBHI-Seg (CC BY 4.0)",
        licence="CC-BY-4.0",
        source="L. Shi et al., 2023, figshare 21540159: tiles of colorectal biopsies, 271 patients of it.",
        mpp=1.3,
        classes={
            "normal": CLASS_NAMES[0],
            "polyp": CLASS_NAMES[0],
            "low_grade_neoplasia": CLASS_NAMES[1],
            "high_grade_neoplasia": CLASS_NAMES[1],
            "adenocarcinoma": CLASS_NAMES[2],
            SERRATED: SERRATED,
        },
        origin="patient",
    ),
}


@dataclass(frozen=True, slots=True)
class TileFile:
    """A tile on disk.

    Attributes:
        label: Of ``CLASS_NAMES``, or ``SERRATED``.
        own_label: The collection's own.
        origin: The patient, or the tile of which this is a copy.
    """

    path: Path
    label: str
    own_label: str
    origin: str


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile's pixels, uint8 (224, 224, 3)."""

    pixels: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a tile.

        Raises:
            ValueError: it has another size.
        """
        pixels = np.asarray(Image.open(path).convert("RGB"))
        if pixels.shape != (TILE_PX, TILE_PX, 3):
            height, width = pixels.shape[:2]
            raise ValueError(f"{path}: a tile has {TILE_PX} px a side, this one is {width} x {height}")
        return cls(pixels)

    @cached_property
    def density(self) -> np.ndarray:
        """Mean optical density of R, G and B against white glass, float64 (3,)."""
        return np.asarray(np.maximum(DENSITY_OF[self.pixels].mean(axis=(0, 1)), LEAST_DENSITY))


def tiles_of_split(folder: Path, collection: Collection, split: str) -> list[TileFile]:
    """Return the tiles of a split; those of one origin are all in one split, whatever their classes.

    Origins with tissue that is not neoplastic, which are few, are split apart from the others, so that each split has
    its share of them.

    Args:
        folder: With ``index.csv`` of columns ``file``, ``label`` and the collection's origin.
        split: Key of ``SPLITS``.

    Raises:
        FileNotFoundError: the folder holds no such index.
    """
    with (folder / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in collection.classes]
    # The copies of a source tile are numbered for each label.
    by_patient = collection.origin == "patient"
    files = [
        TileFile(
            path=folder / row["file"],
            label=collection.classes[row["label"]],
            own_label=row["label"],
            origin=row[collection.origin] if by_patient else f"{row['label']} {row[collection.origin]}",
        )
        for row in rows
    ]
    plain = {file.origin for file in files if file.label == CLASS_NAMES[0]}
    mine: set[str] = set()
    for number, origins in enumerate((plain, {file.origin for file in files} - plain)):
        order = np.random.default_rng([SPLIT_SEED, number]).permutation(sorted(origins))
        ends = np.rint(np.cumsum([0, *SPLITS.values()]) * len(order)).astype(int)
        place = list(SPLITS).index(split)
        mine |= {str(each) for each in order[ends[place] : ends[place + 1]]}
    return [file for file in files if file.origin in mine]


def draw_tiles(
    files: Sequence[TileFile], label: str, origins: int, rng: np.random.Generator, but: frozenset[str] = frozenset()
) -> tuple[list[Tile], frozenset[str]]:
    """Read the tiles of a class from some origins chosen at random.

    Args:
        files: Of a split of one collection.
        origins: How many, at most.
        but: Origins that are left out.

    Returns:
        The tiles, of each origin at most six, and the origins.

    Raises:
        ValueError: none is left.
    """
    of_origin: dict[str, list[TileFile]] = {}
    for file in files:
        if file.label == label and file.origin not in but:
            of_origin.setdefault(file.origin, []).append(file)
    if not of_origin:
        raise ValueError(f"no tile of {label} is left")
    chosen = [str(each) for each in rng.permutation(sorted(of_origin))[:origins]]
    # Copies of one source tile look alike: of these one will do.
    most = 1 if " " in chosen[0] else 6
    drawn = [of_origin[each][number] for each in chosen for number in rng.permutation(len(of_origin[each]))[:most]]
    return [Tile.load(file.path) for file in drawn], frozenset(chosen)


@dataclass(frozen=True, slots=True, eq=False)
class SlideStain:
    """The stain of one slide and how much its tiles differ from it.

    Every tile is brought to the slide's mean density first, whichever its class, so that the mean colour of a tile
    tells nothing.

    Attributes:
        density: Mean optical density of R, G and B, float64 (3,).
        glass: Colour of empty glass, R, G, B in 0..255.
        gamma: Of the scanner.
        brightness_spread: Standard deviation of the log of a tile's density.
        hue_spread: The same, of each channel on its own.
    """

    density: np.ndarray
    glass: tuple[float, float, float]
    gamma: float = 1.0
    brightness_spread: float = 0.15
    hue_spread: float = 0.06

    def stained(self, tile: Tile, rng: np.random.Generator) -> np.ndarray:
        """Return a tile's pixels as the slide is stained, uint8, by the law of Beer and Lambert."""
        jitter = rng.normal(0, self.brightness_spread) + rng.normal(0, self.hue_spread, 3)
        gain = np.clip(self.density / tile.density, 0.4, 2.6) * np.exp(jitter)
        passed = np.minimum(np.arange(256)[:, None] / WHITE, 1) ** (gain * self.gamma)
        table = np.rint(np.asarray(self.glass) * passed).astype(np.uint8)
        # Pillow looks values up ten times as fast as numpy.
        return np.asarray(Image.fromarray(tile.pixels).point(table.T.ravel().tolist()))


def draw_stain(tiles: Sequence[Tile], rng: np.random.Generator) -> SlideStain:
    """Draw a slide's stain: near that of some tile of any class, at times beyond what the collection shows."""
    spread, hue = (0.12, 0.05) if rng.random() < 0.5 else (0.22, 0.14)
    density = tiles[int(rng.integers(len(tiles)))].density * np.exp(rng.normal(0, spread) + rng.normal(0, hue, 3))
    grey = rng.uniform(232, 250)
    tint = 3.0 if rng.random() < 0.7 else 12.0
    red, green, blue = np.clip(grey + rng.uniform(-tint, tint, 3), 200, 254)
    return SlideStain(density=density, glass=(red, green, blue), gamma=float(np.exp(rng.normal(0, 0.08))))
