"""From outcomes to files: overlays are drawn and written in threads while the next slides are classified."""

import errno
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from tnet_cli.classification.overlay import overlay_of
from tnet_cli.inference.outcome import Outcome, sentence_of
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.report.thumbnail import overlay_file
from tnet_cli.results.layout import RunDirectory
from tnet_cli.results.result import SlideResult, SlideRow

WAITING = 2
"""Outcomes that wait for a thread; each holds its thumbnail and patches, so there must be few."""

FAULTS_OF_A_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ}
"""Errors of one slide's folder, not of the disk."""

Written = TypeVar("Written")


def write_outcome(directory: RunDirectory, outcome: Outcome, card: ModelCard, *, draw: bool) -> SlideRow:
    """Write one slide's folder, with its overlay where that is wanted; a slide that cannot be drawn has failed.

    Raises:
        OSError: the disk is full or gone.
    """
    return write_drawn(directory, *drawn(outcome, card, draw=draw))


def drawn(outcome: Outcome, card: ModelCard, *, draw: bool) -> tuple[SlideResult, bytes | None]:
    """Return a slide's result and the bytes of its overlay's file; a slide that cannot be drawn has failed."""
    try:
        overlay = overlay_of(outcome, card) if draw else None
        return outcome.result, None if overlay is None else overlay_file(overlay)
    except Exception as exc:  # noqa: BLE001 (one slide's picture must not end the run; its row names the error)
        return _turned_into_failure(outcome.result, sentence_of(outcome.result.path, exc)), None


def write_drawn(directory: RunDirectory, result: SlideResult, overlay: bytes | None) -> SlideRow:
    """Write one slide's folder; one whose name the disk does not take has failed.

    Raises:
        OSError: the disk is full or gone.
    """
    try:
        return directory.write_slide(result, overlay)
    except OSError as exc:
        if exc.errno not in FAULTS_OF_A_NAME:
            raise
        problem = f"{result.path}: its folder of results cannot be made: {exc.strerror}; rename the slide"
        return SlideRow(values=_turned_into_failure(result, problem).row())


def _turned_into_failure(result: SlideResult, error: str) -> SlideResult:
    return replace(result, status="failed", prediction=None, probability=None, probabilities=(), error=error)


def written(
    outcomes: Iterable[tuple[int, Outcome]], write: Callable[[int, Outcome], Written], *, threads: int
) -> Generator[tuple[int, Written], None, None]:
    """Write outcomes in threads, and yield what that returns when each is written, in the order of the outcomes.

    Whoever stops listening still has everything written that had come so far.

    Args:
        outcomes: Position and outcome of each slide; taken only as fast as they can be written.
        write: Writes one; called in a thread.
        threads: How many write at once.

    Yields:
        The slide's position and what ``write`` returned.

    Raises:
        OSError: the disk is full or gone.
    """
    waiting: deque[tuple[int, Future[Written]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="tnet-write") as pool:
        for position, outcome in outcomes:
            waiting.append((position, pool.submit(write, position, outcome)))
            while waiting and (waiting[0][1].done() or len(waiting) >= threads + WAITING):
                earlier, future = waiting.popleft()
                yield earlier, future.result()
        while waiting:
            position, future = waiting.popleft()
            yield position, future.result()
