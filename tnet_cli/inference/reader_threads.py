"""Threads that read, of which some may hang without holding up the others or the end of the process."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

STALLED_AFTER_S = 10.0
"""A call that has run for so long lends its place to another thread: it may be waiting for a disk that is gone."""

GOODBYE_S = 2.0
"""How long the end waits for threads that are still reading; they are daemons and die with the process."""


class Call:
    """A call that some thread makes; read its fields only when ``finished`` is true.

    Attributes:
        started: When a thread took it, ``time.monotonic`` seconds; None while it waits.
        finished: Whether ``value`` or ``error`` is there.
        value: What the call returned.
        error: What it raised instead, or None.
        took_s: How long a thread was at it, seconds.
    """

    __slots__ = ("cancelled", "error", "finished", "function", "given_up", "started", "took_s", "value")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function: Callable[[], Any] | None = function
        self.started: float | None = None
        self.took_s = 0.0
        self.finished = False
        self.cancelled = False
        self.given_up = False
        self.value: Any = None
        self.error: BaseException | None = None

    @property
    def is_running(self) -> bool:
        """Whether a thread is at it."""
        return self.started is not None and not self.finished


class ReaderThreads:
    """Daemon threads that make calls in the order given, urgent ones first. A context manager.

    A thread whose call has stalled no longer counts, so another is started in its place: at most as many again as
    there are threads. One whose call was given up does not count at all.

    Args:
        threads: How many work at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._urgent: deque[Call] = deque()
        self._ahead: deque[Call] = deque()
        self._running: dict[threading.Thread, Call] = {}
        self._alive: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)  # there is a call to take
        self._ended = threading.Condition(self._lock)  # those that are waited for have ended
        self._awaited: Sequence[Sequence[Call]] = ()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what waits, and see off the threads that are not hung."""
        with self._lock:
            self._closed = True
            self._urgent.clear()
            self._ahead.clear()
            self._wanted.notify_all()
            leaving = [thread for thread in self._alive if not self._is_given_up(thread)]
        until = time.monotonic() + GOODBYE_S
        for thread in leaving:
            thread.join(max(0.0, until - time.monotonic()))

    def submit(self, function: Callable[[], Any], *, urgent: bool = True) -> Call:
        """Have a thread call a function."""
        call = Call(function)
        with self._lock:
            (self._urgent if urgent else self._ahead).append(call)
            self._start_missing()
            self._wanted.notify_all()
        return call

    def cancel(self, call: Call) -> None:
        """See that a call is not started any more; one that runs is let be."""
        with self._lock:
            call.cancelled = True

    def give_up(self, call: Call) -> None:
        """Forget a call: it is not started any more, and if it runs its thread is replaced."""
        with self._lock:
            call.cancelled = call.given_up = True
            self._start_missing()

    def wait(self, groups: Sequence[Sequence[Call]], timeout_s: float) -> None:
        """Wait until all calls of one of the groups have ended, or the time is over.

        Whoever waits is not woken before: each time costs both threads more than a short read takes.
        """
        with self._lock:
            self._start_missing()
            self._awaited = groups
            self._ended.wait_for(self._has_come, timeout_s)
            self._awaited = ()

    def _has_come(self) -> bool:
        return any(all(call.finished for call in group) for group in self._awaited)

    def stalled(self) -> int:
        """Return how many threads have been at one call for long that is not given up yet."""
        with self._lock:
            return sum(self._is_stalled(call) for call in self._running.values() if not call.given_up)

    def hung(self) -> int:
        """Return how many threads are still at calls that were given up."""
        with self._lock:
            return sum(call.given_up for call in self._running.values())

    def _start_missing(self) -> None:
        lent = sum(self._is_stalled(call) for call in self._running.values() if not call.given_up)
        given_up = sum(call.given_up for call in self._running.values())
        wanted = self._threads + min(lent, self._threads) + given_up
        idle = len(self._alive) - len(self._running)
        while len(self._alive) < wanted and idle < len(self._urgent) + len(self._ahead):
            thread = threading.Thread(target=self._work, name="tnet-read", daemon=True)
            self._alive.add(thread)
            thread.start()
            idle += 1

    def _work(self) -> None:
        this = threading.current_thread()
        while (call := self._take(this)) is not None:
            function = call.function
            try:
                call.value = function() if function is not None else None
            except BaseException as exc:  # noqa: BLE001 (whatever it is, whoever waits for the call is told)
                call.error = exc
            call.took_s = time.monotonic() - (call.started or 0.0)
            # What the function holds on to must not live as long as the call is remembered.
            call.function = function = None
            with self._lock:
                del self._running[this]
                call.finished = True
                if self._has_come():
                    self._ended.notify_all()

    def _take(self, this: threading.Thread) -> Call | None:
        """Wait for a call; None when there is no more work for this thread."""
        with self._lock:
            while True:
                surplus = len(self._alive) - self._threads - sum(self._excused(call) for call in self._running.values())
                if self._closed or surplus > 0:
                    self._alive.discard(this)
                    return None
                waiting = self._urgent or self._ahead
                if waiting:
                    call = waiting.popleft()
                    if call.cancelled:
                        call.finished = True
                        continue
                    call.started = time.monotonic()
                    self._running[this] = call
                    return call
                self._wanted.wait()

    def _excused(self, call: Call) -> bool:
        return call.given_up or self._is_stalled(call)

    def _is_given_up(self, thread: threading.Thread) -> bool:
        call = self._running.get(thread)
        return call is not None and call.given_up

    @staticmethod
    def _is_stalled(call: Call) -> bool:
        return call.started is not None and time.monotonic() - call.started > STALLED_AFTER_S
