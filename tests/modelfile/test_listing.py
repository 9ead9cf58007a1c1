"""The models at hand, and what makes a model file whole."""

import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tnet_cli.errors import ModelFileError
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import CARD_KEY, ModelCard
from tnet_cli.modelfile.listing import describe_model, list_models, verify_model
from tnet_cli.modelfile.modelfile import bundled_models, read_card, save_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = TNetConfig.slide(("a", "b"))
    card = ModelCard(
        name="made",
        summary="Tells a from b.",
        intended_use="Tests.",
        licence="Apache-2.0",
        created=date(2026, 1, 2),
        package_version="0.1.0",
        network=config,
    )
    path = tmp_path_factory.mktemp("models") / "made.safetensors"
    save_model(TNet(config), card, path)
    return path


def put_into_cache(cache: Path, repository: str, files: dict[str, Path]) -> None:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name, source in files.items():
        target = folder / "snapshots" / COMMIT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_models_of_the_hub_are_listed_and_those_of_others_are_not(saved, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    cache = tmp_path / "cache"
    put_into_cache(cache, "owner/tnet", {"model.safetensors": saved, "more/second.safetensors": saved})
    put_into_cache(cache, "owner/other", {"model.safetensors": tmp_path / "other.safetensors"})
    script = (
        "import json; from tnet_cli.modelfile.listing import list_models;"
        "print(json.dumps([model.document() for model in list_models()]))"
    )
    # In a process of its own: the hub's library reads its environment once.
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    listed = json.loads(ran.stdout)
    assert [(each["name"], each["source"]) for each in listed] == [
        *((name, "bundled") for name in bundled_models()),
        ("hf://owner/tnet", "cache"),
        ("hf://owner/tnet/more/second.safetensors", "cache"),
    ]
    assert listed[-1]["summary"] == "Tells a from b."
    assert listed[-1]["bytes"] == saved.stat().st_size


def test_a_damaged_bundled_model_is_named_and_the_others_listed(saved, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:500])
    notes: list[str] = []
    listed = list_models(notes.append, bundled={"cut": tmp_path / "cut.safetensors", "made": saved})
    assert [model.name for model in listed if model.source == "bundled"] == ["made"]
    assert "cut.safetensors: not a readable safetensors file" in notes[0]


def test_the_document_of_a_model_holds_its_whole_card(saved):
    document = describe_model(str(saved))
    assert ModelCard.model_validate(document["card"]) == read_card(saved)
    assert (document["path"], document["bytes"]) == (str(saved), saved.stat().st_size)


def test_a_whole_file(saved):
    found = verify_model(str(saved))
    assert (found.path, found.name, found.is_sealed) == (saved, "made", True)
    assert found.digest == describe_model(str(saved))["sha256"]
    assert found.weights == sum(each.numel() for each in TNet(TNetConfig.slide(("a", "b"))).parameters())


def test_every_bundled_model_is_whole():
    for name in bundled_models():
        assert verify_model(name).tensors > 0


@pytest.mark.parametrize("at", [-1, -4000, -100_000])
def test_one_changed_bit_of_a_weight_is_noticed(saved, tmp_path, at):
    changed = bytearray(saved.read_bytes())
    changed[at] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(changed)
    with pytest.raises(ModelFileError, match="damaged: its tensors have changed"):
        verify_model(str(tmp_path / "changed.safetensors"))


def test_a_cut_file(saved, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:-9])
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        verify_model(str(tmp_path / "cut.safetensors"))


def test_values_that_are_not_finite(saved, tmp_path):
    tensors = load_file(saved)
    tensors["classification.linear.bias"][1] = float("inf")
    header = {CARD_KEY: json.dumps(read_card(saved).model_dump(mode="json"))}
    save_file(tensors, tmp_path / "m.safetensors", metadata=header)
    with pytest.raises(ModelFileError, match=r"classification\.linear\.bias holds values that are not finite"):
        verify_model(str(tmp_path / "m.safetensors"))


def test_a_file_without_a_digest_is_whole_but_says_so(saved, tmp_path):
    header = {CARD_KEY: json.dumps(read_card(saved).model_dump(mode="json"))}
    save_file(load_file(saved), tmp_path / "m.safetensors", metadata=header)
    assert not verify_model(str(tmp_path / "m.safetensors")).is_sealed


def test_a_file_of_the_hub_must_be_what_it_is_stored_under(saved, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    digest = describe_model(str(saved))["sha256"]
    for name, message in ((digest, None), ("0" * 64, "the hub's is 0000")):
        shutil.copy(saved, blobs / name)
        link = tmp_path / f"{name[:4]}.safetensors"
        link.symlink_to(blobs / name)
        if message is None:
            assert verify_model(str(link)).digest == digest
        else:
            with pytest.raises(ModelFileError, match=message):
                verify_model(str(link))
