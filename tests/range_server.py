"""A web server on loopback that answers range requests, and misbehaves when told to."""

import base64
import gzip
import hashlib
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Behaviour:
    """What the server does; tests change it while it runs.

    Attributes:
        ranges: Whether it answers with parts of files.
        status: Sent instead of any answer.
        failures: Statuses of the next answers; then all is well.
        retry_after: Sent with failures.
        drop_after: Connections end after so many bytes of a body.
        drops: So many answers are dropped; then all is well.
        version: Part of the ETag.
        etag: Whether one is sent.
        change_after: Requests after which the object has another version.
        password: Asked for, as ``user:password``.
        shift: Added to the first byte that is sent, and told.
        endless: Bodies never end; no length is announced.
        announces: Whether a length is announced. Without one, the end of the connection is that of the body.
        gzip: Bodies are compressed, whatever was asked for.
        sends_on_to: An address that all requests are sent on to.
    """

    ranges: bool = True
    status: int | None = None
    failures: list[int] = field(default_factory=list)
    retry_after: str | None = None
    drop_after: int | None = None
    drops: int = 1_000_000
    version: str = "1"
    etag: bool = True
    change_after: int | None = None
    password: str | None = None
    shift: int = 0
    endless: bool = False
    announces: bool = True
    gzip: bool = False
    sends_on_to: str | None = None


@dataclass
class RangeServer:
    """A running server.

    Attributes:
        folder: What it serves.
        url: Of that folder, without a slash at the end.
        behaviour: What it does.
        asked: (path with query, first byte, last byte) of every request, -1 where there is no range.
        sent: Bytes of bodies.
    """

    folder: Path
    url: str = ""
    behaviour: Behaviour = field(default_factory=Behaviour)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url_of(self, path: Path) -> str:
        """Return the URL of a file in the folder."""
        return f"{self.url}/{path.relative_to(self.folder)}"


class _Handler(BaseHTTPRequestHandler):
    rules: RangeServer

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        how = self.rules.behaviour
        told = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(told[1]), int(told[2])) if told else (-1, -1)
        with self.rules.lock:
            self.rules.asked.append((self.path, first, last))
            self.rules.headers.append(dict(self.headers))
            failure = how.failures.pop(0) if how.failures else how.status
            if how.change_after is not None and len(self.rules.asked) > how.change_after:
                how.version = "changed"
        if how.sends_on_to is not None:
            self._answer(302, b"", {"Location": how.sends_on_to})
            return
        if failure is None and how.password is not None and not self._knows(how.password):
            failure = 401
        path = self.rules.folder / self._name()
        if failure is None and not path.is_file():
            failure = 404
        if failure is not None:
            self._answer(failure, b"no", {"Retry-After": how.retry_after} if how.retry_after else {})
            return
        self._send(path, first, last)

    def _name(self) -> str:
        place = unquote(urlsplit(self.path).path)
        # Google's address of an object: /download/storage/v1/b/BUCKET/o/OBJECT
        return re.sub(r"^download/storage/v1/b/[^/]+/o/", "", place.lstrip("/"))

    def _knows(self, password: str) -> bool:
        return self.headers.get("Authorization") == "Basic " + base64.b64encode(password.encode()).decode()

    def _send(self, path: Path, first: int, last: int) -> None:
        how, size = self.rules.behaviour, path.stat().st_size
        common = {"Last-Modified": "Mon, 06 Dec 2021 00:00:00 GMT"}
        if how.etag:
            common["ETag"] = f'"{hashlib.sha256((path.name + how.version).encode()).hexdigest()[:16]}"'
        if not how.ranges or first < 0:
            self._answer(200, path.read_bytes(), common)
        elif first >= size:
            self._answer(416, b"", common | {"Content-Range": f"bytes */{size}"})
        else:
            first += how.shift
            with path.open("rb") as file:
                file.seek(first)
                body = file.read(last + 1 - first)
            told = f"bytes {first}-{first + len(body) - 1}/{size}"
            self._answer(206, body, common | {"Content-Range": told})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        how = self.rules.behaviour
        with self.rules.lock:
            is_dropped = how.drop_after is not None and status < 300 and how.drops > 0
            how.drops -= is_dropped
        if how.gzip:
            body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
        self.send_response(status)
        if how.announces and not how.endless:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        part = body[: how.drop_after] if is_dropped else body
        with self.rules.lock:
            self.rules.sent += len(part)
        try:
            self.wfile.write(part)
            while how.endless:
                self.wfile.write(bytes(65536))
                self.rules.sent += 65536
            self.wfile.flush()
        except OSError:
            self.close_connection = True
        if is_dropped:
            self.close_connection = True


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_args: object) -> None:
        """Clients that go away are no news."""


@contextmanager
def serving(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[RangeServer]:
    """Serve a folder for as long as the context lasts."""
    server = RangeServer(folder)
    listener = _QuietServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"rules": server}))
    if tls is not None:
        listener.socket = tls.wrap_socket(listener.socket, server_side=True)
    server.url = f"http{'s' * bool(tls)}://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
