"""``tnet train --features`` and ``tnet models features``: kept by one run, used by another, listed and removed."""

import csv
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

SETTINGS = """
[model]
mpp = [16, 4]
locations = [3]
[training]
annotations = false
patches_per_slide = 2
hard_epochs = 1
batch_slides = 2
hard_locations = [4]
[data]
validation_share = 0.5
"""


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A folder with a small residual network of random weights, as timm describes it."""
    torch.manual_seed(0)
    (tmp_path / "encoder").mkdir()
    described = {"architecture": "resnet10t", "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(described))
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "encoder" / "model.safetensors")
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    return tmp_path / "encoder"


def metrics_of(run: Path) -> list[dict[str, str]]:
    """What a run has measured, without when."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "time"} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.usefixtures("encoder")
def test_runs_share_features_which_are_listed_and_removed(tnet, labelled_slides, tmp_path):
    def train(out: str, *more: str):
        return tnet(
            *("train", labelled_slides, "-o", out, "--config", "tiny.toml", "--device", "cpu", "--finest", "encoder"),
            *more,
        )

    ran = train("run", "--features", "kept")
    assert ran.code == 0, ran.err
    listed = tnet("models", "features", "kept", "--json")
    (held,) = json.loads(listed.out)["kept"]
    assert held["encoder"]["backbone"] == "timm:resnet10t"
    assert held["slides"] == 4  # two to train on, two to validate on
    assert held["regions"] >= 4 * 3

    again = train("other-run", "--features", "kept")
    assert again.code == 0, again.err
    assert json.loads(tnet("models", "features", "kept", "--json").out)["kept"] == [held]
    assert metrics_of(tmp_path / "other-run") == metrics_of(tmp_path / "run")

    # Where they lie makes no other run, whether they are kept does.
    (tmp_path / "kept").rename(tmp_path / "moved")
    assert "was done before" in train("run", "--features", "moved").err
    refused = train("run")
    assert refused.code == 2
    assert "training.features is True there and False here" in refused.err

    (tmp_path / "moved" / "notes.txt").write_text("mine")
    line = tnet("models", "features", "moved")
    assert line.out.startswith(f"{held['name']} (timm:resnet10t, 64 px, cpu): 4 slides, {held['regions']} regions, ")
    removed = tnet("models", "features", "moved", "--remove", held["name"][:6])
    assert removed.code == 0, removed.err
    assert removed.out.startswith(held["name"])
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["notes.txt"]
    nothing = tnet("models", "features", "moved", "--all")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no features are kept in moved\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["models", "features", "gone"], "gone: is no folder of features"),
        (["models", "features", "."], ""),
        (["models", "features", ".", "--remove", "abcd"], "--remove abcd: . holds no features of it; it holds nothing"),
        (["models", "features", ".", "--remove", "abcd", "--all"], "--remove and --all: give one of them"),
        (["train", "labels.csv", "-o", "run", "--features", "kept"], "--features kept: no encoder of this model is fr"),
        (["train", "labels.csv", "-o", "run", "--features", "s3://bucket/kept"], "--features s3://bucket/kept: is an"),
        (["train", "labels.csv", "-o", "run", "--features", "labels.csv", "--finest", "encoder"], "is no folder"),
    ],
)
@pytest.mark.usefixtures("encoder")
def test_wrong_usage_is_one_sentence_and_the_right_code(tnet, tmp_path, arguments, complaint):
    (tmp_path / "labels.csv").write_text("slide,label\nnone.tif,a\ngone.tif,b\n")
    ran = tnet(*arguments)
    assert (ran.code, ran.out) == (2 if complaint else 0, "")
    assert complaint in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "kept").exists()
