"""Runs that are killed: the next one does what is missing, and nothing tells the result from an undisturbed one."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SLIDES = 6
RUNNER = Path(__file__).with_name("forked_runs.py")


class Runner:
    """Runs commands in forks of one process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, *arguments: object, **killed: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": [str(a) for a in arguments], **killed}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with subprocess.Popen(
        [sys.executable, str(RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=RUNNER.parents[2],
    ) as process:
        made = Runner(process)
        # It has imported everything when it answers: how long a run lasts is timed without that.
        assert made.run("--version") == 0
        yield made
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def slides(drawn_slide, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("killed")
    made = [folder / f"slide-{number}.tif" for number in range(SLIDES - 1)]
    for number, path in enumerate(made):
        shutil.copy(drawn_slide(seed=4 + number % 2), path)
    (folder / "damaged.tif").write_bytes(made[0].read_bytes()[:3000])
    return [*made, folder / "damaged.tif"]


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, slides: list[Path], untrained_model: Path, tmp_path_factory) -> tuple[Path, float]:
    out = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    assert runner.run("classify", *slides, "-m", untrained_model, "-o", out, "--no-overlay") == 6
    return out, time.monotonic() - started


def without_seconds(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def assert_same_results(out: Path, expected: Path) -> None:
    assert without_seconds(out / "predictions.csv") == without_seconds(expected / "predictions.csv")
    assert (out / "failures.csv").read_bytes() == (expected / "failures.csv").read_bytes()
    files = sorted(path.relative_to(expected) for path in expected.glob("slides/*/*"))
    assert sorted(path.relative_to(out) for path in out.glob("slides/*/*")) == files
    for name in files:
        if name.suffix != ".json":
            assert (out / name).read_bytes() == (expected / name).read_bytes()
        else:
            here, there = (json.loads((folder / name).read_text()) for folder in (out, expected))
            assert here | {"seconds": 0} == there | {"seconds": 0}
    assert list((out / ".tnet" / "drafts").iterdir()) == []


def slides_in_ledger(out: Path) -> Counter[str]:
    """Count the rows of each slide that need not be made again."""
    ledger = out / ".tnet" / "ledger.jsonl"
    if not ledger.exists():
        return Counter()
    lines = [json.loads(line) for line in ledger.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    rows = [line["row"] for line in lines if "row" in line]
    return Counter(row["slide"] for row in rows if row["status"] != "failed")


def kill_and_resume(
    runner: Runner, slides: list[Path], model: Path, expected: Path, out: Path, kills: list[dict[str, Any]]
) -> int:
    """Kill a run at each of the given moments, then let it finish; return how many of the kills hit."""
    command = ("classify", *slides, "-m", model, "-o", out, "--no-overlay")
    codes = []
    for kill in kills:
        before = slides_in_ledger(out)
        codes.append(runner.run(*command, **kill))
        assert codes[-1] in {-9, 6}
        assert before <= slides_in_ledger(out)
    assert runner.run(*command) == 6
    assert_same_results(out, expected)
    # What a killed run had finished was not made again.
    assert set(slides_in_ledger(out).values()) == {1}
    return codes.count(-9)


def timed_kills(seed: int, count: int, lasts_s: float) -> list[dict[str, Any]]:
    return [{"after_s": float(after_s)} for after_s in np.random.default_rng(seed).uniform(0.02, lasts_s, count)]


def step_kills(seed: int, count: int) -> list[dict[str, Any]]:
    return [{"at_step": int(step)} for step in np.random.default_rng(seed).integers(1, 30, count)]


def test_killed_at_random_moments_it_loses_nothing(runner, slides, untrained_model, undisturbed, tmp_path):
    expected, lasts_s = undisturbed
    hits = sum(
        kill_and_resume(
            runner, slides, untrained_model, expected, tmp_path / str(seed), timed_kills(seed, 2, 0.9 * lasts_s)
        )
        for seed in range(2)
    )
    assert hits >= 2


def test_killed_in_the_middle_of_writing_it_loses_nothing(runner, slides, untrained_model, undisturbed, tmp_path):
    hits = sum(
        kill_and_resume(runner, slides, untrained_model, undisturbed[0], tmp_path / str(seed), step_kills(seed, 2))
        for seed in range(2)
    )
    assert hits >= 3


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_often(runner, slides, untrained_model, undisturbed, tmp_path, seed):
    kills = timed_kills(seed, 3, 0.9 * undisturbed[1]) + step_kills(seed, 4)
    kills = [kills[index] for index in np.random.default_rng(seed).permutation(len(kills))]
    assert kill_and_resume(runner, slides, untrained_model, undisturbed[0], tmp_path / "out", kills) >= 3


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that still run, its leader first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(folder.name))
    return sorted(found)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shared", [["--device", "cpu,cpu"], ["--cluster", "local", "--workers", "2"]])
def test_killed_in_any_of_several_processes(slides, untrained_model, tmp_path, shared, seed):
    alone, out, chance = tmp_path / "alone", tmp_path / "out", random.Random(seed)  # noqa: S311 (moments to kill at)
    command = [sys.executable, "-m", "tnet_cli", "classify", *slides, "-m", untrained_model, "--no-overlay"]
    subprocess.run([*command, "-o", alone, "--device", "cpu"], capture_output=True, check=False)
    kills: list[str] = []
    runs = 0
    while runs == 0 or len(kills) < 4:
        runs += 1
        before = slides_in_ledger(out)
        said = (tmp_path / "said").open("w")
        streams = {"stdout": subprocess.DEVNULL, "stderr": said, "start_new_session": True}
        with said, subprocess.Popen([*command, "-o", out, *shared], **streams) as run:
            # From where the slides are begun, so that not all of it hits an import.
            while not (out / ".tnet" / "ledger.jsonl").exists() and run.poll() is None:
                time.sleep(0.02)
            while run.poll() is None and len(kills) < 4:
                time.sleep(chance.uniform(0, 6))
                victims = processes_of(run.pid)
                victim = run.pid if chance.random() < 0.4 else chance.choice(victims or [run.pid])
                if victim in victims:
                    os.kill(victim, signal.SIGKILL)
                    kills.append("run" if victim == run.pid else "process")
        assert run.returncode in {-9, 6}, (tmp_path / "said").read_text()
        until = time.monotonic() + 60
        while processes_of(run.pid):
            assert time.monotonic() < until, "a process outlives its run"
            time.sleep(0.1)
        assert before <= slides_in_ledger(out)
        if run.returncode == 6 and len(kills) < 4:
            shutil.rmtree(out)
    assert subprocess.run([*command, "-o", out, *shared], capture_output=True, check=False).returncode == 6
    assert_same_results(out, alone)
    print(f"{' '.join(shared)}, seed {seed}: killed {', '.join(kills)}, in {runs} runs")  # noqa: T201 (with -s it is seen)
