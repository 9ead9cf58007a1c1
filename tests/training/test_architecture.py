"""Pretrained weights bring the statistics of the pixels they were trained with."""

import json
from dataclasses import replace
from datetime import date

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.tiny_training import CONFIG
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import load_model, save_model
from tnet_cli.training.architecture import load_backbone_weights, model_config
from tnet_cli.training.run import TrainRequest, run_train

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


def resnet() -> TNet:
    return TNet(CONFIG.model_copy(update={"backbone": "resnet18"}))


def test_pretrained_weights_come_from_a_file_of_the_backbone_or_of_a_whole_model(tmp_path):
    torch.manual_seed(1)
    taught = resnet()
    classifier = {name.removeprefix("network."): v for name, v in taught.feature.backbone.state_dict().items()}
    for name, tensors in {
        "backbone": classifier | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
        "model": taught.state_dict(),
    }.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
        torch.manual_seed(2)
        fresh = resnet()
        head = fresh.classification.linear.weight.detach().clone()
        load_backbone_weights(fresh, str(tmp_path / f"{name}.safetensors"))
        for mine, theirs in zip(fresh.feature.parameters(), taught.feature.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(fresh.classification.linear.weight, head)


def test_pretrained_weights_come_from_torchvision_by_name(monkeypatch):
    from torchvision.models import ResNet18_Weights
    from torchvision.models import resnet18 as build

    taught: nn.Module = build(weights=None)
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: taught.state_dict())
    fresh = resnet()
    load_backbone_weights(fresh, "torchvision")
    assert torch.equal(fresh.feature.backbone.state_dict()["network.conv1.weight"], taught.state_dict()["conv1.weight"])
    with pytest.raises(UsageError, match=r"torchvision:BEST: for resnet18 there are IMAGENET1K_V1"):
        load_backbone_weights(fresh, "torchvision:BEST")
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(UsageError, match="the weights of resnet18 cannot be fetched: no network"):
        load_backbone_weights(fresh, "torchvision")


def unreachable(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_weights_that_do_not_fit_the_backbone_are_refused(tmp_path):
    small = TNet(CONFIG)
    with pytest.raises(UsageError, match="torchvision has no pretrained weights for backbone tnet_small"):
        load_backbone_weights(small, "torchvision")
    with pytest.raises(UsageError, match="is not of timm"):
        load_backbone_weights(small, "timm")
    with pytest.raises(UsageError, match=r"expected torchvision, timm, a \.safetensors file"):
        load_backbone_weights(small, str(tmp_path / "weights.pth"))
    with pytest.raises(ModelFileError, match="neither a file nor a bundled model"):
        load_backbone_weights(small, str(tmp_path / "missing.safetensors"))
    save_file({"conv1.weight": torch.zeros(4)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"holds no weights for backbone tnet_small: .* tensors are missing"):
        load_backbone_weights(small, str(tmp_path / "other.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelFileError, match="damaged"):
        load_backbone_weights(small, str(tmp_path / "torn.safetensors"))


def test_an_encoder_of_the_finest_view_is_trained_around_and_kept_whole(labelled_slides, tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    torch.manual_seed(0)
    own = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=64)
    save_file(own.state_dict(), folder / "model.safetensors")
    arguments = {"depth": 1, "img_size": 64}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 64, 64]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    request = TrainRequest(
        manifest=labelled_slides,
        out=tmp_path / "run",
        finest=str(folder),
        normal_class="benign",
        device="cpu",
        overrides=(
            *("training.rounds=1", "training.warmup_steps=3", "training.batch_patches=6", "training.hard_epochs=1"),
            *("model.mpp=8.0,2.0", "model.locations=4", "training.hard_locations=3", "training.patches_per_slide=3"),
        ),
    )
    report = run_train(request)
    model = load_model(report.models[0])
    network = model.network.config
    assert [each.backbone for each in network.encoders] == ["tnet_small", "timm:vit_tiny_patch16_224"]
    assert network.mpp == pytest.approx((8.0, 2.0))
    kept = {name: tensor for name, tensor in model.network.state_dict().items() if ".encoders.1." in name}
    for name, tensor in own.state_dict().items():
        assert torch.equal(kept[f"feature.encoders.1.backbone.network.{name}"], tensor)
    assert report.validation is not None
    # The configuration that was written repeats the run.
    again = run_train(replace(request, finest=None, config=tmp_path / "run" / "config.toml", overrides=()))
    assert again.was_done
