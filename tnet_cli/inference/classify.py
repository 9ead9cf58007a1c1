"""Classify slides: open, find tissue, traverse, decide. Yields outcomes; writing them is ``run_directory``'s work."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from tnet_cli.errors import RunStoppedError
from tnet_cli.inference.engine import LookFunction, StorageHangsError, drive, is_device_lost
from tnet_cli.inference.flight import GivenUpError, OpenJob, TraversalResult
from tnet_cli.inference.outcome import Outcome
from tnet_cli.inference.slide_task import Manner, SlideWork
from tnet_cli.inference.stopping import settled_when
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.choice import LocationSampler, TopK
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look
from tnet_cli.modelfile.modelfile import LoadedModel

__all__ = ["ClassifyOptions", "Events", "Outcome", "classify_slides", "look_with", "manner_of", "work_through"]

WorkT = TypeVar("WorkT", bound=SlideWork)
ConcludedT = TypeVar("ConcludedT")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """How to classify.

    Attributes:
        locations: Attended locations for each processing level after the first; None for the model's default.
        budget: Attended locations in all, shared out as the model's default is; excludes ``locations``.
        stop_at: Attend the most probable locations of any processing level first, and end when no class's probability
            moves by as much any more (``inference.stopping``); None for the traversal of the paper.
        mpp: Overrides the micrometres per pixel of every slide; a manifest's column comes first.
        reader: Forces a slide backend.
        device: Where the network runs.
        batch_size: Patches in one forward pass.
        readers: Threads that read and decode.
        slides_in_flight: Slides that are open at once.
        slide_timeout_s: A slide that takes longer is given up when a read of it hangs; 0 for never.
    """

    locations: tuple[int, ...] | None = None
    budget: int | None = None
    stop_at: float | None = None
    mpp: float | None = None
    reader: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 16
    readers: int = 2
    slides_in_flight: int = 2
    slide_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Events:
    """What a long run tells while it goes.

    Attributes:
        on_look: Processing level and number of patches of each batch.
        on_reduce: Rows done and to do while a slide without a pyramid is reduced.
    """

    on_look: Callable[[int, int], None] | None = None
    on_reduce: Callable[[int, int], None] | None = None


def look_with(network: TNet, device: torch.device) -> LookFunction:
    """Return the engine's view of a network in evaluation mode on a device."""

    def look(patches: torch.Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        with torch.inference_mode():
            seen = network.look(
                patches.to(device, non_blocking=True),
                torch.from_numpy(positions).to(device),
                None if allowed is None else torch.from_numpy(allowed).to(device),
            )
            log_probs = None if seen.cell_log_probs is None else seen.cell_log_probs.cpu()
            return Look(features=seen.features, cell_log_probs=log_probs)

    return look


def classify_slides(
    inputs: Iterable[SlideInput],
    model: LoadedModel,
    options: ClassifyOptions,
    *,
    sampler: LocationSampler | None = None,
    events: Events | None = None,
) -> Generator[tuple[int, Outcome], None, None]:
    """Classify slides, several in flight, and yield each as it ends.

    A slide that cannot be read or lacks what is needed gives a ``failed`` outcome with one sentence, whatever the
    error; a slide without tissue gives ``no_tissue``. Neither stops the others.

    Args:
        inputs: The slides; taken one by one, as there is room for them.
        model: The model; its network is moved to ``options.device`` and its normalisation folded.
        options: How to classify.
        sampler: How locations are chosen; the most probable ones unless given.
        events: Who wants to know how it goes.

    Yields:
        The slide's position in ``inputs`` and its outcome.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    manner = manner_of(model, options, sampler or TopK(), events)
    works = (SlideWork(position, entry, manner) for position, entry in enumerate(inputs))
    yield from work_through(works, SlideWork.conclude, model, options, events=events)


def manner_of(model: LoadedModel, options: ClassifyOptions, sampler: LocationSampler, events: Events | None) -> Manner:
    """Say how the slides of a run are opened and traversed."""
    return Manner(
        card=model.card,
        domain=model.domain,
        locations=options.locations,
        budget=options.budget,
        settled=None if options.stop_at is None else partial(settled_when, model.network, model.card, options.stop_at),
        mpp=options.mpp,
        reader=options.reader,
        sampler=sampler,
        on_reduce=events.on_reduce if events else None,
    )


def work_through(
    works: Iterable[WorkT],
    conclude: Callable[[WorkT, TraversalResult | BaseException, TNet], ConcludedT],
    model: LoadedModel,
    options: ClassifyOptions,
    *,
    events: Events | None = None,
) -> Generator[tuple[int, ConcludedT], None, None]:
    """Do the work on several slides, some in flight at once, and yield what is concluded of each as it ends.

    Args:
        works: One for each slide, taken as there is room for it; each is opened, and closed whatever happens.
        conclude: Makes of a work and its result, or the error that ended it, what is yielded; the slide is open.
        model: As for ``classify_slides``.
        options: Device, batches and threads.
        events: Who wants to know how it goes.

    Yields:
        The position of the work and what was concluded.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    events = events or Events()
    network = model.network.to(options.device).eval()
    fold_normalisation(network)
    under_way: dict[int, WorkT] = {}

    def openings() -> Iterator[OpenJob]:
        for number, work in enumerate(works):
            under_way[number] = work
            yield work.open

    traversed_slides = drive(
        openings(),
        look_with(network, options.device),
        batch_size=options.batch_size,
        readers=options.readers,
        slides_in_flight=options.slides_in_flight,
        on_look=events.on_look,
        # Small batches cost a processor nothing, and leave every slide's answer the same whatever is beside it.
        batching="by_slide" if options.device.type == "cpu" else "ready",
        timeout_s=options.slide_timeout_s,
        caught=Exception,
    )
    try:
        for number, ended in traversed_slides:
            work = under_way.pop(number)
            try:
                concluded = conclude(work, ended, network)
            finally:
                work.close(may_hang=isinstance(ended, GivenUpError))
            yield work.position, concluded
    except StorageHangsError as exc:
        raise RunStoppedError("reading hangs in so many slides that the storage seems gone") from exc
    except RuntimeError as exc:
        if not is_device_lost(exc):
            raise
        raise RunStoppedError(f"{options.device} answers no more: {str(exc).splitlines()[0]}") from exc
    finally:
        # Whoever stops listening, or an error in one slide, must leave none of the others open.
        traversed_slides.close()
        for work in under_way.values():
            work.close(may_hang=True)
