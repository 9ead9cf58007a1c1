"""What can go wrong on the way to an object behind a URL, and what of it is worth another try.

The sentences hold neither URLs nor credentials.
"""

import asyncio
import email.utils
import random
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

NO_RANGES = (
    "the server does not answer requests for a part of a file (it sends all of it, status 200 instead of 206), "
    "so the slide cannot be read where it is; download it first"
)
COMPRESSED = "the server compresses what it sends though it was asked not to; download the slide first"
OTHER_BYTES = "the server answered with other bytes than were asked for; download the slide first"

MOST_RETRY_AFTER_S = 30.0


class LastingError(Exception):
    """A request that failed, and would again; its text is what the user is told."""


class TransientError(Exception):
    """A request that failed, and may succeed when it is tried again.

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

    Raises:
        LastingError: it failed for good; the text says how often and how long it was tried.
    """
    # A loop of our own: tenacity's adds 44 µs to each request, 5 to 12 % of what one takes on loopback.
    clock = asyncio.get_running_loop()
    started, tries_made = clock.time(), 0
    while True:
        tries_made += 1
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


def host_of(url: str) -> str:
    """Return the name of a URL's host, for messages."""
    try:
        return urlsplit(url).hostname or "the server"
    except ValueError:
        return "the server"


def range_size(content_range: str | None, start: int, stop: int) -> int:
    """Return the size of the whole object that a part's header tells.

    Raises:
        LastingError: it is not the part that was asked for.
    """
    if content_range is None:
        raise LastingError(NO_RANGES)
    told = re.fullmatch(r"\s*bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})\s*", content_range)
    if told is None:
        raise LastingError(OTHER_BYTES)
    first, last, size = (int(number) for number in told.groups())
    if first != start or last + 1 != min(stop, size):
        raise LastingError(OTHER_BYTES)
    return size


def status_error(status: int, headers: Mapping[str, str]) -> LastingError | TransientError:
    """Say what a server's status means."""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    if status in TRANSIENT_STATUS:
        return TransientError(f"the server answered {phrase}", _retry_after_s(headers))
    if status == HTTPStatus.OK:
        return LastingError(NO_RANGES)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        # Asked of an empty file; other files are never asked beyond their end.
        return LastingError("is empty, or shorter than it was; expected a slide")
    sentences: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: "the server wants to know who asks (401 Unauthorized); give user and password in "
        "~/.netrc, or use a signed URL",
        HTTPStatus.FORBIDDEN: "the server refuses access (403 Forbidden); check the credentials, and whether the link "
        "has expired",
        HTTPStatus.NOT_FOUND: "there is no such file on the server (404 Not Found); check the address",
        HTTPStatus.GONE: "there is no such file on the server any more (410 Gone); check the address",
    }
    return LastingError(sentences.get(status, f"the server answered {phrase}; expected a part of the file"))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds a server asks to wait: told as such, or as a date; never more than half a minute."""
    told = headers.get("Retry-After", "")
    try:
        wait_s = float(told)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(wait_s, 0.0), MOST_RETRY_AFTER_S)


def connection_error(exc: BaseException, host: str) -> LastingError | TransientError:
    """Say what a failed connection means; only the host is named, for the error's own text may hold the URL."""
    causes = _causes(exc)
    lasting = _lasting_problem(causes, host)
    if lasting is not None:
        return LastingError(lasting)
    names = [type(cause).__name__.lower() for cause in causes]
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return TransientError(_unresolved(host))
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return TransientError(f"{host} refuses connections")
    if any(isinstance(cause, TimeoutError) for cause in causes) or any("timeout" in name for name in names):
        return TransientError(f"{host} did not answer in time")
    return TransientError(f"the connection to {host} was dropped")


def _lasting_problem(causes: list[BaseException], host: str) -> str | None:
    for cause in causes:
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            return _unresolved(host)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {host} cannot be verified{_reason(cause, 'verify_message')}; if you trust that "
                "server, set SSL_CERT_FILE, for s3:// AWS_CA_BUNDLE, to a file with the certificate of its authority"
            )
        if isinstance(cause, ssl.SSLError):
            return f"no secure connection to {host} could be made{_reason(cause, 'reason')}"
        if "Redirect" in type(cause).__name__:
            return f"{host} sends on to addresses that cannot be followed"
        if isinstance(cause, ValueError):
            return "is not a valid address; check the URL"
    return None


def _reason(problem: ssl.SSLError, name: str) -> str:
    """Return what went wrong, in brackets; aiohttp's errors are of these kinds too, but hold another that says it."""
    reason = getattr(getattr(problem, "certificate_error", problem), name, None)
    return f" ({reason})" if reason else ""


def _unresolved(host: str) -> str:
    return f"the name {host} cannot be resolved (DNS); check the address and the network"


def s3_error(exc: BaseException) -> LastingError | TransientError:
    """Say what a failed request to S3 means."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        IncompleteReadError,
        ParamValidationError,
    )
    from botocore.exceptions import ConnectionError as EndpointError

    for cause in _causes(exc):
        if isinstance(cause, ClientError):
            told = cause.response.get("ResponseMetadata", {})
            if cause.response.get("Error", {}).get("Code") in {"SlowDown", "RequestTimeout", "InternalError"}:
                return TransientError("S3 asks to slow down, or cannot answer now")
            return status_error(int(told.get("HTTPStatusCode", 400)), told.get("HTTPHeaders", {}))
        if isinstance(cause, HTTPClientError | EndpointError | IncompleteReadError):
            return connection_error(exc, "the S3 server")
        if isinstance(cause, ParamValidationError):
            return LastingError("is not a valid address; expected s3://bucket/key")
        if isinstance(cause, BotoCoreError):
            return LastingError(f"S3 cannot be asked ({type(cause).__name__}); check AWS_PROFILE and the like")
    return connection_error(exc, "the S3 server")


def _causes(exc: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while exc is not None and exc not in found:
        found.append(exc)
        exc = exc.__cause__ or getattr(exc, "os_error", None) or exc.__context__
    return found
