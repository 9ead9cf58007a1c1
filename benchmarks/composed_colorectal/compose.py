"""Composed slides on disk, with outlines of their foci, a manifest, and a table of how each was made."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.composed_colorectal.artefacts import Artefacts
from benchmarks.composed_colorectal.design import ComposedDesign, design_composed
from benchmarks.composed_colorectal.paint import WINDOW_PX, Composer
from benchmarks.composed_colorectal.tiles import CLASS_NAMES, COLLECTIONS, SERRATED, SPLITS, tiles_of_split
from tnet_cli.files import table_text, write_json, write_text_whole, written_whole
from tnet_cli.synth.outline import outlines_geojson

TILE_PX = 240
"""Storage tiles, which coincide with no cell."""

REDUCTIONS = (4, 16)
SEEDS = {"train": 100_000, "val": 200_000, "test": 300_000}
MANIFEST_COLUMNS = ("slide", "label", "split", "mpp", "annotation")
DESIGN_COLUMNS = (
    *("slide", "label", "split", "collection", "kind", "difficulty", "mpp", "tile_mpp", "width", "height"),
    *("whole", "focus_share", "pseudo_foci"),
)
KINDS = {
    "train": ("field", "slide", "field", "biopsy", "field", "slide", "field", "core", "field", "slide"),
    "val": ("field", "slide", "field", "biopsy", "field", "slide", "field", "core", "field", "slide"),
    "test": ("field", "slide", "field", "slide"),
}
"""In turn, of each class."""

LABELS = {
    "lc": (CLASS_NAMES[0], CLASS_NAMES[2]),
    "ebhi": (CLASS_NAMES[0], CLASS_NAMES[1], CLASS_NAMES[0], CLASS_NAMES[2]),
}
"""In turn: half of each collection is not neoplastic."""

SIDES_MM = {"train": (5.0, 11.0), "val": (6.0, 14.0), "test": (8.0, 20.0)}
CROWDED_MM = (4.0, 7.0)
FIRST_CROWDED = 5_000
"""Number of the first slide with many foci, which is there to teach where to look."""

LARGEST_MM = (45.0, 50.0)
LARGEST_EVERY = 24
"""One in so many test slides takes up a whole glass."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A slide to be composed.

    Attributes:
        number: Among those of its collection and split.
        label: Of ``CLASS_NAMES``, or ``SERRATED``.
    """

    number: int
    collection: str
    split: str
    kind: str
    label: str

    @property
    def seed(self) -> int:
        """Names it."""
        return SEEDS[self.split] + 50_000 * list(COLLECTIONS).index(self.collection) + self.number

    @property
    def name(self) -> str:
        """Of its file, without suffix."""
        return f"{self.split}-{self.collection}-{self.number:04d}"

    @property
    def suffix(self) -> str:
        """Of its file: fields are pictures as others would save them."""
        return (".png", ".jpg", ".tif")[self.number // 2 % 3] if self.kind == "field" else ".tif"

    @property
    def difficulty(self) -> str:
        """Key of ``design.SHARES``."""
        if self.kind == "field":
            return "field"
        if self.number >= FIRST_CROWDED:
            return "crowded"
        return "training" if self.split == "train" else ("easy", "hard")[self.number // 8 % 2]

    def design(self) -> ComposedDesign:
        """Decide what is on it."""
        is_largest = self.split == "test" and self.number % LARGEST_EVERY == LARGEST_EVERY - 1
        return design_composed(
            self.seed,
            COLLECTIONS[self.collection],
            self.kind,
            self.label,
            self.difficulty,
            sides_mm=CROWDED_MM if self.difficulty == "crowded" else LARGEST_MM if is_largest else SIDES_MM[self.split],
        )


def wanted_of(split: str, collection: str, count: int) -> list[Wanted]:
    """Return the first slides of a split and collection."""
    kinds, labels = KINDS[split], LABELS[collection]
    return [
        Wanted(number, collection, split, kinds[number // len(labels) % len(kinds)], labels[number % len(labels)])
        for number in range(count)
    ]


def crowded_slides(collection: str, count: int) -> list[Wanted]:
    """Return slides of many foci to be trained on."""
    labels = LABELS[collection]
    return [
        Wanted(FIRST_CROWDED + number, collection, "train", "slide", labels[number % len(labels)])
        for number in range(count)
    ]


def serrated_fields(split: str, count: int) -> list[Wanted]:
    """Return fields of serrated adenoma, which belong to no class here."""
    return [Wanted(9_000 + number, "ebhi", split, "field", SERRATED) for number in range(count)]


def compose_all(
    folder: Path, tiles: Mapping[str, Path], wanted: Sequence[Wanted], workers: int
) -> list[dict[str, Any]]:
    """Compose the slides that are not there yet.

    Args:
        folder: Where they are written.
        tiles: Folder of each collection's tiles.

    Returns:
        A row of ``DESIGN_COLUMNS`` for each, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make = partial(compose, folder, dict(tiles))
    if workers == 1:
        return [make(slide) for slide in wanted]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(make, wanted, chunksize=4))


def write_tables(folder: Path, name: str, wanted: Sequence[Wanted], rows: Sequence[dict[str, Any]]) -> None:
    """Write ``NAME.csv``, a manifest, and ``NAME-design.csv``."""
    manifest = [
        {
            "slide": row["slide"],
            "label": row["label"],
            "split": {"val": "validation"}.get(slide.split, slide.split),
            "mpp": row["mpp"],
            "annotation": f"{slide.name}.geojson",
        }
        for slide, row in zip(wanted, rows, strict=True)
    ]
    write_text_whole(folder / f"{name}.csv", table_text(list(MANIFEST_COLUMNS), manifest))
    write_text_whole(folder / f"{name}-design.csv", table_text(list(DESIGN_COLUMNS), list(rows)))


def join_manifests(folder: Path, collections: Sequence[str]) -> None:
    """Write the manifest of all splits of one collection, ``NAME.csv``, or of several, ``both.csv``."""
    rows: list[dict[str, str]] = []
    for path in sorted(folder / f"{split}-{name}.csv" for split in SPLITS for name in collections):
        if path.exists():
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
    name = collections[0] if len(collections) == 1 else "both"
    write_text_whole(folder / f"{name}.csv", table_text(list(MANIFEST_COLUMNS), rows))


def compose(folder: Path, tiles: Mapping[str, Path], slide: Wanted) -> dict[str, Any]:
    """Compose one slide with its outlines unless it is there; return its row of ``DESIGN_COLUMNS``."""
    design, path = slide.design(), folder / f"{slide.name}{slide.suffix}"
    if not path.exists():
        drawn = [focus.outline for focus in design.foci if focus.label == slide.label != CLASS_NAMES[0]]
        document = outlines_geojson(drawn, design.mpp, slide.label)
        if design.whole and slide.label != CLASS_NAMES[0]:
            document = _everything(design, slide.label)
        write_json(folder / f"{slide.name}.geojson", document)
        rng = np.random.default_rng([design.seed, 11])
        artefacts = Artefacts.drawn(design.size, design.mpp, rng)
        composer = Composer(design, tiles_of_split(tiles[slide.collection], design.collection, slide.split), artefacts)
        with written_whole(path) as draft:
            if slide.suffix == ".tif":
                write_slide(draft, composer)
            else:
                _write_picture(draft, composer, slide.suffix)
    return {
        "slide": path.name,
        "label": slide.label,
        "split": slide.split,
        "collection": slide.collection,
        "kind": slide.kind,
        "difficulty": slide.difficulty,
        "mpp": round(design.mpp, 6),
        "tile_mpp": round(design.tile_mpp, 4),
        "width": design.size.width,
        "height": design.size.height,
        "whole": design.whole,
        "focus_share": round(design.focus_share, 5),
        "pseudo_foci": sum(focus.label == CLASS_NAMES[0] for focus in design.foci),
    }


def _everything(design: ComposedDesign, label: str) -> dict[str, Any]:
    width, height = design.size.width, design.size.height
    ring = [[0, 0], [width, 0], [width, height], [0, height], [0, 0]]
    document = outlines_geojson([], design.mpp, label)
    properties = {"objectType": "annotation", "classification": {"name": label, "color": [200, 30, 30]}}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    document["features"].append({"type": "Feature", "id": label, "geometry": geometry, "properties": properties})
    return document


def strips_of(composer: Composer) -> Iterator[np.ndarray]:
    """Paint a slide in strips of ``WINDOW_PX`` rows, the last with what is left, uint8 (rows, width, 3)."""
    size = composer.design.size
    for y in range(0, size.height, WINDOW_PX):
        height = min(WINDOW_PX, size.height - y)
        windows = [
            composer.window(x, y, min(WINDOW_PX, size.width - x), height) for x in range(0, size.width, WINDOW_PX)
        ]
        yield np.concatenate(windows, axis=1)


def _write_picture(path: Path, composer: Composer, suffix: str) -> None:
    picture = Image.fromarray(np.concatenate(list(strips_of(composer))))
    if suffix == ".png":
        picture.save(path, "PNG")
    else:
        picture.save(path, "JPEG", quality=composer.artefacts.quality)


def write_slide(path: Path, composer: Composer) -> None:
    """Write a pyramid of JPEG tiles of ``TILE_PX`` a side."""
    design, quality = composer.design, composer.artefacts.quality
    about = f"tnet composed slide, seed {design.seed}; laid from tiles of {design.collection.title}"
    coarse: dict[int, list[np.ndarray]] = {by: [] for by in REDUCTIONS}

    def strips() -> Iterator[np.ndarray]:
        for strip in strips_of(composer):
            for by, kept in coarse.items():
                kept.append(_reduced(strip, by))
            yield strip

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for by in (1, *REDUCTIONS):
            width, height = math.ceil(design.size.width / by), math.ceil(design.size.height / by)
            if by > 1 and max(width, height) < TILE_PX:
                break
            file.write(
                _tiles_of(strips() if by == 1 else iter([np.concatenate(coarse[by])]), width),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": quality, "outcolorspace": "ycbcr"},
                resolution=(1e4 / (design.mpp * by), 1e4 / (design.mpp * by)),
                resolutionunit="CENTIMETER",
                subfiletype=int(by > 1),
                metadata=None,
                description=f"{about}, not a slide of anyone" if by == 1 else None,
            )


def _reduced(strip: np.ndarray, by: int) -> np.ndarray:
    height, width = (math.ceil(side / by) for side in strip.shape[:2])
    padded = np.pad(strip, ((0, height * by - strip.shape[0]), (0, width * by - strip.shape[1]), (0, 0)), mode="edge")
    # Whole rows first: numpy is slow along short axes.
    rows = padded.reshape(height, by, -1).sum(axis=1, dtype=np.uint32).reshape(height, width, by, 3)
    return np.asarray(np.rint(sum(rows[:, :, k].astype(np.float32) for k in range(by)) / by**2), np.uint8)


def _tiles_of(planes: Iterator[np.ndarray], width: int) -> Iterator[np.ndarray]:
    for plane in planes:
        for y in range(0, plane.shape[0], TILE_PX):
            for x in range(0, width, TILE_PX):
                tile = plane[y : y + TILE_PX, x : x + TILE_PX]
                missing = TILE_PX - tile.shape[0], TILE_PX - tile.shape[1]
                yield np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else tile
