"""The engine: drives the traversals of several slides at once, reading in threads while the network computes.

Each traversal says which regions it wants looked at. The engine reads the wanted regions of all slides in flight in
a pool of threads, joins them in the order they were asked for into batches for the network, and sends every traversal
its share. While one batch is in the network the threads read the next.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.model.traversal import Look, Traversal, Wanted

LookFunction = Callable[[Tensor, np.ndarray, np.ndarray | None], Look]
ReadFunction = Callable[[Region], np.ndarray]
ProgressFunction = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Errand:
    """One slide's traversal and the way to read its regions.

    Attributes:
        traversal: The sans-IO generator of ``tnet_cli.model.traversal.traverse``.
        read: Region -> (H, W, 3), uint8 or float32 in [0, 1], the same for every region; called from many threads.
    """

    traversal: Generator[Wanted, Look, Traversal]
    read: ReadFunction


@dataclass(frozen=True, slots=True)
class Journey:
    """What came back from one traversal.

    Attributes:
        traversal: The record of the traversal.
        patches: The uint8 (N, H, W, 3) pixels the network saw, one array for each processing level.
    """

    traversal: Traversal
    patches: tuple[np.ndarray, ...]


@dataclass(slots=True, eq=False)
class _InFlight:
    position: int
    errand: Errand
    wanted: Wanted
    pending: int = 0
    looks: list[Look] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)
    patches: list[np.ndarray] = field(default_factory=list)


_Reading = tuple[_InFlight, int, "Future[np.ndarray]"]


def drive(
    errands: Iterable[Errand],
    look: LookFunction,
    *,
    batch_size: int,
    readers: int,
    slides_in_flight: int = 1,
    on_look: ProgressFunction | None = None,
) -> Generator[tuple[int, Journey | SlideError], None, None]:
    """Run traversals to their end, several at a time, and yield each as it ends.

    Batches hold patches in the order in which they were wanted, so the same errands give the same batches whatever
    the speed of the disk.

    Args:
        errands: Taken one by one, never more than ``slides_in_flight`` ahead.
        look: The network: patches uint8 (N, 3, H, W), positions int64 (N, 3), allowed bool (N, G) or None -> Look.
        batch_size: Most patches in one call of ``look``.
        readers: Threads that read and decode.
        slides_in_flight: Traversals that are open at once.
        on_look: Called after each batch with the processing level of its last patch and the number of patches.

    Yields:
        The errand's position in the input, and its journey or the error that ended it.
    """
    source = enumerate(errands)
    flights: list[_InFlight] = []
    queue: deque[_Reading] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="tnet-read") as pool:
        try:
            while True:
                for position, errand in islice(source, slides_in_flight - len(flights)):
                    flight = _InFlight(position, errand, next(errand.traversal))
                    flights.append(flight)
                    _submit(flight, pool, queue)
                if not flights:
                    return
                batch, failed = _take_batch(queue, batch_size)
                for flight, error in failed:
                    flights.remove(flight)
                    flight.errand.traversal.close()
                    yield flight.position, error
                if not batch:
                    continue
                _look_at(batch, look)
                if on_look is not None:
                    on_look(batch[-1][0].wanted.processing_level, len(batch))
                for flight, journey in _advance_complete(batch):
                    if journey is None:
                        _submit(flight, pool, queue)
                    else:
                        flights.remove(flight)
                        yield flight.position, journey
        finally:
            for _, _, reading in queue:
                reading.cancel()


def _submit(flight: _InFlight, pool: ThreadPoolExecutor, queue: deque[_Reading]) -> None:
    flight.pending = len(flight.wanted.regions)
    for index, region in enumerate(flight.wanted.regions):
        queue.append((flight, index, pool.submit(flight.errand.read, region)))


_Read = tuple[_InFlight, int, np.ndarray]


def _take_batch(queue: deque[_Reading], batch_size: int) -> tuple[list[_Read], list[tuple[_InFlight, SlideError]]]:
    """Take the next patches that go through the network together: all with the location module, or all without."""
    batch: list[_Read] = []
    failed: dict[_InFlight, SlideError] = {}
    passed_over: list[_Reading] = []
    located: bool | None = None
    while queue and len(batch) < batch_size:
        entry = queue.popleft()
        flight, index, reading = entry
        if flight in failed:
            reading.cancel()
            continue
        if located is None:
            located = flight.wanted.allowed is not None
        if (flight.wanted.allowed is not None) != located:
            passed_over.append(entry)
            continue
        try:
            batch.append((flight, index, reading.result()))
        except SlideError as error:
            failed[flight] = error
    queue.extendleft(reversed(passed_over))
    if failed:
        batch = [entry for entry in batch if entry[0] not in failed]
        kept = [entry for entry in queue if entry[0] not in failed]
        queue.clear()
        queue.extend(kept)
    return batch, list(failed.items())


def _look_at(batch: list[_Read], look: LookFunction) -> None:
    patches = torch.from_numpy(np.stack([pixels for _, _, pixels in batch])).permute(0, 3, 1, 2)  # (N, 3, H, W)
    positions = np.stack([flight.wanted.positions[index] for flight, index, _ in batch])
    allowed = [flight.wanted.allowed[index] for flight, index, _ in batch if flight.wanted.allowed is not None]
    seen = look(patches, positions, np.stack(allowed) if allowed else None)
    for row, (flight, _, pixels) in enumerate(batch):
        share = slice(row, row + 1)
        log_probs = None if seen.cell_log_probs is None else seen.cell_log_probs[share]
        flight.looks.append(Look(features=seen.features[share], cell_log_probs=log_probs))
        flight.pixels.append(pixels)
        flight.pending -= 1


def _advance_complete(batch: list[_Read]) -> Iterator[tuple[_InFlight, Journey | None]]:
    """Send every traversal whose wanted regions have all been looked at what the network saw."""
    for flight in dict.fromkeys(entry[0] for entry in batch):
        if not flight.pending:
            yield flight, _advance(flight)


def _advance(flight: _InFlight) -> Journey | None:
    """Send a traversal what the network saw; return its journey when it has ended."""
    log_probs = [look.cell_log_probs for look in flight.looks if look.cell_log_probs is not None]
    answer = Look(
        features=torch.cat([look.features for look in flight.looks]),
        cell_log_probs=torch.cat(log_probs) if log_probs else None,
    )
    flight.patches.append(np.stack(flight.pixels))
    flight.looks, flight.pixels = [], []
    try:
        flight.wanted = flight.errand.traversal.send(answer)
    except StopIteration as end:
        return Journey(traversal=end.value, patches=tuple(flight.patches))
    return None
