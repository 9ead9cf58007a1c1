"""Every example runs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *args: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *[str(arg) for arg in args]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_classify_a_slide(tmp_path: Path):
    out = run("classify_a_slide.py", tmp_path)
    assert "predicted" in out
    assert "most weight" in out


def test_read_regions(made_slide: Path, tmp_path: Path):
    out = run("read_regions.py", made_slide, tmp_path)
    assert "6000 x 6000 px, 0.5 µm per pixel, read by tifffile" in out
    assert sorted(path.name for path in tmp_path.glob("view-*.png")) == ["view-1.png", "view-16.png", "view-4.png"]


@pytest.mark.slow
def test_train_on_synthetic(labelled_slides: Path, tmp_path: Path):
    # Slides to train on that are there are not drawn again.
    shutil.copytree(labelled_slides.parent, tmp_path / "train")
    settings = ["model.mpp=[16, 4, 1]", "model.base_px=64", "data.validation_share=0.5", "training.warmup_steps=2"]
    settings += ["training.patches_per_slide=2", "training.soft_steps=1", "training.hard_locations=[2, 2]"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    out = run("train_on_synthetic.py", tmp_path, "--fresh", 2, "--size", 1000, *overrides)
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert "accuracy on 2 fresh slides: " in out


@pytest.mark.slow
def test_distill_a_patch_model(tmp_path: Path):
    small = ("--count", 4, "--fresh", 2, "--size", 3000, "--steps", 4, "--locations", 8)
    out = run("distill_a_patch_model.py", tmp_path, *small)
    assert "agrees with synthetic-demo on every tile of 2 slides" in out
    assert out.count("95 % interval") == 2
    assert (tmp_path / "qupath" / "torchscript_model.pt").exists()


def test_every_example_is_run_here():
    tested = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in tested] == []
