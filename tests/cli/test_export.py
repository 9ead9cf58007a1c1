"""``tnet models export``: what ONNX Runtime computes is what torch computes."""

import json
import sys
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import onnxruntime
import pytest
import torch

from tnet_cli.cli.app import main
from tnet_cli.modelfile.modelfile import load_model


@pytest.fixture(scope="module")
def export(untrained_model, tmp_path_factory):
    """The folder that the command wrote, and what it said; an export takes seconds."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    with redirect_stdout(StringIO()) as said, pytest.raises(SystemExit) as ended:
        main(["models", "export", str(untrained_model), "-o", str(folder)])
    assert not ended.value.code
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def exported(export):
    return export[0]


def session(folder, name):
    return onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 5])
def test_a_look_gives_the_features_and_probabilities_of_torch(exported, untrained_model, count):
    network, rng = load_model(untrained_model).network, np.random.default_rng(count)
    side = network.config.base_px
    patches = rng.random((count, 3, side, side), dtype=np.float32)
    positions = rng.integers(0, 4, (count, 3))
    allowed = rng.random((count, 16)) < 0.7
    given = {"patches": patches, "positions": positions, "allowed": allowed}
    features, log_probs = session(exported, "look.onnx").run(None, given)
    with torch.inference_mode():
        seen = network.look(*map(torch.from_numpy, (patches, positions, allowed)))
    np.testing.assert_allclose(features, seen.features, atol=2e-4)
    assert seen.cell_log_probs is not None
    assert np.array_equal(np.isfinite(log_probs), allowed)
    np.testing.assert_allclose(log_probs[allowed], seen.cell_log_probs.numpy()[allowed], atol=2e-4)


def test_all_features_of_a_slide_give_its_logits(exported, untrained_model):
    network = load_model(untrained_model).network
    features = torch.randn(23, network.feature.feature_length, generator=torch.Generator().manual_seed(1))
    logits, weights = session(exported, "classify.onnx").run(None, {"features": features.numpy()})
    with torch.inference_mode():
        answer = network.classify([features])
    np.testing.assert_allclose(logits, answer.logits, atol=1e-4)
    np.testing.assert_allclose(weights, answer.weights[0], atol=1e-5)


def test_the_card_goes_with_it(exported, untrained_model):
    card = json.loads((exported / "card.json").read_text())
    assert card == load_model(untrained_model).card.model_dump(mode="json")


def test_the_command_says_what_it_wrote_and_replaces_nothing_unasked(tnet, export, untrained_model, monkeypatch):
    folder, said = export
    assert said.startswith(f"{folder}: untrained as look.onnx, classify.onnx and card.json, ")
    again = tnet("models", "export", untrained_model, "-o", folder)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "look.onnx exists" in again.err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    without = tnet("models", "export", untrained_model, "-o", "other")
    assert without.code == 2
    assert "pip install 'tnet-cli[onnx]'" in without.err


@pytest.mark.parametrize("name", ["look.onnx", "classify.onnx", "card.json"])
def test_what_another_program_left_is_not_replaced(tnet, untrained_model, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    for option in ((), ("--overwrite",)):
        refused = tnet("models", "export", untrained_model, "-o", "out", *option)
        assert refused.code == 2
        assert f"out: holds a file {name} that no run of tnet models export left there" in refused.err
    assert (tmp_path / "out" / name).read_text() == "{}"
