"""Batch statistics: frozen for good, and folded away without a change."""

import copy

import pytest
import torch
from torch import nn

from tnet_cli.model.backbone import build_backbone
from tnet_cli.model.normalisation import fold_normalisation, freeze_normalisation


def with_statistics(name: str) -> nn.Module:
    """A backbone whose normalisation has seen something, with shifts and scales of its own."""
    torch.manual_seed(10)
    backbone = build_backbone(name, 64)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.8, 1.2),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.8, 1.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high)
    return backbone


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if "running_" in k or "num_batches" in k}


@pytest.mark.parametrize("name", ["tnet_small", "resnet18"])
def test_frozen_normalisation_says_the_same_while_training_and_never_moves(name):
    backbone = with_statistics(name)
    patches = torch.rand(3, 3, 64, 64)
    before = statistics(backbone)
    freeze_normalisation(backbone)
    with torch.no_grad():
        evaluated = backbone.eval()(patches)
        trained = backbone.train()(patches)
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=0)
    assert backbone.training
    for key, value in statistics(backbone).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_without_freezing_training_says_something_else():
    backbone = with_statistics("tnet_small")
    patches = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        difference = (backbone.eval()(patches)[0] - backbone.train()(patches)[0]).abs().max()
    assert float(difference) > 0.01


def test_a_copy_of_a_frozen_network_is_frozen_on_its_own():
    backbone = build_backbone("tnet_small", 64)
    freeze_normalisation(backbone)
    twin = copy.deepcopy(backbone).train()
    normalisations = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(normalisations) == 11
    assert not any(module.training for module in normalisations)


def test_frozen_normalisation_goes_on_learning_its_scale():
    backbone = build_backbone("tnet_small", 64)
    freeze_normalisation(backbone)
    backbone.train()(torch.rand(2, 3, 64, 64))[0].sum().backward()
    scales = [module.weight.grad for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(scale is not None for scale in scales)


@pytest.mark.parametrize("name", ["tnet_small", "tf_efficientnet_b0", "resnet18"])
def test_folding_changes_no_answer(name):
    backbone = with_statistics(name).eval()
    patches = torch.rand(2, 3, 64, 64)
    normalised = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    with torch.inference_mode():
        vectors, maps = backbone(patches)
        fold_normalisation(backbone)
        folded_vectors, folded_maps = backbone(patches)
    torch.testing.assert_close(folded_vectors, vectors, rtol=1e-4, atol=1e-5 * float(vectors.abs().max()))
    torch.testing.assert_close(folded_maps, maps, rtol=1e-4, atol=1e-5 * float(maps.abs().max()))
    left = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    # torchvision's ResNet calls its normalisation outside of a sequence, but for the three shortcuts.
    assert left == (normalised - 3 if name == "resnet18" else 0)


def test_folding_needs_evaluation_mode():
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_normalisation(build_backbone("tnet_small", 64).train())
