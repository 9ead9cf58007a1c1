"""Counts that do not depend on the machine stand for speed: what the hot paths do for each location."""

import sys
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

import tnet_cli
from tnet_cli.cli.app import main
from tnet_cli.geometry import AttentionGrid, Region, Size
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.prepare import prepare
from tnet_cli.inference.reader_threads import ReaderThreads
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import DEMO_MODEL
from tnet_cli.model.choice import TopK
from tnet_cli.model.traversal import Look, TraversalPlan, traverse
from tnet_cli.modelfile.modelfile import find_model, load_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide
from tnet_cli.tissue.tissue import TissueMask

CALLS_A_LOCATION = 36
"""It was 30 when this was written: sixteen cells are cut, tested for tissue and ranked."""

PIXELS_A_PATCH = 0.9
"""Pixels decoded for each pixel the network sees; it was 0.81 when this was written."""


def calls_of_a_traversal(locations: tuple[int, ...], side_px: int) -> int:
    """Count the Python functions that a traversal with tissue everywhere calls."""
    tissue = TissueMask(np.ones((64, 64), bool), Size(side_px, side_px))
    root = Region(0, 0, side_px, side_px)
    plan = TraversalPlan(AttentionGrid(4, 0.25), len(locations) + 1, locations, "beam", TopK())
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        steps = traverse([root], np.zeros(1), plan, lambda cells, _: tissue.fractions(cells) > 0)
        wanted = next(steps)
        while True:
            number = len(wanted.regions)
            rng = np.random.default_rng(number)
            log_probs = None if wanted.allowed is None else np.log(rng.dirichlet(np.ones(16), number))
            try:
                wanted = steps.send(Look(np.zeros((number, 4)), log_probs))
            except StopIteration:
                return count
    finally:
        sys.setprofile(None)


def test_a_location_costs_a_traversal_few_calls_and_no_more_on_a_larger_slide():
    few, many = calls_of_a_traversal((4, 4, 4), 2**14), calls_of_a_traversal((64, 64, 64), 2**14)
    for_each = (many - few) / 180
    assert for_each < CALLS_A_LOCATION, for_each
    # The interpreter adds a handful of its own.
    assert abs(calls_of_a_traversal((64, 64, 64), 2**17) - many) < 0.02 * many


def test_tiles_on_the_grid_are_decoded_once_for_each_patch(made_slide):
    """A synthetic slide's tiles are the finest patches; coarser patches share the tiles of coarser pyramid levels."""
    model = load_model(find_model(DEMO_MODEL))
    with open_slide(str(made_slide)) as slide:
        prepare(slide, model.card.network)
        before_px = slide.pixels_read
    entry = SlideInput(path=Place(made_slide), name="made")
    ((_, result),) = classify_slides([entry], model, engine=EngineOptions(readers=1))
    for_patches = (result.pixels_read - before_px) / (len(result.regions) * model.card.network.base_px**2)
    assert for_patches < PIXELS_A_PATCH, for_patches


def test_from_the_command_to_a_slides_pixels_it_is_ten_calls_at_most(drawn_slide, untrained_model, tmp_path):
    """A read is asked for in one thread and made in another; the calls are those on the way to its being asked for."""
    ours = str(Path(tnet_cli.__file__).parent)
    ways: set[tuple[str, ...]] = set()

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        if event != "call" or frame.f_code is not ReaderThreads.submit.__code__:
            return
        asked = frame.f_locals["function"]
        way: list[str] = []
        above = frame.f_back
        while above is not None:
            name = above.f_code.co_name
            if above.f_code.co_filename.startswith(ours) and name not in {"<listcomp>", "run"}:
                way.append(name)
            above = above.f_back
        if isinstance(asked, partial) and asked.func.__name__ == "read":
            # From what asks for the read up to ``api.classify``, which the command calls.
            ways.add(tuple(reversed(way[: way.index("classify") + 1])))

    sys.setprofile(watch)
    try:
        with pytest.raises(SystemExit):
            main(["classify", str(drawn_slide()), "-m", str(untrained_model), "-o", str(tmp_path), "--no-overlay"])
    finally:
        sys.setprofile(None)
    assert len(ways) == 2, "the roots, and what is attended"
    for way in ways:
        assert len((*way, "Slide.read")) <= 10, way
