"""Whether a slide is of the kind a model knows; where it is not, its result says so."""

from dataclasses import replace

import torch
from torch import Tensor

from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.traversal import Traversal
from tnet_cli.pipeline.card import ModelCard
from tnet_cli.pipeline.result import SlideResult
from tnet_cli.slide.slide import Slide

SYNTHETIC_MARK = "tnet synthetic slide"
"""How the description of a slide of ``tnet synth`` begins."""


def checked(
    result: SlideResult, card: ModelCard, domain: FeatureDomain | None, slide: Slide, traversal: Traversal
) -> SlideResult:
    """Return a slide's result, with a note where the slide is out of the model's domain.

    Args:
        result: Of a slide that was classified.
        card: The model's; ``made_for`` and ``domain`` decide.
        domain: Where the features lie that the model was calibrated on.
        slide: Its own description tells a synthetic slide.
        traversal: Has the features.
    """
    sentence = None
    if card.made_for == "synthetic" and not is_synthetic(slide):
        sentence = (
            f"{card.name} was made for synthetic slides, and this is none: what it says of other slides means nothing"
        )
    elif domain is not None and card.domain is not None:
        features = features_at(traversal, card.domain.processing_level)
        # A slide that does not serve the processing level has a note on that.
        distance = slide_distance(domain, features) if features is not None else 0.0
        if distance > card.domain.limit:
            sentence = (
                f"out of domain: this slide does not look like those {card.name} was calibrated on (distance "
                f"{distance:.2f}, limit {card.domain.limit:.2f}); do not rely on its label"
            )
    if sentence is None:
        return result
    return replace(result, qc="out_of_domain", warning=sentence, notes=(*result.notes, sentence))


def is_synthetic(slide: Slide) -> bool:
    """Tell whether a slide says of itself that ``tnet synth`` drew it."""
    return any(str(value).startswith(SYNTHETIC_MARK) for value in slide.properties.values())


def features_at(traversal: Traversal, processing_level: int) -> Tensor | None:
    """Return the features (N, D) of the regions of one processing level; None where there are none."""
    some = [record.features for record in traversal.levels if record.processing_level == processing_level]
    joined = torch.cat(some) if some else None
    return joined if joined is not None and len(joined) else None


def slide_distance(domain: FeatureDomain, features: Tensor) -> float:
    """Return the mean distance of a slide's features (N, D)."""
    return float(domain.distances(features.float().cpu()).mean())
