"""One slide under way in the engine: being opened, being read, being looked at, ended."""

import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from tnet_cli.inference.reader_threads import Call, ReaderThreads
from tnet_cli.inference.traversal_job import OpenJob, TraversalJob, TraversalResult
from tnet_cli.model.traversal import Look, Wanted


class NothingToSeeError(Exception):
    """Opening a slide said that there is nothing to look at."""


class GivenUpError(Exception):
    """A slide has been under way for longer than it may, and one of its reads does not return."""


OWN_ERRORS = (GivenUpError, NothingToSeeError)


@dataclass(slots=True, eq=False)
class SlideTask:
    """One slide under way: a traversal that says what it wants read and looked at, until it has ended.

    Attributes:
        position: Of its job in the input.
        ended: Its result, or the error that ended it; None while it is under way.
    """

    position: int
    ended: TraversalResult | BaseException | None = None
    _started: float | None = None
    _job: TraversalJob | None = None
    _wanted: Wanted | None = None
    _calls: list[Call] = field(default_factory=list)  # the opening, or one read for each wanted region
    _taken: int = 0  # wanted regions that went to the network
    _looks: list[Look] = field(default_factory=list)
    _pixels: list[np.ndarray] = field(default_factory=list)
    _patches: list[list[np.ndarray]] = field(default_factory=list)
    _failing: BaseException | None = None  # it ends with this when the reads it asked for are over

    def open(self, open_job: OpenJob, threads: ReaderThreads) -> None:
        """Have the slide opened in a thread, when none is needed for a slide that is open already."""
        self._calls = [threads.submit(open_job, urgent=False)]

    def begin(self, job: TraversalJob, threads: ReaderThreads, caught: type[Exception]) -> None:
        """Ask for the roots of a slide that is open."""
        self._job = job
        if self._started is None:
            self._started = time.monotonic()
        try:
            self._want(next(job.traversal), threads)
        except StopIteration as end:
            self._end(TraversalResult(traversal=end.value, patches=()))  # it had all that it wanted
        except caught as exc:
            self._end(exc)

    @property
    def is_pending(self) -> bool:
        """Whether it wants regions looked at that the network was not given yet."""
        return self._wanted is not None and self._failing is None and self.ended is None and self.left > 0

    @property
    def is_located(self) -> bool:
        """Whether what it wants goes through the location module."""
        return self._wanted is not None and self._wanted.allowed is not None

    @property
    def group(self) -> tuple[bool, int]:
        """What patches must share to be looked at in one batch: whether they are located, and by which encoder."""
        number = 0 if self._wanted is None or self._job is None else self._job.encoder_of(self._wanted.processing_level)
        return self.is_located, number

    @property
    def left(self) -> int:
        """How many of the wanted regions the network was not given yet."""
        return len(self._calls) - self._taken

    @property
    def wanted(self) -> Wanted:
        """What it wants looked at.

        Raises:
            ValueError: it is not open yet.
        """
        if self._wanted is None:
            raise ValueError("a slide that is not open wants nothing")
        return self._wanted

    def awaited(self, count: int) -> list[Call]:
        """Return the calls that bring the next so many of what it waits for."""
        return self._calls[self._taken : self._taken + count]

    def has_read(self, count: int) -> bool:
        """Whether the next regions have been read, well or not."""
        return all(call.finished for call in self.awaited(count))

    def fails_within(self, count: int) -> bool:
        """Begin to fail when one of the next regions, all of them read, could not be decoded; say whether it does."""
        error = next((call.error for call in self.awaited(count) if call.error), None)
        if error is not None:
            self.fail(error)
        return error is not None

    def take(self, count: int) -> list[tuple[int, np.ndarray]]:
        """Take the next regions, which have been read: index among the wanted ones, and pixels."""
        taken = range(self._taken, self._taken + count)
        self._taken += count
        self.work(sum(self._calls[index].took_s for index in taken))
        return [(index, self._calls[index].value) for index in taken]

    def work(self, seconds: float) -> None:
        """Count time that was spent on it."""
        if self._job is not None:
            self._job.work.seconds += seconds

    def see(self, look: Look, pixels: np.ndarray) -> None:
        """Note what the network saw of the next region."""
        self._looks.append(look)
        if self._job is not None and self._job.keeps_patches:
            self._pixels.append(pixels)

    def fail(self, error: BaseException) -> None:
        """Have the slide end with an error, as soon as the reads it asked for are over."""
        if self._failing is None:
            self._failing = error

    def hangs(self, timeout_s: float) -> bool:
        """Whether it has been under way for longer than that, and is waiting for a read."""
        started = self._started if self._started is not None else self._calls[0].started
        if started is None or time.monotonic() - started <= timeout_s:
            return False
        return any(call.is_running for call in self._calls)

    def give_up(self, threads: ReaderThreads) -> None:
        """End it now, whatever its reads do."""
        for call in self._calls:
            threads.give_up(call)
        self._end(self._failing or GivenUpError())

    def proceed(self, threads: ReaderThreads, caught: type[Exception]) -> TraversalResult | BaseException | None:
        """Go on where only reading or opening was waited for; return how the slide has ended, if it has.

        Raises:
            BaseException: what ended it, when that is neither caught nor the engine's own.
        """
        if self.ended is None and self._wanted is None and self._failing is None and self._calls[0].finished:
            opening = self._calls[0]
            self._started = opening.started
            if opening.error is not None:
                self._end(opening.error)
            elif opening.value is None:
                self._end(NothingToSeeError())
            else:
                self.begin(opening.value, threads, caught)
        # All of the reads are waited for: how much of a damaged slide is read must not be left to chance.
        if self.ended is None and self._failing is not None and all(call.finished for call in self._calls):
            self._end(self._failing)
        ended = self.ended
        if isinstance(ended, BaseException) and not isinstance(ended, (caught, *OWN_ERRORS)):
            raise ended
        return ended

    def advance(self, threads: ReaderThreads, caught: type[Exception]) -> bool:
        """Send the traversal what the network saw, once that is all it wanted; say whether it wants more now."""
        if self._job is None or self._failing is not None or len(self._looks) < len(self._calls):
            return False
        log_probs = [each.cell_log_probs for each in self._looks if each.cell_log_probs is not None]
        means = [each.cell_means for each in self._looks if each.cell_means is not None]
        look = Look(
            features=torch.cat([each.features for each in self._looks]),
            cell_log_probs=torch.cat(log_probs) if log_probs else None,
            cell_means=torch.cat(means) if means else None,
        )
        try:
            if self._pixels:
                self._patches.append(self._pixels)
            self._looks, self._pixels = [], []
            self._want(self._job.traversal.send(look), threads)
        except StopIteration as end:
            self._end(TraversalResult(traversal=end.value, patches=tuple(self._patches)))
        except caught as exc:
            self._end(exc)
        return self.ended is None

    def abandon(self, threads: ReaderThreads) -> None:
        """Drop what has not been read yet, because nobody wants the answer any more."""
        for call in self._calls:
            threads.cancel(call)
        self._close()

    def _want(self, wanted: Wanted, threads: ReaderThreads) -> None:
        job = self._job
        if job is None:
            raise ValueError("a slide that is not open cannot be read")
        self._wanted, self._taken = wanted, 0
        self._calls = [threads.submit(partial(job.read, region)) for region in wanted.regions]

    def _end(self, ended: TraversalResult | BaseException) -> None:
        self.ended = ended
        self.work(sum(call.took_s for call in self._calls[self._taken :] if call.finished))
        self._close()

    def _close(self) -> None:
        if self._job is not None:
            self._job.traversal.close()
        self._looks, self._pixels, self._patches = [], [], []
