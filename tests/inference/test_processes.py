"""Several processes of one run: the rows are those of one, also when a process is killed."""

import csv
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from tnet_cli.classification.run import RunRequest, run_classify
from tnet_cli.inference.progress import Progress

SLIDES = 5


@pytest.fixture(scope="module")
def slides(drawn_slide, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("shared-out")
    for number in range(SLIDES):
        shutil.copy(drawn_slide(), folder / f"{number}.tif")
    (folder / "bad.tif").write_bytes(drawn_slide().read_bytes()[:3000])
    return [*(str(folder / f"{number}.tif") for number in range(SLIDES)), str(folder / "bad.tif")]


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def in_one_process(slides: list[str], untrained_model: Path, tmp_path_factory) -> list[dict[str, str]]:
    out = tmp_path_factory.mktemp("one")
    run_classify(RunRequest(inputs=slides, out=out, model=str(untrained_model), device="cpu", overlay=False))
    return rows_of(out)


def test_two_processes_give_the_rows_of_one(slides, untrained_model, in_one_process, tmp_path):
    seen = []

    class Seeing(Progress):
        def slide_done(self, row):
            seen.append(row["slide"])

    request = RunRequest(inputs=slides, out=tmp_path, model=str(untrained_model), device="cpu,cpu")
    report = run_classify(request, Seeing())
    assert rows_of(tmp_path) == in_one_process
    assert sorted(seen) == sorted(row["slide"] for row in in_one_process)
    assert [path is not None for path in report.overlays] == [True] * SLIDES + [False]
    assert report.record["options"]["device"] == "cpu,cpu"
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing(slides, untrained_model, in_one_process, tmp_path):
    killed: list[int] = []

    class Killing(Progress):
        # Also that which reads alone what another had when it was killed: such a death is no slide's fault.
        def look(self, processing_level, patches):
            if len(killed) < 3:
                killed.append(multiprocessing.active_children()[0].pid or 0)
                os.kill(killed[-1], signal.SIGKILL)

    request = RunRequest(inputs=slides, out=tmp_path, model=str(untrained_model), device="cpu,cpu", overlay=False)
    run_classify(request, Killing())
    assert len(killed) == 3
    assert rows_of(tmp_path) == in_one_process
