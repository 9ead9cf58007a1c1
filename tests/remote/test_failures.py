"""Each way a server can fail is one clear sentence, and what may pass is tried again."""

import datetime
import ipaddress
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.range_server import RangeServer, serving
from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.remote import ranges
from tnet_cli.remote.failures import POLICY, RetryPolicy
from tnet_cli.slide.opening import open_slide

pytest.importorskip("aiohttp", reason="needs the extra 'remote'")

SECRET = "topsecret"  # noqa: S105
SIGNED = f"?X-Amz-Signature={SECRET}&expires=1"
HERE = Region(300, 300, 200, 200)


@pytest.fixture
def server(noise_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(
        ranges,
        "POLICY",
        RetryPolicy(tries=4, first_delay_s=0.01, most_delay_s=0.05, total_s=5, connect_s=1, idle_s=0.5, try_s=2),
    )
    shutil.copy(noise_slide, tmp_path / "slide.tif")
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def url(server: RangeServer) -> str:
    return f"{server.url}/slide.tif{SIGNED}"


def problem_of(url: str) -> str:
    with pytest.raises(SlideError) as caught, open_slide(url) as slide:
        slide.read(HERE, 200, 200)
    assert caught.value.exit_code == 3
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.path == url.partition("?")[0]
    return caught.value.problem


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "the server wants to know who asks (401 Unauthorized)"),
        (403, "the server refuses access (403 Forbidden); check the credentials, and whether the link has expired"),
        (404, "there is no such file on the server (404 Not Found); check the address"),
        (410, "there is no such file on the server any more (410 Gone)"),
        (418, "the server answered 418 I'm a Teapot; expected a part of the file"),
        (499, "the server answered 499; expected a part of the file"),
    ],
)
def test_what_will_not_pass_is_asked_once(server, url, status, sentence):
    server.behaviour.status = status
    assert problem_of(url).startswith(sentence)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(server, url, status, noise_slide):
    server.behaviour.failures = [status, status]
    with open_slide(url) as slide, open_slide(noise_slide) as local:
        assert len(server.asked) == 3
        server.behaviour.failures = [status]
        np.testing.assert_array_equal(slide.read(HERE, 200, 200), local.read(HERE, 200, 200))


def test_patience_ends(server, url):
    server.behaviour.status = 503
    assert problem_of(url) == "the server answered 503 Service Unavailable (tried 4 times in 0 s); try again later"
    assert len(server.asked) == 4


def test_a_server_says_how_long_to_wait(server, url):
    server.behaviour.failures = [503]
    server.behaviour.retry_after = "0.4"
    started = time.perf_counter()
    open_slide(url).close()
    assert time.perf_counter() - started >= 0.4
    server.behaviour.failures = [503]
    server.behaviour.retry_after = "86400"
    assert "(tried once); try again later" in problem_of(url)


def test_no_ranges(server, url):
    server.behaviour.ranges = False
    assert "does not answer requests for a part of a file (it sends all of it, status 200" in problem_of(url)
    assert len(server.asked) == 1


@pytest.mark.parametrize("opened", [False, True])
def test_a_connection_that_is_always_dropped(server, url, opened):
    slide = open_slide(url) if opened else None
    asked = len(server.asked)
    server.behaviour.drop_after = 5
    if slide is None:
        problem = problem_of(url)
        assert len(server.asked) == 4
    else:
        with pytest.raises(SlideError) as caught:
            slide.read(HERE, 200, 200)
        problem = caught.value.problem
        # Known to be gone, it is not waited for again.
        after = len(server.asked)
        with pytest.raises(SlideError) as caught:
            slide.read(Region(0, 0, 50, 50), 50, 50)
        assert (caught.value.problem, len(server.asked)) == (problem, after)
        slide.close()
    assert problem.startswith("the connection to 127.0.0.1 was dropped (tried 4 times in")
    assert len(server.asked) > asked


def test_a_connection_that_is_dropped_at_times(server, url, noise_slide):
    with open_slide(url) as slide, open_slide(noise_slide) as local:
        for _ in range(3):
            server.behaviour.drop_after, server.behaviour.drops = 1000, 2
            region = Region(0, 0, 700, 600)
            np.testing.assert_array_equal(slide.read(region, 700, 600), local.read(region, 700, 600))


@pytest.mark.parametrize("has_etag", [True, False])
def test_an_object_that_changes_while_it_is_read(server, url, tmp_path, has_etag):
    server.behaviour.etag = has_etag
    with open_slide(url) as slide:
        if has_etag:
            server.behaviour.version = "2"
        else:
            path = tmp_path / "slide.tif"
            path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(SlideError, match="changed on the server while it was read"):
            slide.read(HERE, 200, 200)
    assert open_slide(url).read(HERE, 200, 200).shape == (200, 200, 3)


def test_an_object_that_changes_while_its_directory_is_read(server, tmp_path):
    """Tifffile takes an error for the end of the file in places; the error must come out all the same."""
    path = tmp_path / "many.tif"
    with tifffile.TiffWriter(path) as tif:
        for side in (512, 256, 128):
            tif.write(np.zeros((side, side, 3), np.uint8), tile=(64, 64), photometric="rgb", metadata=None)
    server.behaviour.change_after = 1
    assert problem_of(f"{server.url}/many.tif").startswith("changed on the server")


def test_another_range_than_was_asked_for(server, url):
    with open_slide(url) as slide:
        server.behaviour.shift = 7
        with pytest.raises(SlideError, match="answered with other bytes than were asked for"):
            slide.read(HERE, 200, 200)


def test_a_host_that_does_not_exist(server):
    problem = problem_of(f"https://no-such-host.invalid/slide.svs{SIGNED}")
    assert problem.startswith("the name no-such-host.invalid cannot be resolved (DNS); check the address")


def test_a_server_that_is_not_there(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        problem = problem_of(f"http://127.0.0.1:{port}/slide.svs{SIGNED}")
    assert problem.startswith("127.0.0.1 refuses connections (tried 4 times")


def test_a_server_that_says_nothing(server):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        problem = problem_of(f"http://127.0.0.1:{silent.getsockname()[1]}/slide.svs{SIGNED}")
    assert problem.startswith("127.0.0.1 did not answer in time (tried 4 times")


def test_a_server_without_a_certificate(server, url):
    problem = problem_of(url.replace("http://", "https://"))
    assert problem.startswith("no secure connection to 127.0.0.1 could be made")


@pytest.fixture(scope="module")
def own_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody else has signed, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    how = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = tmp_path_factory.mktemp("tls") / "own.pem"
    pem = serialization.Encoding.PEM
    file.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, *how))
    return file


def test_a_certificate_of_its_own_is_believed_when_that_is_said(server, own_certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_certificate)
    with serving(server.folder, context) as secure:
        problem = problem_of(f"{secure.url}/slide.tif{SIGNED}")
        assert problem.startswith("the certificate of 127.0.0.1 cannot be verified (self")
        assert "set SSL_CERT_FILE" in problem
        monkeypatch.setenv("SSL_CERT_FILE", str(own_certificate))
        script = "import sys; from tnet_cli import open_slide; open_slide(sys.argv[1]).close()"
        subprocess.run([sys.executable, "-c", script, f"{secure.url}/slide.tif"], check=True)


def test_no_more_of_an_answer_is_read_than_was_asked_for(server, url):
    server.behaviour.endless = True
    assert problem_of(url).startswith("the server answered with other bytes than were asked for")
    assert server.sent < 16_000_000


def test_a_compressed_answer_is_refused(server, url):
    server.behaviour.gzip = True
    assert problem_of(url).startswith("the server compresses what it sends though it was asked not to")


def test_an_answer_without_a_length_that_ends_early_is_asked_for_again(server, url):
    server.behaviour.announces = False
    server.behaviour.drop_after = 1000
    server.behaviour.drops = 2
    with open_slide(url) as slide:
        assert slide.read(HERE, 200, 200).any()
    server.behaviour.drops = 1000
    assert problem_of(url).startswith("the server's answer ended early (tried 4 times")


def test_user_and_password_go_to_no_other_server(server, tmp_path):
    with serving(tmp_path) as other:
        server.behaviour.sends_on_to = f"{other.url}/slide.tif"
        with open_slide(server.url.replace("://", f"://me:{SECRET}@") + f"/slide.tif{SIGNED}") as slide:
            assert slide.read(HERE, 200, 200).any()
        assert all("Authorization" in headers for headers in server.headers)
        told = str([other.headers, other.asked])
        assert "Authorization" not in told
        assert SECRET not in told


@pytest.mark.parametrize("place", ["/slide.tif", "file:///etc/passwd", "ftp://127.0.0.1/slide.tif", "http:///"])
def test_redirects_that_lead_nowhere(server, url, place):
    server.behaviour.sends_on_to = place
    assert problem_of(url) == "127.0.0.1 sends on to addresses that cannot be followed"


def test_user_and_password_are_sent_and_never_shown(server, caplog, capsys):
    caplog.set_level(logging.INFO)
    server.behaviour.password = f"me:{SECRET}"
    url = server.url.replace("://", f"://me:{SECRET}@") + "/slide.tif"
    with open_slide(url) as slide:
        slide.read(HERE, 200, 200)
        assert slide.path == f"{server.url}/slide.tif"
        server.behaviour.status = 403
        with pytest.raises(SlideError, match="403") as caught:
            slide.read(Region(560, 500, 50, 50), 50, 50)
    assert SECRET not in str(caught.value)
    server.behaviour.status = None
    with pytest.raises(SlideError, match="401") as caught:
        open_slide(f"{server.url}/slide.tif{SIGNED}")
    shown = capsys.readouterr()
    assert SECRET not in str(caught.value) + caplog.text + shown.out + shown.err


def test_a_signature_arrives_as_it_is(server):
    signed = "?sig=a%2Fb%3D%20c&x=%7E"
    open_slide(f"{server.url}/slide.tif{signed}").close()
    assert {path for path, _, _ in server.asked} == {f"/slide.tif{signed}"}


def test_names_that_need_quoting(server, tmp_path):
    shutil.copy(tmp_path / "slide.tif", tmp_path / "Schnitt äöü 1.tif")
    open_slide(f"{server.url}/Schnitt äöü 1.tif").close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://host/slide.svs", "ftp:// is not known; expected https://, http://, s3:// or gs://"),
        ("file:///slides/a.svs", "file:// is not known"),
        ("https://host", "names no file"),
        ("s3://bucket/", "names no file"),
        ("http://host:port/slide.svs", "is not a valid address|cannot be resolved"),
    ],
)
def test_addresses_that_cannot_be_asked(server, url, sentence):
    with pytest.raises(SlideError, match=sentence):
        open_slide(url)


@pytest.mark.parametrize(
    ("url", "package", "what"),
    [
        ("https://host/a.svs", "aiohttp", "'tnet-cli[remote]'"),
        ("https://host/a.svs", "fsspec", "'tnet-cli[remote]'"),
        ("s3://bucket/a.svs", "s3fs", "'tnet-cli[remote]'"),
        ("gs://bucket/a.svs", "gcsfs", "gcsfs"),
    ],
)
def test_packages_that_are_missing_are_named(monkeypatch, url, package, what):
    for name in [name for name in sys.modules if name.partition(".")[0] in {package, "fsspec", "s3fs", "gcsfs"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SlideError, match=r"needs more packages; install them with: pip install") as caught:
        open_slide(url)
    assert caught.value.problem.endswith(what)


def test_delays_double_and_have_an_end():
    delays = [max(POLICY.delay_s(tries) for _ in range(200)) for tries in range(1, 12)]
    assert all(POLICY.first_delay_s * 2 ** (n - 1) * 0.9 < delays[n - 1] for n in range(1, 5))
    assert max(delays) <= POLICY.most_delay_s
    assert len({POLICY.delay_s(3) for _ in range(10)}) == 10
    assert POLICY.total_s + POLICY.try_s == 90
