"""EfficientNet-Lite0: timm's weights fit and give timm's vectors and maps, and normalisation can be folded away."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tnet_cli.model.backbone import build_backbone, build_network
from tnet_cli.model.efficientnet_lite import EfficientNetLite0
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.modelfile.encoders import encoder_from, load_weights

timm = pytest.importorskip("timm")
NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def theirs():
    """Random weights and statistics: with those of a new network most layers would pass what they get."""
    torch.manual_seed(3)
    network = timm.create_model(NAME, num_classes=0).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0, 0.2)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.7, 1.3)
            module.bias.data.normal_(0, 0.1)
    return network


@pytest.mark.parametrize("side_px", [224, 113])
def test_it_is_timms_network_under_timms_names(theirs, side_px):
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(theirs.state_dict())
    patches = torch.randn(2, 3, side_px, side_px)
    with torch.inference_mode():
        torch.testing.assert_close(ours(patches), theirs(patches), rtol=1e-4, atol=1e-4)


def test_its_classifier_is_timms():
    classes = timm.create_model(NAME, num_classes=7).eval()
    ours = build_network(NAME, num_classes=7).eval()
    ours.load_state_dict(classes.state_dict())
    patches = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(patches), classes(patches), rtol=1e-4, atol=1e-5)


def test_all_of_its_normalisation_folds_away_and_the_vectors_stay(theirs):
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(theirs.state_dict())
    patches = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        before = ours(patches)
        fold_normalisation(ours)
        torch.testing.assert_close(ours(patches), before, rtol=1e-4, atol=1e-4)
    assert not [module for module in ours.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_backbone_has_the_map_at_stride_16():
    backbone = build_backbone(NAME, 224)
    assert backbone.feature_length == 1280
    assert backbone.map_channels == 112
    with torch.inference_mode():
        vectors, maps = backbone.eval()(torch.zeros(1, 3, 224, 224))
    assert vectors.shape == (1, 1280)
    assert maps.shape == (1, 112, 14, 14)


def test_a_folder_with_timms_configuration_needs_no_timm(theirs, tmp_path):
    statistics = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "pretrained_cfg": statistics}))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    found = encoder_from(str(tmp_path), (3,))
    assert found.config.backbone == NAME
    backbone = build_backbone(NAME, 224, needs_map=False).eval()
    load_weights(backbone, found.tensors(), name=NAME, source="folder")
    patches = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(patches)[0], theirs(patches), rtol=1e-4, atol=1e-4)
