"""``tnet view``: what its server gives, and what it refuses."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.results.runs_made_by_hand import RECORD, done, failed_result
from tnet_cli.geometry import Size
from tnet_cli.inputs.names import OVERLAY
from tnet_cli.report.thumbnail import overlay_file
from tnet_cli.results.layout import RunDirectory
from tnet_cli.slide.opening import open_slide
from tnet_cli.viewer.deepzoom import DeepZoom
from tnet_cli.viewer.server import RunServer, run_server

SIZE = Size(1400, 1000)
HOSTILE = """a<b>"'&#?%2e"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiled slide, one of a hostile name, one that has moved, and one that failed."""
    folder = tmp_path_factory.mktemp("view")
    slide = folder / "slide.tif"
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    pixels = np.stack([x // 6, y // 4, (x + y) // 10], axis=-1).astype(np.uint8)
    tifffile.imwrite(slide, pixels, tile=(256, 256), photometric="rgb", resolution=(20000, 20000), resolutionunit=3)
    directory = RunDirectory(folder / "run")
    results = [
        done("slide", path=str(slide), size=SIZE),
        done(f"deep/{HOSTILE}", path=str(slide), size=SIZE),
        done("moved", path=str(folder / "moved.tif"), size=SIZE),
        failed_result("broken"),
    ]
    picture = Image.new("RGB", (160, 120), (200, 100, 150))
    for result in results:
        directory.write_slide(result, {OVERLAY: overlay_file(picture)} if result.status == "ok" else {})
    directory.write_predictions([result.row() for result in results], ("benign", "lesion"))
    directory.write_run(RECORD)
    (folder / "secret.png").write_bytes(b"secret")
    (directory.path / "link.png").symlink_to(folder / "secret.png")
    (directory.path / "page.html").write_text("<script>alert(1)</script>")
    (directory.path / ".predictions.csv.1.draft").write_text("half")
    (directory.path / "report.html").write_text("<script>alert(2)</script>")
    os.mkfifo(directory.path / "pipe.png")
    return directory.path


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[RunServer]:
    with run_server(run) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(
    server: RunServer, address: str, *, method: str = "GET", host: str | None = None, token: str | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Send a request as it stands but for the token before it; no client library tidies the address."""
    token = server.token if token is None else token
    address = f"/{token}{address}" if address.startswith("/") and token else address
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, address, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}


@pytest.mark.parametrize("name", ["slide", f"deep/{HOSTILE}"])
def test_tiles_are_what_the_slide_reads(server, run, name):
    zoom = DeepZoom(SIZE)
    assert zoom.last_zoom_level == 11
    with open_slide(run.parent / "slide.tif") as slide:
        for level, column, row in ((11, 0, 0), (11, 2, 1), (11, 1, 1), (10, 0, 0), (10, 1, 0), (9, 0, 0), (0, 0, 0)):
            found = zoom.tile(level, column, row)
            assert found is not None
            address = f"{server.address}tiles/{quote(name)}/{level}/{column}_{row}.jpeg"
            with urlopen(address, timeout=20) as answer:  # noqa: S310 - our own server
                assert answer.headers["Content-Type"] == "image/jpeg"
                tile = np.asarray(Image.open(BytesIO(answer.read())))
            expected = slide.read(found[0], found[1].width, found[1].height)
            assert tile.shape == expected.shape
            assert np.abs(tile.astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize(
    "address",
    [
        "/tiles/slide/11/3_0.jpeg",
        "/tiles/slide/11/0_2.jpeg",
        "/tiles/slide/12/0_0.jpeg",
        "/tiles/slide/-1/0_0.jpeg",
        "/tiles/slide/999/0_0.jpeg",
        "/tiles/slide/11/999999999_0.jpeg",
        "/tiles/slide/11/9999999999999_0.jpeg",
        "/tiles/slide/11/0_0.png",
        "/tiles/other/11/0_0.jpeg",
        "/tiles/moved/11/0_0.jpeg",
        "/tiles/broken/0/0_0.jpeg",
        "/tiles/../run/slides/slide/11/0_0.jpeg",
    ],
)
def test_tiles_that_there_are_not(server, address):
    status, body, headers = ask(server, address)
    assert status == 404
    assert headers["content-type"].startswith("text/plain")
    assert body


@pytest.mark.parametrize(
    "address",
    [
        "/../secret.png",
        "/..%2fsecret.png",
        "/%2e%2e/secret.png",
        "/slides/../../secret.png",
        "/slides/%2e%2e%2f%2e%2e%2fsecret.png",
        "/slides\\..\\..\\secret.png",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/etc/passwd",
        "/link.png",
        "/slides",
        "/slides/",
        "/pipe.png",
        "/.predictions.csv.1.draft",
        "/slides/slide/overlay.png%00.csv",
        "/viewer/../report.py",
        "/viewer/report.css",
        "/view/../../secret.png",
        "/view/",
        "/" + "a" * 5000,
    ],
)
def test_nothing_outside_the_run_is_served(server, address):
    status, body, _ = ask(server, address)
    assert status == 404
    assert b"secret" not in body.replace(address.encode(), b"").replace(b"../../secret.png: no such slide", b"")
    assert b"root:" not in body


@pytest.mark.parametrize("address", ["http://evil.test/predictions.csv", "*", "predictions.csv", "/%ff%fe"])
def test_addresses_that_are_none_are_refused(server, address):
    assert ask(server, address)[0] in (400, 404)


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.evil.test"]
)
@pytest.mark.parametrize("address", ["/", "/predictions.csv", "/tiles/slide/0/0_0.jpeg"])
def test_a_request_that_names_another_host_is_refused(server, host, address):
    status, body, _ = ask(server, address, host=host.format(port=server.server_port))
    assert status == 403
    assert b"answers to" in body
    assert ask(server, address, host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "address",
    ["/", "/report.html", "/predictions.csv", "/view/slide", "/viewer/viewer.js", "/tiles/slide/0/0_0.jpeg",
     "/slides/slide/overlay.png", "/nothing"],
)  # fmt: skip
def test_without_the_token_nothing_is_shown(server, address):
    for token in ("", "x" * len(server.token), server.token[:-1], server.token.swapcase(), "%ff", "é"):
        status, body, headers = ask(server, address, token=quote(token, safe="%"))
        assert status in (400, 403)
        assert headers["content-type"].startswith("text/plain")
        assert server.token.encode() not in body
    assert ask(server, f"/{server.token}", token="")[0] == 403


def test_each_server_has_a_token_of_its_own(server, run):
    with run_server(run) as other:
        assert len({server.token, other.token}) == 2
        assert len(other.token) >= 32


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading_is_possible(server, method):
    assert ask(server, "/predictions.csv", method=method)[0] == 501


def test_head_is_get_without_a_body(server):
    for address in ("/predictions.csv", "/", "/tiles/slide/0/0_0.jpeg", "/view/slide"):
        status, body, headers = ask(server, address, method="HEAD")
        got = ask(server, address)
        assert (status, body) == (200, b"")
        assert headers["content-length"] == got[2]["content-length"] == str(len(got[1]))


def test_the_run_s_files_are_served_as_what_they_are(server, run):
    status, body, headers = ask(server, "/slides/slide/overlay.png")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert body == (run / "slides" / "slide" / "overlay.png").read_bytes()
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert ask(server, "/predictions.csv")[1] == (run / "predictions.csv").read_bytes()
    # A page that lies in the folder would run with all that this server may see.
    page = ask(server, "/page.html")[2]
    assert (page["content-type"], page["content-disposition"]) == ("application/octet-stream", "attachment")


def test_the_report_is_made_anew_and_leads_to_the_viewer(server):
    for address in ("/", "/report.html"):
        status, body, _ = ask(server, address)
        assert status == 200
        assert b"alert(2)" not in body
        assert f'<body data-viewer="/{server.token}/view/">'.encode() in body
        assert b'data-slide="deep/a%3Cb%3E%22%27%26%23%3F%252e"' in body


def test_the_page_of_a_slide_has_its_boxes_and_neighbours(server):
    status, body, headers = ask(server, "/view/slide")
    text = body.decode()
    assert status == 200
    assert "script-src 'self';" in headers["content-security-policy"]
    assert '"x": 1024' in text
    assert "weight 75.0 %" in text
    assert "path probability 50.0 %" in text
    assert f"/{server.token}/view/{quote('deep/' + HOSTILE)}" in text
    assert not re.search(f'(src|href)="/(?!{server.token}/)', text)
    hostile = ask(server, f"/view/{quote('deep/' + HOSTILE)}")[1].decode()
    assert "<b>" not in hostile
    assert ask(server, "/view/nobody")[0] == 404


def test_a_slide_that_has_moved_is_told_in_a_sentence(server):
    status, body, _ = ask(server, "/view/moved")
    assert status == 200
    assert b"moved.tif: the slide is not there any more" in body
    assert f'src="/{server.token}/slides/moved/overlay.png"'.encode() in body
    assert b"openseadragon" not in body
    assert b"in/broken.svs: no such file" in ask(server, "/view/broken")[1]


def test_a_run_that_goes_on_is_shown_as_it_is_now(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.write_predictions([done("one").row()], ("benign", "lesion"))
    with run_server(directory.path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            assert b"one" in ask(server, "/")[1]
            directory.write_predictions([done("one").row(), done("two").row()], ("benign", "lesion"))
            os.utime(directory.path / "predictions.csv", (1, 1))
            assert b"two" in ask(server, "/")[1]
            assert ask(server, "/view/two")[0] == 200
            (directory.path / "predictions.csv").unlink()  # as when the run is begun anew
            assert b"two" in ask(server, "/")[1]
        finally:
            server.shutdown()
            thread.join()


def test_viewer_assets_come_from_the_package(server):
    for name in ("openseadragon.min.js", "viewer.js", "viewer.css", "LICENSE.txt"):
        status, body, _ = ask(server, f"/viewer/{name}")
        assert status == 200
        assert len(body) > 1000


def test_the_command_says_its_address_and_ends_with_ctrl_c(run):
    command = [sys.executable, "-m", "tnet_cli", "view", str(run), "--no-browser"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell have Ctrl-C ignored, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urlopen(f"{address}predictions.csv", timeout=20) as answer:  # noqa: S310 - our own server
            assert answer.read() == (run / "predictions.csv").read_bytes()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert errors == "Ctrl-C ends it; the link shows the run to whoever has it\nended\n"


def test_the_browser_is_not_started_with_the_link_itself(tnet, run, tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\ncat "${{1#file://}}" >> {seen}\nkill -INT $PPID\n')
    browser.chmod(0o700)
    command = [sys.executable, "-m", "tnet_cli", "view", str(run)]
    environment = os.environ | {"BROWSER": f"{browser} %s", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    address = process.communicate(timeout=60)[0].strip()
    started_with, page = seen.read_text().split("\n", 1)
    assert started_with.startswith("file://")
    assert address not in started_with
    assert address in page
    assert not Path(started_with.removeprefix("file://")).exists()


def test_a_port_that_is_taken_and_a_folder_without_a_run(tnet, run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = tnet("view", run, "--no-browser", "--port", taken.getsockname()[1])
    assert ran.code == 2
    assert "Address already in use; give another" in ran.err
    ran = tnet("view", tmp_path, "--no-browser")
    assert (ran.code, "holds no run" in ran.err) == (2, True)
    assert "Traceback" not in ran.err
    assert tnet("view").code == 2
