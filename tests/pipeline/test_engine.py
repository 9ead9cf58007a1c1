"""The engine: batches, order, failures, and that reading overlaps computing."""

import threading
from collections.abc import Sequence

import numpy as np
import torch

from tnet_cli.errors import SlideError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.choice import TopK
from tnet_cli.model.traversal import Look, TraversalPlan, traverse
from tnet_cli.pipeline.engine import Errand, Journey, drive

PLAN = TraversalPlan(grid=AttentionGrid(2, 0.5), processing_levels=3, locations=(2, 3), choice="beam", chooser=TopK())


def everything(regions: Sequence[Region]) -> np.ndarray:
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


def errand_over(image: np.ndarray, root: Region) -> Errand:
    def read(region: Region) -> np.ndarray:
        crop = image[region.y : region.bottom, region.x : region.right]
        step = crop.shape[0] // 8
        return crop[::step, ::step]

    return Errand(traversal=traverse([root], torch.zeros(1), PLAN, everything), read=read)


def bright_corner(row: int, column: int) -> np.ndarray:
    image = np.zeros((64, 64, 3), np.uint8)
    image[row : row + 16, column : column + 16] = 200
    return image


ROOT = Region(0, 0, 64, 64)


def test_it_finds_the_bright_square_and_keeps_its_pixels():
    image = bright_corner(48, 16)
    ((position, journey),) = drive([errand_over(image, ROOT)], brightness, batch_size=4, readers=2)
    assert position == 0
    assert isinstance(journey, Journey)
    last = journey.traversal.levels[-1]
    assert Region(16, 48, 16, 16) in last.regions
    for record, patches in zip(journey.traversal.levels, journey.patches, strict=True):
        assert patches.shape == (len(record.regions), 8, 8, 3)
        for region, patch in zip(record.regions, patches, strict=True):
            step = region.width // 8
            np.testing.assert_array_equal(patch, image[region.y : region.bottom : step, region.x : region.right : step])


def test_several_slides_give_the_same_answers_as_one_by_one_whatever_the_batch():
    images = [bright_corner(r, c) for r in (0, 16, 48) for c in (0, 32)]
    alone = [next(iter(drive([errand_over(image, ROOT)], brightness, batch_size=1, readers=1)))[1] for image in images]
    for batch_size, in_flight in ((3, 2), (64, 6)):
        together = dict(
            drive(
                [errand_over(image, ROOT) for image in images],
                brightness,
                batch_size=batch_size,
                readers=3,
                slides_in_flight=in_flight,
            )
        )
        assert sorted(together) == list(range(len(images)))
        for number, journey in enumerate(alone):
            other = together[number]
            assert isinstance(journey, Journey)
            assert isinstance(other, Journey)
            assert [r.regions for r in other.traversal.levels] == [r.regions for r in journey.traversal.levels]
            np.testing.assert_array_equal(np.concatenate(other.patches), np.concatenate(journey.patches))


def test_no_batch_is_larger_than_asked_and_every_patch_is_looked_at_once():
    sizes: list[int] = []

    def counted(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        sizes.append(len(patches))
        return brightness(patches, positions, allowed)

    errands = [errand_over(bright_corner(0, 0), ROOT) for _ in range(4)]
    journeys = [journey for _, journey in drive(errands, counted, batch_size=5, readers=2, slides_in_flight=3)]
    assert max(sizes) <= 5
    assert sum(sizes) == sum(
        len(record.regions)
        for journey in journeys
        if isinstance(journey, Journey)
        for record in journey.traversal.levels
    )


def test_a_slide_that_cannot_be_read_ends_alone():
    def unreadable(region: Region) -> np.ndarray:
        raise SlideError("bad.svs", f"tile at {region.x}, {region.y} is damaged")

    good, bad = bright_corner(0, 0), errand_over(bright_corner(0, 0), ROOT)
    errands = [errand_over(good, ROOT), Errand(bad.traversal, unreadable), errand_over(good, ROOT)]
    outcomes = dict(drive(errands, brightness, batch_size=4, readers=2, slides_in_flight=3))
    assert isinstance(outcomes[0], Journey)
    assert isinstance(outcomes[1], SlideError)
    assert str(outcomes[1]) == "bad.svs: tile at 0, 0 is damaged"
    assert isinstance(outcomes[2], Journey)


def test_the_next_regions_are_read_while_the_network_computes():
    plain = errand_over(bright_corner(0, 0), ROOT)
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

    list(drive([Errand(plain.traversal, read)], slow, batch_size=1, readers=1))
    assert read_ahead == [True, True]


def test_errands_are_taken_only_when_there_is_room():
    taken: list[int] = []

    def many():
        for number in range(6):
            taken.append(number)
            yield errand_over(bright_corner(0, 0), ROOT)

    for done, (_, _) in enumerate(drive(many(), brightness, batch_size=8, readers=1, slides_in_flight=2), start=1):
        assert len(taken) <= done + 2
