"""The arms of a comparison: the same slides and weights, other locations; the difference is the attention's worth."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from tnet_cli.errors import UsageError
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.model.choice import LocationSampler, RandomChoice, TopK
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


class NoLocation:
    """Chooses nothing: the traversal ends at the roots."""

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:  # noqa: ARG002 (the protocol of samplers)
        """Choose none of the candidates, whatever they are."""
        return np.empty(0, dtype=np.int64)


def check_arms(arms: Sequence[str]) -> None:
    """Refuse a list of arms that cannot be run.

    Raises:
        UsageError: an arm is unknown or named twice.
    """
    for arm in arms:
        if arm not in ARMS:
            raise UsageError(f"--arms {','.join(arms)}: unknown arm {arm!r}; expected some of {', '.join(ARMS)}")
    if len(set(arms)) < len(arms):
        raise UsageError(f"--arms {','.join(arms)}: name each arm once")


def sampler_of(arm: str, seed: int, position: int) -> LocationSampler:
    """Return how an arm chooses on one slide.

    Args:
        arm: One of ``ARMS``.
        seed: Of the random arm. Each slide draws from its own generator, seeded with this and its position, so its
            locations do not depend on which slide is read first.
        position: Of the slide among those evaluated.
    """
    if arm == "random":
        return RandomChoice(np.random.default_rng([seed, position]))
    return NoLocation() if arm == "coarse" else TopK()


def classify_by_arm(
    arm: str,
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    options: TraversalOptions,
    engine: EngineOptions,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generator[tuple[int, SlideResult], None, None]:
    """Classify slides the way of one arm; arguments, errors and what is yielded as for ``classify_slides``.

    Args:
        arm: One of ``ARMS``.
        inputs: The slides.
        model: The same weights for every arm.
        options: Their locations or budget hold for the budgeted arms, their ``stop_at`` for ``tnet`` alone.
        engine: Device, batches and threads.
        seed: Of the random arm.
        progress: Told of batches and reductions.
    """
    if arm == "exhaustive":
        # A slide in which everything is looked at fills the memory alone.
        engine = replace(engine, slides_in_flight=1)
        options = replace(options, locations=(EVERYTHING,) * len(model.card.network.locations), budget=None)
    if arm != "tnet":
        options = replace(options, stop_at=None)
    return classify_slides(inputs, model, options, engine, sampler_of=partial(sampler_of, arm, seed), progress=progress)
