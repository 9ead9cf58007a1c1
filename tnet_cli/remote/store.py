"""Servers that keep objects behind URLs: one request for one range of bytes, and what its failure means.

fsspec's filesystems find the credentials, keep the connections and turn an address into a request. The requests
themselves are made here, because ``cat_file`` tells neither whether the server kept to the range nor which version of
the object it answered from.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tnet_cli.errors import SlideError, install_hint
from tnet_cli.places import Place
from tnet_cli.remote.failures import (
    COMPRESSED,
    OTHER_BYTES,
    LastingError,
    RetryPolicy,
    TransientError,
    connection_error,
    host_of,
    range_size,
    s3_error,
    status_error,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One range of an object.

    Attributes:
        size: Of the whole object, bytes.
        version: Differs when the object has changed.
    """

    data: bytes
    size: int
    version: str


class Store(ABC):
    """Where an object is kept, by its URL; the times of a policy are those of each request.

    Attributes:
        loop: The event loop in which ``fetch`` must run.
    """

    loop: asyncio.AbstractEventLoop

    @abstractmethod
    async def fetch(self, start: int, stop: int) -> Reply:
        """Fetch bytes ``start`` to ``stop``, fewer only where the object ends.

        Raises:
            TransientError: another try may succeed.
            LastingError: it would not.
        """


class HttpStore(Store):
    """An object on a web server, ``http://`` or ``https://``.

    User and password come from the URL or from ``~/.netrc``, a proxy from the usual variables of the environment.
    """

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        import fsspec
        from fsspec.implementations.http import HTTPFileSystem

        settings = dict(fsspec.config.conf.get("https", {})) | dict(fsspec.config.conf.get("http", {}))
        self._filesystem = HTTPFileSystem(
            client_kwargs={"trust_env": True, **settings.get("client_kwargs", {}), "auto_decompress": False},
            # What is quoted already, such as a signature, must arrive as it is.
            encoded="%" in url and url.isascii() and " " not in url,
        )
        self.loop = self._filesystem.loop
        self._url = url
        self._policy = policy
        self._host = host_of(url)

    async def fetch(self, start: int, stop: int) -> Reply:
        """Fetch a range; see ``Store.fetch``."""
        session = await self._filesystem.set_session()
        try:
            url = self._filesystem.encode_url(self._url)
        except ValueError as exc:
            raise connection_error(exc, self._host) from exc
        return await self._get(session, url, {}, start, stop)

    async def _get(self, session: Any, url: Any, headers: Mapping[str, str], start: int, stop: int) -> Reply:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._policy.connect_s, sock_read=self._policy.idle_s)
        # Compressed on the way, a range could not be told from another one.
        wanted = {**headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            async with session.get(url, headers=wanted, timeout=limits) as response:
                if response.status != HTTPStatus.PARTIAL_CONTENT:
                    raise status_error(response.status, response.headers)
                if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
                    raise LastingError(COMPRESSED)
                size = range_size(response.headers.get("Content-Range"), start, stop)
                data = await _body(response.content.read, min(stop, size) - start, response.content_length)
                version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise connection_error(exc, self._host) from exc
        return Reply(data, size, version)


class GoogleStore(HttpStore):
    """An object in Google Cloud Storage, ``gs://bucket/object``.

    gcsfs finds the credentials; the requests are those of a web server.
    """

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        import gcsfs

        self._files = gcsfs.GCSFileSystem(session_kwargs={"auto_decompress": False})
        self.loop = self._files.loop
        self._url = self._files.url(url.partition("://")[2])
        self._policy = policy
        self._host = host_of(self._url)

    async def fetch(self, start: int, stop: int) -> Reply:
        """Fetch a range; see ``Store.fetch``."""
        headers: dict[str, str] = {}
        session = await self._files._set_session()  # noqa: SLF001  (fsspec's name for what runs in its loop)
        self._files.credentials.apply(headers)
        return await self._get(session, self._url, headers, start, stop)


class S3Store(Store):
    """An object in S3, or in a store that speaks its language: ``s3://bucket/key``, perhaps with ``?versionId=``.

    Credentials and the server (``AWS_ENDPOINT_URL``) are found as boto finds them: environment, profile, instance.
    Without credentials the object is asked for anonymously, as public buckets allow.
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
        bucket, _, key = url.partition("://")[2].partition("/")
        # Other question marks belong to the key.
        key, _, version = key.partition("?versionId=")
        self._object = {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})

    def _open(self, *, anonymous: bool | None) -> None:
        import s3fs

        choice = {} if anonymous is None else {"anon": anonymous}
        self._filesystem = s3fs.S3FileSystem(config_kwargs=self._options, **choice)
        self._filesystem.retries = 1
        self.loop = self._filesystem.loop

    async def fetch(self, start: int, stop: int) -> Reply:
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
                data = await _body(body.read, min(stop, size) - start, response.get("ContentLength"))
        except (BotoCoreError, aiohttp.ClientError, OSError, ValueError) as exc:
            raise s3_error(exc) from exc
        return Reply(data, size, str(response.get("ETag") or response.get("LastModified") or ""))


async def _body(read: Callable[[int], Awaitable[bytes]], length: int, announced: int | None) -> bytes:
    """Read the body of an answer, and no more of it than was asked for: it may be endless.

    Args:
        read: Gives at most so many of the next bytes, none at the end.
        length: Bytes that were asked for.
        announced: Bytes that the answer is said to have, if it says so.

    Raises:
        TransientError: it ended early, which nobody notices where no length was announced.
        LastingError: it is of another length.
    """
    pieces, missing = [], length + 1
    while missing and (piece := await read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    if missing > 1 and announced is None:
        raise TransientError("the server's answer ended early")
    if missing != 1:
        raise LastingError(OTHER_BYTES)
    return b"".join(pieces)


STORES: dict[str, type[HttpStore | S3Store]] = {
    "http": HttpStore,
    "https": HttpStore,
    "s3": S3Store,
    "gs": GoogleStore,
}
INSTALL_HINTS = {"gs": "pip install gcsfs"}


def open_store(place: Place, policy: RetryPolicy) -> Store:
    """Return the store of a URL. Nothing is asked of it yet.

    Raises:
        SlideError: the scheme is unknown, the URL names no object, or a package is missing.
    """
    scheme = str(place).partition("://")[0]
    if scheme not in STORES:
        raise SlideError(place, f"{scheme}:// is not known; expected https://, http://, s3:// or gs://")
    if place.problem is not None:
        raise SlideError(place, place.problem)
    url = place.opened_whole()
    host, _, name = url.partition("://")[2].partition("/")
    if not host or not name:
        raise SlideError(place, "names no file; expected a URL such as https://host/slide.svs or s3://bucket/slide.svs")
    try:
        return STORES[scheme](url, policy)
    except ImportError as exc:
        hint = INSTALL_HINTS.get(scheme) or install_hint("remote")
        raise SlideError(place, f"reading from {scheme}:// needs more packages; install them with: {hint}") from exc
    except (ValueError, OSError) as exc:
        problem = f"cannot be asked for ({type(exc).__name__}); check the address and credentials"
        raise SlideError(place, problem) from exc
