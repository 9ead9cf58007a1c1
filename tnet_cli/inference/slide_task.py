"""The work on one slide, from its path to its outcome; opening happens in a reading thread, concluding where asked."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tnet_cli.errors import SlideError, UsageError
from tnet_cli.inference.domain_check import checked
from tnet_cli.inference.flight import NothingToSeeError, TraversalJob, TraversalResult
from tnet_cli.inference.image_job import image_job, shown
from tnet_cli.inference.outcome import Outcome, classified, failed, without_tissue
from tnet_cli.inference.prepare import Preparation, choose_locations, prepare
from tnet_cli.inference.prepare_image import ImagePreparation, prepare_image
from tnet_cli.inference.traversal_job import best_first_job, slide_job
from tnet_cli.inputs.fingerprint import Fingerprint, fingerprint_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.best_first import Settled
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How every slide of a run is opened and traversed.

    Attributes:
        card: The model's.
        domain: Where the features of each processing level lie that the model was calibrated on; empty where unknown.
        locations: Attended locations for each processing level after the first; None for the model's default.
        budget: Attended locations in all; excludes ``locations``.
        settled: Makes what tells of one slide when to end, and makes the traversal best-first; None for that of the
            paper.
        mpp: Overrides the micrometres per pixel of every slide; a manifest's column comes first.
        reader: Forces a slide backend.
        sampler: How locations are chosen.
        on_reduce: Rows done and to do, while a slide without a pyramid is reduced.
    """

    card: ModelCard
    domain: tuple[FeatureDomain, ...]
    locations: tuple[int, ...] | None
    budget: int | None
    settled: Callable[[], Settled] | None
    mpp: float | None
    reader: str | None
    sampler: LocationSampler
    on_reduce: Callable[[int, int], None] | None


def job_of(
    slide: Slide,
    preparation: Preparation | ImagePreparation,
    network: TNetConfig,
    locations: tuple[int, ...] | None,
    budget: int | None,
    sampler: LocationSampler,
) -> TraversalJob | None:
    """Return the job of a slide or an image that is open and prepared, or None when there is nothing to look at.

    Raises:
        UsageError: the locations or the budget do not fit the model.
    """
    attended = choose_locations(network, preparation.scale, locations, budget)
    if not preparation.roots:
        return None
    if isinstance(preparation, ImagePreparation):
        return image_job(preparation, network, attended, sampler)
    return slide_job(slide, preparation, network, attended, sampler)


class SlideWork:
    """One slide under way.

    Args:
        position: Of the slide among the inputs.
        entry: The input.
        manner: How it is opened and traversed.
    """

    def __init__(self, position: int, entry: SlideInput, manner: Manner) -> None:
        self.position = position
        self._entry = entry
        self._manner = manner
        self._lock = threading.Lock()
        self._closed = False
        self._started = time.perf_counter()
        self._fingerprint: Fingerprint | None = None
        self._slide: Slide | None = None
        self._preparation: Preparation | ImagePreparation | None = None

    def open(self) -> TraversalJob | None:
        """Open and prepare the slide; its job, or None when it shows no tissue. Called in a reading thread.

        Raises:
            SlideError: it cannot be opened or lacks what is needed.
            UsageError: the options do not fit the model.
        """
        self._started = time.perf_counter()
        manner, entry = self._manner, self._entry
        # Before the first read: a slide that changes while it is read does not bear the fingerprint of its new content.
        self._fingerprint = fingerprint_of(entry.path)
        slide = open_slide(entry.path, reader=manner.reader, mpp=entry.mpp or manner.mpp, on_progress=manner.on_reduce)
        self._hold(slide)
        network = manner.card.network
        preparation = prepare(slide, network) if network.image_px is None else prepare_image(slide, network)
        self._preparation = preparation
        return self._job(slide, preparation)

    def _job(self, slide: Slide, preparation: Preparation | ImagePreparation) -> TraversalJob | None:
        """Return the job of a slide that is open and prepared, or None when there is nothing to look at."""
        manner = self._manner
        network = manner.card.network
        if manner.settled is None:
            return job_of(slide, preparation, network, manner.locations, manner.budget, manner.sampler)
        if manner.locations is not None or network.choice == "per_grid" or isinstance(preparation, ImagePreparation):
            raise UsageError(
                "--stop-at takes the most probable locations of the whole slide, so it goes with --budget and not with "
                "--locations, nor with a model that chooses locations for each grid"
            )
        budget = manner.budget or sum(choose_locations(network, preparation.scale, None, None))
        if not preparation.roots:
            return None
        return best_first_job(slide, preparation, network, budget, manner.settled())

    def conclude(self, ended: TraversalResult | BaseException, network: TNet) -> Outcome:
        """Turn what the engine says of the slide into its outcome.

        Raises:
            UsageError: the options do not fit the model.
        """
        if isinstance(ended, UsageError):
            raise ended
        entry, card, started = self._entry, self._manner.card, self._started
        slide, preparation = self._slide, self._preparation
        thumbnail = preparation.thumbnail if preparation is not None else None
        if slide is not None and isinstance(ended, NothingToSeeError):
            return Outcome(
                without_tissue(entry, card, started, slide), thumbnail=thumbnail, fingerprint=self._fingerprint
            )
        if isinstance(ended, BaseException):
            return Outcome(
                failed(entry, card, started, ended, slide), thumbnail=thumbnail, fingerprint=self._fingerprint
            )
        if slide is None or preparation is None:
            raise ValueError("a traversal is concluded of a slide that is open")
        try:
            scale, roots = preparation.scale, len(preparation.roots)
            result = classified(entry, card, started, slide, scale, roots, ended, network)
            result = checked(result, card, self._manner.domain, slide, scale, ended.traversal)
        except (ArithmeticError, MemoryError, torch.OutOfMemoryError) as exc:
            return Outcome(failed(entry, card, started, exc, slide), thumbnail=thumbnail, fingerprint=self._fingerprint)
        patches = tuple(shown(patch) for some in ended.patches for patch in some)
        if ended.traversal.order is not None:
            patches = tuple(patches[looked_at] for looked_at in ended.traversal.order)
        return Outcome(result, thumbnail=thumbnail, patches=patches, fingerprint=self._fingerprint)

    def close(self, *, may_hang: bool) -> None:
        """Release the slide; when it is still being opened, as soon as that is over.

        Args:
            may_hang: A thread hangs in it, perhaps with a lock: then another thread is made to wait for that.
        """
        with self._lock:
            self._closed = True
            slide = self._slide
        if slide is None:
            return
        if may_hang:
            threading.Thread(target=slide.close, name="tnet-close", daemon=True).start()
        else:
            slide.close()

    def _hold(self, slide: Slide) -> None:
        with self._lock:
            self._slide = slide
            given_up = self._closed
        if given_up:
            slide.close()
            raise SlideError(self._entry.shown_path, "was given up while it was being opened")
