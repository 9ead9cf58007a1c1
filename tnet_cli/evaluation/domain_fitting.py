"""The domain of a model, fitted on the slides that calibrate it."""

from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from tnet_cli.inference import domain_check
from tnet_cli.inference.classify import ClassifyOptions, Events, manner_of, work_through
from tnet_cli.inference.flight import TraversalResult
from tnet_cli.inference.slide_task import SlideWork
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.choice import TopK
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import DomainLimits
from tnet_cli.modelfile.modelfile import LoadedModel

LevelFeatures = Mapping[int, Tensor]
"""What was looked at on one slide: processing level -> features (N, D)."""

LEAST_SLIDES = 8
"""Fewer cannot say how far slides of one kind lie apart."""

PARTS = 4
MARGIN = 1.25


def fit_domain(
    slides: Sequence[LevelFeatures], processing_levels: int
) -> tuple[tuple[FeatureDomain, ...], DomainLimits] | None:
    """Fit a domain to slides, and its limits: a quarter above the largest distance of a slide it was not fitted to.

    Args:
        slides: Features of each.
        processing_levels: Of the model.

    Returns:
        The domain of all slides at each processing level, and the limits; None where a processing level has too few
        slides.
    """
    domains: list[FeatureDomain] = []
    limits: list[float] = []
    for level in range(processing_levels):
        features = [slide[level] for slide in slides if level in slide]
        if len(features) < LEAST_SLIDES:
            return None
        domains.append(FeatureDomain.fit(torch.cat(features)))
        limits.append(MARGIN * max(_held_out(features)))
    return tuple(domains), DomainLimits(limits=tuple(limits), slides=len(slides))


def _held_out(features: Sequence[Tensor]) -> list[float]:
    """Return the distance of each slide from the domain of the slides of other parts."""
    # Slides come in the order of a manifest, often class by class.
    order = np.random.default_rng(0).permutation(len(features))
    distances = []
    for part in range(PARTS):
        others = [features[number] for place, number in enumerate(order) if place % PARTS != part]
        domain = FeatureDomain.fit(torch.cat(others))
        mine = [features[number] for place, number in enumerate(order) if place % PARTS == part]
        distances += [domain_check.slide_distance(domain, each) for each in mine]
    return distances


def features_of(
    inputs: Sequence[SlideInput], model: LoadedModel, options: ClassifyOptions, *, events: Events | None = None
) -> list[LevelFeatures]:
    """Return the features of what is attended on slides; those that fail or hold no tissue are left out.

    Args:
        inputs: The slides.
        model: The weights.
        options: How to classify.
        events: Who wants to know how it goes.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """

    def conclude(_work: SlideWork, ended: TraversalResult | BaseException, _network: TNet) -> LevelFeatures | None:
        return domain_check.features_of(ended.traversal) if isinstance(ended, TraversalResult) else None

    works = (SlideWork(number, entry, manner_of(model, options, TopK(), events)) for number, entry in enumerate(inputs))
    with closing(work_through(works, conclude, model, options, events=events)) as ended:
        found = dict(ended)
    return [features for number in sorted(found) if (features := found[number]) is not None]
