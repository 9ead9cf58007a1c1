"""Model files: what is written is what is read, and what is wrong is said."""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from tnet_cli.errors import ModelFileError
from tnet_cli.metrics.predictions import softmax
from tnet_cli.model.config import EncoderConfig, TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import CARD_KEY, ModelCard, TileRate, TileRates, TrainingData, calibration_words
from tnet_cli.modelfile.card_markdown import card_as_markdown
from tnet_cli.modelfile.modelfile import bundled_models, find_model, load_model, read_card, save_model

CONFIG = TNetConfig.slide(("a", "b"))


def made_card(**changes) -> ModelCard:
    facts: dict[str, Any] = {
        "name": "made",
        "summary": "Tells a from b.",
        "intended_use": "Tests.",
        "limits": ("Everything else.",),
        "licence": "Apache-2.0",
        "training_data": (TrainingData(name="nothing", licence="CC0-1.0"),),
        "metrics": {"accuracy": 0.5, "interval": [0.25, 0.75], "arms": {"random": 0.1}},
        "created": date(2026, 1, 2),
        "package_version": "0.1.0",
        "network": CONFIG,
    }
    return ModelCard(**(facts | changes))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[TNet, Path]:
    torch.manual_seed(0)
    network = TNet(CONFIG)
    save_model(network, made_card(), tmp_path / "made.safetensors")
    return network, tmp_path / "made.safetensors"


@pytest.mark.parametrize("is_rounded", [True, False])
def test_a_frozen_encoder_comes_back_to_the_bit_in_half_the_room_where_that_loses_nothing(tmp_path, is_rounded):
    torch.manual_seed(0)
    frozen = EncoderConfig(backbone="tnet_small", processing_levels=(0, 1, 2, 3), input_px=256, frozen=True)
    config = TNetConfig.model_validate(CONFIG.model_dump() | {"encoders": (frozen,)})
    network = TNet(config)
    if is_rounded:
        with torch.no_grad():
            for weights in network.feature.parameters():
                weights.copy_(weights.half())
    save_model(network, made_card(network=config), tmp_path / "made.safetensors")
    stored = load_file(tmp_path / "made.safetensors")
    back = load_model(tmp_path / "made.safetensors").network.state_dict()
    own = {name: each for name, each in network.state_dict().items() if name.startswith("feature.encoders.0.")}
    assert all(torch.equal(back[name], each) for name, each in own.items())
    kinds = {stored[name].dtype for name, each in own.items() if each.ndim > 1 and each.any()}
    assert kinds == {torch.float16 if is_rounded else torch.float32}


def test_weights_and_card_come_back(saved):
    network, path = saved
    loaded = load_model(path)
    assert loaded.card == made_card()
    assert not loaded.network.training
    for name, tensor in network.state_dict().items():
        back = loaded.network.state_dict()[name]
        assert back.dtype == tensor.dtype
        torch.testing.assert_close(back, tensor, rtol=1e-3, atol=1e-4)


def test_the_same_weights_give_the_same_file(saved, tmp_path):
    network, path = saved
    save_model(network, made_card(), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_readable_card_says_what_the_header_says(saved):
    text = saved[1].with_suffix(".md").read_text()
    for part in ("# made", "Tells a from b.", "Everything else.", "nothing (CC0-1.0)", "random: 0.1", "0.25, 0.75"):
        assert part in text


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelFileError, match="neither a file nor a bundled model"):
        find_model(str(tmp_path / "gone.safetensors"))
    with pytest.raises(ModelFileError, match="is a directory"):
        find_model(str(tmp_path))


def test_a_truncated_file(saved):
    path = saved[1]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        load_model(path)


def test_a_file_that_is_something_else(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("hello, this is not a model, it is a sentence")
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        read_card(path)


def test_safetensors_without_a_card(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="without a tnet card"):
        read_card(tmp_path / "other.safetensors")


def test_a_card_with_an_unknown_key(saved, tmp_path):
    card = made_card().model_dump(mode="json") | {"surprise": 1}
    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors", metadata={CARD_KEY: json.dumps(card)})
    with pytest.raises(ModelFileError, match="surprise"):
        read_card(tmp_path / "m.safetensors")


def test_tensors_of_another_architecture(saved, tmp_path):
    tensors = load_file(saved[1])
    name = next(name for name in tensors if name.startswith("location"))
    del tensors[name]
    header = {CARD_KEY: json.dumps(made_card().model_dump(mode="json"))}
    save_file(tensors, tmp_path / "m.safetensors", metadata=header)
    with pytest.raises(ModelFileError, match="its tensors are not those of"):
        load_model(tmp_path / "m.safetensors")


def test_a_card_of_another_network_is_not_written(tmp_path):
    card = made_card(network=TNetConfig.slide(("x", "y")))
    with pytest.raises(ValueError, match="not the configuration"):
        save_model(TNet(CONFIG), card, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_card_of_old_with_a_threshold_calls_the_same_classes_the_most_probable(tmp_path, rng):
    path = tmp_path / "old.safetensors"
    old = made_card().model_dump(mode="json", exclude={"bias", "least_sharpness"}) | {
        "threshold": 0.8,
        "temperature": 1.5,
    }
    save_file({"x": torch.zeros(1)}, path, metadata={CARD_KEY: json.dumps(old)})
    card = read_card(path)
    logits = rng.normal(size=(200, 2)) * 3
    by_threshold = softmax(logits, 1.5)[:, 1] >= 0.8
    probabilities = softmax(logits, card.temperature, card.bias)
    assert (probabilities.argmax(axis=1) == by_threshold).all()
    assert by_threshold.any()
    assert not by_threshold.all()
    assert "threshold" not in card.model_dump()
    assert made_card(threshold=0.5).bias == ()
    for wrong, said in ((1.5, "between 0 and 1"), ("a", "between 0 and 1")):
        with pytest.raises(ValidationError, match=said):
            made_card(threshold=wrong)
    with pytest.raises(ValidationError, match="a finite number for each of the 3 classes"):
        made_card(network=TNetConfig.slide(("x", "y", "z")), threshold=0.4)
    with pytest.raises(ValidationError, match="a finite number for each"):
        made_card(bias=(1.0, float("inf")))


def test_how_far_probabilities_hold_is_said_where_it_was_measured():
    assert calibration_words(made_card().calibration_error) == "never checked on test slides"
    judged = {"evaluation": {"expected calibration error": 0.0512, "slides": 120}}
    assert calibration_words(made_card(metrics=judged).calibration_error) == "on average off by 0.05 on 120 test slides"
    for odd in ({"evaluation": 3}, {"evaluation": {"slides": 2}}, {"evaluation": {"expected calibration error": "x"}}):
        assert made_card(metrics=odd).calibration_error is None


def test_rates_on_single_tiles_come_back_and_stand_on_the_page(tmp_path):
    rate = TileRate(value=0.9, low=0.85, high=0.94, tiles=200)
    rates = TileRates(source="tiles of others", sensitivity={"b": rate}, specificity={"b": rate})
    torch.manual_seed(0)
    save_model(TNet(CONFIG), made_card(tile_rates=rates), tmp_path / "made.safetensors")
    card = read_card(tmp_path / "made.safetensors")
    assert card.tile_rates == rates
    assert "- b: sensitivity 0.900 (0.850 to 0.940), 200 tiles; specificity 0.900" in card_as_markdown(card)
    with pytest.raises(ValidationError, match="none of the classes"):
        made_card(tile_rates=TileRates(source="s", sensitivity={"x": rate}, specificity={"x": rate}))
    with pytest.raises(ValidationError, match="the same classes"):
        TileRates(source="s", sensitivity={"b": rate}, specificity={})


def find_on_hub(address: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Look for a model in a process of its own: the hub's library reads its environment once."""
    script = "import sys; from tnet_cli.modelfile.modelfile import find_model; print(find_model(sys.argv[1]))"
    return subprocess.run(
        [sys.executable, "-c", script, address],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_of_the_hub_is_taken_from_the_cache_when_offline(saved, tmp_path):
    repository = tmp_path / "cache" / "models--owner--repo"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "model.safetensors").write_bytes(saved[1].read_bytes())
    found = find_on_hub("hf://owner/repo", tmp_path / "cache")
    assert found.stdout.strip() == str(snapshot / "model.safetensors")


def test_a_model_of_the_hub_that_is_not_cached_says_so_when_offline(tmp_path):
    found = find_on_hub("hf://owner/repo/other.safetensors", tmp_path / "cache")
    assert found.returncode != 0
    last = found.stderr.strip().splitlines()[-1]
    assert "hf://owner/repo/other.safetensors: the hub cannot be reached" in last
    assert "other.safetensors is not in the local cache" in last


def test_a_hub_address_without_owner():
    with pytest.raises(ModelFileError, match="expected hf://owner/repo"):
        find_model("hf://owner")


def test_the_bundled_model_is_a_demonstration_and_says_so():
    path = bundled_models()["synthetic-demo"]
    assert path.stat().st_size < 25_000_000
    card = read_card(path)
    assert "not for diagnosis" in card.intended_use
    assert "not for diagnosis" in path.with_suffix(".md").read_text()
