"""The engine: drives the traversals of several slides at once, reading in threads while the network computes.

Each traversal says which regions it wants looked at. The engine reads the wanted regions of all slides in flight in
threads, joins them into batches for the network, and sends every traversal its share. While one batch is in the
network the threads read the next, and open the slides that come after.
"""

import time
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tnet_cli.errors import SlideError
from tnet_cli.inference.reader_threads import Call, ReaderThreads
from tnet_cli.inference.slide_task import SlideTask
from tnet_cli.inference.traversal_job import OpenJob, TraversalJob, TraversalResult
from tnet_cli.model.traversal import Look

LookFunction = Callable[[Tensor, np.ndarray, np.ndarray | None], Look]
ProgressFunction = Callable[[int, int], None]

Batching = Literal["in_order", "by_slide", "ready"]

TICK_S = 0.5
"""How often the engine looks whether a slide hangs, when nothing else happens."""

MOST_HUNG = 64
"""Threads that may hang in reads that were given up; with more the storage is gone, not a slide."""

Ended = TraversalResult | BaseException
_Read = tuple[SlideTask, int, np.ndarray]


class StorageHangsError(Exception):
    """So many reads never returned that it cannot be the slides."""


def drive(
    jobs: Iterable[TraversalJob | OpenJob],
    look: LookFunction,
    *,
    batch_size: int,
    readers: int,
    slides_in_flight: int = 1,
    on_look: ProgressFunction | None = None,
    batching: Batching = "in_order",
    timeout_s: float = 0.0,
    caught: type[Exception] = SlideError,
    may_halve: bool = True,
) -> Generator[tuple[int, Ended], None, None]:
    """Run traversals to their end, several at a time, and yield each as it ends.

    How patches are joined into batches decides what is reproducible, since a network's answer for a patch may depend
    in its last digits on how many patches it is given at once:

    * ``in_order``: in the order in which they were wanted, so the same jobs give the same batches whatever the
      speed of the disk. A slow slide holds up the others.
    * ``by_slide``: patches of one slide only, so that no slide's answer depends on the others.
    * ``ready``: whatever has been read, of all slides, filled up to one size: the fullest batches, and an answer
      depends on the others as little as the device's arithmetic allows.

    Args:
        jobs: Taken one by one, never more than ``slides_in_flight`` ahead: ready ones, or calls that open a slide
            in a reading thread.
        look: The network: patches uint8 (N, 3, H, W), positions int64 (N, 3), allowed bool (N, G) or None -> Look.
        batch_size: Most patches in one call of ``look``.
        readers: Threads that read and decode.
        slides_in_flight: Slides that are open at once; those that have stalled do not count, up to as many again.
        on_look: Called after each batch with the processing level of its last patch and the number of patches.
        batching: How patches are joined.
        timeout_s: A slide under way for longer is given up when one of its reads does not return; 0 for never.
        caught: Errors that end one slide and not the others.
        may_halve: Whether ``batch_size`` is halved once when the device's memory does not suffice. While training it
            would not help, since all batches of a step are held for the gradient.

    Yields:
        The job's position in the input, and its result or the error that ended it: among these ``GivenUpError``,
        and ``NothingToSeeError`` where opening it said that there is nothing to look at.

    Raises:
        StorageHangsError: more than 64 reads hang.
    """
    source = enumerate(jobs)
    tasks: list[SlideTask] = []
    batcher = _Batcher(look, batch_size, batching, caught, may_halve=may_halve)
    with ReaderThreads(readers) as threads:
        try:
            while True:
                room = slides_in_flight + min(threads.stalled(), slides_in_flight) - len(tasks)
                for position, job in islice(source, max(0, room)):
                    tasks.append(_set_out(position, job, threads, caught))
                if not tasks:
                    return
                _give_up_hung(tasks, timeout_s, threads)
                batch = batcher.next_batch(tasks)
                ended = [(task.position, end) for task in tasks if (end := task.proceed(threads, caught))]
                tasks = [task for task in tasks if task.ended is None]
                yield from ended
                if batch:
                    batcher.look_at(batch)
                    if on_look is not None:
                        on_look(batch[-1][0].wanted.processing_level, len(batch))
                    # What is wanted next comes after what others already want.
                    further = [task for task in _slides_of(batch) if task.advance(threads, caught)]
                    tasks = [task for task in tasks if task not in further] + further
                elif not ended:
                    threads.wait(batcher.awaited(tasks), TICK_S)
        finally:
            for task in tasks:
                task.abandon(threads)


def _set_out(position: int, job: TraversalJob | OpenJob, threads: ReaderThreads, caught: type[Exception]) -> SlideTask:
    task = SlideTask(position)
    if isinstance(job, TraversalJob):
        task.begin(job, threads, caught)
    else:
        task.open(job, threads)
    return task


def _give_up_hung(tasks: list[SlideTask], timeout_s: float, threads: ReaderThreads) -> None:
    for task in tasks:
        if timeout_s > 0 and task.hangs(timeout_s):
            task.give_up(threads)
    if threads.hung() > MOST_HUNG:
        raise StorageHangsError


class _Batcher:
    """Joins what was read into batches, and shares out what the network saw."""

    def __init__(
        self, look: LookFunction, batch_size: int, batching: Batching, caught: type[Exception], *, may_halve: bool
    ) -> None:
        self._look = look
        self._batch_size = batch_size
        self._batching = batching
        self._caught = caught
        self._may_halve = may_halve

    def next_batch(self, tasks: list[SlideTask]) -> list[_Read]:
        """Take the next patches that go through the network together, of one encoder, all located or none of them.

        Empty when they have not been read yet. Tasks with an unreadable region begin to fail.
        """
        pending = [task for task in tasks if task.is_pending]
        if self._batching == "in_order":
            return self._next_in_order(pending)
        batch: list[_Read] = []
        for task in pending:
            if batch and (self._batching == "by_slide" or task.group != batch[0][0].group):
                continue
            share = min(self._batch_size - len(batch), task.left)
            if self._batching == "ready":
                share = next((k for k in range(share, 0, -1) if task.has_read(k)), 0)
            if task.has_read(share) and not task.fails_within(share):
                batch.extend((task, index, pixels) for index, pixels in task.take(share))
        return batch

    def awaited(self, tasks: list[SlideTask]) -> list[list[Call]]:
        """Return groups of calls, of which one must have ended before any of these tasks can go on."""
        pending = [task for task in tasks if task.is_pending]
        groups = [task.awaited(task.left) for task in tasks if not task.is_pending]
        if self._batching == "in_order":
            shares = self._shares_in_order(pending)
            return [*groups, [call for task, share in shares for call in task.awaited(share)]] if shares else groups
        most = self._batch_size if self._batching == "by_slide" else 1
        return [*groups, *(task.awaited(min(most, task.left)) for task in pending)]

    def _next_in_order(self, pending: list[SlideTask]) -> list[_Read]:
        shares = self._shares_in_order(pending)
        if not all(task.has_read(share) for task, share in shares):
            return []
        failing = [task for task, share in shares if task.fails_within(share)]
        if failing:
            return self._next_in_order([task for task in pending if task not in failing])
        return [(task, index, pixels) for task, share in shares for index, pixels in task.take(share)]

    def _shares_in_order(self, pending: list[SlideTask]) -> list[tuple[SlideTask, int]]:
        shares: list[tuple[SlideTask, int]] = []
        room = self._batch_size
        for task in pending:
            if room > 0 and task.group == pending[0].group:
                shares.append((task, min(room, task.left)))
                room -= shares[-1][1]
        return shares

    def look_at(self, batch: list[_Read]) -> None:
        """Send a batch through the network, and give each slide what was seen of it.

        An error that is caught makes the slides of this batch fail.
        """
        started = time.perf_counter()
        try:
            looks = self._seen(batch)
        except self._caught as exc:
            if is_device_lost(exc):
                raise
            for task in _slides_of(batch):
                task.fail(exc)
            return
        share_s = (time.perf_counter() - started) / len(batch)
        for (task, _, pixels), seen in zip(batch, looks, strict=True):
            task.work(share_s)
            task.see(seen, pixels)

    def _seen(self, batch: list[_Read]) -> list[Look]:
        try:
            return self._seen_at_once(batch)
        except torch.OutOfMemoryError:
            if not self._may_halve or self._batch_size == 1:
                raise
        self._may_halve = False
        self._batch_size = (self._batch_size + 1) // 2
        torch.cuda.empty_cache()
        parts = [batch[start : start + self._batch_size] for start in range(0, len(batch), self._batch_size)]
        return [look for part in parts for look in self._seen_at_once(part)]

    def _seen_at_once(self, batch: list[_Read]) -> list[Look]:
        # One shape for all batches: the device then adds up in the same order, whatever the patches beside one.
        filled = self._batch_size - len(batch) if self._batching == "ready" else 0
        rows = [*batch, *batch[-1:] * filled]
        patches = torch.from_numpy(np.stack([pixels for _, _, pixels in rows])).permute(0, 3, 1, 2)  # (N, 3, H, W)
        positions = np.stack([task.wanted.positions[index] for task, index, _ in rows])
        allowed = [task.wanted.allowed[index] for task, index, _ in rows if task.wanted.allowed is not None]
        seen = self._look(patches, positions, np.stack(allowed) if allowed else None)
        return [
            Look(
                features=seen.features[row : row + 1],
                cell_log_probs=None if seen.cell_log_probs is None else seen.cell_log_probs[row : row + 1],
                cell_means=None if seen.cell_means is None else seen.cell_means[row : row + 1],
            )
            for row in range(len(batch))
        ]


def _slides_of(batch: list[_Read]) -> list[SlideTask]:
    return list(dict.fromkeys(task for task, _, _ in batch))


def is_device_lost(error: BaseException) -> bool:
    """Tell whether an error of torch means that the accelerator answers no more: every later call would fail too."""
    lost = getattr(torch, "AcceleratorError", None)
    return lost is not None and isinstance(error, lost) and not isinstance(error, torch.OutOfMemoryError)
