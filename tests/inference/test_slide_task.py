"""One slide in the engine: what it wants, what it is given, and every way in which it ends."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tnet_cli.errors import SlideError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.reader_threads import ReaderThreads
from tnet_cli.inference.slide_task import GivenUpError, NothingToSeeError, SlideTask
from tnet_cli.inference.traversal_job import TraversalJob, TraversalResult
from tnet_cli.model.choice import TopK
from tnet_cli.model.traversal import Look, TraversalPlan, traverse

ROOT = Region(0, 0, 64, 64)
PLAN = TraversalPlan(grid=AttentionGrid(2, 0.5), processing_levels=2, locations=(2,), choice="beam", sampler=TopK())


@pytest.fixture
def threads() -> Iterator[ReaderThreads]:
    with ReaderThreads(2) as running:
        yield running


def pixels_of(region: Region) -> np.ndarray:
    return np.full((4, 4, 3), region.x, np.uint8)


def job(read=pixels_of, *, keeps_patches: bool = True) -> TraversalJob:
    return TraversalJob(traverse([ROOT], torch.zeros(1), PLAN), read, keeps_patches)


def wait_for(condition) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def look_at_all(task: SlideTask) -> None:
    """Give the task what a network that prefers the last cells would see."""
    wait_for(lambda: task.has_read(task.left))
    located = task.is_located
    for _, pixels in task.take(task.left):
        log_probs = torch.log_softmax(torch.arange(4.0), dim=0)[None] if located else None
        task.see(Look(features=torch.full((1, 2), float(pixels.mean())), cell_log_probs=log_probs), pixels)


@pytest.mark.parametrize("keeps_patches", [True, False])
def test_it_wants_the_roots_then_the_chosen_cells_and_ends_with_the_record(threads, keeps_patches):
    task = SlideTask(7)
    task.open(lambda: job(keeps_patches=keeps_patches), threads)
    wait_for(lambda: task.proceed(threads, SlideError) is None and task.is_pending)
    assert list(task.wanted.regions) == [ROOT]
    located_first = task.is_located
    look_at_all(task)
    assert task.advance(threads, SlideError)
    assert list(task.wanted.regions) == [Region(0, 32, 32, 32), Region(32, 32, 32, 32)]
    assert (located_first, task.is_located) == (True, False)
    look_at_all(task)
    assert not task.advance(threads, SlideError)
    ended = task.proceed(threads, SlideError)
    assert isinstance(ended, TraversalResult)
    assert ended.traversal.location_count == 2
    shapes = [[patch.shape for patch in patches] for patches in ended.patches]
    assert shapes == ([[(4, 4, 3)], [(4, 4, 3)] * 2] if keeps_patches else [])


def test_nothing_to_look_at_and_an_error_while_opening_are_ends(threads):
    empty, broken = SlideTask(0), SlideTask(1)
    empty.open(lambda: None, threads)
    broken.open(lambda: (_ for _ in ()).throw(SlideError("a.svs", "is no slide")), threads)
    wait_for(lambda: empty.proceed(threads, SlideError) and broken.proceed(threads, SlideError))
    assert isinstance(empty.ended, NothingToSeeError)
    assert str(broken.ended) == "a.svs: is no slide"


def test_an_error_that_is_not_caught_is_raised(threads):
    task = SlideTask(0)
    task.open(lambda: (_ for _ in ()).throw(KeyError("a bug")), threads)
    with pytest.raises(KeyError, match="a bug"):
        wait_for(lambda: task.proceed(threads, SlideError))


def test_a_region_that_cannot_be_read_fails_the_slide_once_all_its_reads_are_over(threads):
    go_on = threading.Event()

    def read(region: Region) -> np.ndarray:
        if region == ROOT:
            return pixels_of(region)
        if region.x == 0:
            raise SlideError("a.svs", "tile is damaged")
        go_on.wait(10)
        return pixels_of(region)

    task = SlideTask(0)
    task.begin(job(read), threads, SlideError)
    look_at_all(task)
    assert task.advance(threads, SlideError)
    wait_for(lambda: task.has_read(1))
    assert task.fails_within(1)
    assert not task.is_pending
    assert task.proceed(threads, SlideError) is None, "the other read is still going on"
    go_on.set()
    wait_for(lambda: task.proceed(threads, SlideError))
    assert str(task.ended) == "a.svs: tile is damaged"


def test_a_read_that_hangs_is_given_up(threads):
    go_on = threading.Event()
    task = SlideTask(0)
    task.begin(job(lambda region: go_on.wait(10) and pixels_of(region)), threads, SlideError)
    wait_for(lambda: task.hangs(0.05))
    assert not task.hangs(60)
    task.give_up(threads)
    assert isinstance(task.proceed(threads, SlideError), GivenUpError)
    assert threads.hung() == 1
    go_on.set()
