"""Classify slides: several are open at once, and each gives its result as it ends. Nothing is written."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from tnet_cli.errors import RunStoppedError
from tnet_cli.inference.engine import LookFunction, StorageHangsError, drive, is_device_lost
from tnet_cli.inference.progress import Progress
from tnet_cli.inference.slide_session import SlideSession
from tnet_cli.inference.slide_task import GivenUpError
from tnet_cli.inference.traversal_job import OpenJob, TraversalResult
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.model.choice import LocationSampler, TopK
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideResult

SessionT = TypeVar("SessionT", bound=SlideSession)
ConcludedT = TypeVar("ConcludedT")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What changes how fast slides are classified, and not what comes of them.

    Attributes:
        batch_size: Patches in one forward pass.
        readers: Threads that read and decode.
        slides_in_flight: Slides that are open at once.
        slide_timeout_s: A slide that takes longer is given up when a read of it hangs; 0 for never.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 16
    readers: int = 2
    slides_in_flight: int = 2
    slide_timeout_s: float = 600.0


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
            means = None if seen.cell_means is None else seen.cell_means.cpu()
            return Look(features=seen.features, cell_log_probs=log_probs, cell_means=means)

    return look


def classify_slides(
    inputs: Iterable[SlideInput],
    model: LoadedModel,
    options: TraversalOptions | None = None,
    engine: EngineOptions | None = None,
    *,
    sampler_of: Callable[[int], LocationSampler] = lambda _position: TopK(),
    progress: Progress | None = None,
) -> Generator[tuple[int, SlideResult], None, None]:
    """Classify slides, several in flight, and yield each as it ends.

    A slide that cannot be read or lacks what is needed gives a ``failed`` result with one sentence, whatever the
    error; a slide without tissue gives ``no_tissue``. Neither stops the others.

    Args:
        inputs: The slides; taken one by one, as there is room for them.
        model: Its network is moved to the engine's device and its normalisation folded.
        options: How slides are read and traversed.
        sampler_of: How locations are chosen on the slide of a position in ``inputs``: the most probable ones unless
            given.
        progress: Told of batches and reductions.

    Yields:
        The slide's position in ``inputs`` and its result.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    options, progress = options or TraversalOptions(), progress or Progress()
    sessions = (
        SlideSession(position, entry, model, options, sampler_of(position), progress)
        for position, entry in enumerate(inputs)
    )
    return run_sessions(sessions, SlideSession.conclude, model, engine or EngineOptions(), progress)


def run_sessions(
    sessions: Iterable[SessionT],
    conclude: Callable[[SessionT, TraversalResult | BaseException], ConcludedT],
    model: LoadedModel,
    engine: EngineOptions,
    progress: Progress,
) -> Generator[tuple[int, ConcludedT], None, None]:
    """Open, traverse, conclude and close slides, some in flight at once, and yield what is concluded as each ends.

    Args:
        sessions: One for each slide, taken as there is room for it.
        conclude: Makes of a session and the result of its traversal, or the error that ended it, what is yielded; the
            slide is open.
        progress: Told of batches.

    Yields:
        The position of the slide and what was concluded.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    network = model.network.to(engine.device).eval()
    fold_normalisation(network)
    under_way: dict[int, SessionT] = {}

    def openings() -> Iterator[OpenJob]:
        for number, session in enumerate(sessions):
            under_way[number] = session
            yield session.open

    traversed_slides = drive(
        openings(),
        look_with(network, engine.device),
        batch_size=engine.batch_size,
        readers=engine.readers,
        slides_in_flight=engine.slides_in_flight,
        on_look=progress.look,
        # Small batches cost a processor nothing, and leave every slide's answer the same whatever is beside it.
        batching="by_slide" if engine.device.type == "cpu" else "ready",
        timeout_s=engine.slide_timeout_s,
        caught=Exception,
    )
    try:
        for number, ended in traversed_slides:
            session = under_way.pop(number)
            try:
                concluded = conclude(session, ended)
            finally:
                session.close(may_hang=isinstance(ended, GivenUpError))
            yield session.position, concluded
    except StorageHangsError as exc:
        raise RunStoppedError("reading hangs in so many slides that the storage seems gone") from exc
    except RuntimeError as exc:
        if not is_device_lost(exc):
            raise
        raise RunStoppedError(f"{engine.device} answers no more: {str(exc).splitlines()[0]}") from exc
    finally:
        # Whoever stops listening, or an error in one slide, must leave none of the others open.
        traversed_slides.close()
        for session in under_way.values():
            session.close(may_hang=True)
