"""What the answers and failures of servers mean, in sentences that hold neither URLs nor credentials."""

import email.utils
import re
import socket
import ssl
import time
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from tnet_cli.slide.remote_retry import LastingError, TransientError

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

NO_RANGES = (
    "the server does not answer requests for a part of a file (it sends all of it, status 200 instead of 206), "
    "so the slide cannot be read where it is; download it first"
)
OTHER_BYTES = "the server answered with other bytes than were asked for; download the slide first"

MOST_RETRY_AFTER_S = 30.0


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
    told = re.fullmatch(r"\s*bytes\s+(\d+)-(\d+)/(\d+)\s*", content_range)
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
            return f"the certificate of {host} cannot be verified ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            # aiohttp has an error that is one of these by name, without the reason.
            reason = getattr(cause, "reason", None) or "TLS failed"
            return f"no secure connection to {host} could be made ({reason})"
        if "Redirect" in type(cause).__name__:
            return f"{host} sends on to addresses that cannot be followed"
        if isinstance(cause, ValueError):
            return "is not a valid address; check the URL"
    return None


def _unresolved(host: str) -> str:
    return f"the name {host} cannot be resolved (DNS); check the address and the network"


def s3_error(exc: BaseException) -> LastingError | TransientError:
    """Say what a failed request to S3 means."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ParamValidationError
    from botocore.exceptions import ConnectionError as EndpointError

    for cause in _causes(exc):
        if isinstance(cause, ClientError):
            told = cause.response.get("ResponseMetadata", {})
            if cause.response.get("Error", {}).get("Code") in {"SlowDown", "RequestTimeout", "InternalError"}:
                return TransientError("S3 asks to slow down, or cannot answer now")
            return status_error(int(told.get("HTTPStatusCode", 400)), told.get("HTTPHeaders", {}))
        if isinstance(cause, HTTPClientError | EndpointError):
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
