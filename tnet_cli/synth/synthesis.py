"""Synthetic slides on disk: pyramidal tiled JPEG BigTIFFs, streamed, with labels and annotations."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tifffile

from tnet_cli.files import FolderKind, claim, table_text, write_json, write_text_whole, written_whole
from tnet_cli.synth.design import CLASS_NAMES, SlideDesign, design_slide
from tnet_cli.synth.outline import outlines_geojson
from tnet_cli.synth.paint import Painter, colour_table
from tnet_cli.synth.pyramid import WINDOW_PX, EncodedWindow, encode_window, window_places, write_pyramid

__all__ = ["CLASS_NAMES", "SyntheticSlide", "synthesize", "write_synthetic_slide"]


LABELS = "labels.csv"
_SAID_IN_FILES = "tnet synthetic slide, seed "


def folder_of_slides(command: str, stem: str, *others: str) -> FolderKind:
    """Return what a command writes that draws slides, whose names are a pattern without suffix."""

    def wrote_unclaimed(folder: Path) -> bool:
        slides = sorted(folder.glob(f"{stem}.tif"))
        return bool(slides) and all(map(is_synthetic, slides))

    return FolderKind(command, (f"{stem}.tif", f"{stem}.geojson", *others), wrote_unclaimed)


def is_synthetic(slide: Path) -> bool:
    """Whether a file says that it is a slide drawn here."""
    try:
        with tifffile.TiffFile(slide) as file:
            return file.pages.first.description.startswith(_SAID_IN_FILES)
    except Exception:  # noqa: BLE001 (whatever tifffile raises, the file is none of ours)
        return False


SYNTHESIS = folder_of_slides("synth", "synth-[0-9]*-[0-9]*", LABELS)


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """A slide that was made.

    Attributes:
        annotation: GeoJSON with the lesions' outlines; no features on a benign slide.
        seed: The same seed, size and scale give the same bytes.
    """

    path: Path
    label: str
    annotation: Path
    seed: int


def write_synthetic_slide(
    path: Path,
    *,
    seed: int,
    side_px: int,
    mpp: float = 0.5,
    label: str | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SyntheticSlide:
    """Draw one slide and write it with its annotation, ``<stem>.geojson``, beside it.

    Args:
        path: The file to write or replace.
        label: ``benign`` or ``lesion``; drawn from the seed when None.
        workers: Processes that draw; one for each usable core when None, none of their own when 1.
        on_progress: Told how many windows of how many are drawn.

    Raises:
        ValueError: the label is unknown, or the slide is too small to hold a focus.
        OSError: the file cannot be written; then no part of it is left.
    """
    design = design_slide(seed, side_px, mpp=mpp, label=label)
    workers = workers if workers is not None else _usable_cores()
    with written_whole(path) as draft, _pool(workers) as pool:
        write_pyramid(
            draft,
            design.size,
            design.mpp,
            _windows(design, pool),
            description=f"{_SAID_IN_FILES}{design.seed}; drawn by a program, no tissue of anyone",
            on_progress=on_progress,
        )
    annotation = path.with_suffix(".geojson")
    write_json(annotation, outlines_geojson(design.lesions, design.mpp, CLASS_NAMES[1]))
    return SyntheticSlide(path=path, label=design.label, annotation=annotation, seed=seed)


def synthesize(
    directory: Path,
    *,
    count: int,
    side_px: int,
    seed: int,
    mpp: float = 0.5,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[SyntheticSlide]:
    """Make labelled slides, half of them with lesions, and the manifest ``labels.csv``.

    Args:
        directory: Made if need be.
        workers: Processes; one for each usable core when None.
        on_progress: Told how many slides of how many are done.

    Returns:
        The slides in the order of ``labels.csv``.

    Raises:
        ValueError: the slides are too small to hold a focus.
        UsageError: the folder holds files of such names that are not of ``tnet synth``.
        OSError: a file cannot be written.
    """
    claim(directory, SYNTHESIS)
    rng = np.random.default_rng([seed, count])
    labels = rng.permutation([CLASS_NAMES[number % 2] for number in range(count)])
    workers = workers if workers is not None else _usable_cores()
    make = partial(_make_numbered, directory, seed, side_px, mpp, 1 if count > 1 else workers)
    slides: list[SyntheticSlide] = []
    with _pool(min(workers, count) if count > 1 else 1) as pool:
        made = map(make, range(count), labels) if pool is None else pool.map(make, range(count), labels)
        for slide in made:
            slides.append(slide)
            if on_progress is not None:
                on_progress(len(slides), count)
    rows = [{"slide": s.path.name, "label": s.label, "annotation": s.annotation.name} for s in slides]
    write_text_whole(directory / LABELS, table_text(["slide", "label", "annotation"], rows))
    return slides


def _make_numbered(
    directory: Path, seed: int, side_px: int, mpp: float, workers: int, number: int, label: str
) -> SyntheticSlide:
    # Seeds of different runs must not meet: the slide's own seed is drawn from the run's seed and its number.
    own = int(np.random.default_rng([seed, number, 1]).integers(2**31))
    path = directory / f"synth-{seed}-{number:04d}.tif"
    return write_synthetic_slide(path, seed=own, side_px=side_px, mpp=mpp, label=str(label), workers=workers)


def _usable_cores() -> int:
    # A process may be held to some of the machine's cores; more processes than those only wait for each other.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    """Give processes, or None where this one is to do it all."""
    if workers == 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield pool
    finally:
        # The pool's own way out would draw every window of an abandoned slide first.
        pool.shutdown(cancel_futures=True)


def _windows(design: SlideDesign, pool: Executor | None) -> Iterator[EncodedWindow]:
    """Draw all windows of a slide, row by row."""
    pixel = colour_table(design.appearance)[0]
    glass = encode_window(np.broadcast_to(pixel, (WINDOW_PX, WINDOW_PX, 3)))
    places = window_places(design.size)
    with_tissue = [place for place in places if not design.is_glass(*place, WINDOW_PX, WINDOW_PX)]
    if pool is None:
        drawn: Iterator[EncodedWindow] = map(partial(_draw, Painter(design)), with_tissue)
    else:
        draw = partial(_draw_apart, design.seed, design.size.width, design.mpp, design.label)
        drawn = pool.map(draw, with_tissue, chunksize=4)
    remaining = set(with_tissue)
    for place in places:
        yield next(drawn) if place in remaining else glass


def _draw(painter: Painter, place: tuple[int, int]) -> EncodedWindow:
    """Draw the window whose top left corner is at x, y in level-0 pixels."""
    return encode_window(painter.window(*place, WINDOW_PX, WINDOW_PX))


def _draw_apart(seed: int, side_px: int, mpp: float, label: str, place: tuple[int, int]) -> EncodedWindow:
    return _draw(_painter(seed, side_px, mpp, label), place)


@lru_cache(maxsize=1)
def _painter(seed: int, side_px: int, mpp: float, label: str) -> Painter:
    """Return what a process keeps between windows: a design is too large to be sent with each of them."""
    return Painter(design_slide(seed, side_px, mpp=mpp, label=label))
