"""The job of one ordinary image: its traversal by an image model, and how its regions are cut.

The traversal runs in the pixels of the resized image, where the model's cells are what they were in training; what it
returns is in the image's own pixels.
"""

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from tnet_cli.geometry import Region, Size
from tnet_cli.inference.flight import TraversalJob
from tnet_cli.inference.prepare import plan_traversal
from tnet_cli.inference.prepare_image import ImagePreparation, resize
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import Look, Traversal, TraversalPlan, Wanted, traverse

OUTSIDE = 0.5
"""Value of what lies beyond the image's edge: mid-grey, which is zero to the authors' models."""


def image_job(
    preparation: ImagePreparation, config: TNetConfig, locations: tuple[int, ...], sampler: LocationSampler
) -> TraversalJob:
    """Return what the engine needs to traverse an image; its patches are float32 in [0, 1].

    Args:
        preparation: Of the image for this model.
        config: The model's configuration.
        locations: Attended locations of each grid, for each processing level after the first.
        sampler: How they are chosen.
    """

    def read(region: Region) -> np.ndarray:
        return resize(cut(preparation.pixels, region), config.base_px)

    plan = plan_traversal(config, preparation.scale, locations, sampler)
    whole = preparation.roots[0]
    return TraversalJob(
        traversal=_traverse(preparation.pixels.shape[0], plan, Size(whole.width, whole.height)), read=read
    )


def cut(pixels: np.ndarray, region: Region) -> np.ndarray:
    """Cut a region out of an image, with mid-grey where it reaches beyond.

    Args:
        pixels: float32 (H, W, 3) in [0, 1].
        region: In these pixels.

    Returns:
        float32 (height, width, 3) of the region.
    """
    patch = np.full((region.height, region.width, 3), OUTSIDE, np.float32)
    inside = region.intersect(Region(0, 0, pixels.shape[1], pixels.shape[0]))
    if inside is not None:
        top, left = inside.y - region.y, inside.x - region.x
        patch[top : top + inside.height, left : left + inside.width] = pixels[
            inside.y : inside.bottom, inside.x : inside.right
        ]
    return patch


def in_own_pixels(region: Region, side_px: int, size: Size) -> Region:
    """Return a region of the resized image in the image's own pixels, to the nearest whole one.

    Args:
        region: In an image of ``side_px`` a side.
        side_px: Side of the resized image.
        size: Of the image itself.
    """
    left, right = (round(x * size.width / side_px) for x in (region.x, region.right))
    top, bottom = (round(y * size.height / side_px) for y in (region.y, region.bottom))
    return Region(left, top, max(1, right - left), max(1, bottom - top))


def shown(patch: np.ndarray) -> np.ndarray:
    """Return a patch as it is drawn, uint8; patches of slides are already."""
    return patch if patch.dtype == np.uint8 else np.rint(patch * 255).astype(np.uint8)


def _traverse(side_px: int, plan: TraversalPlan, size: Size) -> Generator[Wanted, Look, Traversal]:
    """Traverse the resized image from its one root, and return where that was in the image itself."""
    traversal = yield from traverse([Region(0, 0, side_px, side_px)], np.zeros(1), plan)
    return Traversal(
        levels=tuple(
            replace(record, regions=tuple(in_own_pixels(region, side_px, size) for region in record.regions))
            for record in traversal.levels
        )
    )
