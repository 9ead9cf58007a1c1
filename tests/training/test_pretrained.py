"""Pretrained weights of a backbone: where they come from, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.tiny_training import CONFIG
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.model.tnet import TNet
from tnet_cli.training.pretrained import load_backbone_weights


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
