"""The domain of a model, fitted on the slides that calibrate it."""

from collections.abc import Sequence
from contextlib import closing

import torch
from torch import Tensor

from tnet_cli.model.choice import TopK
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.pipeline.card import DomainLimit
from tnet_cli.pipeline.classify import ClassifyOptions, Events, manner_of, work_through
from tnet_cli.pipeline.domain_check import features_at, slide_distance
from tnet_cli.pipeline.flight import Journey
from tnet_cli.pipeline.inputs import SlideInput
from tnet_cli.pipeline.model_file import LoadedModel
from tnet_cli.pipeline.slide_work import SlideWork

LEAST_SLIDES = 8
"""Fewer cannot say how far slides of one kind lie apart."""

PARTS = 2
MARGIN = 1.1


def fit_domain(features: Sequence[Tensor], processing_level: int) -> tuple[FeatureDomain, DomainLimit] | None:
    """Fit a domain to slides, and its limit: a tenth above the largest distance of a slide it was not fitted to.

    Args:
        features: (N, D) of each slide.
        processing_level: They are of.

    Returns:
        The domain of all slides, and the limit; None where there are too few slides.
    """
    if len(features) < LEAST_SLIDES:
        return None
    held_out: list[float] = []
    for part in range(PARTS):
        domain = FeatureDomain.fit(torch.cat([mine for n, mine in enumerate(features) if n % PARTS != part]))
        held_out += [slide_distance(domain, mine) for n, mine in enumerate(features) if n % PARTS == part]
    limit = DomainLimit(processing_level=processing_level, limit=MARGIN * max(held_out), slides=len(features))
    return FeatureDomain.fit(torch.cat(list(features))), limit


def finest_features(
    inputs: Sequence[SlideInput], model: LoadedModel, options: ClassifyOptions, *, events: Events | None = None
) -> list[Tensor]:
    """Return the features of what is attended at the finest processing level, float32 (N, D) for each slide.

    Slides that fail, hold no tissue or do not serve that processing level are left out.

    Args:
        inputs: The slides.
        model: The weights.
        options: How to classify.
        events: Who wants to know how it goes.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    finest = model.card.network.processing_levels - 1

    def conclude(_work: SlideWork, ended: Journey | BaseException, _network: TNet) -> Tensor | None:
        found = features_at(ended.traversal, finest) if isinstance(ended, Journey) else None
        return None if found is None else found.float().cpu()

    works = (SlideWork(number, entry, manner_of(model, options, TopK(), events)) for number, entry in enumerate(inputs))
    with closing(work_through(works, conclude, model, options, events=events)) as ended:
        found = dict(ended)
    return [features for number in sorted(found) if (features := found[number]) is not None]
