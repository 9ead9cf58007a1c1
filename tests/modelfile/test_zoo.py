"""Patch models: folders of the zoo's kind, programs that are trusted or not, and models of tnet."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from tests.hub_server import serving_hub
from tests.model_files import save_random, tiny_network
from tnet_cli.errors import ModelFileError
from tnet_cli.model.config import EncoderConfig, TNetConfig, mpp_by_level
from tnet_cli.model.encoder import TRUST_VARIABLE
from tnet_cli.modelfile.modelfile import bundled_models, load_model
from tnet_cli.modelfile.zoo import load_patch_model
from tnet_cli.modelfile.zoo_config import read_zoo_config

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
        ({"num_classes": 0}, "num_classes: .* equal to 1, not 0"),
        ({"class_names": None}, "class_names"),
        ({"transform": [{"name": "Flip"}]}, "transform.0.name"),
        ({"transform": [{"name": "ToTensor", "size": 64}]}, "transform.0.size is no key of a step"),
        ({"transform": [{"name": "Resize", "arguments": {"size": [64, 32]}}]}, "one whole number"),
        ({"transform": [{"name": "Normalize", "arguments": {"mean": [0.5]}}]}, "three numbers"),
        ({"transform": [{"name": "Normalize", "arguments": {"std": [None, 1, 1]}}]}, r"not \[null, 1, 1\]"),
    ],
)
def test_a_config_that_is_not_the_zoos_is_refused_in_a_sentence(tmp_path, changes, words):
    folder, _ = zoo_folder(tmp_path / "bad", **changes)
    with pytest.raises(ModelFileError, match=words) as refused:
        read_zoo_config(folder / "config.json")
    assert "\n" not in str(refused.value)


def test_a_document_that_is_no_config_is_refused_in_a_sentence(tmp_path):
    for content, words in (("", "is no JSON"), ("[1]", "expected an object"), ("[" * 100_000, "is no JSON")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelFileError, match=words):
            read_zoo_config(tmp_path / "config.json")


def test_timms_own_folder_teaches_once_it_says_what_its_patches_are(tmp_path):
    document = {
        "architecture": "resnet10t",
        "num_classes": 2,
        "global_pool": "avg",
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "interpolation": "bicubic",
            "mean": CONFIG["transform"][2]["arguments"]["mean"],  # type: ignore[index]
            "std": CONFIG["transform"][2]["arguments"]["std"],  # type: ignore[index]
        },
        "label_names": ["Other", "Tumor"],
    }
    folder, network = zoo_folder(tmp_path / "timm")
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match='add "patch_size_pixels" and "spacing_um_px" to it'):
        load_patch_model(str(folder))
    (folder / "config.json").write_text(json.dumps(document | {"patch_size_pixels": 64, "spacing_um_px": 0.5}))
    model = load_patch_model(str(folder))
    assert (model.classes, model.side_um, model.encoder.interpolation) == (("Other", "Tumor"), 32, "bicubic")
    assert torch.allclose(seen(model, patches()), oracle(network, patches()), atol=1e-5)


def test_one_class_stands_against_nothing(tmp_path):
    folder, _ = zoo_folder(tmp_path / "one", num_classes=1, class_names=["Tumor"])
    network = timm.create_model("resnet10t", num_classes=1).eval()
    save_file(network.state_dict(), folder / "model.safetensors")
    model = load_patch_model(str(folder))
    values = (torch.from_numpy(patches()).float() / 255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (model.encoder.pixel_mean, model.encoder.pixel_std))
    with torch.inference_mode():
        assert torch.allclose(seen(model, patches()), network((values - mean) / std).sigmoid(), atol=1e-5)


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
    whole = (folder / "pytorch_model.bin").read_bytes()
    for damaged in (b"", b"\x80", whole[: len(whole) // 2]):
        (folder / "pytorch_model.bin").write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: (not a file of|holds more than) tensors"):
            load_patch_model(str(folder))


def test_a_program_is_run_only_by_who_trusts_it_and_becomes_tensors_where_that_is_possible(tmp_path):
    folder, network = zoo_folder(tmp_path / "script")
    program_of(network, folder / "torchscript_model.pt")
    with pytest.raises(ModelFileError, match="is a program, which may do whatever"):
        load_patch_model(str(folder))
    model = load_patch_model(str(folder), trust_torchscript=True)
    assert model.encoder.backbone == "timm:resnet10t"
    assert torch.allclose(seen(model, patches()), oracle(network, patches()), atol=1e-5)


class Two(torch.nn.Module):
    def forward(self, patches):
        return patches.mean(dim=(2, 3)), patches


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: timm.create_model("resnet10t", num_classes=5).eval(), r"gives \(2, 5\) for 2 patches"),
        (Two, "gives no table of logits"),
        (None, "is no TorchScript program"),
    ],
)
def test_a_program_that_is_no_patch_model_is_refused(tmp_path, build, words):
    folder, _ = zoo_folder(tmp_path / "script")
    if build is None:
        (folder / "torchscript_model.pt").write_bytes(b"PK")
    else:
        program_of(build(), folder / "torchscript_model.pt")
    with pytest.raises(ModelFileError, match=words):
        load_patch_model(str(folder), trust_torchscript=True)


def test_a_program_of_an_unknown_architecture_is_held_as_it_is(tmp_path, monkeypatch):
    folder, network = zoo_folder(tmp_path / "script", architecture="preactresnet34")
    program_of(network, folder / "torchscript_model.pt")
    model = load_patch_model(str(folder), trust_torchscript=True)
    assert model.encoder.backbone == "torchscript"
    assert torch.allclose(seen(model, patches()), oracle(network, patches()), atol=1e-5)
    # Stored once, and nothing of it to be trained.
    assert model.network.state_dict().keys() == {"backbone.program"}
    assert list(model.network.parameters()) == []
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


SMALL = EncoderConfig(backbone="tnet_small", processing_levels=(0,), input_px=64)
FINE = EncoderConfig(
    backbone="timm:vit_tiny_patch16_224",
    processing_levels=(1,),
    input_px=32,
    arguments={"depth": 1, "img_size": 32, "reg_tokens": 2},
    pooling="cls+mean",
    frozen=True,
)


def test_a_model_with_a_finest_encoder_of_its_own_teaches(tmp_path):
    config = TNetConfig(
        backbone="tnet_small",
        class_names=("benign", "tumour", "stroma"),
        base_px=64,
        grid=2,
        cell_fraction=0.5,
        processing_levels=2,
        mpp=mpp_by_level(16.0, 2, (64, 32)),
        choice="beam",
        locations=(3,),
        position_axes="s",
        encoders=(SMALL, FINE),
    )
    path = save_random(tmp_path, config, seed=0)
    teacher, network = load_patch_model(str(path)), load_model(path).network
    given = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        features = network.look(given, torch.tensor([[0, 0, 1]] * 2)).features
        assert torch.allclose(teacher.network(given)[0], network.classification(features).softmax(dim=1), atol=1e-5)
    assert teacher.architecture == FINE.backbone
    assert teacher.side_um == pytest.approx(16)


def test_a_model_whose_answer_depends_on_the_place_is_no_patch_model(tmp_path):
    config = tiny_network().model_copy(update={"position_axes": "yxs"})
    with pytest.raises(ModelFileError, match="depends on where in its image that lies"):
        load_patch_model(str(save_random(tmp_path, config, seed=0)))


def test_the_hub_has_patch_models_and_models_of_tnet(tmp_path, monkeypatch):
    folder, network = zoo_folder(tmp_path / "hub", license=None)
    with serving_hub(folder, tmp_path / "cache", monkeypatch), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelFileError, match=r"hf://lab/open: has config\.json, but neither"):
            load_patch_model("hf://lab/open")
        program_of(network, folder / "torchscript_model.pt")
        with pytest.raises(ModelFileError, match="is a program"):
            load_patch_model("hf://lab/open")
        save_file(network.state_dict(), folder / "model.safetensors")
        (folder / "README.md").write_text("---\nlicense: other\nlicense_name: by-nc-nd\n---\n# Model\n")
        model = load_patch_model("hf://lab/open")
        assert (model.name, model.licence, model.forbids_derived_models) == ("hf://lab/open", "by-nc-nd", True)
        assert torch.allclose(seen(model, patches()), oracle(network, patches()), atol=1e-5)
        with pytest.raises(ModelFileError, match="is gated: ask for access"):
            load_patch_model("hf://lab/gated")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
        (folder / "config.json").unlink()
        shutil.copy(bundled_models()["synthetic-demo"], folder / "model.safetensors")
        assert load_patch_model("hf://lab/open").name == "synthetic-demo"


def test_without_the_hubs_package_the_message_says_what_to_install(monkeypatch):
    for name in ("huggingface_hub", "huggingface_hub.errors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelFileError, match="needs the hub extra"):
        load_patch_model("hf://lab/open")


@pytest.mark.parametrize(
    ("page", "licence"),
    [
        ('---\ntags:\n- x\nlicense: "cc-by-4.0"\n---\nText', "cc-by-4.0"),
        ("---\nlicense: other\n---\n", "other"),
        ("# Model\n\nlicense: not in front\n", "unknown"),
    ],
)
def test_the_licence_is_that_of_the_page_where_the_config_states_none(tmp_path, page, licence):
    folder, network = zoo_folder(tmp_path / "paged", license=None)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "README.md").write_text(page)
    assert load_patch_model(str(folder)).licence == licence


def test_what_a_config_says_of_itself_fits_a_card(tmp_path):
    folder, network = zoo_folder(tmp_path / "said", name="a\nb\x1b[31m", attribution={"by": "lab"})
    save_file(network.state_dict(), folder / "model.safetensors")
    assert load_patch_model(str(folder)).card().name == "a b\\u001b[31m"


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
