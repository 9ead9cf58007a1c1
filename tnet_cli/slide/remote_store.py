"""Servers that keep objects behind URLs: one request for one range of bytes, and what its failure means.

fsspec's filesystems find the credentials, keep the connections and turn an address into a request. The requests
themselves are made here, because ``cat_file`` tells neither whether the server kept to the range nor which version of
the object it answered from.
"""

import asyncio
import email.utils
import re
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tnet_cli.errors import SlideError
from tnet_cli.slide.remote_retry import TRANSIENT_STATUS, LastingError, RetryPolicy, TransientError

NO_RANGES = (
    "the server does not answer requests for a part of a file (it sends all of it, status 200 instead of 206), "
    "so the slide cannot be read where it is; download it first"
)
OTHER_BYTES = "the server answered with other bytes than were asked for; download the slide first"
MOST_RETRY_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One range of an object.

    Attributes:
        data: Its bytes.
        size: Of the whole object, bytes.
        version: Differs when the object has changed.
    """

    data: bytes
    size: int
    version: str


class Store(ABC):
    """Where an object is kept.

    Attributes:
        loop: The event loop in which ``fetch`` must run.
    """

    loop: asyncio.AbstractEventLoop

    @abstractmethod
    async def fetch(self, start: int, stop: int) -> Answer:
        """Fetch bytes ``start`` to ``stop``, fewer only where the object ends.

        Raises:
            TransientError: another try may succeed.
            LastingError: it would not.
        """


class HttpStore(Store):
    """An object on a web server.

    User and password come from the URL or from ``~/.netrc``, a proxy from the usual variables of the environment.

    Args:
        url: ``http://`` or ``https://``.
        policy: Its times are those of each request.
    """

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        import fsspec
        from fsspec.implementations.http import HTTPFileSystem

        settings = dict(fsspec.config.conf.get("https", {})) | dict(fsspec.config.conf.get("http", {}))
        self._filesystem = HTTPFileSystem(
            client_kwargs={"trust_env": True, **settings.get("client_kwargs", {})},
            # What is quoted already, such as a signature, must arrive as it is.
            encoded="%" in url and url.isascii() and " " not in url,
        )
        self.loop = self._filesystem.loop
        self._url = url
        self._policy = policy
        self._host = host_of(url)

    async def fetch(self, start: int, stop: int) -> Answer:
        """Fetch a range; see ``Store.fetch``."""
        session = await self._filesystem.set_session()
        return await self._get(session, self._filesystem.encode_url(self._url), {}, start, stop)

    async def _get(self, session: Any, url: Any, headers: Mapping[str, str], start: int, stop: int) -> Answer:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._policy.connect_s, sock_read=self._policy.idle_s)
        # Compressed on the way, a range could not be told from another one.
        wanted = {**headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            async with session.get(url, headers=wanted, timeout=limits) as response:
                if response.status != HTTPStatus.PARTIAL_CONTENT:
                    raise status_error(response.status, response.headers)
                size = range_size(response.headers.get("Content-Range"), start, stop)
                data = await response.read()
                version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise connection_error(exc, self._host) from exc
        if len(data) != min(stop, size) - start:
            raise LastingError(OTHER_BYTES)
        return Answer(data, size, version)


class GoogleStore(HttpStore):
    """An object in Google Cloud Storage. gcsfs finds the credentials; the requests are those of a web server.

    Args:
        url: ``gs://bucket/object``.
        policy: Its times are those of each request.
    """

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        import gcsfs

        self._files = gcsfs.GCSFileSystem()
        self.loop = self._files.loop
        self._url = self._files.url(url.partition("://")[2])
        self._policy = policy
        self._host = host_of(self._url)

    async def fetch(self, start: int, stop: int) -> Answer:
        """Fetch a range; see ``Store.fetch``."""
        headers: dict[str, str] = {}
        session = await self._files._set_session()  # noqa: SLF001  (fsspec's name for what runs in its loop)
        self._files.credentials.apply(headers)
        return await self._get(session, self._url, headers, start, stop)


class S3Store(Store):
    """An object in S3, or in a store that speaks its language (``AWS_ENDPOINT_URL``).

    Credentials are found as boto finds them: environment, profile, instance. Without any the object is asked for
    anonymously, as public buckets allow.

    Args:
        url: ``s3://bucket/key``, perhaps with ``?versionId=``.
        policy: Its times are those of each request.
    """

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        import fsspec

        configured = dict(fsspec.config.conf.get("s3", {}).get("config_kwargs", {}))
        self._options = {
            "connect_timeout": policy.connect_s,
            "read_timeout": policy.idle_s,
            # Tried again here and nowhere else: three libraries that each try six times would take all day.
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 64,
            **configured,
        }
        self._open(anonymous=None)
        address, _, version = url.partition("?versionId=")
        bucket, _, key = address.partition("://")[2].partition("/")
        self._object = {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})

    def _open(self, *, anonymous: bool | None) -> None:
        import s3fs

        choice = {} if anonymous is None else {"anon": anonymous}
        self._filesystem = s3fs.S3FileSystem(config_kwargs=self._options, **choice)
        self._filesystem.retries = 1
        self.loop = self._filesystem.loop

    async def fetch(self, start: int, stop: int) -> Answer:
        """Fetch a range; see ``Store.fetch``."""
        import aiohttp
        from botocore.exceptions import BotoCoreError, NoCredentialsError

        wanted = self._object | {"Range": f"bytes={start}-{stop - 1}"}
        try:
            try:
                response = await self._filesystem._call_s3("get_object", **wanted)  # noqa: SLF001  (as above)
            except NoCredentialsError:
                self._open(anonymous=True)
                response = await self._filesystem._call_s3("get_object", **wanted)  # noqa: SLF001
            async with response["Body"] as body:
                size = range_size(response.get("ContentRange"), start, stop)
                data = await body.read()
        except (BotoCoreError, aiohttp.ClientError, OSError, ValueError) as exc:
            raise s3_error(exc) from exc
        if len(data) != min(stop, size) - start:
            raise LastingError(OTHER_BYTES)
        return Answer(data, size, str(response.get("ETag") or response.get("LastModified") or ""))


STORES: dict[str, type[HttpStore | S3Store]] = {
    "http": HttpStore,
    "https": HttpStore,
    "s3": S3Store,
    "gs": GoogleStore,
}
PACKAGES = {"gs": "gcsfs"}


def open_store(url: str, policy: RetryPolicy) -> Store:
    """Return the store of a URL. Nothing is asked of it yet.

    Raises:
        SlideError: the scheme is unknown, the URL names no object, or a package is missing.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in STORES:
        raise SlideError(url, f"{scheme}:// is not known; expected https://, http://, s3:// or gs://")
    host, _, place = url.partition("://")[2].partition("/")
    if not host or not place:
        raise SlideError(url, "names no file; expected a URL such as https://host/slide.svs or s3://bucket/slide.svs")
    try:
        return STORES[scheme](url, policy)
    except ImportError as exc:
        wanted = PACKAGES.get(scheme, "'tnet[remote]'")
        raise SlideError(
            url, f"reading from {scheme}:// needs more packages; install them with: pip install {wanted}"
        ) from exc
    except (ValueError, OSError) as exc:
        raise SlideError(url, f"cannot be asked for ({type(exc).__name__}); check the address and credentials") from exc


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
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            problem = f"the name {host} cannot be resolved (DNS); check the address and the network"
            return TransientError(problem) if cause.errno == socket.EAI_AGAIN else LastingError(problem)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return LastingError(f"the certificate of {host} cannot be verified ({cause.verify_message})")
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return LastingError(f"no secure connection to {host} could be made ({cause.reason})")
        if isinstance(cause, ConnectionRefusedError):
            return TransientError(f"{host} refuses connections")
    if any(isinstance(cause, TimeoutError) or "timeout" in type(cause).__name__.lower() for cause in causes):
        return TransientError(f"{host} did not answer in time")
    if isinstance(exc, ValueError) and not isinstance(exc, OSError):
        return LastingError("is not a valid address; check the URL")
    if "Redirect" in type(exc).__name__:
        return LastingError(f"{host} sends on to addresses that cannot be followed")
    return TransientError(f"the connection to {host} was dropped")


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
