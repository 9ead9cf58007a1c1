"""The job of one slide: its traversal, and how its regions are read."""

import numpy as np

from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.flight import ReadFunction, TraversalJob
from tnet_cli.inference.prepare import Preparation, plan_traversal
from tnet_cli.inference.stopping import AT_ONCE
from tnet_cli.model.best_first import BestFirstPlan, Settled, traverse_best_first
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import traverse
from tnet_cli.slide.slide import Slide


def slide_job(
    slide: Slide, preparation: Preparation, config: TNetConfig, locations: tuple[int, ...], sampler: LocationSampler
) -> TraversalJob:
    """Return what the engine needs to traverse a slide.

    Args:
        slide: Open until the job has ended.
        preparation: Of this slide for this model.
        config: The model's configuration.
        locations: Attended locations for each processing level after the first.
        sampler: How they are chosen.
    """
    return TraversalJob(
        traversal=traverse(
            preparation.root_regions,
            preparation.root_log_probs,
            plan_traversal(config, preparation.scale, locations, sampler),
            preparation.allowed(),
        ),
        read=_reading(slide, config.base_px),
    )


def best_first_job(
    slide: Slide, preparation: Preparation, config: TNetConfig, budget: int, settled: Settled | None
) -> TraversalJob:
    """Return what the engine needs to traverse a slide best-first.

    Args:
        slide: Open until the job has ended.
        preparation: Of this slide for this model.
        config: The model's configuration.
        budget: Most locations attended in all.
        settled: Tells when to end before that; None for never.
    """
    plan = BestFirstPlan(
        grid=AttentionGrid(config.grid, config.cell_fraction),
        processing_levels=preparation.scale.processing_levels,
        budget=budget,
        at_once=AT_ONCE,
    )
    return TraversalJob(
        traversal=traverse_best_first(
            preparation.root_regions, preparation.root_log_probs, plan, preparation.allowed(), settled
        ),
        read=_reading(slide, config.base_px),
    )


def _reading(slide: Slide, base_px: int) -> ReadFunction:
    def read(region: Region) -> np.ndarray:
        return slide.read(region, base_px, base_px)

    return read
