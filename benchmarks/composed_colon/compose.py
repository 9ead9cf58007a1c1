"""Composed slides on disk, with labels, outlines and a manifest."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.composed_colon.design import MPP, ComposedDesign, design_composed
from benchmarks.composed_colon.paint import Composer
from benchmarks.composed_colon.tiles import CLASS_NAMES, SPLITS, tiles_of_split
from tnet_cli.files import table_text, write_json, write_text_whole, written_whole
from tnet_cli.synth.outline import outlines_geojson
from tnet_cli.synth.pyramid import WINDOW_PX, EncodedWindow, encode_window, window_places, write_pyramid

MANIFEST_COLUMNS = ("slide", "label", "split", "annotation")
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

    def design(self) -> ComposedDesign:
        """Decide what is on it."""
        return design_composed(self.seed, self.side_px, self.label, self.difficulty)


def compose_all(folder: Path, tiles: Path, wanted: Sequence[Wanted], workers: int) -> None:
    """Compose the slides that are not there yet.

    Args:
        folder: Where they are written.
        tiles: With ``index.csv``.
        wanted: The slides.
        workers: Processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make = partial(compose, folder, tiles)
    if workers == 1:
        for slide in wanted:
            make(slide)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(make, wanted):
            pass


def write_manifest(folder: Path, wanted: Sequence[Wanted]) -> Path:
    """Write the manifest of all slides, composed already or not; return its path."""
    rows = [
        {
            "slide": f"{slide.name}.tif",
            "label": slide.label,
            "split": slide.split,
            "annotation": f"{slide.name}.geojson",
        }
        for slide in wanted
    ]
    manifest = folder / "labels.csv"
    write_text_whole(manifest, table_text(list(MANIFEST_COLUMNS), rows))
    return manifest


def compose(folder: Path, tiles: Path, slide: Wanted) -> None:
    """Compose one slide with its outlines unless it is there."""
    path = folder / f"{slide.name}.tif"
    if path.exists():
        return
    design = slide.design()
    write_json(path.with_suffix(".geojson"), outlines_geojson(design.foci, MPP, CLASS_NAMES[1]))
    composer = Composer(design, tiles_of_split(tiles, slide.split))
    with written_whole(path) as draft:
        write_pyramid(
            draft, design.size, MPP, painted_windows(design, composer), description=DESCRIPTION.format(seed=design.seed)
        )


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
VALIDATION_PX = 20_000
TEST_PX = (*(20_000,) * 7, 30_000, *(20_000,) * 5, 40_000, 20_000, 30_000, 20_000, 20_000, 20_000, 60_000)
"""Sides of test slides, in turn: four of a side, one of each kind."""

SEEDS = {"train": 10_000, "val": 20_000, "test": 30_000}
KINDS = ("", "easy", "", "hard")
"""Of validation and test slides, in turn: benign, and positive of a difficulty."""


def slides_of_split(split: str, count: int) -> list[Wanted]:
    """Return the first slides of a split, half of each class."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    slides = []
    for number in range(count):
        positive, turn = number % 2, number // len(KINDS)
        difficulty = KINDS[number % len(KINDS)]
        side_px = TEST_PX[turn % len(TEST_PX)]
        if split == "train":
            difficulty, side_px = "training" if positive else "", TRAINING_PX
        elif split == "val":
            side_px = VALIDATION_PX
        slides.append(Wanted(SEEDS[split] + number, split, side_px, CLASS_NAMES[positive], difficulty))
    return slides


def difficulty_of(name: str) -> str:
    """Return the difficulty of a validation or test slide by the name of its file, empty where it is benign."""
    split, number = Path(name).stem.split("-")
    return KINDS[(int(number) - SEEDS[split]) % len(KINDS)]
