"""Patch models: folders of the zoo's kind, programs that are trusted or not, and models of tnet."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tnet_cli.errors import ModelFileError
from tnet_cli.model.encoder import TRUST_VARIABLE
from tnet_cli.modelfile.modelfile import bundled_models, load_model
from tnet_cli.modelfile.zoo import load_patch_model, read_zoo_config

CONFIG = {
    "spec_version": "1.0",
    "architecture": "resnet10t",
    "num_classes": 2,
    "patch_size_pixels": 175,
    "spacing_um_px": 0.5,
    "class_names": ["Other", "Tumor"],
    "transform": [
        {"name": "Resize", "arguments": {"size": 64}},
        {"name": "ToTensor"},
        {"name": "Normalize", "arguments": {"mean": [0.7, 0.6, 0.7], "std": [0.1, 0.2, 0.1]}},
    ],
    "license": "cc-by-4.0",
}


def zoo_folder(folder: Path, **changes) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=2).eval()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder, network


def oracle(network: torch.nn.Module, pixels: np.ndarray):
    values = (torch.from_numpy(pixels).float() / 255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(CONFIG["transform"][2]["arguments"][key]).view(3, 1, 1) for key in ("mean", "std"))  # type: ignore[index]
    with torch.inference_mode():
        return network((values - mean) / std).softmax(dim=1)


def patches(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def seen(model, pixels: np.ndarray):
    with torch.inference_mode():
        return model.network(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0]


def program_of(network: torch.nn.Module, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.zeros(2, 3, 64, 64)).save(str(file))


@pytest.fixture(autouse=True)
def _nobody_trusts(monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, "0")


def test_a_zoo_folder_gives_the_probabilities_of_its_network(tmp_path):
    folder, network = zoo_folder(tmp_path / "tumour")
    save_file(network.state_dict(), folder / "model.safetensors")
    model = load_patch_model(str(folder))
    assert (model.name, model.licence, model.classes) == ("tumour", "cc-by-4.0", ("Other", "Tumor"))
    assert model.side_um == pytest.approx(87.5)
    assert torch.allclose(seen(model, patches()), oracle(network, patches()), atol=1e-5)
    assert model.card().classes == ("Other", "Tumor")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec_version": "2.0"}, "spec_version"),
        ({"num_classes": 3}, "class_names needs 3 different names"),
        ({"class_names": ["Tumor", "Tumor"]}, "different names"),
        ({"class_names": ["=1+1", "Tumor"]}, "spreadsheet"),
        ({"patch_size_pixels": 0}, "patch_size_pixels"),
        ({"spacing_um_px": float("inf")}, "spacing_um_px"),
        ({"transform": [{"name": "Flip"}]}, "transform.0.name"),
        ({"transform": [{"name": "Resize", "arguments": {"size": [64, 32]}}]}, "one whole number"),
        ({"transform": [{"name": "Normalize", "arguments": {"mean": [0.5]}}]}, "three numbers"),
    ],
)
def test_a_config_that_is_not_the_zoos_is_refused_in_a_sentence(tmp_path, changes, words):
    folder, _ = zoo_folder(tmp_path / "bad", **changes)
    with pytest.raises(ModelFileError, match=words) as refused:
        read_zoo_config(folder / "config.json")
    assert "\n" not in str(refused.value)


def test_tensors_of_another_network_and_missing_files_are_refused(tmp_path):
    folder, _ = zoo_folder(tmp_path / "other")
    with pytest.raises(ModelFileError, match="has neither"):
        load_patch_model(str(folder))
    save_file({"conv1.weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ModelFileError, match="not those of a timm:resnet10t"):
        load_patch_model(str(folder))


def test_a_pickle_is_read_for_tensors_alone(tmp_path):
    folder, network = zoo_folder(tmp_path / "pickled")
    torch.save({"state_dict": network.state_dict()}, folder / "pytorch_model.bin")
    assert torch.allclose(seen(load_patch_model(str(folder)), patches()), oracle(network, patches()), atol=1e-5)
    torch.save({"weights": Path("whatever")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="more than tensors"):
        load_patch_model(str(folder))


def test_a_program_is_run_only_by_who_trusts_it_and_becomes_tensors_where_that_is_possible(tmp_path):
    folder, network = zoo_folder(tmp_path / "script")
    program_of(network, folder / "torchscript_model.pt")
    with pytest.raises(ModelFileError, match="is a program, which may do whatever"):
        load_patch_model(str(folder))
    model = load_patch_model(str(folder), trust_torchscript=True)
    assert model.encoder.backbone == "timm:resnet10t"
    assert torch.allclose(seen(model, patches()), oracle(network, patches()), atol=1e-5)


def test_a_program_of_an_unknown_architecture_is_held_as_it_is(tmp_path, monkeypatch):
    folder, network = zoo_folder(tmp_path / "script", architecture="preactresnet34")
    program_of(network, folder / "torchscript_model.pt")
    model = load_patch_model(str(folder), trust_torchscript=True)
    assert model.encoder.backbone == "torchscript"
    assert torch.allclose(seen(model, patches()), oracle(network, patches()), atol=1e-5)
    # In a model file it comes back, but again only for who trusts it.
    again = type(model.network)(model.encoder, needs_map=False)
    again.load_state_dict(model.network.state_dict())
    with torch.inference_mode():
        given = torch.from_numpy(patches()).permute(0, 3, 1, 2)
        assert torch.allclose(again.eval()(given)[0], oracle(network, patches()), atol=1e-5)
    monkeypatch.setenv(TRUST_VARIABLE, "0")
    with pytest.raises(ValueError, match=TRUST_VARIABLE):
        again.load_state_dict(model.network.state_dict())


def test_a_model_of_tnet_teaches_with_what_it_says_of_one_finest_patch():
    name = "synthetic-demo"
    teacher, model = load_patch_model(name), load_model(bundled_models()[name])
    config = model.network.config
    pixels = np.random.default_rng(1).integers(0, 256, (2, config.base_px, config.base_px, 3), dtype=np.uint8)
    given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.inference_mode():
        look = model.network.look(given, torch.tensor([[5, 7, config.processing_levels - 1]] * 2))
        logits = model.network.classification(look.features) / model.card.temperature
        wanted = (logits + torch.tensor(model.card.bias or (0.0,))).softmax(dim=1)
    assert torch.allclose(seen(teacher, pixels), wanted, atol=1e-5)
    assert teacher.side_um == pytest.approx(config.side_um(config.processing_levels - 1))


@pytest.mark.parametrize(
    ("licence", "name", "forbids"),
    [
        ("cc-by-nc-nd-4.0", "uni2-h", True),
        ("CC-BY-ND-4.0", "x", True),
        ("apache-2.0", "bioptimus/H-optimus-1", True),
        ("cc-by-nc-4.0", "hands", False),
        ("unknown", "standard", False),
    ],
)
def test_licences_that_forbid_derived_models_are_known(tmp_path, licence, name, forbids):
    folder, network = zoo_folder(tmp_path / "licensed", license=licence, name=name)
    save_file(network.state_dict(), folder / "model.safetensors")
    assert load_patch_model(str(folder)).forbids_derived_models == forbids
