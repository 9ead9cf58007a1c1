"""The arms of a comparison: the same slides and weights, other locations; the difference is the attention's worth."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.model.choice import LocationSampler, RandomChoice, TopK
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideResult

ARMS = {
    "tnet": "the most probable locations",
    "random": "as many locations drawn at random at each processing level, among the cells the traversal has reached",
    "coarse": "no location: the roots alone",
    "exhaustive": "every cell with tissue at every processing level, combined as the model combines locations",
}
"""Name -> what is looked at."""

BUDGETED_ARMS = ("tnet", "random")
"""The arms that a budget changes."""

EVERYTHING = 10**9
"""More locations than any slide has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the arms of a comparison have in common.

    Attributes:
        inputs: Taken one by one, as there is room for them.
        model: The same weights for every arm.
        options: Locations or budget hold for the budgeted arms, ``stop_at`` for ``tnet`` alone.
        seed: Of the random arm.
        progress: Told of slides, batches and reductions.
    """

    inputs: Iterable[SlideInput]
    model: LoadedModel
    options: TraversalOptions = field(default_factory=TraversalOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    seed: int = 0
    progress: Progress = field(default_factory=Progress)


class NoLocation:
    """Chooses nothing: the traversal ends at the roots."""

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:  # noqa: ARG002 (the protocol of samplers)
        """Choose none of the candidates, whatever they are."""
        return np.empty(0, dtype=np.int64)


def sampler_of(arm: str, seed: int, slide: str) -> LocationSampler:
    """Return how an arm chooses on one slide.

    Args:
        arm: One of ``ARMS``.
        seed: Of the random arm. Each slide draws from its own generator, seeded with this and its name, so its
            locations do not depend on what other slides there are.
        slide: The slide's name.
    """
    if arm == "random":
        return RandomChoice(np.random.default_rng([seed, *hashlib.sha256(slide.encode()).digest()]))
    return NoLocation() if arm == "coarse" else TopK()


def options_of(arm: str, options: TraversalOptions, config: TNetConfig) -> TraversalOptions:
    """Return what holds for an arm of the options that were given."""
    if arm == "exhaustive":
        options = replace(options, locations=(EVERYTHING,) * len(config.locations), budget=None)
    return options if arm == "tnet" else replace(options, stop_at=None)


def remembered(inputs: Iterable[SlideInput], taken: list[SlideInput]) -> Iterator[SlideInput]:
    """Pass on inputs as they are asked for, and put each of them into a list."""
    for entry in inputs:
        taken.append(entry)
        yield entry


def classify_by_arm(arm: str, comparison: Comparison) -> Generator[tuple[int, SlideResult], None, None]:
    """Classify slides the way of one of ``ARMS``; what is yielded and raised is as for ``classify_slides``."""
    model, engine = comparison.model, comparison.engine
    taken: list[SlideInput] = []
    if arm == "exhaustive":
        # A slide in which everything is looked at fills the memory alone.
        engine = replace(engine, slides_in_flight=1)
    return classify_slides(
        remembered(comparison.inputs, taken),
        model,
        options_of(arm, comparison.options, model.card.network),
        engine,
        sampler_of=lambda position: sampler_of(arm, comparison.seed, taken[position].name),
        progress=comparison.progress,
    )
