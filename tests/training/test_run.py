"""A whole run: its folder, its card, its metrics, and that it survives. What is learnt is tested elsewhere."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny_training import Told
from tnet_cli.errors import ManifestError, SlideError, UsageError
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.checkpoint import FILE_NAME
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.modelfile import load_model, read_card
from tnet_cli.training.run import TrainReport, TrainRequest, run_train
from tnet_cli.training.validation import WILSON, accuracy_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = ("model.mpp=16,4", "model.base_px=64", "model.locations=3", "training.warmup_steps=3")
FILES = {
    *("config.toml", "splits.csv", "run.json", "metrics.csv", "curves.png"),
    *("validation.csv", "model.safetensors", "model.md"),
}


class Trainer:
    """Stands in for the training of one model: reports metrics, and gives the network its seed makes."""

    def __init__(self) -> None:
        self.fits: list[SimpleNamespace] = []
        self.stop_at: int | None = None
        self.start_at = 1

    def __call__(
        self, slides: Sequence[SlideInput], network: TNetConfig, settings: TrainingSettings, **named: Any
    ) -> TNet:
        self.fits.append(SimpleNamespace(slides=slides, settings=settings, **named))
        folder, progress = named["folder"], named["progress"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).write_text("state")
        for step in range(self.start_at, 7):
            if step == self.stop_at:
                raise KeyboardInterrupt
            progress.step(StepReport("warm-up", step, 6, {"patch": 1 / step}))
        progress.step(StepReport("hard attention", 2, 2, {"total": 0.25, "accuracy": 1.0, "baseline": 0.5}))
        progress.step(StepReport("validation hard attention", 2, 2, {"accuracy": 0.5, "loss": 0.7}))
        torch.manual_seed(settings.seed)
        return TNet(network).eval()


@pytest.fixture
def trainer() -> Trainer:
    return Trainer()


def train(
    trainer: Callable[..., TNet],
    manifest: Path,
    out: Path,
    *overrides: str,
    progress: Progress | None = None,
    **options: Any,
) -> TrainReport:
    given: dict[str, Any] = {"device": "cpu", "validation_share": 0.5, **options}
    request = TrainRequest(manifest=manifest, out=out, overrides=(*TINY, *overrides), **given)
    return run_train(request, progress, fit=trainer)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_a_run_leaves_a_model_with_its_card_and_all_that_tells_of_it(labelled_slides, tmp_path, trainer):
    told = Told()
    out = tmp_path / "my run"
    report = train(trainer, labelled_slides, out, normal_class="benign", progress=told)
    assert files_in(out) == FILES
    assert told.notes[0] == (
        "2 slides for training (1 benign, 1 lesion); 2 slides for validation (1 benign, 1 lesion); tnet_small on cpu"
    )
    (fit,) = trainer.fits
    assert len(fit.slides) == len(fit.validation) == 2
    assert not {entry.path for entry in fit.slides} & {entry.path for entry in fit.validation}
    assert fit.settings.warmup_steps == 3
    assert fit.settings.normal_class == "benign"

    card = read_card(out / "model.safetensors")
    assert card.name == "my-run"
    assert card.network.class_names == ("benign", "lesion")
    assert card.intended_use == "Research; trained by the user, not for diagnosis."
    assert "2 slides (1 benign, 1 lesion), 2 of them with annotations" in card.training_data[0].description
    assert "Measured on 2 slides" in card.limits[0]
    metrics = card.metrics["validation"]
    assert metrics == report.validation == json.loads((out / "run.json").read_text())["validation"]
    assert (metrics["slides"], metrics["not classified"]) == (2, 0)
    predicted = rows_of(out / "validation.csv")
    assert [row["path"] for row in predicted] == [entry.shown_path for entry in fit.validation]
    right = sum(row["label"] == row["prediction"] for row in predicted)
    assert metrics["accuracy"] == right / 2
    assert metrics[WILSON] == accuracy_metrics([("x", "x")] * right + [("x", "y")] * (2 - right), ["x", "y"])[WILSON]
    assert "Wilson 95 %" in (out / "model.md").read_text()
    torch.manual_seed(0)
    fresh = TNet(card.network).eval().state_dict()
    stored = load_model(out / "model.safetensors").network.state_dict()
    assert all(torch.allclose(stored[name], fresh[name], atol=1e-3) for name in fresh)

    logged = rows_of(out / "metrics.csv")
    assert [(row["stage"], row["step"]) for row in logged] == [
        *(("warm-up", str(step)) for step in range(1, 7)),
        ("hard attention", "2"),
        ("validation hard attention", "2"),
    ]
    assert (logged[1]["patch"], logged[1]["accuracy"], logged[-1]["loss"]) == ("0.5", "", "0.7")
    with Image.open(out / "curves.png") as picture:
        assert picture.size == (1170, 780)
    split = rows_of(out / "splits.csv")
    assert [row["split"] for row in split] == ["train", "train", "validation", "validation"]


def test_the_written_configuration_and_split_repeat_the_run(labelled_slides, tmp_path, trainer):
    train(trainer, labelled_slides, tmp_path / "one", seed=7)
    for folder, manifest in (("two", labelled_slides), ("three", tmp_path / "one" / "splits.csv")):
        run_train(
            TrainRequest(
                manifest=manifest, out=tmp_path / folder, config=tmp_path / "one" / "config.toml", device="cpu"
            ),
            fit=trainer,
        )
        assert (tmp_path / folder / "config.toml").read_text() == (tmp_path / "one" / "config.toml").read_text()
        assert rows_of(tmp_path / folder / "splits.csv") == rows_of(tmp_path / "one" / "splits.csv")
    first, second, third = trainer.fits
    assert first.settings == second.settings == third.settings
    assert [entry.path for entry in first.slides] == [entry.path for entry in second.slides]


def test_the_same_command_again_is_done_already(labelled_slides, tmp_path, trainer):
    first = train(trainer, labelled_slides, tmp_path / "run")
    again = train(trainer, labelled_slides, tmp_path / "run")
    assert len(trainer.fits) == 1
    assert (first.was_done, again.was_done) == (False, True)
    assert again.validation == first.validation
    assert again.models == first.models


def test_an_interrupted_run_goes_on_and_repeats_no_row(labelled_slides, tmp_path, trainer):
    out = tmp_path / "run"
    trainer.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        train(trainer, labelled_slides, out)
    metrics = out / "metrics.csv"
    assert [row["step"] for row in rows_of(metrics)] == ["1", "2", "3", "4"]
    with metrics.open("a") as file:
        file.write("2026-01-01T00:00:00+00:00,warm-up,5,6,0.")  # killed while it wrote
    trainer.stop_at, trainer.start_at = None, 3  # the checkpoint was made at step 2
    # Whoever met an unreadable slide may go on without it, and whoever ran out of memory with less; speed is nobody's.
    changed = ("training.accumulate=2", "training.readers=3", "training.checkpoint_every=7")
    report = train(trainer, labelled_slides, out, *changed, skip_bad=True)
    assert not report.was_done
    assert trainer.fits[1].skip_bad
    assert trainer.fits[1].settings.accumulate == 2
    assert (trainer.fits[1].folder / FILE_NAME).exists()
    rows = rows_of(metrics)
    assert [row["step"] for row in rows if row["stage"] == "warm-up"] == ["1", "2", "3", "4", "5", "6"]
    assert len(rows) == 8
    assert len(report.record["resumed"]) == 1


def test_slides_that_were_moved_are_the_same_run(labelled_slides, tmp_path, trainer):
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(labelled_slides.parent, one)
    trainer.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        train(trainer, one / "labels.csv", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "checkpoint.safetensors").write_bytes(b"stands for one")
    (two / "deep").mkdir(parents=True)
    for path in one.iterdir():
        if path.suffix in {".tif", ".geojson"}:
            path.rename(two / "deep" / f"moved-{path.name}")
    rows = rows_of(one / "labels.csv")
    text = "".join(f"deep/moved-{row['slide']},{row['label']},deep/moved-{row['annotation']}\n" for row in rows[::-1])
    (two / "labels.csv").write_text("slide,label,annotation\n" + text)
    trainer.stop_at = None
    train(trainer, two / "labels.csv", tmp_path / "run")
    first, second = ([Path(entry.path).name for entry in fit.slides] for fit in trainer.fits)
    assert sorted(f"moved-{name}" for name in first) == sorted(second)
    # Another slide in the place of one is another run.
    shutil.copy(two / "deep" / f"moved-{rows[0]['slide']}", two / "deep" / f"moved-{rows[1]['slide']}")
    with pytest.raises(UsageError, match="the manifest's rows have changed"):
        train(trainer, two / "labels.csv", tmp_path / "run")


def test_a_table_of_metrics_that_cannot_be_read_is_named(labelled_slides, tmp_path, trainer):
    trainer.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        train(trainer, labelled_slides, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.csv"
    metrics.write_text(metrics.read_text(), encoding="utf-16")
    with pytest.raises(UsageError, match=r"metrics\.csv: is not the table of metrics .*; move it away"):
        train(trainer, labelled_slides, tmp_path / "run")
    metrics.unlink()
    metrics.mkdir()
    with pytest.raises(UsageError, match=r"metrics\.csv"):
        train(trainer, labelled_slides, tmp_path / "run")


def test_another_run_in_the_folder_is_protected(labelled_slides, tmp_path, trainer):
    out = tmp_path / "run"
    train(trainer, labelled_slides, out)
    (out / "notes.txt").write_text("mine")
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"holds another run: training\.seed is 0 there and 1 here.*--overwrite"):
        train(trainer, labelled_slides, out, seed=1)
    changed = tmp_path / "labels.csv"
    rows = [f"{labelled_slides.parent / row['slide']},{row['label']}" for row in rows_of(labelled_slides)]
    changed.write_text("\n".join(["slide,label", *rows]))
    with pytest.raises(UsageError, match="holds another run: the manifest's rows have changed"):
        train(trainer, changed, out)
    assert (out / "model.safetensors").read_bytes() == before
    with pytest.raises(ManifestError):
        train(trainer, labelled_slides, out, seed=1, folds=3, overwrite=True)
    assert (out / "model.safetensors").read_bytes() == before
    report = train(trainer, labelled_slides, out, seed=1, overwrite=True)
    assert not report.was_done
    assert (out / "model.safetensors").read_bytes() != before
    assert (out / "notes.txt").read_text() == "mine"
    assert len(rows_of(out / "metrics.csv")) == 8


def test_a_run_that_failed_before_its_first_step_is_in_nobodys_way(labelled_slides, tmp_path, trainer):
    def fail(*_arguments: object, **_named: object) -> TNet:
        raise SlideError("a.tif", "cannot be read")

    with pytest.raises(SlideError):
        train(fail, labelled_slides, tmp_path / "run")
    assert (tmp_path / "run" / "run.json").exists()
    assert "resumed" not in train(trainer, labelled_slides, tmp_path / "run", seed=1).record


def test_files_that_no_run_wrote_are_not_replaced(labelled_slides, tmp_path, trainer):
    (tmp_path / "model.safetensors").write_bytes(b"somebody's")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"holds a file model\.safetensors that no run of tnet train left"):
            train(trainer, labelled_slides, tmp_path, overwrite=overwrite)
    assert (tmp_path / "model.safetensors").read_bytes() == b"somebody's"


def test_folds_give_a_model_each_and_their_mean_and_spread(labelled_slides, tmp_path, trainer):
    out = tmp_path / "run"
    report = train(trainer, labelled_slides, out, folds=2)
    assert files_in(out) == {"config.toml", "splits.csv", "run.json", "folds.csv"}
    assert report.models == tuple(out / f"fold-{number}" / "model.safetensors" for number in (1, 2))
    for number in (1, 2):
        assert files_in(out / f"fold-{number}") == FILES
        assert read_card(out / f"fold-{number}" / "model.safetensors").name == f"run-fold-{number}"
    assert sorted(row["fold"] for row in rows_of(out / "splits.csv")) == ["1", "1", "2", "2"]
    one, two, mean, spread = rows_of(out / "folds.csv")
    assert [row["fold"] for row in (one, two, mean, spread)] == ["1", "2", "mean", "standard deviation"]
    accuracies = [float(row["accuracy"]) for row in (one, two)]
    assert float(mean["accuracy"]) == pytest.approx(sum(accuracies) / 2)
    assert float(spread["accuracy"]) == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert report.validation is not None
    assert report.validation["slides"] == 4
    assert report.validation["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert train(trainer, labelled_slides, out, folds=2).was_done
    assert len(trainer.fits) == 2
    # A fold that is lost is trained again, the other is not.
    (out / "fold-2" / "model.safetensors").unlink()
    assert not train(trainer, labelled_slides, out, folds=2).was_done
    assert len(trainer.fits) == 3
    train(trainer, labelled_slides, out, overwrite=True)
    assert not (out / "fold-1").exists()


def test_a_model_that_nothing_measured_says_so(labelled_slides, tmp_path, trainer):
    report = train(trainer, labelled_slides, tmp_path / "run", validation_share=0.0)
    assert report.validation is None
    card = read_card(tmp_path / "run" / "model.safetensors")
    assert card.metrics == {}
    assert "nothing is known of how good it is" in card.limits[0]
    assert "validation.csv" not in files_in(tmp_path / "run")


def test_an_impossible_network_is_refused_before_a_slide_is_read(tmp_path, trainer):
    manifest = tmp_path / "labels.csv"
    manifest.write_text("slide,label\nnone.tif,a\ngone.tif,b\n")
    with pytest.raises(UsageError, match=r"\[model\] backbone 'resnet1800'"):
        train(trainer, manifest, tmp_path / "run", backbone="resnet1800")
    assert not (tmp_path / "run").exists()


def test_annotations_without_a_normal_class_are_remarked_on(labelled_slides, tmp_path, trainer):
    told = Told()
    train(trainer, labelled_slides, tmp_path / "run", progress=told)
    assert any("--normal-class" in note for note in told.notes)


def test_of_several_processes_only_the_first_writes(labelled_slides, tmp_path, trainer, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    told = Told()
    assert not train(trainer, labelled_slides, tmp_path / "run", progress=told).speaks
    assert len(trainer.fits) == 1
    assert told.notes == []
    assert files_in(tmp_path / "run") == set()


@pytest.mark.slow
def test_folds_are_trained_by_two_processes_that_join_once(labelled_slides, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = (
        *TINY,
        "training.rounds=1",
        "training.batch_patches=4",
        "training.hard_epochs=1",
        "training.batch_slides=2",
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)),
            *("-m", "tnet_cli", "train", labelled_slides, "-o", "run", "--folds", "2", "--device", "cpu"),
            *("--normal-class", "benign", *(word for override in small for word in ("--set", override))),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 models in run/fold-*: cross-validation accuracy ")
    assert done.stdout.count("\n") == 1
