"""``tnet synth`` and ``tnet demo``: slides from nothing, and the bundled model on one of them."""

import csv
from pathlib import Path

from PIL import Image


def test_synth_writes_slides_labels_and_annotations(tnet, tmp_path):
    ran = tnet("synth", "slides", "--count", "2", "--size", "3000", "--seed", "4", "-j", "1")
    assert (ran.code, ran.out) == (0, "2 slides and labels.csv in slides\n")
    with (tmp_path / "slides" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["slide", "label", "annotation"]
    assert sorted(row["label"] for row in rows) == ["benign", "lesion"]
    assert all((tmp_path / "slides" / row[column]).is_file() for row in rows for column in ("slide", "annotation"))


def test_the_manifest_of_synth_can_be_classified(tnet, tmp_path, untrained_model):
    assert tnet("synth", "slides", "--count", "2", "--size", "3000", "--seed", "4", "-j", "1").code == 0
    ran = tnet("classify", "slides/labels.csv", "-m", untrained_model, "--no-overlay")
    assert ran.code == 0
    assert ran.out.count("\n") == 2


def test_the_demo_finds_the_lesion(tnet, tmp_path: Path):
    ran = tnet("demo", "--size", "10000", "--seed", "1")
    assert ran.code == 0
    assert ran.out.startswith("demo-10000px-1: lesion, probability 0.99") or "probability 1.000" in ran.out
    overlay = tmp_path / "tnet-demo" / "slides" / "demo-10000px-1" / "overlay.png"
    assert str(overlay.relative_to(tmp_path)) in ran.out
    with Image.open(overlay) as picture:
        assert picture.width == 1600
    assert "not for diagnosis" in ran.err


def test_a_size_that_cannot_be_drawn_is_refused(tnet):
    refused = tnet("synth", "slides", "--count", "1", "--size", "100")
    assert refused.code == 2
    assert "greater than or equal to 2000" in refused.err
