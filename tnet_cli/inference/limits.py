"""How far a slide may be from those a model knows, and how sharp it must be: limits fitted on slides of its kind.

``inference.trust`` judges by them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from tnet_cli.inference.trust import slide_distance
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.modelfile.card import DomainLimits

LevelFeatures = Mapping[int, np.ndarray]
"""What was looked at on one slide: processing level -> features, float32 (N, D)."""

LEAST_SLIDES = 8
"""Fewer cannot say how far slides of one kind lie apart."""

PARTS = 4
FURTHER = 1.2
"""The limit over the distance of the furthest slide."""

LESS_SHARP = 1.25
"""Sharpness of the least sharp slide over the limit."""


def fit_domain(
    slides: Sequence[LevelFeatures], processing_levels: int
) -> tuple[tuple[FeatureDomain, ...], DomainLimits] | None:
    """Fit a domain to slides, and its limits: a fifth above the largest distance of a slide it was not fitted to.

    Args:
        slides: Features of each.
        processing_levels: Of the model.

    Returns:
        The domain of all slides at each processing level, and the limits; None where a processing level has too few
        slides.
    """
    domains: list[FeatureDomain] = []
    limits: list[float] = []
    for processing_level in range(processing_levels):
        features = [slide[processing_level] for slide in slides if processing_level in slide]
        if len(features) < LEAST_SLIDES:
            return None
        domains.append(_domain_of(features))
        limits.append(FURTHER * max(_held_out_distances(features)))
    return tuple(domains), DomainLimits(limits=tuple(limits), slides=len(slides))


def fit_sharpness(slides: Sequence[float]) -> float | None:
    """Return the least sharpness of a slide in focus: a fifth below that of the least sharp one; None for too few."""
    return min(slides) / LESS_SHARP if len(slides) >= LEAST_SLIDES else None


def _held_out_distances(features: Sequence[np.ndarray]) -> list[float]:
    """Return the distance of each slide from the domain of the slides of other parts."""
    # Slides come in the order of a manifest, often class by class.
    order = np.random.default_rng(0).permutation(len(features))
    distances = []
    for part in range(PARTS):
        domain = _domain_of([features[number] for place, number in enumerate(order) if place % PARTS != part])
        mine = [features[number] for place, number in enumerate(order) if place % PARTS == part]
        distances += [slide_distance(domain, each) for each in mine]
    return distances


def _domain_of(features: Sequence[np.ndarray]) -> FeatureDomain:
    return FeatureDomain.fit(torch.from_numpy(np.concatenate(features)))
