"""Pretrained weights bring the statistics of the pixels they were trained with."""

from datetime import date

import pytest

from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import save_model
from tnet_cli.training.architecture import model_config

CLASSES = ("benign", "lesion")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("backbone", "weights", "statistics"),
    [
        ("resnet18", "torchvision:IMAGENET1K_V1", IMAGENET),
        ("tf_efficientnet_b0", "torchvision", IMAGENET),
        ("timm:resnet18.a1_in1k", "timm", IMAGENET),
        ("resnet18", None, PLAIN),
        ("resnet18", "torchvision:NONE", PLAIN),
        ("nothing", "torchvision", PLAIN),
        ("resnet18", "missing.safetensors", PLAIN),
    ],
)
def test_statistics_are_those_of_the_weights(backbone, weights, statistics):
    config = model_config({"backbone": backbone}, CLASSES, weights=weights)
    assert (config.pixel_mean, config.pixel_std) == statistics


def test_the_users_own_statistics_stay():
    given = {"backbone": "resnet18", "pixel_mean": [0.7, 0.5, 0.6]}
    assert model_config(given, CLASSES, weights="torchvision").pixel_mean == (0.7, 0.5, 0.6)


def test_a_model_file_brings_its_own(tmp_path):
    network = TNetConfig.slide(CLASSES).model_copy(update={"pixel_mean": (0.7, 0.6, 0.65), "base_px": 64})
    card = ModelCard(
        name="x",
        summary="",
        intended_use="",
        licence="",
        created=date(2026, 1, 1),
        package_version="0",
        network=network,
    )
    save_model(TNet(network), card, tmp_path / "x.safetensors")
    assert model_config({}, CLASSES, weights=str(tmp_path / "x.safetensors")).pixel_mean == (0.7, 0.6, 0.65)
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    assert model_config({}, CLASSES, weights=str(tmp_path / "damaged.safetensors")).pixel_mean == (0.5, 0.5, 0.5)


def test_a_gpu_trains_the_papers_backbone_unless_another_is_named():
    assert model_config({}, CLASSES, on_gpu=True).backbone == "efficientnet_b0"
    assert model_config({"backbone": "resnet18"}, CLASSES, on_gpu=True).backbone == "resnet18"
    assert model_config({}, CLASSES).backbone == "tnet_small"
