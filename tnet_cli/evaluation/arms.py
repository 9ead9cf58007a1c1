"""The arms of a comparison: the same slides and weights, other locations; the difference is the attention's worth."""

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from tnet_cli.errors import UsageError
from tnet_cli.inference.classify import ClassifyOptions, Events, Outcome, manner_of, work_through
from tnet_cli.inference.slide_task import SlideWork
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.choice import LocationSampler, RandomChoice, TopK
from tnet_cli.modelfile.modelfile import LoadedModel

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


def parse_arms(text: str) -> tuple[str, ...]:
    """Read a list of arms, such as ``tnet,random``.

    Raises:
        UsageError: an arm is unknown or named twice.
    """
    arms = tuple(part.strip() for part in text.split(","))
    for arm in arms:
        if arm not in ARMS:
            raise UsageError(f"--arms {text}: unknown arm {arm!r}; expected some of {', '.join(ARMS)}")
    if len(set(arms)) < len(arms):
        raise UsageError(f"--arms {text}: name each arm once")
    return arms


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
    options: ClassifyOptions,
    *,
    seed: int = 0,
    events: Events | None = None,
) -> Generator[tuple[int, Outcome], None, None]:
    """Classify slides the way of one arm.

    Args:
        arm: One of ``ARMS``.
        inputs: The slides.
        model: The same weights for every arm.
        options: Their locations or budget hold for the budgeted arms; the other arms have their own.
        seed: Of the random arm.
        events: Who wants to know how it goes.

    Yields:
        The slide's position in ``inputs`` and its outcome, as it ends.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    if arm == "exhaustive":
        # A slide in which everything is looked at fills the memory alone.
        everything = (EVERYTHING,) * len(model.card.network.locations)
        options = replace(options, locations=everything, budget=None, slides_in_flight=1)
    if arm != "tnet":
        options = replace(options, stop_at=None)
    works = (
        SlideWork(position, entry, manner_of(model, options, sampler_of(arm, seed, position), events))
        for position, entry in enumerate(inputs)
    )
    yield from work_through(works, SlideWork.conclude, model, options, events=events)
