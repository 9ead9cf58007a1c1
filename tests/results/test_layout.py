"""A run's folder: what its files are called, what finished means, and what a killed run says of itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tnet_cli
from tnet_cli.results.html_report import write_report
from tnet_cli.results.layout import PREDICTIONS, RUN_RECORD, SLIDES, RunDirectory, is_finished
from tnet_cli.results.reader import read_run
from tnet_cli.viewer.pages import RunPages

UNFINISHED = "This run has not ended"


@pytest.mark.parametrize(
    ("record", "expected"),
    [({}, False), ({"finished": None}, False), ({"finished": ""}, False), ({"finished": "2026-01-01T00:00:00"}, True)],
)
def test_a_run_is_finished_when_its_record_says_when(record, expected):
    assert is_finished(record) is expected


def start(slides: Path, model: Path, out: Path) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tnet_cli",
        "classify",
        slides,
        "-m",
        model,
        "-o",
        out,
        "--no-overlay",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after(running: subprocess.Popen[bytes], out: Path, slides: int) -> None:
    try:
        until = time.monotonic() + 120
        while len(list((out / SLIDES).glob("*/result.json"))) < slides:
            assert running.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


def test_a_killed_run_says_on_its_page_and_in_its_record_that_it_has_not_ended(made_slide, untrained_model, tmp_path):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for number in range(60):
        os.link(made_slide, slides / f"s{number:02d}.tif")
    running = start(slides, untrained_model, out)
    kill_after(running, out, 1)

    record = json.loads((out / RUN_RECORD).read_text())
    assert record["finished"] is None
    assert record["seconds"] is None
    killed = read_run(out)
    assert not killed.is_finished
    assert 0 < len(killed.slides) < 60
    assert UNFINISHED in write_report(out).read_text()
    pages = RunPages(out)
    body = pages.answer("/").body
    pages.close()
    assert isinstance(body, bytes)
    assert UNFINISHED in body.decode()

    for slide in list(slides.iterdir())[5:]:
        slide.unlink()
    shutil.rmtree(out)
    running = start(slides, untrained_model, out)
    assert running.wait() == 0
    assert read_run(out).is_finished
    assert (out / PREDICTIONS).is_file()
    assert UNFINISHED not in (out / "report.html").read_text()

    for number in range(60, 120):
        os.link(made_slide, slides / f"s{number:03d}.tif")
    running = start(slides, untrained_model, out)
    kill_after(running, out, 8)
    assert not (out / "report.html").exists(), "the page of the run before tells of other rows"
    assert not read_run(out).is_finished


def test_a_run_that_stopped_at_its_first_failure_has_not_ended(untrained_model, tmp_path):
    slides = [tmp_path / f"{number}.svs" for number in range(12)]
    for slide in slides:
        slide.touch()
    report = tnet_cli.classify(slides, model=untrained_model, fail_fast=True, out=tmp_path / "out")
    assert 1 <= len(report.rows) < 12
    assert not is_finished(json.loads((tmp_path / "out" / RUN_RECORD).read_text()))
    assert UNFINISHED in (tmp_path / "out" / "report.html").read_text()


def test_a_folder_of_results_is_where_the_slides_name_leads(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.slide_folder("deep/er/a") == tmp_path / SLIDES / "deep" / "er" / "a"
