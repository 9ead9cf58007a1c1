"""A slide over which the process dies is a failed row, at the next run or in this one, and the others are done."""

import csv
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fatal_slides import make_slides_fatal
from tnet_cli.classification.run import RunReport, RunRequest, run_classify

SAID = "reading it ended the process that read it alone (killed by signal SIGABRT); the same command tries it again"


@pytest.fixture
def slides(drawn_slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    make_slides_fatal(tmp_path / "site", monkeypatch)
    names = ["fatal-1.tif", "a.tif", "b.tif", "c.tif", "fatal-2.tif"]
    for name in names:
        shutil.copy(drawn_slide(), tmp_path / name)
    return [str(tmp_path / name) for name in names]


def request(slides: list[str], out: Path, model: Path, **options: Any) -> RunRequest:
    options = {"device": "cpu"} | options
    return RunRequest(inputs=slides, out=out, model=str(model), overlay=False, report=False, **options)


def outcomes(report: RunReport) -> dict[str, str]:
    return {row.values["slide"]: row.values["error"] or row.status for row in report.rows}


def fatal_ones_failed(slides: list[str]) -> dict[str, str]:
    return {Path(slide).stem: f"{slide}: {SAID}" if "fatal" in slide else "ok" for slide in slides}


def test_at_the_next_run_where_it_was_read_in_the_process_itself(slides, untrained_model, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tnet_cli", "classify", *slides, "-m", untrained_model, "-o", out, "--no-overlay"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGABRT
    again = run_classify(request(slides, out, untrained_model))
    assert outcomes(again) == fatal_ones_failed(slides), "also the one that the first run did not come to"
    with (out / "failures.csv").open(newline="") as file:
        assert [row["slide"] for row in csv.DictReader(file)] == [slides[0], slides[-1]]
    # What has ended a process is never read in the run's own again, not even where all is done again.
    afresh = run_classify(request(slides[:1], out, untrained_model, overwrite=True))
    assert outcomes(afresh) == fatal_ones_failed(slides[:1])


def test_in_the_same_run_where_it_was_read_in_another_process(slides, untrained_model, tmp_path):
    report = run_classify(request(slides, tmp_path / "out", untrained_model, device="cpu,cpu"))
    assert outcomes(report) == fatal_ones_failed(slides)


@pytest.mark.long
def test_the_first_that_fails_so_ends_a_run_that_is_to_fail_fast(slides, untrained_model, tmp_path):
    asked = request(slides, tmp_path / "out", untrained_model, device="cpu,cpu", fail_fast=True)
    outcome = outcomes(run_classify(asked))
    # Which innocent slides were under way in the processes that died, and so come with the suspects, is chance.
    assert len({"fatal-1", "fatal-2"} & outcome.keys()) == 1
    assert outcome.items() <= fatal_ones_failed(slides).items()
