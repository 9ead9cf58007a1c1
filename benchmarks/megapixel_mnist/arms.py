"""The arms: one architecture and one set of modules, shown the whole image, a small copy of it, or a few locations."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.megapixel_mnist.canvas import Canvas
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.engine import drive
from tnet_cli.inference.traversal_job import TraversalJob, TraversalResult
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal, TraversalPlan, traverse

BASE_PX = 128
"""Side of what the network sees of a region. 896 px are seven times as much."""

GRID = 8
"""Cells along each axis: the small backbone's map of 128 px is 8 x 8, one cell of it for each cell of the grid."""

CLASS_NAMES = tuple(str(digit) for digit in range(10))
BACKBONE = "tnet_small"
LONGEST_STEP = 8
"""Most a processing level may be coarser than the next."""


def processing_levels(side_px: int) -> int:
    """Return how many processing levels lead from the whole image to its own pixels: 2 at 896 px, 3 to 8192."""
    steps = math.log(side_px / BASE_PX) / math.log(LONGEST_STEP)
    return 1 + math.ceil(steps - 1e-9)


def tnet_config(side_px: int, *, base_px: int = BASE_PX, depth: int | None = None) -> TNetConfig:
    """Return TNet for images of one size; with one processing level it is the plain network on the whole image.

    The finest cells have ``base_px`` of the image's own pixels. They overlap by 18 px or more, so hardly any digit (of
    20 px) is cut by all the cells that touch it.

    Args:
        side_px: S.
        base_px: What the network sees of a region.
        depth: Processing levels; as many as the size needs when None.
    """
    steps = (processing_levels(side_px) if depth is None else depth) - 1
    return TNetConfig(
        backbone=BACKBONE,
        class_names=CLASS_NAMES,
        base_px=base_px,
        grid=GRID,
        cell_fraction=(BASE_PX / side_px) ** (1 / steps) if steps else 1,
        processing_levels=steps + 1,
        image_px=side_px,
        choice="per_grid",
        locations=(4,) * min(steps, 1) + (1,) * (steps - 1),
        location_pool="max",
        location_softmax="plain",
        weighting=True,
        dropout=0.2,
        pixel_mean=(0.1,) * 3,
        pixel_std=(0.3,) * 3,
    )


def full_network(side_px: int) -> TNet:
    """Return arm (a): the network on the whole image at its own resolution."""
    return TNet(tnet_config(side_px, base_px=side_px, depth=1))


def shrunk_network(side_px: int) -> TNet:
    """Return arm (b): the network on the image shrunk to ``BASE_PX``."""
    return TNet(tnet_config(side_px, depth=1))


def attending_network(side_px: int) -> TNet:
    """Return arms (c) and (d): TNet."""
    return TNet(tnet_config(side_px))


def budget_locations(side_px: int, finest: int) -> tuple[int, ...]:
    """Return k for each step down, so that ``finest`` locations are seen at the image's own resolution."""
    return (finest,) + (1,) * (processing_levels(side_px) - 2)


def read_region(pixels: np.ndarray, region: Region, side_px: int) -> Tensor:
    """Cut a region out of an image and bring it to a size by the mean over each pixel's area.

    Args:
        pixels: uint8 (S, S).
        region: In pixels of the image; what lies beyond is black.
        side_px: Of the result, P.

    Returns:
        float32 (P, P) in [0, 1].
    """
    bounds = Region(0, 0, pixels.shape[1], pixels.shape[0])
    inside = region.intersect(bounds)
    if inside == region:
        cut = pixels[region.y : region.bottom, region.x : region.right]
    else:
        cut = np.zeros((region.height, region.width), np.uint8)
        if inside is not None:
            cut[inside.y - region.y : inside.bottom - region.y, inside.x - region.x : inside.right - region.x] = pixels[
                inside.y : inside.bottom, inside.x : inside.right
            ]
    seen = torch.from_numpy(cut).float().div_(255)
    if cut.shape == (side_px, side_px):
        return seen
    return functional.adaptive_avg_pool2d(seen[None], side_px)[0]


def whole(canvas: Canvas) -> Region:
    """Return the region that is all of an image."""
    return Region(0, 0, canvas.pixels.shape[1], canvas.pixels.shape[0])


def classify_whole(network: TNet, canvases: Sequence[Canvas]) -> Tensor:
    """Return the logits (N, 10) of arms (a) and (b), which see each image once, at their network's base size."""
    base_px = network.config.base_px
    seen = torch.stack([read_region(canvas.pixels, whole(canvas), base_px) for canvas in canvases])
    features = network.look(in_colour(seen), torch.zeros(len(canvases), 3, dtype=torch.int64)).features
    return network.classify([features[index : index + 1] for index in range(len(canvases))]).logits


def in_colour(seen: Tensor) -> Tensor:
    """Return (N, 3, P, P) of grey patches (N, P, P), without a copy."""
    return seen.unsqueeze(1).expand(-1, 3, -1, -1)


@dataclass(frozen=True, slots=True)
class Attending:
    """How arms (c) and (d) attend.

    Attributes:
        locations: k for each processing level after the first.
        sampler: The most probable locations, a sample, or random ones.
    """

    locations: tuple[int, ...]
    sampler: LocationSampler


def job(canvas: Canvas, config: TNetConfig, attending: Attending) -> TraversalJob:
    """Return what the engine needs to traverse one image."""

    def read(region: Region) -> np.ndarray:
        seen = read_region(canvas.pixels, region, config.base_px).numpy()
        return np.broadcast_to(seen[:, :, None], (*seen.shape, 3))

    plan = TraversalPlan(
        grid=AttentionGrid(config.grid, config.cell_fraction),
        processing_levels=config.processing_levels,
        locations=attending.locations,
        choice=config.choice,
        sampler=attending.sampler,
    )
    return TraversalJob(traversal=traverse([whole(canvas)], np.zeros(1, np.float32), plan), read=read)


def traverse_all(
    network: TNet, canvases: Sequence[Canvas], attending: Attending, *, batch_size: int = 64
) -> list[Traversal]:
    """Traverse images together, with the package's engine, traversal and samplers."""

    def look(patches: Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        return network.look(
            patches, torch.from_numpy(positions), None if allowed is None else torch.from_numpy(allowed)
        )

    jobs: Iterable[TraversalJob] = [job(canvas, network.config, attending) for canvas in canvases]
    ended = dict(drive(jobs, look, batch_size=batch_size, readers=1, slides_in_flight=len(canvases)))
    traversals = []
    for number in range(len(canvases)):
        traversed = ended[number]
        if not isinstance(traversed, TraversalResult):
            raise traversed
        traversals.append(traversed.traversal)
    return traversals


def classify_attending(network: TNet, canvases: Sequence[Canvas], attending: Attending) -> Tensor:
    """Return the logits (N, 10) of arms (c) and (d)."""
    return classify_traversals(network, traverse_all(network, canvases, attending))


def classify_traversals(network: TNet, traversals: Sequence[Traversal]) -> Tensor:
    """Return the logits (N, 10) of finished traversals."""
    return network.classify([torch.cat([r.features for r in each.levels]) for each in traversals]).logits
