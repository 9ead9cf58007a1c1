"""An object behind a URL as a file: any range of bytes, from many threads, each byte moved as seldom as can be.

Two ways of reading suit the two kinds of bytes in a slide. Tiles are large, wanted once and known to the byte, so
``RemoteFile`` moves exactly their ranges, those of one region at the same time. The directory of a TIFF is many small
pieces near one another, so ``BlockStream`` moves aligned blocks and keeps them.
"""

import asyncio
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from tnet_cli.errors import SlideError
from tnet_cli.places import Place
from tnet_cli.remote.failures import POLICY, LastingError, RetryPolicy, persist
from tnet_cli.remote.store import Reply, Store, open_store

BLOCK_BYTES = 64 * 1024
"""Two or three tiles of a directory's neighbours; larger blocks move more of what nobody wants."""

KEPT_BLOCKS = 64
GAP_BYTES = 512
"""Ranges this close are asked for as one: the headers of another request are longer."""

MOST_RUN_BYTES = 2 * 1024 * 1024
"""Neighbouring ranges are joined up to this length; longer runs go over several connections."""

AT_ONCE = 16
"""Requests under way for one call."""

LARGEST_READ_BYTES = 400_000_000
"""More at once is a damaged directory's idea, and would not leave memory bounded."""

CHANGED = "changed on the server while it was read; run it again when it is whole"


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes of a file.

    Attributes:
        offset: Of the first.
        count: How many.
    """

    offset: int
    count: int

    @property
    def stop(self) -> int:
        """Offset after the last."""
        return self.offset + self.count


def joined(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    """Join ranges that lie side by side, or nearly so, up to a length that is still worth one request."""
    runs: list[ByteRange] = []
    for wanted in sorted(set(ranges)):
        if runs:
            last = runs[-1]
            stop = max(last.stop, wanted.stop)
            if wanted.offset <= last.stop + GAP_BYTES and (stop - last.offset <= MOST_RUN_BYTES or stop == last.stop):
                runs[-1] = ByteRange(last.offset, stop - last.offset)
                continue
        runs.append(wanted)
    return runs


class RemoteFile:
    """An object behind a URL, read by ranges. Safe for many threads.

    All ranges are of one version of the object: one that changes meanwhile is an error. After a failure that further
    tries would not mend, every read is that same error at once, so that a batch does not wait for it again and again.

    Args:
        place: An address of a scheme in ``store.STORES``.
        head_bytes: Asked for at once.

    Attributes:
        path: The address as it may be shown.
        size: Bytes of the object.
        version: As its server names it; empty when it does not.
        head: Its first bytes.
        bytes_moved: So far.

    Raises:
        SlideError: it cannot be read; the sentence says why.
    """

    def __init__(self, place: Place, head_bytes: int = BLOCK_BYTES) -> None:
        self.place = place
        self.path = str(place)
        self.bytes_moved = 0
        self._policy = POLICY
        self._failure: str | None = None
        self._lock = threading.Lock()
        self._store: Store | None = open_store(place, self._policy)
        first = self._fetch([ByteRange(0, head_bytes)])[0]
        self.head, self.size, self.version = first.data, first.size, first.version

    def read(self, count: int, offset: int) -> bytes:
        """Read bytes, fewer only at the end of the file.

        Raises:
            SlideError: they cannot be had.
        """
        return self.read_ranges([ByteRange(offset, count)])[0]

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Read several ranges, neighbours together and all at the same time; fewer bytes only at the end of the file.

        Raises:
            SlideError: they cannot be had.
        """
        self.raise_failure()
        inside = [self._within(wanted) for wanted in ranges]
        runs = joined([place for place in inside if place.count > 0 and place.stop > len(self.head)])
        if sum(run.count for run in runs) > LARGEST_READ_BYTES:
            raise SlideError(self.path, f"wants more than {LARGEST_READ_BYTES} bytes at once; download it first")
        known = [(ByteRange(0, len(self.head)), self.head)]
        for run, reply in zip(runs, self._fetch(runs) if runs else (), strict=True):
            if (reply.size, reply.version) != (self.size, self.version):
                self._failure = CHANGED
            known.append((run, reply.data))
        self.raise_failure()
        return [_cut(known, place) for place in inside]

    def raise_failure(self) -> None:
        """Raise what ended an earlier read, if anything did: some libraries take errors for the end of a file.

        Raises:
            SlideError: an earlier read failed.
        """
        if self._failure is not None:
            raise SlideError(self.path, self._failure)

    def close(self) -> None:
        """Let go of the connections; further reads are errors."""
        self._store = None

    def _within(self, wanted: ByteRange) -> ByteRange:
        return ByteRange(wanted.offset, max(0, min(wanted.count, self.size - wanted.offset)))

    def _fetch(self, runs: list[ByteRange]) -> list[Reply]:
        from fsspec.asyn import sync

        store = self._store
        if store is None:
            raise SlideError(self.path, "is closed and cannot be read any more")
        try:
            replies: list[Reply] = sync(store.loop, _fetch_all, store, runs, self._policy)
        except LastingError as exc:
            self._failure = str(exc)
            raise SlideError(self.path, self._failure) from exc
        with self._lock:
            self.bytes_moved += sum(len(reply.data) for reply in replies)
        return replies


def _cut(known: list[tuple[ByteRange, bytes]], place: ByteRange) -> bytes:
    """Return the bytes of a place from the one piece that holds all of it."""
    for run, data in known:
        if run.offset <= place.offset and place.stop <= run.stop:
            return data[place.offset - run.offset : place.stop - run.offset]
    return b""  # beyond the end of the file


async def _fetch_all(store: Store, runs: list[ByteRange], policy: RetryPolicy) -> list[Reply]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def fetch(run: ByteRange) -> Reply:
        async with at_once:
            return await persist(lambda: store.fetch(run.offset, run.stop), run.count, policy)

    if len(runs) == 1:
        return [await fetch(runs[0])]
    tasks = [asyncio.ensure_future(fetch(run)) for run in runs]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def version_of(place: Place) -> tuple[int, str]:
    """Ask a server for the size of an object, bytes, and for the name of its version; empty when it names none.

    Raises:
        SlideError: it cannot be had; the sentence says why.
    """
    file = RemoteFile(place, head_bytes=1)
    file.close()
    return file.size, file.version


class BlockStream(io.RawIOBase):
    """A remote file as a stream, for libraries that seek and read small pieces: aligned blocks, the latest kept.

    Args:
        file: What it reads from; it is not closed with the stream.
    """

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self.name = file.path
        self._file = file
        self._position = 0
        self._blocks: LRUCache[int, bytes] = LRUCache(KEPT_BLOCKS)
        self._lock = threading.Lock()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be positioned."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Fill a buffer from the position on; fewer bytes only at the end of the file.

        Raises:
            SlideError: the bytes cannot be had.
        """
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._file.size - self._position))
        if count:
            with self._lock:
                view[:count] = self._bytes(self._position, count)
            self._position += count
        return count

    def _bytes(self, offset: int, count: int) -> bytes:
        numbers = range(offset // BLOCK_BYTES, (offset + count - 1) // BLOCK_BYTES + 1)
        missing = [number for number in numbers if number not in self._blocks]
        found = {number: self._blocks[number] for number in numbers if number in self._blocks}
        read = self._file.read_ranges([ByteRange(number * BLOCK_BYTES, BLOCK_BYTES) for number in missing])
        found.update(zip(missing, read, strict=True))
        self._blocks.update(found)
        start = offset - numbers[0] * BLOCK_BYTES
        return b"".join(found[number] for number in numbers)[start : start + count]
