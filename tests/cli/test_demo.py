"""``tnet synth`` and ``tnet demo``: slides from nothing, and the bundled model on one of them."""

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.annotation import read_annotation


def test_synth_writes_slides_labels_and_annotations_that_can_be_classified(tnet, tmp_path, untrained_model):
    ran = tnet("synth", "slides", "--count", "2", "--size", "2000", "--seed", "4", "-j", "1")
    assert (ran.code, ran.out) == (0, "2 slides and labels.csv in slides\n")
    with (tmp_path / "slides" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["slide", "label", "annotation"]
    assert sorted(row["label"] for row in rows) == ["benign", "lesion"]
    assert all((tmp_path / "slides" / row[column]).is_file() for row in rows for column in ("slide", "annotation"))

    classified = tnet("classify", "slides/labels.csv", "-m", untrained_model, "--no-overlay")
    assert classified.code == 0
    assert classified.out.count("\n") == 2


def test_the_demo_finds_the_lesion(tnet, tmp_path: Path):
    ran = tnet("demo", "--size", "4000", "--seed", "1")
    assert ran.code == 0
    said = re.match(r"demo-4000px-1: lesion, probability (\d\.\d{3}) \(", ran.out)
    assert said
    assert float(said[1]) > 0.9
    made, folder = tmp_path / "tnet-demo" / "demo-4000px-1.geojson", Path("tnet-demo/slides/demo-4000px-1")
    with (folder / "regions.csv").open(newline="") as file:
        top = max(csv.DictReader(file), key=lambda row: float(row["weight"]))
    most_weight = Region(*(int(top[side]) for side in ("minx", "miny", "width", "height")))
    assert read_annotation(made, Size(4000, 4000)).fractions([most_weight]).item() > 0.5
    assert str(folder / "overlay.png") in ran.out
    with Image.open(folder / "overlay.png") as picture:
        assert picture.width == 1600
    assert "not for diagnosis" in ran.err


def test_the_demo_replaces_no_results_but_a_demos(tnet, tmp_path: Path, noise_slide, untrained_model):
    assert tnet("classify", noise_slide, "-m", untrained_model, "--mpp", "1", "--no-overlay", "-o", "out").code == 0
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    refused = tnet("demo", "--size", "4000", "-o", "out")
    assert (refused.code, refused.out) == (2, "")
    assert "out: holds results of slides that are no demo's" in refused.err
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before
    (tmp_path / "tnet-demo").mkdir()
    (tmp_path / "tnet-demo" / "demo-4000px-1.tif").write_text("mine")
    refused = tnet("demo", "--size", "4000")
    assert "holds a file demo-4000px-1.tif that no run of tnet demo left there" in refused.err
    assert (tmp_path / "tnet-demo" / "demo-4000px-1.tif").read_text() == "mine"


@pytest.mark.parametrize("command", [("synth", "", "--count", "1"), ("demo", "-o", "")])
def test_an_empty_path_is_wrong_usage(tnet, tmp_path: Path, command):
    refused = tnet(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "is empty; give a path" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_drawn_is_refused(tnet):
    refused = tnet("synth", "slides", "--count", "1", "--size", "100")
    assert refused.code == 2
    assert "greater than or equal to 2000" in refused.err
