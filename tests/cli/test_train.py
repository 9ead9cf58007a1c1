"""``tnet train``: one real run from a CSV to a model, and what the command says when something is wrong."""

import csv
import json
import sys

import pytest

from tests.full_disk import files_end_at
from tnet_cli.cli.training_progress import describe_metrics, training_progress
from tnet_cli.inference.progress import StepReport
from tnet_cli.modelfile.modelfile import load_model

TINY = """
[model]
mpp = [16, 4]
base_px = 64
locations = [3]
[training]
patches_per_slide = 2
warmup_steps = 6
rounds = 1
batch_patches = 4
hard_epochs = 1
batch_slides = 2
hard_locations = [2]
[data]
validation_share = 0.5
"""


@pytest.mark.slow
def test_from_a_csv_to_a_model_that_classifies(tnet, labelled_slides, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    command = ("train", labelled_slides, "-o", "run", "--config", "tiny.toml", "--normal-class", "benign")
    ran = tnet(*command, "--device", "cpu", "--set", "training.warmup_steps=5")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("run/model.safetensors: validation accuracy ")
    assert "95 % interval" in ran.out
    assert ", 2 slides)" in ran.out
    assert ran.out.count("\n") == 1
    assert "2 slides for training (1 benign, 1 lesion)" in ran.err
    assert "warm-up 1 5/5: loss " in ran.err
    network = load_model(tmp_path / "run" / "model.safetensors").network
    assert network.config.mpp == (16.0, 4.0)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        stages = {row["stage"] for row in csv.DictReader(file)}
    assert {"warm-up 1", "hard attention"} <= stages

    again = tnet(*command, "--device", "cpu", "--set", "training.warmup_steps=5", "--json")
    document = json.loads(again.out)
    assert document["models"] == ["run/model.safetensors"]
    assert document["run"]["validation"]["slides"] == 2
    assert "was done before" in again.err
    refused = tnet(*command, "--device", "cpu")
    assert refused.code == 2
    assert "training.warmup_steps is 5 there and 6 here" in refused.err

    slide = labelled_slides.parent / "synth-12-0001.tif"
    classified = tnet("classify", slide, "-m", "run/model.safetensors", "--no-overlay", "--json")
    assert json.loads(classified.out)["slides"][0]["status"] == "ok"
    assert "Research; trained by the user" in classified.err


def test_ctrl_c_says_how_to_go_on(tnet, labelled_slides, tmp_path, monkeypatch):
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    # By then the folder is begun; which slide is being read does not matter.
    monkeypatch.setattr("tnet_cli.slide.slide.Slide.read", interrupted)
    ran = tnet("train", labelled_slides, "-o", "run", "--device", "cpu")
    assert ran.code == 130
    assert ran.out == ""
    assert ran.err.splitlines()[-1] == (
        "tnet: interrupted; run the same command again to go on from the last checkpoint in run"
    )
    assert (tmp_path / "run" / "config.toml").exists()


def test_slides_none_of_which_can_be_read_leave_nothing_to_learn(tnet, tmp_path):
    (tmp_path / "labels.csv").write_text("slide,label\nnone.tif,a\ngone.tif,b\nlost.tif,b\n")
    ran = tnet("train", "labels.csv", "-o", "run", "--device", "cpu", "--skip-bad")
    assert ran.code == 6
    assert sum(line.startswith("left out: ") for line in ran.err.splitlines()) == 3 - 1  # one is set aside to validate
    assert "none of the slides of class 'a', 'b' can be read, so nothing can be learnt of it" in ran.err
    assert "Traceback" not in ran.err


def test_a_full_disk_ends_a_training_in_a_sentence_and_is_no_reason_to_begin_anew(tnet, labelled_slides, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    command = ("train", labelled_slides, "-o", "run", "--config", "tiny.toml", "--device", "cpu")
    with files_end_at(20_000):  # enough for tables and records, too little for a slide's patches or a checkpoint
        ran = tnet(*command)
    assert ran.code == 6, ran.err
    assert "cannot be written or read: File too large; what was finished is kept" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.is_file()]  # no drafts
    # Nothing has been learnt, so other settings are in nobody's way.
    assert tnet(*command, "--set", "model.base_px=4").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["train", "labels.csv"], 2, "Missing option '--out'"),
        (["train", "none.csv", "-o", "run"], 5, "none.csv: cannot be read as a CSV manifest"),
        (["train", "labels.csv", "-o", "run", "--set", "training.sed=1"], 2, "did you mean 'seed'?"),
        (["train", "labels.csv", "-o", "run", "--config", "none.toml"], 2, "none.toml: cannot be read"),
        (["train", "labels.csv", "-o", "run", "--device", "tpu"], 2, "expected auto, cpu, cuda"),
        (["train", "labels.csv", "-o", "run", "--classes", "a"], 2, "[data] classes"),
        (["train", "labels.csv", "-o", "run", "--classes", "a,c"], 5, "the label 'b' (1 slides) is not among"),
        (["train", "labels.csv", "-o", "run", "--folds", "2"], 5, "has 1 patient, too few for folds"),
        (["train", "labels.csv", "-o", "labels.csv"], 2, "labels.csv: is a file"),
        (["train", "labels.csv", "-o", "run"], 3, "none.tif"),
    ],
)
def test_wrong_usage_is_one_sentence_and_the_right_code(tnet, tmp_path, arguments, code, complaint):
    (tmp_path / "labels.csv").write_text("slide,label\nnone.tif,a\ngone.tif,b\n")
    ran = tnet(*arguments)
    assert ran.code == code, ran.err
    assert complaint in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_folds_are_told_with_their_mean_and_spread():
    from pathlib import Path

    from tnet_cli.cli.train import describe
    from tnet_cli.training.run import TrainReport

    counts = {"slides": 10, "not classified": 1}
    spread = {"mean of folds": 0.88, "standard deviation of folds": 0.05}
    metrics_of_all = counts | {"accuracy": 0.875, "Wilson 95 %": [0.5, 0.95]} | spread
    models = (Path("run/fold-1/model.safetensors"), Path("run/fold-2/model.safetensors"))
    report = TrainReport({}, models, metrics_of_all)
    assert describe(report, "run") == (
        "2 models in run/fold-*: cross-validation accuracy 0.875 (95 % interval 0.500 to 0.950, 9 slides); "
        "mean of folds 0.880, standard deviation 0.050"
    )


def test_progress_shows_loss_and_accuracy(monkeypatch, capsys):
    report = StepReport("hard", 4, 8, {"total": 0.5, "other": 9.0, "accuracy": 0.75})
    warm = StepReport("warm-up", 8, 8, {"location": 0.5, "patch": 0.25})
    checked = StepReport("validation hard", 8, 8, {"loss": 0.3, "accuracy": 0.5})
    assert describe_metrics(report) == "loss 0.500, accuracy 0.750"
    assert describe_metrics(warm) == "loss 0.750"
    assert describe_metrics(checked) == "validation loss 0.300, accuracy 0.500"

    with training_progress() as progress:
        for one in (warm, report, checked):
            progress.step(one)
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "warm-up 8/8: loss 0.750",
        "validation hard 8/8: validation loss 0.300, accuracy 0.500",
    ]

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with training_progress() as progress:
        for one in (warm, report, checked):
            progress.step(one)
            progress._bar.refresh()
    shown = capsys.readouterr().err
    assert "hard" in shown
    assert "4/8" in shown
