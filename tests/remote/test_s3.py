"""Slides in S3: the same pixels as on disk, by ranges, and a sentence for what goes wrong."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.inputs.fingerprint import fingerprint_of
from tnet_cli.inputs.inputs import find_inputs
from tnet_cli.remote import ranges
from tnet_cli.remote.failures import RetryPolicy
from tnet_cli.slide.opening import open_slide

SECRET = "wJalrXUtnFEMI"  # noqa: S105
BUCKET = "slides"
FAR = Region(500, 400, 300, 300)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server on loopback."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, noise_slide: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a bucket that holds the slide; the environment leads there."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    policy = RetryPolicy(tries=2, first_delay_s=0.01, most_delay_s=0.05, total_s=5, connect_s=2, idle_s=2, try_s=5)
    monkeypatch.setattr(ranges, "POLICY", policy)
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.upload_file(str(noise_slide), BUCKET, "case 1/slide.tif")
    yield client
    S3FileSystem.clear_instance_cache()


URL = f"s3://{BUCKET}/case 1/slide.tif"


def test_pixels_and_scale_are_those_of_the_file(bucket, noise_slide):
    with open_slide(URL) as there, open_slide(noise_slide) as here:
        assert there.size == here.size
        assert there.path == URL
        for region, side in ((Region(0, 0, 900, 900), 450), (FAR, 300), (Region(-50, 850, 200, 200), 100)):
            assert np.array_equal(there.read(region, side, side), here.read(region, side, side))
        few = there.bytes_read
    with open_slide(URL) as there:
        there.read(Region(500, 400, 60, 60), 60, 60)
        assert 0 < there.bytes_read < few / 4


def test_the_fingerprint_follows_the_content(bucket, noise_slide):
    first = fingerprint_of(URL)
    assert first is not None
    assert first["size"] == noise_slide.stat().st_size
    bucket.put_object(Bucket=BUCKET, Key="case 1/slide.tif", Body=noise_slide.read_bytes() + b"more")
    assert fingerprint_of(URL) not in (first, None)


def problem_of(url: str) -> str:
    with pytest.raises(SlideError) as caught, open_slide(url) as slide:
        slide.read(FAR, 300, 300)
    assert "\n" not in caught.value.problem
    return caught.value.problem


def test_what_is_not_there_and_what_is_forbidden(bucket, monkeypatch):
    assert "there is no such file on the server (404 Not Found)" in problem_of(f"s3://{BUCKET}/other.tif")
    assert "404 Not Found" in problem_of("s3://no-such-bucket-anywhere/other.tif")
    assert "is empty" in problem_of(empty(bucket))


def empty(bucket: Any) -> str:
    bucket.put_object(Bucket=BUCKET, Key="empty.tif", Body=b"")
    return f"s3://{BUCKET}/empty.tif"


def test_an_object_that_changes_while_it_is_read(bucket, noise_slide):
    with open_slide(URL) as slide:
        bucket.put_object(Bucket=BUCKET, Key="case 1/slide.tif", Body=noise_slide.read_bytes()[:-1] + b"\0")
        with pytest.raises(SlideError, match="changed on the server while it was read"):
            slide.read(FAR, 300, 300)


def test_a_server_that_is_gone_and_credentials_that_stay_secret(bucket, monkeypatch, caplog, capsys):
    caplog.set_level(logging.INFO)
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    problem = problem_of(URL)
    assert "the S3 server" in problem
    shown = capsys.readouterr()
    assert SECRET not in problem + caplog.text + shown.out + shown.err


def test_question_marks_and_hashes_belong_to_the_key(bucket, noise_slide, tmp_path):
    other = noise_slide.read_bytes() + b"more"
    bucket.put_object(Bucket=BUCKET, Key="slide?id=1#2.tif", Body=noise_slide.read_bytes())
    bucket.put_object(Bucket=BUCKET, Key="slide?id=2#2.tif", Body=other)
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide\ns3://{BUCKET}/slide?id=1#2.tif\ns3://{BUCKET}/slide?id=2#2.tif\n")
    entries = find_inputs([str(manifest)])
    assert [entry.shown_path for entry in entries] == [f"s3://{BUCKET}/slide?id={number}#2.tif" for number in (1, 2)]
    assert len({entry.name for entry in entries}) == 2
    fingerprints = [fingerprint_of(entry.path) or {} for entry in entries]
    assert [each["size"] for each in fingerprints] == [len(other) - 4, len(other)]
    with open_slide(entries[0].path) as slide:
        assert slide.read(FAR, 300, 300).any()


def test_a_version_of_an_object_is_that_version(bucket, noise_slide):
    bucket.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    first = bucket.put_object(Bucket=BUCKET, Key="v.tif", Body=noise_slide.read_bytes())["VersionId"]
    bucket.put_object(Bucket=BUCKET, Key="v.tif", Body=noise_slide.read_bytes() + b"more")
    was, now = fingerprint_of(f"s3://{BUCKET}/v.tif?versionId={first}"), fingerprint_of(f"s3://{BUCKET}/v.tif")
    assert was is not None
    assert now is not None
    assert now["size"] == was["size"] + 4
