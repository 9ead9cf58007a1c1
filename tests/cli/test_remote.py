"""Classifying slides behind URLs: the answers of the files, no secrets kept, and a run that goes on."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.range_server import RangeServer, serving

SECRET = "s3cr3t"  # noqa: S105
SIGNED = f"?token={SECRET}"


@pytest.fixture(scope="module")
def made(made_slide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide with a pyramid, alone in its folder."""
    return Path(shutil.copy(made_slide, tmp_path_factory.mktemp("made") / "case.tif"))


@pytest.fixture
def server(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(made.parent) as running:
        yield running


def rows_of(out: Path, table: str = "predictions.csv") -> list[dict[str, str]]:
    with (out / table).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_answer_is_that_of_the_file_and_a_second_run_asks_only_whether_it_changed(
    tnet, server, made, untrained_model, tmp_path
):
    url = f"{server.url}/case.tif"
    there = ("classify", url, "-m", untrained_model, "-o", tmp_path / "there")
    assert tnet(*there).code == 0
    assert tnet("classify", made, "-m", untrained_model, "-o", tmp_path / "here").code == 0
    (far,), (near,) = rows_of(tmp_path / "there"), rows_of(tmp_path / "here")
    same = set(near) - {"slide", "path", "seconds", "pixels_read", "fraction_read"}
    assert {key: far[key] for key in same} == {key: near[key] for key in same}
    assert far["path"] == url
    sent = server.sent
    assert "1 of 1 slides were done before" in tnet(*there).err
    assert server.sent - sent <= 1
    server.behaviour.version = "another"
    assert "done before" not in tnet(*there).err


def test_info_reads_by_ranges_too(tnet, server, made):
    ran = tnet("info", f"{server.url}/case.tif{SIGNED}", "--json")
    assert ran.code == 0, ran.err
    assert SECRET not in ran.out
    (slide,) = json.loads(ran.out)["slides"]
    assert (slide["width"], slide["height"]) == (6000, 6000)
    assert server.sent < made.stat().st_size
