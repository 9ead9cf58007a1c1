"""Composed slides on disk, with labels, outlines and a manifest."""

import csv
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.composed_colon.design import MPP, ComposedDesign, design_composed
from benchmarks.composed_colon.paint import Composer
from benchmarks.composed_colon.tiles import CLASS_NAMES, SPLITS, tiles_of_split
from tnet_cli.pipeline.atomic import write_text_whole, written_whole
from tnet_cli.pipeline.documents import table_text, write_json
from tnet_cli.pipeline.slide_pyramid import WINDOW_PX, EncodedWindow, encode_window, window_places, write_pyramid
from tnet_cli.synth.outline import outlines_geojson

MANIFEST_COLUMNS = ("slide", "label", "split", "annotation", "difficulty", "tumour_share")
DESCRIPTION = "tnet composed slide, seed {seed}; laid from tiles of LC25000 (CC BY-SA 4.0), not a slide of anyone"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A slide to be composed.

    Attributes:
        seed: Names it.
        split: Whose tiles it is made of.
        side_px: Level-0 pixels.
        label: ``benign`` or ``adenocarcinoma``.
        difficulty: Key of ``design.SHARES``; empty on a benign slide.
    """

    seed: int
    split: str
    side_px: int
    label: str
    difficulty: str

    @property
    def name(self) -> str:
        """Name of its file, without suffix."""
        return f"{self.split}-{self.seed}"


def compose_all(folder: Path, tiles: Path, wanted: list[Wanted], workers: int) -> Path:
    """Compose the slides that are not there yet; return the manifest of all of them.

    Args:
        folder: Where they are written.
        tiles: With ``index.csv``.
        wanted: The slides.
        workers: Processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make = partial(compose, folder, tiles)
    if workers == 1:
        shares = list(map(make, wanted))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            shares = list(pool.map(make, wanted))
    rows = [
        {
            "slide": f"{slide.name}.tif",
            "label": slide.label,
            "split": slide.split,
            "annotation": f"{slide.name}.geojson",
            "difficulty": slide.difficulty,
            "tumour_share": f"{share:.5f}",
        }
        for slide, share in zip(wanted, shares, strict=True)
    ]
    manifest = folder / "labels.csv"
    write_text_whole(manifest, table_text(list(MANIFEST_COLUMNS), rows))
    return manifest


def compose(folder: Path, tiles: Path, slide: Wanted) -> float:
    """Compose one slide with its outlines unless it is there; return the share of its tissue that is tumour."""
    design = design_composed(slide.seed, slide.side_px, slide.label, slide.difficulty)
    path = folder / f"{slide.name}.tif"
    if not path.exists():
        write_json(path.with_suffix(".geojson"), outlines_geojson(design.foci, MPP, CLASS_NAMES[1]))
        composer = Composer(design, tiles_of_split(tiles, slide.split))
        with written_whole(path) as draft:
            write_pyramid(
                draft,
                design.size,
                MPP,
                painted_windows(design, composer),
                description=DESCRIPTION.format(seed=design.seed),
            )
    return design.tumour_share


def painted_windows(design: ComposedDesign, composer: Composer) -> Iterator[EncodedWindow]:
    """Paint all windows of a slide, row by row; empty ones once."""
    glass: EncodedWindow | None = None
    for x, y in window_places(design.size):
        if composer.is_glass(x, y, WINDOW_PX, WINDOW_PX):
            glass = glass or encode_window(composer.window(x, y, WINDOW_PX, WINDOW_PX))
            yield glass
        else:
            yield encode_window(composer.window(x, y, WINDOW_PX, WINDOW_PX))


TRAINING_PX = 12_000
LARGE_PX = (20_000, 20_000, 30_000, 20_000, 20_000, 40_000, 20_000, 20_000, 20_000, 60_000)
"""Sides of validation and test slides, in turn."""

SEEDS = {"train": 10_000, "val": 20_000, "test": 30_000}


def training_slides(count: int) -> list[Wanted]:
    """Return slides to train on, half of each class."""
    return [
        Wanted(SEEDS["train"] + number, "train", TRAINING_PX, CLASS_NAMES[number % 2], "training" if number % 2 else "")
        for number in range(count)
    ]


def large_slides(split: str, count: int, *, largest_px: int = max(LARGE_PX)) -> list[Wanted]:
    """Return slides to validate or test on: in turn benign, easy, benign and hard, of sides in turn.

    Args:
        split: ``val`` or ``test``.
        count: How many.
        largest_px: Larger sides become this one.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    turn = ("", "easy", "", "hard")
    sides = np.resize(np.minimum(LARGE_PX, largest_px), -(-count // len(turn)))
    return [
        Wanted(
            SEEDS[split] + number,
            split,
            int(sides[number // len(turn)]),
            CLASS_NAMES[number % 2],
            turn[number % len(turn)],
        )
        for number in range(count)
    ]


def difficulties(manifest: Path) -> dict[str, str]:
    """Return the difficulty of each positive slide of a manifest, by the name of its file."""
    with manifest.open(newline="") as file:
        return {row["slide"]: row["difficulty"] for row in csv.DictReader(file) if row["difficulty"]}
