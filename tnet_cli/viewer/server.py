"""A server for one run, for the browser on the same machine and nobody else.

It listens on the loopback address only, answers GET and HEAD only, and refuses requests that name another host: a page
from elsewhere whose name was made to point here (DNS rebinding) names its own. Other users of the machine reach the
loopback address too, so every address begins with a token that only the printed link tells; in the address, and not in
a cookie, which a browser would also send to whatever listens on another port. For one browser on the same machine the
standard library's server is enough, and nothing more has to be installed or trusted.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tnet_cli.errors import UsageError
from tnet_cli.viewer.pages import Response, RunPages, refusal

LOOPBACK = "127.0.0.1"

_ALWAYS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Pages of other origins must not so much as show a tile.
    "Cross-Origin-Resource-Policy": "same-origin",
}


class RunServer(ThreadingHTTPServer):
    """Serves a run until it is shut down; a port of 0 is any that is free."""

    daemon_threads = True
    # A browser opens several connections at once, each of them for a tile.
    request_queue_size = 32

    def __init__(self, path: Path, port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self.pages = RunPages(path, base=f"/{self.token}/")
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except BaseException:
            self.pages.close()
            raise

    @property
    def address(self) -> str:
        """Where the browser finds it; whoever has it sees the run."""
        return f"http://{LOOPBACK}:{self.server_port}{self.pages.base}"

    @property
    def hosts(self) -> frozenset[str]:
        """The names by which it may be called."""
        return frozenset({f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}"})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a connection that broke end silently: the browser does so whenever it moves on."""


def leading_to(address: str) -> bytes:
    """Return a page that leads to an address at once."""
    return f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'.encode()


@contextmanager
def run_server(path: Path, *, port: int = 0) -> Iterator[RunServer]:
    """Open a server for the run in a folder, and close it with all its slides.

    Raises:
        UsageError: the folder holds no run, or the port is taken.
    """
    try:
        server = RunServer(path, port)
    except (OSError, OverflowError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no such port"
        raise UsageError(f"--port {port}: {reason}; give another, or 0 for any that is free") from exc
    try:
        yield server
    finally:
        server.server_close()
        server.pages.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection of the browser."""

    protocol_version = "HTTP/1.1"
    server_version = "tnet"
    sys_version = ""
    timeout = 120
    server: RunServer

    def do_GET(self) -> None:
        self._send(self._answer())

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of http.server
        """Say nothing: the terminal belongs to the command."""

    def _answer(self) -> Response:
        if self.headers.get_all("Host", []) not in ([host] for host in self.server.hosts):
            return refusal(403, f"this server answers to {LOOPBACK}:{self.server.server_port} only")
        try:
            # Everything after the first slash is a path, also where it begins with two.
            address = unquote(urlsplit(f"http://x{self.path}").path, errors="strict") if self.path[:1] == "/" else ""
        except ValueError:
            address = ""
        if not address:
            return refusal(400, "not an address of this server")
        token, slash, place = address[1:].partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()) or not slash:
            return refusal(403, "open the link that tnet view printed: its token is missing here, or of another time")
        return self.server.pages.answer(f"/{place}")

    def _send(self, response: Response) -> None:
        if isinstance(response.body, bytes):
            self._send_head(response, len(response.body))
            if self.command != "HEAD":
                self.wfile.write(response.body)
            return
        try:
            file = response.body.open("rb")
        except OSError as exc:
            self._send(refusal(404, f"cannot be read: {exc.strerror}"))
            return
        with file:
            length = file.seek(0, 2)
            file.seek(0)
            self._send_head(response, length)
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile)

    def _send_head(self, response: Response, length: int) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(length))
        for name, value in (_ALWAYS | response.headers).items():
            self.send_header(name, value)
        self.end_headers()
