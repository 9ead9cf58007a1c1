"""One slide while it is open: from its path to its result."""

import threading
import time
from dataclasses import replace

import torch

from tnet_cli.errors import SlideError, UsageError
from tnet_cli.geometry import Region
from tnet_cli.inference.outcome import classified, failed, hidden, without_tissue
from tnet_cli.inference.prepare import Preparation, prepare
from tnet_cli.inference.prepare_image import ImagePreparation, prepare_image, shown
from tnet_cli.inference.progress import Progress
from tnet_cli.inference.slide_task import NothingToSeeError
from tnet_cli.inference.stopping import stopping_rule
from tnet_cli.inference.traversal_job import TraversalJob, TraversalResult, Work
from tnet_cli.inference.trust import decided, features_of
from tnet_cli.inference.verdict import job_of
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.inputs.roi import known_by, limits_of
from tnet_cli.model.choice import LocationSampler
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideEvidence, SlideResult
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide


class SlideSession:
    """One slide under way: opened in a reading thread, concluded where its traversal was waited for, then closed.

    Args:
        position: Of the slide among the inputs.
        model: On the device where it looks.
        options: How the slide is read and traversed.
        progress: Told of the reduction of a slide without a pyramid.
    """

    def __init__(
        self,
        position: int,
        entry: SlideInput,
        model: LoadedModel,
        options: TraversalOptions,
        sampler: LocationSampler,
        progress: Progress,
    ) -> None:
        self.position = position
        self.model = model
        self.options = options
        self._entry = entry
        self._sampler = sampler
        self._progress = progress
        self._lock = threading.Lock()
        self._closed = False
        self._started = time.perf_counter()
        self._opening_s: float | None = None
        self._work = Work()
        self._fingerprint: Fingerprint | None = None
        self._slide: Slide | None = None
        self._preparation: Preparation | ImagePreparation | None = None
        self._sharpness: dict[Region, float | None] = {}  # of what was read, by a job that keeps no patches

    def open(self) -> TraversalJob | None:
        """Open and prepare the slide; its job, or None when it shows no tissue. Called in a reading thread.

        Raises:
            SlideError: it cannot be opened or lacks what is needed.
            UsageError: the options do not fit the model.
        """
        self._started = time.perf_counter()
        try:
            return self._open()
        finally:
            self._opening_s = time.perf_counter() - self._started

    def _open(self) -> TraversalJob | None:
        entry, options, network = self._entry, self.options, self.model.card.network
        # Before the first read: a slide that changes while it is read does not bear the mark of its new content.
        self._fingerprint = known_by(entry)
        slide = open_slide(
            entry.path, reader=options.reader, mpp=entry.mpp or options.mpp, on_progress=self._progress.reduce
        )
        self._hold(slide)
        limits = limits_of(entry, slide)
        if network.image_px is None:
            self._preparation = prepare(slide, network, limits)
        elif limits is None:
            self._preparation = prepare_image(slide, network)
        else:
            raise UsageError(f"--roi, --mask and such columns: the model {self.model.card.name} takes whole images")
        job = self.job(slide, self._preparation)
        if job is not None:
            self._work = job.work
        return job

    def job(self, slide: Slide, preparation: Preparation | ImagePreparation) -> TraversalJob | None:
        """Return the job of the slide that is open and prepared; None when there is nothing to look at.

        Raises:
            UsageError: the options do not fit the model.
        """
        card, options = self.model.card, self.options
        stopping = stopping_rule(options.stop_at, self.model.network, card)
        return job_of(slide, preparation, card, options, self._sampler, stopping=stopping)

    def conclude(self, ended: TraversalResult | BaseException) -> SlideResult:
        """Turn what the engine says of the slide into its result.

        Raises:
            UsageError: the options do not fit the model.
        """
        if isinstance(ended, UsageError):
            raise ended
        entry, card, concluding = self._entry, self.model.card, time.perf_counter()
        slide, preparation = self._slide, self._preparation
        if slide is not None and isinstance(ended, NothingToSeeError):
            result = without_tissue(entry, card, slide)
        elif isinstance(ended, BaseException):
            result = failed(entry, card, ended, slide)
        elif slide is None or preparation is None:
            raise ValueError("a traversal is concluded of a slide that is open")
        else:
            try:
                result = self._classified(slide, preparation, ended)
            except (SlideError, ArithmeticError, MemoryError, torch.OutOfMemoryError) as exc:
                result = failed(entry, card, exc, slide)
        # Of a slide that is still being opened nothing else is known than since when.
        opening_s = concluding - self._started if self._opening_s is None else self._opening_s
        seconds = opening_s + self._work.seconds + time.perf_counter() - concluding
        return hidden(replace(result, fingerprint=self._fingerprint, seconds=seconds), entry)

    def _classified(
        self, slide: Slide, preparation: Preparation | ImagePreparation, ended: TraversalResult
    ) -> SlideResult:
        model = self.model
        result = classified(self._entry, model, slide, preparation, ended.traversal)
        patches = tuple(shown(patch) for some in ended.patches for patch in some)
        if ended.traversal.order is not None:
            patches = tuple(patches[looked_at] for looked_at in ended.traversal.order)
        features = features_of(ended.traversal)
        tissue = outlined = None
        if isinstance(preparation, Preparation):
            tissue, limits = preparation.tissue, preparation.limits
            outlined = None if limits is None else limits.within or limits.mask
        evidence = SlideEvidence(preparation.thumbnail, patches, features, self._sharpness, tissue, outlined)
        return decided(replace(result, evidence=evidence), model, slide, preparation, ended.traversal)

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
