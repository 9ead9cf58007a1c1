"""Whether a slide is of the kind a model knows; where it is not, its result says so."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from tnet_cli.inference.prepare import Scale
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.traversal import Traversal
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.results.result import SlideResult
from tnet_cli.slide.slide import Slide

SYNTHETIC_MARK = "tnet synthetic slide"
"""How the description of a slide of ``tnet synth`` begins."""

FAMILIAR_SHARE = 0.25
"""Some of a slide's fields, a lesion's above all, may be like none before; of its kind are the most familiar ones."""


def checked(
    result: SlideResult,
    card: ModelCard,
    domain: Sequence[FeatureDomain],
    slide: Slide,
    scale: Scale,
    traversal: Traversal,
    features: Mapping[int, np.ndarray],
) -> SlideResult:
    """Return a slide's result, with a note where the slide is out of the model's domain.

    Args:
        result: Of a slide that was classified.
        card: The model's; ``made_for`` and ``domain`` decide.
        domain: Where the features of each processing level lie that the model was calibrated on.
        slide: Its own description tells a synthetic slide.
        scale: Tells whether the slide is too coarse for the model's finest view.
        features: Processing level -> float32 (N, D), of the traversal.
    """
    sentence = None
    if card.made_for == "synthetic" and not is_synthetic(slide):
        sentence = (
            f"{card.name} was made for synthetic slides, and this is none: what it says of other slides means nothing"
        )
    elif scale.notes:
        sentence = f"out of domain: {card.name} was not made to do without its finest view; do not rely on its label"
    elif card.domain is not None:
        sentence = _sentence(card, card.domain.limits, domain, traversal, features)
    if sentence is None:
        return result
    return replace(result, qc="out_of_domain", warning=sentence, notes=(*result.notes, sentence))


def _sentence(
    card: ModelCard,
    limits: Sequence[float],
    domain: Sequence[FeatureDomain],
    traversal: Traversal,
    features: Mapping[int, np.ndarray],
) -> str | None:
    first = traversal.levels[0]
    if first.allowed is not None and not first.allowed.any():
        return "out of domain: too little tissue to look at closer, so do not rely on the label"
    # By processing level.
    distances = {at: slide_distance(domain[at], some) for at, some in features.items()}
    beyond = {at: distance / limits[at] for at, distance in distances.items() if distance > limits[at]}
    if not beyond:
        return None
    worst = max(beyond, key=beyond.__getitem__)
    return (
        f"out of domain: this slide does not look like those {card.name} was calibrated on (distance "
        f"{distances[worst]:.2f} at processing level {worst}, limit {limits[worst]:.2f}); do not rely on its label"
    )


def is_synthetic(slide: Slide) -> bool:
    """Tell whether a slide says of itself that ``tnet synth`` drew it."""
    return any(str(value).startswith(SYNTHETIC_MARK) for value in slide.properties.values())


def features_of(traversal: Traversal) -> dict[int, np.ndarray]:
    """Return the features of each processing level that was looked at, float32 (N, D)."""
    found: dict[int, list[np.ndarray]] = {}
    for record in traversal.levels:
        if len(record.regions):
            found.setdefault(record.processing_level, []).append(record.features.float().cpu().numpy())
    return {processing_level: np.concatenate(some) for processing_level, some in found.items()}


def slide_distance(domain: FeatureDomain, features: np.ndarray) -> float:
    """Return how far a slide is from a domain: a quarter of its features (N, D) lie as near or nearer."""
    return float(torch.quantile(domain.distances(torch.from_numpy(features)), FAMILIAR_SHARE))
