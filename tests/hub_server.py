"""A web server on loopback in the place of the Hugging Face hub."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Hub(BaseHTTPRequestHandler):
    """One repository that is open, ``lab/open``, and one that is gated, ``lab/gated``."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        file = self.folder / Path(self.path.partition("?")[0]).name
        if self.path.startswith("/lab/gated/"):
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        found = self.path.startswith("/lab/open/") and file.is_file()
        content = file.read_bytes() if found else b""
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{file.name}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_args) -> None:
        pass


@contextmanager
def serving_hub(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve a folder's files as those of ``lab/open``, to be kept in a cache of the test's own."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
