"""Slides for a teacher and its pupil: composed of real tiles, with storage tiles and a scale that fit no cell.

    python -m benchmarks.distillation.slides --tiles COLON_TILES --out FOLDER [--train 72] [--test 48]

Foci and mucosa of a slide come from the tiles of one split. Of the slides to learn from two thirds are of the split
that the teacher has learnt from, a third of the one that it is judged on; those of the test are of neither. Every
negative slide has pseudo-foci, of benign tiles of other sources than its mucosa, so that a change of patient is no sign
of tumour.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from benchmarks.composed_colon.design import MPP, design_composed
from benchmarks.composed_colon.paint import Composer
from benchmarks.composed_colon.tiles import CLASS_NAMES, TileFile, tiles_of_split
from tnet_cli.files import table_text, write_json, write_text_whole, written_whole
from tnet_cli.synth.outline import outlines_geojson

SIDE_PX = 12_000
TRAINING_SIDE_PX = 10_000
TILE_PX = 240
WINDOW_PX = 960
REDUCTIONS = (4, 16)
QUALITY = 80
KINDS = ("", "easy", "", "hard")
"""In turn: negative, and positive with foci of 1 to 5 % or of 0.1 to 1 % of the tissue."""

SEEDS = {"train": 40_000, "val": 50_000, "test": 60_000}


@dataclass(frozen=True, slots=True)
class ComposedSlide:
    """A slide to be composed of the tiles of a split."""

    seed: int
    split: str
    kind: str
    side_px: int

    @property
    def label(self) -> str:
        """Its true label."""
        return CLASS_NAMES[bool(self.kind)]


def wanted(split: str, count: int) -> list[ComposedSlide]:
    """Return the first slides of a split, half of each class; those of the test are the larger ones."""
    side_px = SIDE_PX if split == "test" else TRAINING_SIDE_PX
    return [ComposedSlide(SEEDS[split] + number, split, KINDS[number % len(KINDS)], side_px) for number in range(count)]


def compose(folder: Path, tiles: Path, slide: ComposedSlide) -> None:
    """Compose a slide, unless it is there."""
    path = folder / f"{slide.split}-{slide.seed}.tif"
    if path.exists():
        return
    difficulty = slide.kind or ("easy", "hard")[slide.seed // 4 % 2]
    design = design_composed(slide.seed, slide.side_px, CLASS_NAMES[1], difficulty)
    files = tiles_of_split(tiles, slide.split)
    if not slide.kind:
        files = with_pseudo_foci(files, slide.seed)
        design = dataclasses.replace(design, label=CLASS_NAMES[0])
    composer = Composer(design, files)
    write_json(path.with_suffix(".geojson"), outlines_geojson(design.foci if slide.kind else (), MPP, CLASS_NAMES[1]))
    with written_whole(path) as draft:
        _write(draft, composer, slide.side_px)


def with_pseudo_foci(files: Sequence[TileFile], seed: int) -> list[TileFile]:
    """Return benign tiles alone, half of their sources in the place of tumour."""
    benign = [file for file in files if file.label == CLASS_NAMES[0]]
    sources = np.random.default_rng([seed, 7]).permutation(sorted({file.source for file in benign}))
    instead = set(sources[: len(sources) // 2].tolist())
    return [dataclasses.replace(file, label=CLASS_NAMES[file.source in instead]) for file in benign]


def _write(path: Path, composer: Composer, whole_px: int) -> None:
    count = -(-whole_px // WINDOW_PX)
    coarse = {by: np.empty((count * WINDOW_PX // by, count * WINDOW_PX // by, 3), np.uint8) for by in REDUCTIONS}

    def strips() -> Iterator[np.ndarray]:
        for row in range(count):
            strip = np.concatenate(
                [composer.window(column * WINDOW_PX, row * WINDOW_PX, WINDOW_PX, WINDOW_PX) for column in range(count)],
                axis=1,
            )
            for by, plane in coarse.items():
                height = WINDOW_PX // by
                plane[row * height : (row + 1) * height] = np.asarray(Image.fromarray(strip).reduce(by))
            yield strip

    def tiles_of(planes: Iterator[np.ndarray], side_px: int) -> Iterator[np.ndarray]:
        across = -(-side_px // TILE_PX)
        left = across
        for plane in planes:
            for y in range(0, plane.shape[0], TILE_PX):
                if left == 0:
                    return
                left -= 1
                for column in range(across):
                    tile = plane[y : y + TILE_PX, column * TILE_PX : (column + 1) * TILE_PX]
                    missing = TILE_PX - tile.shape[0], TILE_PX - tile.shape[1]
                    yield np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for by in (1, *REDUCTIONS):
            side_px = whole_px // by
            file.write(
                tiles_of(strips() if by == 1 else iter([coarse[by]]), side_px),
                shape=(side_px, side_px, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": QUALITY},
                resolution=(1e4 / (MPP * by), 1e4 / (MPP * by)),
                resolutionunit="CENTIMETER",
                subfiletype=int(by > 1),
                metadata=None,
                description=None,
            )


def main() -> None:
    """Compose the slides, and write a manifest of each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=72)
    parser.add_argument("--test", type=int, default=48)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    learnt = given.train * 2 // 3
    both = [*wanted("train", learnt), *wanted("val", given.train - learnt)]
    for manifest, slides in (("train", both), ("test", wanted("test", given.test))):
        if not slides:
            continue
        rows = [
            {
                "slide": f"{slide.split}-{slide.seed}.tif",
                "label": slide.label,
                "annotation": f"{slide.split}-{slide.seed}.geojson",
            }
            for slide in slides
        ]
        write_text_whole(given.out / f"{manifest}.csv", table_text(list(rows[0]), rows))
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            for number, _ in enumerate(pool.map(partial(compose, given.out, given.tiles), slides), start=1):
                print(f"{manifest} {number}/{len(slides)}, {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
