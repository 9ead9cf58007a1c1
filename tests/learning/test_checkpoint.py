"""A run that is killed goes on as if it had not been: same losses, same weights, to the last bit."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.tiny_training import CONFIG, Told, settings_with
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.learning.checkpoint import HEADER_KEY
from tnet_cli.places import Place
from tnet_cli.training.train import train

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import json, os, signal, sys
from pathlib import Path
import torch, torch._dynamo  # once for all processes
from tests.tiny_training import CONFIG, settings_with
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.training.train import train

torch.set_num_threads(1)
folder, manifest = Path(sys.argv[1]), Path(sys.argv[2])
settings = settings_with(warmup_steps=4, hard_epochs=2, soft_steps=2)  # a checkpoint every two steps

class Written(Progress):
    def __init__(self, name, kill_at):
        self.out, self.kill_at = (folder / f"{name}.jsonl").open("a"), kill_at
    def tell(self, what):
        self.out.write(json.dumps(what) + "\\n")
        self.out.flush()
    def step(self, report):
        self.tell([report.stage, report.step, report.terms])
        if report.stage == self.kill_at:  # at its last step, before that step's checkpoint
            os.kill(os.getpid(), signal.SIGKILL)
    def note(self, text):
        self.tell(["note", 0, text])

def in_a_process(name, kill_at):
    child = os.fork()
    if child == 0:
        told, inputs = Written(name, kill_at), read_manifest(manifest)
        network = train(inputs, CONFIG, settings, folder=folder / name, validation=inputs[:1], progress=told)
        told.tell(["weights", 0, {k: float(v.double().sum()) for k, v in network.state_dict().items()}])
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

ends = [in_a_process("whole", None)]
ends += [in_a_process("killed", kill_at) for kill_at in ["warm-up 1", "warm-up 2", "hard attention", None]]
print(json.dumps(ends))
"""

Lines = list[tuple[str, int, Any]]


def told(path: Path) -> tuple[Lines, list[str]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [tuple(row) for row in rows if row[0] != "note"], [row[2] for row in rows if row[0] == "note"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_in_every_stage_ends_with_the_same_losses_and_weights(tmp_path, labelled_slides):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(labelled_slides)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, -9, -9, -9, 0]
    whole, _ = told(tmp_path / "whole.jsonl")
    killed, notes = told(tmp_path / "killed.jsonl")
    assert [note for note in notes if "going on" in note] == [
        "going on from the checkpoint at warm-up 1, step 2",
        "going on from the checkpoint at warm-up 2, step 2",
        "going on from the checkpoint at hard attention, step 2",
    ]
    stages = dict.fromkeys(stage for stage, _, _ in whole)
    assert {"warm-up 1", "warm-up 2", "soft attention", "hard attention", "validation hard attention"} <= set(stages)
    # Steps after a checkpoint were computed twice, and came out the same both times.
    assert len(killed) > len(whole)
    expected = {(stage, step): terms for stage, step, terms in whole}
    assert {(stage, step) for stage, step, _ in killed} == set(expected)
    for stage, step, terms in killed:
        assert terms == expected[stage, step], f"{stage}, step {step}"
    ours, theirs = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["checkpoint.safetensors"]


SHORT = settings_with(warmup_steps=2, rounds=1, hard_epochs=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_inputs) -> Path:
    folder: Path = tmp_path_factory.mktemp("finished")
    train(tiny_inputs, CONFIG, SHORT, folder=folder)
    return folder


def test_a_finished_run_is_not_run_again(finished, tiny_inputs):
    told = Told()
    first = train(tiny_inputs, CONFIG, SHORT, folder=finished, progress=told)
    assert told.reports == []
    assert told.notes == ["going on from the checkpoint at the end"]
    stored = load_file(finished / "checkpoint.safetensors")
    for name, tensor in first.state_dict().items():
        assert torch.equal(stored[f"network.{name}"], tensor)


def test_a_checkpoint_holds_json_and_tensors_and_no_pickle(finished):
    with safe_open(finished / "checkpoint.safetensors", framework="np") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        assert all(isinstance(file.get_tensor(name), np.ndarray) for name in file.keys())  # noqa: SIM118 (not a dict)
    assert header["stage"] == 2
    assert len(header["slides"]) == 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"hard_learning_rate": 1e-5}])
def test_the_checkpoint_of_another_run_is_refused(finished, tiny_inputs, change):
    with pytest.raises(UsageError, match="checkpoint of another training"):
        train(tiny_inputs, CONFIG, SHORT.model_copy(update=change), folder=finished)
    with pytest.raises(UsageError, match=r"was written with 4 readable slides, now there are 3; diff.*0003\.tif"):
        train(tiny_inputs[:3], CONFIG, SHORT, folder=finished)


def test_how_often_a_run_is_saved_and_in_how_many_parts_it_computes_makes_it_no_other(finished, tiny_inputs):
    often, told = SHORT.model_copy(update={"checkpoint_every": 1, "readers": 3, "accumulate": 2}), Told()
    train(tiny_inputs, CONFIG, often, folder=finished, progress=told)
    assert told.notes == ["going on from the checkpoint at the end"]


def test_slides_that_were_moved_or_are_listed_in_another_order_make_it_no_other(finished, tiny_inputs, tmp_path):
    moved = []
    for entry in reversed(tiny_inputs):
        assert entry.annotation is not None
        path, annotation = tmp_path / f"{entry.name}.tif", tmp_path / f"drawn-{entry.name}.geojson"
        shutil.copy(entry.path, path)
        shutil.copy(entry.annotation, annotation)
        moved.append(replace(entry, path=Place(path), annotation=annotation))
    told = Told()
    train(moved, CONFIG, SHORT, folder=finished, progress=told)
    assert told.notes == ["going on from the checkpoint at the end"]


def test_a_damaged_checkpoint_is_named(tmp_path, tiny_inputs):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    draft = tmp_path / ".checkpoint.safetensors.123.abcd.safetensors"
    draft.write_bytes(b"what a killed run was writing")
    with pytest.raises(ModelFileError, match=r"checkpoint\.safetensors: is no whole checkpoint"):
        train(tiny_inputs, CONFIG, SHORT, folder=tmp_path)
    assert not draft.exists()
