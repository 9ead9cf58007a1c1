"""No password, signature or token of an address gets into a file or a stream, and renewed ones stop nothing."""

import csv
import logging
import shutil
from pathlib import Path

import pytest

from tests.cli.test_train import TINY
from tests.range_server import RangeServer
from tnet_cli.remote import ranges
from tnet_cli.remote.failures import RetryPolicy

USER, PASSWORD = "s3cretuser", "s3cretpass"
SIGNED = "?token=s3crettoken{0}&X-Amz-Signature=s3cretsignature{0}&X-Amz-Date={0}"


@pytest.fixture
def far(server: RangeServer, small_labelled_slides: Path) -> RangeServer:
    """A server of labelled slides and their manifest that asks for a password, and keeps one slide that is none."""
    shutil.copytree(small_labelled_slides.parent, server.folder, dirs_exist_ok=True)
    (server.folder / "broken.tif").write_bytes(b"II*\0" + bytes(100))
    server.behaviour.password = f"{USER}:{PASSWORD}"
    return server


def manifest(far: RangeServer, path: Path, signature: int, *more: str) -> Path:
    listed = rows_of(far.folder / "labels.csv")
    splits = {"train": list({row["label"]: row for row in listed}.values())}
    splits["validation"] = [row for row in listed if row not in splits["train"]]
    rows = [
        f"{address(far, row['slide'], signature)},{row['label']},{split}"
        for split, of_split in splits.items()
        for row in of_split
    ]
    path.write_text("\n".join(["slide,label,split", *rows, *more]) + "\n")
    return path


def address(far: RangeServer, name: str, signature: int) -> str:
    return far.url.replace("://", f"://{USER}:{PASSWORD}@") + f"/{name}{SIGNED.format(signature)}"


def refuse_secrets(folder: Path, *streams: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        assert b"s3cret" not in path.read_bytes(), path
        assert "s3cret" not in path.name
    assert "s3cret" not in "".join(streams)


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_classifying_keeps_no_secret_and_goes_on_with_a_new_signature(tnet, far, untrained_model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    given = ["broken.tif", "none.tif", "labels.csv"]
    where = ("-m", untrained_model, "-o", out, "--device", "cpu")
    first = [address(far, name, 1) for name in given[:2]]
    ran = tnet("classify", manifest(far, tmp_path / "m.csv", 1), *first, *where)
    assert ran.code == 6, ran.err
    assert ran.err.count("broken.tif: ") == 1
    refuse_secrets(out, ran.out, ran.err, caplog.text)
    second = [address(far, name, 2) for name in given[:2]]
    again = tnet("classify", manifest(far, tmp_path / "m.csv", 2), *second, *where, "--json")
    assert "4 of 6 slides were done before" in again.err
    assert {row["slide"] for row in rows_of(out / "failures.csv")} == {f"{far.url}/{name}" for name in given[:2]}
    refuse_secrets(out, again.out, again.err, caplog.text)


def test_addresses_that_differ_in_their_query_are_different_slides(tnet, far, untrained_model, tmp_path):
    slide = rows_of(far.folder / "labels.csv")[0]["slide"]
    one, two = (address(far, slide, 1) + f"&id={number}" for number in (1, 2))
    where = ("-m", untrained_model, "-o", tmp_path / "out", "--device", "cpu", "--no-overlay")
    assert tnet("classify", one, two, *where).code == 0
    first, second = rows_of(tmp_path / "out" / "predictions.csv")
    assert first["path"] != second["path"]
    assert first["slide"] != second["slide"]
    assert "2 of 2 slides were done before" in tnet("classify", one, two, *where).err
    retried = tnet("classify", first["path"], *where[:2], "-o", tmp_path / "other")
    assert retried.code == 3
    assert "give the whole address" in retried.err


@pytest.mark.slow
def test_learning_and_judging_keep_no_secret_and_go_on_with_new_signatures(tnet, far, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "tiny.toml").write_text(TINY)
    broken = f"{address(far, 'broken.tif', 1)},benign,train"
    listed = tmp_path / "m.csv"
    train = ("train", listed, "-o", tmp_path / "run", "--config", tmp_path / "tiny.toml", "--device", "cpu")
    manifest(far, listed, 1, broken)
    failed = tnet(*train)
    assert failed.code == 3, failed.err
    assert f"{far.url}/broken.tif" in failed.err
    refuse_secrets(tmp_path / "run", failed.out, failed.err, caplog.text)
    manifest(far, listed, 2, broken.replace("token1", "token2"))
    ran = tnet(*train, "--skip-bad")
    assert ran.code == 0, ran.err
    refuse_secrets(tmp_path / "run", ran.out, ran.err, caplog.text)
    manifest(far, listed, 3, broken)
    again = tnet(*train, "--skip-bad")
    assert "was done before" in again.err, again.err
    evaluate = ("evaluate", listed, "-m", tmp_path / "run" / "model.safetensors", "-o", tmp_path / "judged")
    how = ("--device", "cpu", "--bootstrap", "10", "--split", "all")
    judged = tnet(*evaluate, *how)
    assert judged.code == 6, judged.err
    refuse_secrets(tmp_path / "judged", judged.out, judged.err, caplog.text)
    manifest(far, listed, 4, broken)
    sent = far.sent
    assert tnet(*evaluate, *how).code == 6
    assert far.sent - sent < 10_000  # of the slides that were judged nothing but whether they changed


@pytest.mark.parametrize(
    "arguments",
    [
        ("{}",),
        ("classify", "--budget", "{}", "a.tif"),
        ("classify", "a.tif", "--{}"),
        ("classify", "a.tif", "-o", "{}"),
        ("classify", "a.tif", "-m", "{}"),
        ("classify", "a.tif", "-m", "hf://s3cret:s3cret@owner/repo?token=s3cret"),
        ("classify", "a.tif", "--locations", "{}"),
        ("classify", "a.tif", "--reader", "{}"),
        ("classify", "a.tif", "--device", "{}"),
        ("classify", "a.tif", "--cluster", "{}"),
        ("classify", "https://s3cret:12/s3cret@host/a.tif", "-m", "synthetic-demo"),
        ("classify", "https:/s3cret:s3cret@host/a.tif", "-m", "synthetic-demo"),
        ("info", "{}"),
        ("train", "{}", "-o", "run"),
        ("train", "a.csv", "-o", "{}"),
        ("train", "a.csv", "-o", "run", "--config", "{}"),
        ("train", "a.csv", "-o", "run", "--set", "{}"),
        ("evaluate", "{}", "-m", "synthetic-demo", "-o", "judged"),
        ("evaluate", "a.csv", "more", "{}"),
        ("models", "show", "{}"),
        ("models", "export", "{}", "-o", "x"),
        ("view", "{}"),
        ("synth", "{}", "--count", "1"),
    ],
    ids=" ".join,
)
def test_what_is_given_wrong_is_said_without_its_secret(tnet, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "POLICY", RetryPolicy(tries=1))
    url = "http://s3cret:s3cret%20s@127.0.0.1:1/a.svs?token=s3cret&X-Amz-Signature=s3cret"
    ran = tnet(*[argument.format(url) for argument in arguments])
    assert ran.code in {2, 3, 4, 5}, ran.err
    assert ran.err
    assert "s3cret" not in ran.out + ran.err
    assert not [path for path in tmp_path.rglob("*") if "s3cret" in str(path)]
