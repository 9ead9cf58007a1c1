"""Every example runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tnet_cli.synth.synthesis import write_synthetic_slide

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *args: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *[str(arg) for arg in args]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_classify_a_slide(tmp_path: Path):
    out = run("classify_a_slide.py", tmp_path)
    assert "predicted" in out
    assert "most weight" in out


def test_read_regions(tmp_path: Path):
    slide = write_synthetic_slide(tmp_path / "s.tif", seed=2, side_px=4096, workers=1)
    out = run("read_regions.py", slide.path, tmp_path)
    assert "4096 x 4096 px, 0.5 µm per pixel, read by tifffile" in out
    assert sorted(path.name for path in tmp_path.glob("view-*.png")) == ["view-1.png", "view-16.png", "view-4.png"]


@pytest.mark.slow
def test_train_on_synthetic(tmp_path: Path):
    settings = ["warmup_steps=2", "patches_per_slide=2", "soft_steps=1", "hard_locations=[2, 2]"]
    overrides = [part for setting in settings for part in ("--set", f"training.{setting}")]
    out = run("train_on_synthetic.py", tmp_path, "--count", 8, "--fresh", 2, "--size", 1000, *overrides)
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert "accuracy on 2 fresh slides: " in out


def test_every_example_is_run_here():
    tested = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in tested] == []
