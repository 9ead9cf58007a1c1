"""Content fingerprints: equal for what was not touched, different for what was."""

import os
from pathlib import Path

import pytest

from tests.range_server import serving
from tnet_cli.inputs.fingerprint import SAMPLED_BYTES, fingerprint_of


def test_a_file_keeps_its_fingerprint_until_anything_of_it_changes(tmp_path: Path):
    path = tmp_path / "a.tif"
    content = bytearray(os.urandom(3 * SAMPLED_BYTES))
    path.write_bytes(content)
    facts = path.stat()
    first = fingerprint_of(str(path))
    assert first == fingerprint_of(str(path))

    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert fingerprint_of(str(path)) != first
    for place in (0, SAMPLED_BYTES - 1, 2 * SAMPLED_BYTES, 3 * SAMPLED_BYTES - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert fingerprint_of(str(path)) != first
    path.write_bytes(content + b"x")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert fingerprint_of(str(path)) != first
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert fingerprint_of(str(path)) == first


def test_what_is_missing_has_no_fingerprint(tmp_path: Path):
    assert fingerprint_of(str(tmp_path / "gone.svs")) is None


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.svs")
    # Whoever opened it would wait for a writer.
    assert fingerprint_of(tmp_path / "pipe.svs") is None


def test_the_folder_beside_an_mrxs_belongs_to_it(tmp_path: Path):
    slide, pixels = tmp_path / "a.mrxs", tmp_path / "a" / "Data0000.dat"
    slide.write_bytes(b"x")
    pixels.parent.mkdir()
    pixels.write_bytes(b"pixels")
    first = fingerprint_of(str(slide))
    (tmp_path / "b.txt").touch()
    assert fingerprint_of(str(slide)) == first
    pixels.write_bytes(b"other pixels")
    assert fingerprint_of(str(slide)) != first


def test_a_folder_that_is_one_slide_is_known_by_its_files(tmp_path: Path):
    (tmp_path / "1.dcm").write_bytes(b"x")
    first = fingerprint_of(str(tmp_path))
    assert first is not None
    (tmp_path / "2.dcm").write_bytes(b"x")
    assert fingerprint_of(str(tmp_path)) != first


def test_a_url_is_known_by_what_its_server_calls_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "a.svs").write_bytes(b"pixels")
    with serving(tmp_path) as server:
        first = fingerprint_of(f"{server.url}/a.svs")
        assert first is not None
        assert first["size"] == 6
        assert fingerprint_of(f"{server.url}/a.svs") == first
        server.behaviour.version = "2"
        assert fingerprint_of(f"{server.url}/a.svs") != first
        assert fingerprint_of(f"{server.url}/gone.svs") is None
