"""From results to files: overlays are drawn and written in threads while the next slides are classified."""

import errno
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from PIL.Image import Image

from tnet_cli.inference.outcome import sentence_of
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.inputs.names import MASK, OVERLAY
from tnet_cli.modelfile.card import ModelCard, calibration_words
from tnet_cli.report.overlay import OverlayPatch, OverlaySubject, draw_overlay
from tnet_cli.report.thumbnail import mask_file, overlay_file
from tnet_cli.results.layout import RunDirectory
from tnet_cli.results.result import SlideResult, SlideRow

PATCHES_SHOWN = 12

WAITING = 2
"""Results that wait for a thread; each holds its thumbnail and patches, so there must be few."""

FAULTS_OF_A_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ}
"""Errors of one slide's folder, not of the disk."""


Pictures = Mapping[str, bytes]
"""Of one slide: name of a file, of ``inputs.names.SLIDE_FILES``, -> its bytes."""


def drawn(
    result: SlideResult, card: ModelCard, *, overlay: bool, mask: bool = False, answer_anyway: bool = False
) -> tuple[SlideResult, Pictures]:
    """Return a slide's result without what it is drawn from, and the pictures of it that are wanted.

    A slide that cannot be drawn has failed.

    Args:
        mask: Whether what could be attended is kept as a picture.
        answer_anyway: Whether an answer that does not count is given with the others.
    """
    if answer_anyway and result.status == "abstained":
        result = result.answered()
    bare, seen = replace(result, evidence=None), result.evidence
    pictures: dict[str, bytes] = {}
    try:
        if overlay and (picture := overlay_of(result, card)) is not None:
            pictures[OVERLAY] = overlay_file(picture)
        if mask and seen is not None and seen.tissue is not None:
            pictures[MASK] = mask_file(seen.tissue.mask)
    except Exception as exc:  # noqa: BLE001 (one slide's picture must not end the run; its row names the error)
        return _turned_into_failure(bare, sentence_of(result.path, exc)), {}
    return bare, pictures


def write_drawn(directory: RunDirectory, result: SlideResult, pictures: Pictures) -> SlideRow:
    """Write one slide's folder; one whose name the disk does not take has failed.

    Raises:
        OSError: the disk is full or gone.
    """
    try:
        return directory.write_slide(result, pictures)
    except OSError as exc:
        if exc.errno not in FAULTS_OF_A_NAME:
            raise
        problem = f"{result.path}: its folder of results cannot be made: {exc.strerror}; rename the slide"
        return SlideRow(values=_turned_into_failure(result, problem).row())


def overlay_of(result: SlideResult, card: ModelCard) -> Image | None:
    """Draw the overlay of a slide that was looked at; None for one that was not."""
    seen = result.evidence
    if not result.was_looked_at or seen is None or result.size is None:
        return None
    shown = [
        OverlayPatch(attended=region, pixels=pixels)
        for region, pixels in zip(result.regions, seen.patches, strict=True)
        if region.is_location
    ]
    shown.sort(key=lambda patch: -patch.attended.weight)
    subject = OverlaySubject(
        slide_name=result.slide,
        slide_size=result.size,
        mpp=result.mpp,
        class_names=result.class_names,
        probabilities=result.probabilities,
        prediction=result.prediction,
        model_name=card.name,
        intended_use=card.intended_use,
        location_count=result.locations,
        fraction_read=result.fraction_read or 0.0,
        seconds=result.seconds,
        reasons=result.reasons,
        calibration=calibration_words(result.calibration_error),
        score="" if result.score is None else result.score.words(),
    )
    outlined = None if seen.outlined is None else seen.outlined.mask
    return draw_overlay(seen.thumbnail, subject, result.regions, shown[:PATCHES_SHOWN], outlined)


def _turned_into_failure(result: SlideResult, error: str) -> SlideResult:
    return replace(result, status="failed", prediction=None, probability=None, probabilities=(), checks=(), error=error)


def written(
    results: Generator[tuple[int, SlideResult], None, None],
    write: Callable[[int, SlideResult], tuple[SlideRow, Fingerprint | None]],
    *,
    threads: int,
) -> Generator[tuple[int, SlideRow, Fingerprint | None], None, None]:
    """Write results in threads, and yield what that returns when each is written, in the order of the results.

    Whoever stops listening still has everything written that had come so far.

    Args:
        results: Position and result of each slide; taken only as fast as they can be written.
        write: Writes one; called in a thread.
        threads: How many write at once.

    Yields:
        The slide's position and what ``write`` returned.

    Raises:
        OSError: the disk is full or gone.
    """
    waiting: deque[tuple[int, Future[tuple[SlideRow, Fingerprint | None]]]] = deque()
    with closing(results), ThreadPoolExecutor(threads, thread_name_prefix="tnet-write") as pool:
        for position, result in results:
            waiting.append((position, pool.submit(write, position, result)))
            while waiting and (waiting[0][1].done() or len(waiting) >= threads + WAITING):
                earlier, future = waiting.popleft()
                yield earlier, *future.result()
        while waiting:
            position, future = waiting.popleft()
            yield position, *future.result()
