"""Checkpoints: what they hold, and of which run; that a run goes on from them to the bit is in tests/training."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from tests.tiny_training import CONFIG, Told, settings_with
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.learning.checkpoint import HEADER_KEY
from tnet_cli.places import Place
from tnet_cli.training.train import train

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
    draft = tmp_path / ".checkpoint.safetensors.123.0123abcd.safetensors"
    draft.write_bytes(b"what a killed run was writing")
    with pytest.raises(ModelFileError, match=r"checkpoint\.safetensors: is no whole checkpoint"):
        train(tiny_inputs, CONFIG, SHORT, folder=tmp_path)
    assert not draft.exists()


@pytest.mark.parametrize("what", ["cut off", "no pickle", "a model", "a list", "no step", "a word for a number"])
def test_what_is_no_whole_checkpoint_is_named(finished, tmp_path, tiny_inputs, what):
    whole = (finished / "checkpoint.safetensors").read_bytes()
    header = json.loads(json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"][HEADER_KEY])
    stated: dict[str, Any] = {
        "a list": [1, 2],
        "no step": {name: value for name, value in header.items() if name != "step"},
        "a word for a number": header | {"slides": "four"},
    }
    content = {"cut off": whole[: len(whole) // 2], "no pickle": pickle.dumps({"network": {}}), "a model": save({})}
    if what in stated:
        content[what] = save({}, metadata={HEADER_KEY: json.dumps(stated[what])})
    (tmp_path / "checkpoint.safetensors").write_bytes(content[what])
    with pytest.raises(ModelFileError, match=r"checkpoint\.safetensors: is no whole checkpoint \(.*; move it away"):
        train(tiny_inputs, CONFIG, SHORT, folder=tmp_path)
