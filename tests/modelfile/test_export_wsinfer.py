"""A finest view as a patch model for other programs: as the zoo's programs would run it."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

from tests.model_files import card_of, tiny_network
from tnet_cli.cli.app import main
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.model.config import EncoderConfig, TNetConfig, mpp_by_level
from tnet_cli.model.encoder import TRUST_VARIABLE, ProgramClassifier
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard, TeacherCard, Verdict
from tnet_cli.modelfile.export_wsinfer import export_wsinfer
from tnet_cli.modelfile.modelfile import save_model
from tnet_cli.modelfile.zoo import PatchModel, load_patch_model
from tnet_cli.modelfile.zoo_config import read_zoo_config


@pytest.fixture(autouse=True)
def _nobody_trusts(monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, "0")


def check_against_own(name: str, folder: Path, own: PatchModel) -> None:
    """Compare a program of the zoo, run as its config says and by nothing else, with what the model itself says."""
    document = json.loads((folder / "config.json").read_text())
    config = read_zoo_config(folder / "config.json")
    assert (config.class_names, config.patch_size_pixels) == (own.classes, own.patch_px), name
    assert all(step.keys() <= {"name", "arguments"} for step in document["transform"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.load(str(folder / "torchscript_model.pt"))
    said = {step["name"]: step.get("arguments", {}) for step in document["transform"]}
    steps = transforms.Compose(
        [transforms.Resize(said["Resize"]["size"]), transforms.ToTensor(), transforms.Normalize(**said["Normalize"])]
    )
    side_px = own.encoder.input_px
    pixels = np.random.default_rng(0).integers(0, 256, (3, side_px, side_px, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = program(torch.stack([steps(Image.fromarray(each)) for each in pixels]))
        ours = own.network(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0]
    # As WSInfer has it.
    probabilities = logits.softmax(dim=1) if config.num_classes > 1 else logits.sigmoid()
    assert torch.allclose(probabilities, ours, atol=1e-5)


@pytest.mark.parametrize("name", ["synthetic-demo", "colorectal-neoplasia"])
def test_a_program_of_the_zoo_says_what_the_finest_view_says(tmp_path, name):
    export_wsinfer(name, tmp_path / "zoo")
    check_against_own(name, tmp_path / "zoo", load_patch_model(name))


def encoder(backbone: str, classes: tuple[str, ...]) -> EncoderConfig:
    return EncoderConfig(
        backbone=backbone,
        processing_levels=(1,),
        input_px=48,
        pixel_mean=(0.7, 0.6, 0.7),
        pixel_std=(0.1, 0.2, 0.1),
        frozen=True,
        classes=classes,
    )


def distilled(folder: Path, teacher: EncoderConfig, program: bytes = b"") -> Path:
    finder = EncoderConfig(backbone="tnet_small", processing_levels=(0,), input_px=64)
    config = TNetConfig(
        backbone="tnet_small",
        class_names=("other", "sought"),
        base_px=64,
        grid=4,
        cell_fraction=0.25,
        processing_levels=2,
        mpp=mpp_by_level(60.0, 4, (64, 48)),
        choice="beam",
        locations=(4,),
        position_axes="s",
        encoders=(finder, teacher),
        response=True,
    )
    verdict = {
        "rule": "top",
        "k": 3,
        "targets": teacher.classes[:1],
        "call_at": 0.5,
        "slope": 1.0,
        "intercept": 0.0,
        "teacher": TeacherCard(
            name="lab's",
            digest="0" * 64,
            licence="CC-BY-4.0",
            attribution="The lab",
            architecture="resnet10t",
            patch_px=96,
            spacing_um_px=0.625,
            classes=teacher.classes,
        ),
    }
    torch.manual_seed(0)
    network = TNet(config).eval()
    assert isinstance(network.feature, FeatureExtractionByLevel)
    if isinstance(held := network.feature.encoder(1).backbone, ProgramClassifier):
        held.load(program)
    card = card_of(tiny_network()).model_dump() | {"network": config, "verdict": Verdict.model_validate(verdict)}
    save_model(network, ModelCard.model_validate(card), folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("classes", [("tumour", "stroma", "other"), ("tumour",)])
def test_of_a_distilled_model_it_is_the_teacher_that_goes_back(tmp_path, classes):
    model = distilled(tmp_path, encoder("timm:resnet10t", classes))
    export_wsinfer(str(model), tmp_path / "zoo")
    check_against_own("distilled", tmp_path / "zoo", load_patch_model(str(model)))
    document = json.loads((tmp_path / "zoo" / "config.json").read_text())
    assert (document["name"], document["license"], document["attribution"]) == ("lab's", "CC-BY-4.0", "The lab")
    assert (document["patch_size_pixels"], document["spacing_um_px"]) == (96, 0.625)


def test_a_teacher_that_is_a_program_goes_back_too_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = timm.create_model("resnet10t", num_classes=2).eval()
        torch.jit.trace(network, torch.zeros(2, 3, 48, 48)).save(str(tmp_path / "given.pt"))
    model = distilled(tmp_path, encoder("torchscript", ("tumour", "other")), (tmp_path / "given.pt").read_bytes())
    export_wsinfer(str(model), tmp_path / "zoo")
    check_against_own("distilled", tmp_path / "zoo", load_patch_model(str(model)))
    monkeypatch.setenv(TRUST_VARIABLE, "0")
    with pytest.raises(ModelFileError, match=TRUST_VARIABLE):
        load_patch_model(str(model))


@pytest.mark.parametrize("name", ["config.json", "torchscript_model.pt", "model.safetensors", "pytorch_model.bin"])
def test_a_folder_that_holds_another_model_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("another's")
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        export_wsinfer("synthetic-demo", tmp_path, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_it_comes_back_as_a_teacher_for_who_trusts_it_and_is_not_replaced_unasked(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["models", "export", "synthetic-demo", "--format", "wsinfer", "-o", str(tmp_path / "zoo")])
    assert ended.value.code == 0
    assert "patches of 256 px at 0.5" in capsys.readouterr().out
    with pytest.raises(UsageError, match="exists"):
        export_wsinfer("synthetic-demo", tmp_path / "zoo")
    again, own = load_patch_model(str(tmp_path / "zoo"), trust_torchscript=True), load_patch_model("synthetic-demo")
    patches = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(again.network(patches)[0], own.network(patches)[0], atol=1e-5)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["models", "export", "synthetic-demo", "--format", "keras", "-o", str(tmp_path / "zoo")])
    assert ended.value.code == 2
