"""Classify slides: open, find tissue, traverse, decide. Yields results; writing them is ``run_directory``'s work."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch

from tnet_cli.errors import SlideError, UsageError
from tnet_cli.model.choice import Chooser, TopK
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal
from tnet_cli.pipeline.card import ModelCard
from tnet_cli.pipeline.engine import Errand, Journey, LookFunction, drive
from tnet_cli.pipeline.errand import slide_errand
from tnet_cli.pipeline.inputs import SlideInput
from tnet_cli.pipeline.model_file import LoadedModel
from tnet_cli.pipeline.preparation import Preparation, choose_locations, prepare
from tnet_cli.pipeline.result import RegionResult, SlideResult, softmax
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """How to classify.

    Attributes:
        locations: Attended locations for each processing level after the first; None for the model's default.
        budget: Attended locations in all, shared out as the model's default is; excludes ``locations``.
        mpp: Overrides the micrometres per pixel of every slide; a manifest's column comes first.
        reader: Forces a slide backend.
        device: Where the network runs.
        batch_size: Patches in one forward pass.
        readers: Threads that read and decode.
        slides_in_flight: Slides that are open at once.
    """

    locations: tuple[int, ...] | None = None
    budget: int | None = None
    mpp: float | None = None
    reader: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 16
    readers: int = 2
    slides_in_flight: int = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """One slide's result, and for the slides that were traversed what the overlay is drawn from.

    Attributes:
        result: The row and its regions.
        thumbnail: uint8 (H, W, 3), or None when the slide could not be read.
        patches: uint8 (H, W, 3) for each of ``result.regions``.
    """

    result: SlideResult
    thumbnail: np.ndarray | None = None
    patches: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, slots=True)
class Events:
    """What a long run tells while it goes.

    Attributes:
        on_look: Processing level and number of patches of each batch.
        on_reduce: Rows done and to do while a slide without a pyramid is reduced.
    """

    on_look: Callable[[int, int], None] | None = None
    on_reduce: Callable[[int, int], None] | None = None


@dataclass(frozen=True, slots=True)
class _OpenSlide:
    entry: SlideInput
    slide: Slide
    preparation: Preparation
    locations: tuple[int, ...]
    started: float


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
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    options: ClassifyOptions,
    *,
    chooser: Chooser | None = None,
    events: Events | None = None,
) -> Generator[tuple[int, Outcome], None, None]:
    """Classify slides, several in flight, and yield each as it ends.

    A slide that cannot be read or lacks what is needed gives a ``failed`` outcome with one sentence; a slide without
    tissue gives ``no_tissue``. Neither stops the others.

    Args:
        inputs: The slides.
        model: The model; its network is moved to ``options.device`` and its normalisation folded.
        options: How to classify.
        chooser: How locations are chosen; the most probable ones unless given.
        events: Who wants to know how it goes.

    Yields:
        The slide's position in ``inputs`` and its outcome.

    Raises:
        UsageError: the options do not fit the model.
    """
    events = events or Events()
    network = model.network.to(options.device).eval()
    fold_normalisation(network)
    if model.card.network.mpp is None:
        raise UsageError(f"{model.card.name} is a model of whole images; classify needs a model of slides")
    at_once: deque[tuple[int, Outcome]] = deque()
    under_way: dict[int, tuple[int, _OpenSlide]] = {}
    numbers = count()

    def errands() -> Iterator[Errand]:
        for position, entry in enumerate(inputs):
            started = time.perf_counter()
            opened = _open(entry, model.card, options, events, started)
            if isinstance(opened, Outcome):
                at_once.append((position, opened))
                continue
            under_way[next(numbers)] = (position, opened)
            yield slide_errand(
                opened.slide, opened.preparation, model.card.network, opened.locations, chooser or TopK()
            )

    journeys = drive(
        errands(),
        look_with(network, options.device),
        batch_size=options.batch_size,
        readers=options.readers,
        slides_in_flight=options.slides_in_flight,
        on_look=events.on_look,
    )
    try:
        for number, journey in journeys:
            while at_once:
                yield at_once.popleft()
            position, opened = under_way.pop(number)
            with opened.slide:
                yield position, _conclude(opened, journey, network, model.card)
        yield from at_once
    finally:
        # Whoever stops listening, or an error in one slide, must leave none of the others open.
        journeys.close()
        for _, opened in under_way.values():
            opened.slide.close()


def _open(
    entry: SlideInput, card: ModelCard, options: ClassifyOptions, events: Events, started: float
) -> _OpenSlide | Outcome:
    try:
        slide = open_slide(
            entry.path, reader=options.reader, mpp=entry.mpp or options.mpp, on_progress=events.on_reduce
        )
    except SlideError as error:
        return Outcome(_failed(entry, card, error, started))
    try:
        preparation = prepare(slide, card.network)
        locations = choose_locations(card.network, preparation.scale, options.locations, options.budget)
    except SlideError as error:
        slide.close()
        return Outcome(_failed(entry, card, error, started, slide))
    except BaseException:
        slide.close()
        raise
    if not preparation.roots:
        slide.close()
        result = SlideResult(
            **_facts(entry, card, started, slide), status="no_tissue", error="no tissue was found on the slide"
        )
        return Outcome(result, thumbnail=preparation.thumbnail)
    return _OpenSlide(entry, slide, preparation, locations, started)


def _conclude(opened: _OpenSlide, journey: Journey | SlideError, network: TNet, card: ModelCard) -> Outcome:
    if isinstance(journey, SlideError):
        result = _failed(opened.entry, card, journey, opened.started, opened.slide)
        return Outcome(result, thumbnail=opened.preparation.thumbnail)
    traversal = journey.traversal
    with torch.inference_mode():
        answer = network.classify([torch.cat([record.features for record in traversal.levels])])
    logits = answer.logits[0].float().cpu().numpy()
    probabilities = [float(p) for p in softmax(logits, card.temperature)]
    called = card.decide(probabilities)
    regions = _region_results(
        traversal,
        weights=answer.weights[0].float().cpu().numpy(),
        probabilities=softmax(answer.location_logits[0].float().cpu().numpy(), card.temperature),
        mpp=opened.preparation.scale.mpp,
    )
    result = SlideResult(
        **_facts(opened.entry, card, opened.started, opened.slide),
        status="ok",
        prediction=card.network.class_names[called],
        probability=probabilities[called],
        probabilities=tuple(probabilities),
        logits=tuple(float(value) for value in logits),
        roots=len(opened.preparation.roots),
        locations=traversal.location_count,
        notes=opened.preparation.scale.notes,
        regions=regions,
    )
    patches = tuple(patch for level_patches in journey.patches for patch in level_patches)
    return Outcome(result, thumbnail=opened.preparation.thumbnail, patches=patches)


def _region_results(
    traversal: Traversal, *, weights: np.ndarray, probabilities: np.ndarray, mpp: tuple[float, ...]
) -> tuple[RegionResult, ...]:
    results: list[RegionResult] = []
    for record in traversal.levels:
        for region, location_log_prob, path_log_prob in zip(
            record.regions, record.location_log_probs, record.path_log_probs, strict=True
        ):
            row = len(results)
            results.append(
                RegionResult(
                    region=region,
                    processing_level=record.processing_level,
                    mpp=mpp[record.processing_level],
                    location_probability=float(np.exp(float(location_log_prob))),
                    path_probability=float(np.exp(float(path_log_prob))),
                    weight=float(weights[row]),
                    probabilities=tuple(float(p) for p in probabilities[row]),
                )
            )
    return tuple(results)


def _facts(entry: SlideInput, card: ModelCard, started: float, slide: Slide | None) -> dict[str, Any]:
    """Return what every result says of its slide, whatever became of it."""
    facts: dict[str, Any] = {
        "slide": entry.name,
        "path": entry.shown_path,
        "class_names": card.network.class_names,
        "seconds": time.perf_counter() - started,
    }
    if slide is not None:
        facts |= {
            "size": slide.size,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "reader": slide.reader,
            "pixels_read": slide.pixels_read,
            "bytes_read": slide.bytes_read,
            "fraction_read": slide.pixels_read / slide.size.area,
            "bounds": slide.bounds,
        }
    return facts


def _failed(
    entry: SlideInput, card: ModelCard, error: SlideError, started: float, slide: Slide | None = None
) -> SlideResult:
    return SlideResult(**_facts(entry, card, started, slide), status="failed", error=str(error))
