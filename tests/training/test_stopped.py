"""A run that is stopped at any moment, by whatever means, goes on as if it had not been, to the last bit."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import json, os, random, signal, sys, threading, time
from pathlib import Path
import torch, torch._dynamo, matplotlib.figure, matplotlib.backends.backend_agg  # once for all processes
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tnet_cli.inference.progress import Progress
from tnet_cli.learning import slides
from tnet_cli.training.run import TrainRequest, run_train

torch.set_num_threads(1)
folder, manifest, plan = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
settings = {
    "model.mpp": "16,4", "model.base_px": 64, "model.locations": 3, "training.patches_per_slide": 3,
    "training.warmup_steps": 4, "training.batch_patches": 4, "training.soft_steps": 3, "training.hard_epochs": 2,
    "training.batch_slides": 2, "training.checkpoint_every": plan["checkpoint_every"], "training.readers": 1,
}

def request(name):
    return TrainRequest(
        manifest=manifest, out=folder / name / "run", overrides=[f"{key}={value}" for key, value in settings.items()],
        device="cpu", normal_class="benign", validation_share=0.5,
    )

class Stopped(Progress):
    '''Notes what is told, and stops the process where the plan says.'''
    def __init__(self, name, stop):
        self.out, self.stop, self.steps = (folder / f"{name}.jsonl").open("a"), stop, 0
        if stop and stop["when"] in {"slides", "patches"}:
            kept = folder / name / "run" / "checkpoints" / stop["when"]
            threading.Thread(target=self.watch, args=(kept,), daemon=True).start()
        register_optimizer_step_pre_hook(self.count)
    def watch(self, kept):
        while not kept.is_dir() or len([path for path in kept.iterdir() if path.name[0] != "."]) < self.stop["at"]:
            time.sleep(0.001)
        self.end()
    def count(self, *_):
        self.steps += 1
        if self.stop and self.stop["when"] == "step" and self.steps == self.stop["at"]:
            self.end()
    def end(self):
        os.kill(os.getpid(), signal.Signals[self.stop["by"]])
    def tell(self, *what):
        self.out.write(json.dumps(what) + "\\n")
        self.out.flush()
    def step(self, report):
        self.tell(report.stage, report.step)
        if self.stop and self.stop["when"] == report.stage:
            self.end()
    def note(self, text):
        self.tell("note", text)

def opening(told):
    real = slides.open_slide
    def open_slide(place, **named):
        told.tell("opened", str(place))
        return real(place, **named)
    slides.open_slide = open_slide

def in_a_process(name, stop):
    child = os.fork()
    if child == 0:
        if stop and stop["when"] == "after":
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.Signals[stop["by"]]))
            signal.setitimer(signal.ITIMER_REAL, stop["at"])
        told = Stopped(name, stop)
        opening(told)
        try:
            run_train(request(name), told)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

began = time.monotonic()
ends = [in_a_process("whole", None)]
took = time.monotonic() - began
if plan["stops"]:
    ends += [in_a_process("stopped", stop) for stop in [*plan["stops"], None]]
else:
    draw = random.Random(plan["seed"])
    for number in range(200):
        by = draw.choice(plan["by"])
        after = draw.uniform(0.01, took * plan["within"])
        stop = {"when": "after", "at": after, "by": by} if number < plan["count"] else None
        ends.append(in_a_process("stopped", stop))
        if ends[-1] == 0:
            break
print(json.dumps(ends))
"""

VARYING = {"time", "seconds"}


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table but for what the clock says."""
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in VARYING} for row in csv.DictReader(file)]


def ends_of(folder: Path, manifest: Path, **plan: Any) -> list[int]:
    """Run the driver; return how each process ended."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), str(manifest), json.dumps(plan)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends: list[int] = json.loads(done.stdout.splitlines()[-1])
    return ends


def assert_alike(folder: Path) -> None:
    """Both runs have left the same."""
    whole, stopped = folder / "whole" / "run", folder / "stopped" / "run"
    ours, theirs = (load_file(run / "model.safetensors") for run in (stopped, whole))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for table in ("metrics.csv", "splits.csv", "validation.csv"):
        assert rows_of(stopped / table) == rows_of(whole / table), table
    assert (stopped / "curves.png").read_bytes() == (whole / "curves.png").read_bytes()
    for run in (whole, stopped):
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"checkpoint.safetensors", "manifest.json"}


def told(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "stopped.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_interrupted_run_has_kept_what_it_read_and_every_step(tmp_path, small_labelled_slides):
    stops: list[dict[str, Any]] = [
        {"when": "slides", "at": 1, "by": "SIGINT"},
        {"when": "patches", "at": 1, "by": "SIGTERM"},
        {"when": "step", "at": 3, "by": "SIGINT"},  # of the first round's four, mid-step
        {"when": "step", "at": 3, "by": "SIGTERM"},  # of the second's: the third of what is left is its second
        {"when": "validation warm-up 2", "at": 0, "by": "SIGINT"},
        {"when": "soft attention", "at": 0, "by": "SIGINT"},  # at its end, with the validation still to come
        {"when": "step", "at": 1, "by": "SIGTERM"},  # in the midst of an epoch
    ]
    ends = ends_of(tmp_path, small_labelled_slides, checkpoint_every=1000, stops=stops)
    by = {"SIGINT": 130, "SIGTERM": -15}
    assert ends == [0, *(by[stop["by"]] for stop in stops), 0]
    lines = told(tmp_path)
    notes = [text for kind, text in lines if kind == "note" and "going on" in text]
    assert [note.removeprefix("going on from the checkpoint at ") for note in notes] == [
        "warm-up 1, step 3",
        "warm-up 2, step 2",
        "warm-up 2, step 4",
        "soft attention, step 3",
        "hard attention, step 1",
    ]
    # Two slides train and two validate; each is opened once to be prepared, and for each part of the pool once.
    first_step = next(number for number, (kind, _) in enumerate(lines) if kind == "warm-up 1")
    opened = [path for kind, path in lines[:first_step] if kind == "opened"]
    assert len(opened) <= 4 + 2 + 2  # of those that a signal hit while they were read, one each is begun again
    assert_alike(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_stopped_at_random_moments_ends_as_one_that_was_not(tmp_path, small_labelled_slides):
    by = ["SIGKILL", "SIGKILL", "SIGINT", "SIGTERM"]
    ends = ends_of(tmp_path, small_labelled_slides, checkpoint_every=2, stops=[], seed=1, count=6, by=by, within=0.3)
    assert ends[0] == ends[-1] == 0
    assert_alike(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 103))
def test_a_run_killed_twenty_times_ends_as_one_that_was_not(tmp_path, small_labelled_slides, seed):
    plan = {"checkpoint_every": 1, "stops": [], "seed": seed, "count": 40, "within": 0.06, "by": ["SIGKILL"]}
    ends = ends_of(tmp_path, small_labelled_slides, **plan)
    assert ends[0] == ends[-1] == 0
    assert ends.count(-9) >= 20
    assert_alike(tmp_path)
