"""Runs the traversals of several pictures held in memory side by side, joined into one batch for each processing level.

The slide engine is more than these tests need; here a numpy array is cropped, and every batch is the whole level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.model import oracles
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.feature import cells_of_map
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal, TraversalPlan, traverse


class Dictated:
    """A sampler that is told which cells to take, one answer for each call."""

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self.answers = iter(answers)

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        answer = np.array(next(self.answers))
        assert len(answer) == k
        return answer


@dataclass(frozen=True, slots=True)
class Seen:
    """One batch: what went into the backbone and what came out.

    Attributes:
        patches: Normalised and resized, (N, 3, H, W).
        vectors: (N, D), before the positional module.
        features: (N, D).
        cells: Location features, (N, C, n, n).
        log_probs: (N, G), or None at the last processing level.
    """

    patches: Tensor
    vectors: Tensor
    features: Tensor
    cells: Tensor
    log_probs: Tensor | None


def plan_for(config: TNetConfig, sampler: LocationSampler) -> TraversalPlan:
    grid = AttentionGrid(config.grid, config.cell_fraction)
    return TraversalPlan(grid, config.processing_levels, config.locations, config.choice, sampler)


def crop_region(image: np.ndarray, region: Region) -> np.ndarray:
    return oracles.crop(image, region.x, region.y, region.width, region.height)


def traverse_pictures(
    network: TNet, images: Sequence[np.ndarray], samplers: Sequence[LocationSampler], dtype: torch.dtype = torch.uint8
) -> tuple[list[Traversal], list[Seen]]:
    """Traverse uint8 pictures (H, W, 3), one root each; pictures without a location left drop out of the batch.

    Args:
        network: Looks.
        images: uint8 (H, W, 3).
        samplers: One for each picture.
        dtype: What the patches are given as: bytes, or floats in [0, 1].
    """
    batches: list[Seen] = []
    inner: list[tuple[Tensor, Tensor, Tensor]] = []
    handles = [
        network.feature.backbone.register_forward_hook(lambda _m, given, out: inner.append((given[0], out[0], out[1])))
    ]
    pending = {}
    ended: dict[int, Traversal] = {}
    for number, (image, sampler) in enumerate(zip(images, samplers, strict=True)):
        root = Region(0, 0, image.shape[1], image.shape[0])
        generator = traverse([root], np.zeros(1), plan_for(network.config, sampler))
        pending[number] = (generator, next(generator))
    while pending:
        patches = [crop_region(images[n], region) for n, (_, wanted) in pending.items() for region in wanted.regions]
        positions = np.concatenate([wanted.positions for _, wanted in pending.values()])
        allowed = [wanted.allowed for _, wanted in pending.values() if wanted.allowed is not None]
        pixels = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)
        look = network.look(
            pixels if dtype == torch.uint8 else pixels.to(dtype) / 255,
            torch.from_numpy(positions),
            torch.from_numpy(np.concatenate(allowed)) if allowed else None,
        )
        given, vectors, maps = inner.pop()
        batches.append(Seen(given, vectors, look.features, cells_of_map(maps, network.config), look.cell_log_probs))
        start = 0
        for number, (generator, wanted) in list(pending.items()):
            share = slice(start, start + len(wanted.regions))
            start = share.stop
            log_probs = None if look.cell_log_probs is None else look.cell_log_probs[share]
            try:
                pending[number] = (generator, generator.send(Look(look.features[share], log_probs)))
            except StopIteration as end:
                ended[number] = end.value
                del pending[number]
    for handle in handles:
        handle.remove()
    return [ended[number] for number in range(len(images))], batches


def features_of(traversals: Sequence[Traversal]) -> list[Tensor]:
    return [torch.cat([record.features for record in traversal.levels]) for traversal in traversals]
