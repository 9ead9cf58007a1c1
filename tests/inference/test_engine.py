"""The engine: batches, order, failures, and that reading overlaps computing."""

import dataclasses
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tnet_cli.errors import SlideError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.engine import drive
from tnet_cli.inference.slide_task import GivenUpError, NothingToSeeError
from tnet_cli.inference.traversal_job import OpenJob, TraversalJob, TraversalResult, Work
from tnet_cli.model.choice import TopK
from tnet_cli.model.traversal import Look, TraversalPlan, traverse

PLAN = TraversalPlan(grid=AttentionGrid(2, 0.5), processing_levels=3, locations=(2, 3), choice="beam", sampler=TopK())


def everything(regions: Sequence[Region], _roots: np.ndarray) -> np.ndarray:
    return np.ones(len(regions), dtype=bool)


def brightness(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
    """A network that sees the mean of the pixels and prefers the brighter quadrant."""
    pixels = patches.float().mean(dim=1)  # (N, H, W)
    half = pixels.shape[1] // 2
    quadrants = torch.stack(
        [pixels[:, r : r + half, c : c + half].mean(dim=(1, 2)) for r in (0, half) for c in (0, half)], dim=1
    )
    return Look(
        features=torch.stack([pixels.mean(dim=(1, 2)), torch.from_numpy(positions[:, 2]).float()], dim=1),
        cell_log_probs=None if allowed is None else torch.log_softmax(quadrants / 16, dim=1),
    )


def job_over(image: np.ndarray, root: Region) -> TraversalJob:
    def read(region: Region) -> np.ndarray:
        crop = image[region.y : region.bottom, region.x : region.right]
        step = crop.shape[0] // 8
        return crop[::step, ::step]

    return TraversalJob(traversal=traverse([root], torch.zeros(1), PLAN, everything), read=read)


def bright_corner(row: int, column: int) -> np.ndarray:
    image = np.zeros((64, 64, 3), np.uint8)
    image[row : row + 16, column : column + 16] = 200
    return image


ROOT = Region(0, 0, 64, 64)


def test_it_finds_the_bright_square_and_keeps_its_pixels():
    image = bright_corner(48, 16)
    ((position, traversed),) = drive([job_over(image, ROOT)], brightness, batch_size=4, readers=2)
    assert position == 0
    assert isinstance(traversed, TraversalResult)
    last = traversed.traversal.levels[-1]
    assert Region(16, 48, 16, 16) in last.regions
    for record, patches in zip(traversed.traversal.levels, traversed.patches, strict=True):
        assert {patch.shape for patch in patches} == {(8, 8, 3)}
        for region, patch in zip(record.regions, patches, strict=True):
            step = region.width // 8
            np.testing.assert_array_equal(patch, image[region.y : region.bottom : step, region.x : region.right : step])


def test_several_slides_give_the_same_answers_as_one_by_one_whatever_the_batch():
    images = [bright_corner(r, c) for r in (0, 16, 48) for c in (0, 32)]
    alone = [next(iter(drive([job_over(image, ROOT)], brightness, batch_size=1, readers=1)))[1] for image in images]
    for batch_size, in_flight in ((3, 2), (64, 6)):
        together = dict(
            drive(
                [job_over(image, ROOT) for image in images],
                brightness,
                batch_size=batch_size,
                readers=3,
                slides_in_flight=in_flight,
            )
        )
        assert sorted(together) == list(range(len(images)))
        for number, traversed in enumerate(alone):
            other = together[number]
            assert isinstance(traversed, TraversalResult)
            assert isinstance(other, TraversalResult)
            assert [r.regions for r in other.traversal.levels] == [r.regions for r in traversed.traversal.levels]
            np.testing.assert_array_equal(np.concatenate(other.patches), np.concatenate(traversed.patches))


def test_no_batch_is_larger_than_asked_and_every_patch_is_looked_at_once():
    sizes: list[int] = []

    def counted(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        sizes.append(len(patches))
        return brightness(patches, positions, allowed)

    jobs = [job_over(bright_corner(0, 0), ROOT) for _ in range(4)]
    traversed_slides = [traversed for _, traversed in drive(jobs, counted, batch_size=5, readers=2, slides_in_flight=3)]
    assert max(sizes) <= 5
    assert sum(sizes) == sum(
        len(record.regions)
        for traversed in traversed_slides
        if isinstance(traversed, TraversalResult)
        for record in traversed.traversal.levels
    )


def test_a_slide_that_cannot_be_read_ends_alone():
    def unreadable(region: Region) -> np.ndarray:
        raise SlideError("bad.svs", f"tile at {region.x}, {region.y} is damaged")

    good, bad = bright_corner(0, 0), job_over(bright_corner(0, 0), ROOT)
    jobs = [job_over(good, ROOT), TraversalJob(bad.traversal, unreadable), job_over(good, ROOT)]
    outcomes = dict(drive(jobs, brightness, batch_size=4, readers=2, slides_in_flight=3))
    assert isinstance(outcomes[0], TraversalResult)
    assert isinstance(outcomes[1], SlideError)
    assert str(outcomes[1]) == "bad.svs: tile at 0, 0 is damaged"
    assert isinstance(outcomes[2], TraversalResult)


def test_the_next_regions_are_read_while_the_network_computes():
    plain = job_over(bright_corner(0, 0), ROOT)
    finest_read = threading.Semaphore(0)
    read_ahead: list[bool] = []

    def read(region: Region) -> np.ndarray:
        if region.width == 16:
            finest_read.release()
        return plain.read(region)

    def slow(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        if allowed is None:
            assert finest_read.acquire(timeout=10)  # this patch itself
            if len(read_ahead) < 2:  # while it is in the network, the next must arrive
                read_ahead.append(finest_read.acquire(timeout=10))
                finest_read.release()
        return brightness(patches, positions, allowed)

    list(drive([TraversalJob(plain.traversal, read)], slow, batch_size=1, readers=1))
    assert read_ahead == [True, True]


def test_errands_are_taken_only_when_there_is_room():
    taken: list[int] = []

    def many():
        for number in range(6):
            taken.append(number)
            yield job_over(bright_corner(0, 0), ROOT)

    for done, (_, _) in enumerate(drive(many(), brightness, batch_size=8, readers=1, slides_in_flight=2), start=1):
        assert len(taken) <= done + 2


def test_neither_the_slides_in_flight_nor_the_batch_change_an_answer_when_batches_hold_one_slide():
    images = [bright_corner(r, c) for r in (0, 16, 48) for c in (0, 32)]
    shapes: list[int] = []

    def counted(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        shapes.append(len(patches))
        return brightness(patches, positions, allowed)

    for batching in ("by_slide", "ready"):
        seen = []
        for in_flight in (1, 2, 4):
            shapes.clear()
            ended = dict(
                drive(
                    [job_over(image, ROOT) for image in images],
                    counted,
                    batch_size=2,
                    readers=2,
                    slides_in_flight=in_flight,
                    batching=batching,
                )
            )
            traversed_slides = [
                traversed for _, traversed in sorted(ended.items()) if isinstance(traversed, TraversalResult)
            ]
            seen.append([[record.regions for record in traversed.traversal.levels] for traversed in traversed_slides])
            assert set(shapes) == ({2} if batching == "ready" else {1, 2})
        assert seen[0] == seen[1] == seen[2]
        assert seen[0][2][-1] != seen[0][0][-1]


def test_slides_are_opened_in_threads_while_the_network_computes():
    second_opened = threading.Event()
    names: list[str] = []

    def opening(number: int):
        def open_it() -> TraversalJob | None:
            names.append(threading.current_thread().name)
            if number == 1:
                second_opened.set()
            return job_over(bright_corner(0, 0), ROOT) if number < 2 else None

        return open_it

    def slow(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        assert second_opened.wait(10)  # the first batch is in the network: the second slide must come all the same
        return brightness(patches, positions, allowed)

    ended = dict(drive([opening(n) for n in range(3)], slow, batch_size=1, readers=1, slides_in_flight=2))
    assert isinstance(ended[0], TraversalResult)
    assert isinstance(ended[1], TraversalResult)
    assert isinstance(ended[2], NothingToSeeError)
    assert set(names) == {"tnet-read"}


def test_a_read_that_hangs_is_given_up_and_blocks_nobody():
    forever = threading.Event()
    good = job_over(bright_corner(0, 0), ROOT)

    def hanging(_region: Region) -> np.ndarray:
        forever.wait()
        raise AssertionError("nobody waits for this")

    def hanging_open() -> TraversalJob:
        forever.wait()
        raise AssertionError("nobody waits for this")

    jobs: list[TraversalJob | OpenJob] = [
        TraversalJob(job_over(bright_corner(0, 0), ROOT).traversal, hanging),
        hanging_open,
        good,
    ]
    started = time.monotonic()
    ended = dict(
        drive(jobs, brightness, batch_size=4, readers=1, slides_in_flight=1, batching="by_slide", timeout_s=0.3)
    )
    assert time.monotonic() - started < 10
    assert isinstance(ended[0], GivenUpError)
    assert isinstance(ended[1], GivenUpError)
    assert isinstance(ended[2], TraversalResult)
    forever.set()


def test_any_error_in_one_slide_ends_it_alone_when_all_are_caught():
    def broken_decoder(_region: Region) -> np.ndarray:
        raise KeyError("quantisation table 3")

    def broken_opening() -> TraversalJob:
        raise RecursionError("directory points at itself")

    bad = TraversalJob(job_over(bright_corner(0, 0), ROOT).traversal, broken_decoder)
    jobs: list[TraversalJob | OpenJob] = [bad, broken_opening, job_over(bright_corner(0, 0), ROOT)]
    ended = dict(drive(jobs, brightness, batch_size=4, readers=2, slides_in_flight=3, caught=Exception))
    assert isinstance(ended[0], KeyError)
    assert isinstance(ended[1], RecursionError)
    assert isinstance(ended[2], TraversalResult)


@pytest.mark.parametrize("batching", ["by_slide", "ready"])
def test_a_batch_too_large_for_the_device_is_halved_once(batching):
    sizes: list[int] = []

    def small_device(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        sizes.append(len(patches))
        if len(patches) > 2:
            raise torch.OutOfMemoryError("no room")
        return brightness(patches, positions, allowed)

    jobs = [job_over(bright_corner(0, 0), ROOT) for _ in range(3)]
    ended = dict(
        drive(jobs, small_device, batch_size=4, readers=2, slides_in_flight=3, batching=batching, caught=Exception)
    )
    assert all(isinstance(ended[n], TraversalResult) for n in range(3))
    assert sizes.count(4) + sizes.count(3) == 1

    jobs = [job_over(bright_corner(0, 0), ROOT) for _ in range(2)]
    ended = dict(drive(jobs, small_device, batch_size=8, readers=2, batching="ready", caught=Exception))
    assert all(isinstance(ended[n], torch.OutOfMemoryError) for n in range(2))


def test_every_read_of_a_damaged_slide_is_waited_for_so_that_its_row_is_always_the_same():
    finished: list[int] = []

    def read(region: Region) -> np.ndarray:
        if region.width < ROOT.width:
            if region.x == 0:
                raise SlideError("bad.svs", f"tile at {region.x}, {region.y} is damaged")
            time.sleep(0.05)
            finished.append(region.x)
        return np.zeros((8, 8, 3), np.uint8)

    def everywhere(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        return Look(features=torch.zeros(len(patches), 2), cell_log_probs=torch.full((len(patches), 4), -1.4))

    plan = dataclasses.replace(PLAN, locations=(4, 3))
    bad = TraversalJob(traverse([ROOT], torch.zeros(1), plan, everything), read)
    ((_, ended),) = drive([bad], everywhere, batch_size=1, readers=4, batching="by_slide")
    assert str(ended) == "bad.svs: tile at 0, 0 is damaged"
    assert finished == [32, 32]


def test_the_work_on_a_traversal_leaves_out_what_is_done_for_others():
    """Two slides share the threads and the network: what both took together is not what each took."""
    image, read_s, look_s = bright_corner(48, 16), 0.01, 0.03

    def slow_job(seconds: float) -> TraversalJob:
        job = job_over(image, ROOT)

        def read(region: Region) -> np.ndarray:
            time.sleep(seconds)
            return job.read(region)

        return dataclasses.replace(job, read=read, work=Work())

    def slow_look(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        time.sleep(look_s * len(patches))
        return brightness(patches, positions, allowed)

    jobs = [slow_job(read_s), slow_job(10 * read_s)]
    started = time.perf_counter()
    ended = dict(drive(jobs, slow_look, batch_size=4, readers=1, slides_in_flight=2, batching="by_slide"))
    wall_s = time.perf_counter() - started
    first = ended[0]
    assert isinstance(first, TraversalResult)
    regions = sum(len(record.regions) for record in first.traversal.levels)
    quick, slow = (job.work.seconds for job in jobs)
    assert regions * (read_s + look_s) <= quick < regions * (10 * read_s + look_s) <= slow
    assert quick < wall_s
