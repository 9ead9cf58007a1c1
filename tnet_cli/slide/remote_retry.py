"""What can go wrong on the way to an object behind a URL, and which of it is worth another try."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

T = TypeVar("T")


class RemoteError(Exception):
    """A request that failed; its text is what the user is told, and holds neither the URL nor credentials."""


class LastingError(RemoteError):
    """Another try would fail as well."""


class TransientError(RemoteError):
    """Another try may succeed.

    Args:
        problem: What the user is told.
        retry_after_s: Seconds the server asks to wait, 0 when it does not.
    """

    def __init__(self, problem: str, retry_after_s: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to keep trying.

    No request takes longer than ``total_s + try_s``, 90 s, and what its bytes take at ``slowest_bytes_per_s``.

    Attributes:
        tries: In all, the first one included.
        first_delay_s: Before the second try; it doubles from try to try. Each delay is shortened at random by up to
            half, so that threads that failed together do not come back together.
        most_delay_s: No delay is longer, unless the server asks for it.
        total_s: No try begins later than this after the first.
        connect_s: A connection is waited for.
        idle_s: The next bytes of an answer are waited for.
        try_s: One try takes at most, besides the time for its bytes.
        slowest_bytes_per_s: A connection slower than this is given up.
    """

    tries: int = 6
    first_delay_s: float = 0.25
    most_delay_s: float = 8.0
    total_s: float = 60.0
    connect_s: float = 10.0
    idle_s: float = 20.0
    try_s: float = 30.0
    slowest_bytes_per_s: float = 128 * 1024

    def delay_s(self, tries_made: int) -> float:
        """Return how long to wait after so many tries."""
        longest = min(self.first_delay_s * 2.0 ** (tries_made - 1), self.most_delay_s)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)

    def time_for(self, length: int) -> float:
        """Return the seconds that one try for so many bytes may take."""
        return self.try_s + length / self.slowest_bytes_per_s


POLICY = RetryPolicy()


async def persist(attempt: Callable[[], Awaitable[T]], length: int, policy: RetryPolicy) -> T:
    """Try until it succeeds, fails for good, or the policy's patience ends.

    Args:
        attempt: One try; raises ``TransientError`` where another may help.
        length: Bytes that are asked for.
        policy: How long to keep trying.

    Raises:
        LastingError: it failed for good; the text says how often and how long it was tried.
    """
    clock = asyncio.get_running_loop()
    started = clock.time()
    for tries_made in count(1):
        try:
            async with asyncio.timeout(policy.time_for(length)):
                return await attempt()
        except TransientError as exc:
            trouble = exc
        except TimeoutError:
            trouble = TransientError(f"no complete answer within {policy.time_for(length):.0f} s")
        delay = max(policy.delay_s(tries_made), trouble.retry_after_s)
        elapsed = clock.time() - started
        if tries_made >= policy.tries or elapsed + delay > policy.total_s:
            times = "once" if tries_made == 1 else f"{tries_made} times in {elapsed:.0f} s"
            raise LastingError(f"{trouble} (tried {times}); try again later") from trouble
        await asyncio.sleep(delay)
    raise AssertionError("counting does not end")
