"""``tnet models``, and photographs classified with what it imports."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.authors_forward import birds_forward
from tests.tensor_bundle import authors_variables, shake, write_bundle
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet

BIRDS = tuple(f"bird {number}" for number in range(7))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in one thread whatever the command sets: on a busy machine threads that wait for each other crawl."""
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    set_threads(1)
    monkeypatch.setattr(torch, "set_num_threads", lambda _number: None)
    yield
    set_threads(threads)


def photograph(path: Path, seed: int, width: int, height: int) -> np.ndarray:
    """A smooth picture with a few sharp spots, so that cells differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(12):
        y, x = int(rng.integers(height - 30)), int(rng.integers(width - 30))
        pixels[y : y + 30, x : x + 30] = rng.integers(0, 256, (30, 30, 3))
    Image.fromarray(pixels).save(path)
    return pixels


def details(folder: Path, name: str) -> dict[str, Any]:
    document = json.loads((folder / "slides" / name / "result.json").read_text())
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("number", [0, 2])
def test_a_checkpoint_of_birds_says_what_its_variables_say(tnet, tmp_path, number):
    torch.manual_seed(11 + number)
    network = shake(TNet(TNetConfig.fine_grained(BIRDS, f"tf_efficientnet_b{number}")), seed=number)
    variables = authors_variables(network)
    write_bundle(tmp_path / "latest" / "ckpt-5", variables)
    (tmp_path / "names.txt").write_text("\n".join(BIRDS))
    imported = tnet("models", "import", "latest/ckpt-5.index", "-o", "birds.safetensors", "--classes", "names.txt")
    assert imported.code == 0, imported.err
    assert "7 classes, images of 448 px, 2 processing levels with 5 x 5 cells, features weighted" in imported.out

    square = photograph(tmp_path / "square.png", 1, 448, 448)
    wide = photograph(tmp_path / "wide.png", 2, 612, 405)
    ran = tnet("classify", "square.png", "wide.png", "-m", "birds.safetensors", "-o", "out", "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["slides"]
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    for name, pixels, row in (("square", square, rows[0]), ("wide", wide, rows[1])):
        expected = birds_forward(variables, state, pixels)
        ranked = np.sort(expected.probabilities)
        assert ranked[-3] - ranked[-4] > 1e-5  # otherwise another order of summation may attend elsewhere
        result = details(tmp_path / "out", name)
        np.testing.assert_allclose(result["logits"], expected.logits, rtol=0, atol=1e-4)
        assert np.ptp(expected.logits) > 0.1
        assert row["prediction"] == BIRDS[int(expected.logits.argmax())]
        assert (row["roots"], row["locations"], row["mpp"], row["status"]) == (1, 3, None, "ok")
        with (tmp_path / "out" / "slides" / name / "regions.csv").open(newline="") as file:
            regions = list(csv.DictReader(file))
        np.testing.assert_allclose([float(r["weight"]) for r in regions], expected.weights, atol=1e-5)
        np.testing.assert_allclose(
            [float(r["location_probability"]) for r in regions[1:]], expected.probabilities[expected.cells], atol=1e-5
        )
        # Boxes are in the photograph's own pixels.
        height, width = pixels.shape[:2]
        boxes = [tuple(int(r[key]) for key in ("minx", "miny", "width", "height")) for r in regions]
        assert boxes[0] == (0, 0, width, height)
        for cell, (x, y, w, h) in zip(expected.cells, boxes[1:], strict=True):
            top, left = (-1 + 73 * place for place in divmod(cell, 5))
            assert (x, y) == (round(left * width / 448), round(top * height / 448))
            assert (x + w, y + h) == (round((left + 157) * width / 448), round((top + 157) * height / 448))
        with Image.open(tmp_path / "out" / "slides" / name / "overlay.png") as overlay:
            assert overlay.width == 1600
        drawn = json.loads((tmp_path / "out" / "slides" / name / "regions.geojson").read_text())
        assert len(drawn["features"]) == 4


@pytest.mark.parametrize("side", [448, 896])
def test_the_reference_checkpoint_gives_the_authors_logits(tnet, shared, tmp_path, side):
    parity = shared / "reference" / "parity"
    imported = tnet(
        *("models", "import", parity / "ckpt_fmow" / "ckpt-123", "-o", "fmow.safetensors", "--image-px", side)
    )
    assert imported.code == 0, imported.err
    assert "62 classes" in imported.out
    with np.load(parity / f"fmow_{side}.npz") as tensors:
        images, logits = tensors["images_uint8"], tensors["logits"]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"place{number}.png")
    ran = tnet("classify", "place0.png", "place1.png", "-m", "fmow.safetensors", "-o", "out", "--no-overlay")
    assert ran.code == 0, ran.err
    for number in (0, 1):
        result = details(tmp_path / "out", f"place{number}")
        np.testing.assert_allclose(result["logits"], logits[number], rtol=0, atol=2e-4)
        assert result["locations"] == {448: 2, 896: 4}[side]
    verified = tnet("models", "verify", "fmow.safetensors")
    assert (verified.code, "4517575 weights" in verified.out, verified.err) == (0, True, "")


def test_image_models_take_locations_but_no_budget(tnet, tmp_path, image_model):
    photograph(tmp_path / "photo.png", 3, 300, 200)
    ran = tnet("classify", "photo.png", "-m", image_model, "--locations", "5", "--json", "--no-overlay")
    assert json.loads(ran.out)["slides"][0]["locations"] == 5
    refused = tnet("classify", "photo.png", "-m", image_model, "--budget", "5", "-o", "other")
    assert (refused.code, "it has no --budget; give --locations" in refused.err) == (2, True)


def test_a_picture_that_cannot_be_read_fails_alone(tnet, tmp_path, image_model):
    photograph(tmp_path / "photo.png", 3, 300, 200)
    (tmp_path / "broken.png").write_bytes((tmp_path / "photo.png").read_bytes()[:2000])
    ran = tnet("classify", "broken.png", "photo.png", "-m", image_model, "--no-overlay")
    assert ran.code == 6
    assert "broken.png" in ran.err
    assert "Traceback" not in ran.err


def test_the_list_names_the_bundled_model(tnet):
    listed = tnet("models", "list")
    assert listed.code == 0
    assert "synthetic-demo (bundled, 2.0 MB): Tells synthetic slides" in listed.out
    assert "classes: benign, lesion" in listed.out
    bundled = [
        each for each in json.loads(tnet("models", "list", "--json").out)["models"] if each["source"] == "bundled"
    ]
    assert [each["name"] for each in bundled] == ["colorectal-neoplasia", "synthetic-demo"]
    demo = bundled[1]
    assert (demo["name"], demo["kind"], demo["classes"]) == ("synthetic-demo", "slides", ["benign", "lesion"])
    assert demo["bytes"] == Path(demo["path"]).stat().st_size


def test_a_card_is_shown_whole(tnet, image_model):
    shown = tnet("models", "show", "synthetic-demo")
    assert shown.code == 0
    assert shown.out.startswith("# synthetic-demo\n")
    document = json.loads(tnet("models", "show", image_model, "--json").out)
    assert document["path"] == str(image_model)
    assert document["card"]["network"]["image_px"] == 64
    assert len(document["sha256"]) == 64


def test_a_whole_file_is_verified_and_a_damaged_one_is_not(tnet, tmp_path, image_model):
    verified = tnet("models", "verify", image_model)
    assert verified.code == 0
    assert f"{image_model}: whole; " in verified.out
    changed = bytearray(image_model.read_bytes())
    changed[-7] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(changed)
    refused = tnet("models", "verify", "changed.safetensors")
    assert (refused.code, refused.out) == (4, "")
    assert "changed.safetensors: damaged: its tensors have changed" in refused.err


@pytest.mark.parametrize("command", ["list", "show", "verify", "import", "features"])
def test_every_command_has_help(tnet, command):
    ran = tnet("models", command, "--help")
    assert ran.code == 0
    assert "Options" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["models", "show", "nothing"], 4, "neither a file nor a bundled model"),
        (["models", "verify", "nothing"], 4, "neither a file nor a bundled model"),
        (["models", "import", "gone/ckpt-1", "-o", "m.safetensors"], 4, "gone/ckpt-1.index does not exist"),
        (["models", "import", "gone/ckpt-1"], 2, "Missing option"),
        (["models", "import", "gone/ckpt-1", "-o", "m.pt"], 2, "expected a file ending in .safetensors"),
        (["models", "frobnicate"], 2, "No such command"),
    ],
)
def test_wrong_usage_is_one_sentence_and_the_right_code(tnet, arguments, code, complaint):
    ran = tnet(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert complaint in ran.err
    assert "Traceback" not in ran.err
