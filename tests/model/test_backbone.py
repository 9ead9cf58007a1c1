"""Backbones by name: shapes, taps, refusals, and the arithmetic of the two that are our own."""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.ops import StochasticDepth

from tests.model import oracles
from tnet_cli.model.backbone import TappedBackbone, build_backbone
from tnet_cli.model.small_backbone import SmallBackbone
from tnet_cli.model.tensorflow_padding import SamePaddingConv2d, pad_like_tensorflow
from tnet_cli.modelfile.encoders import load_weights


@pytest.mark.parametrize(
    ("name", "base_px", "tap", "length", "channels", "side"),
    [
        ("resnet18", 64, "layer3", 512, 256, 4),
        ("efficientnet_b0", 64, "features.5", 1280, 112, 4),
        ("mobilenet_v3_small", 64, "features.8", 1024, 48, 4),
        ("shufflenet_v2_x0_5", 100, "stage3", 1024, 96, 7),
        ("swin_t", 64, "features.5", 768, 384, 4),
        ("googlenet", 64, "inception4e", 1024, 832, 4),
        ("tf_efficientnet_b0", 72, "features.4", 1280, 80, 5),
        ("timm:resnet10t", 64, "layer3", 512, 256, 4),
        ("timm:mobilenetv3_small_050", 64, "blocks.3", 1024, 24, 4),
    ],
)
def test_a_classifier_by_name_gives_vectors_and_a_map_of_stride_16(name, base_px, tap, length, channels, side):
    backbone = build_backbone(name, base_px)
    assert isinstance(backbone, TappedBackbone)
    assert backbone.tap == tap
    assert (backbone.feature_length, backbone.map_channels) == (length, channels)
    for mode in (False, True):
        vectors, maps = backbone.train(mode)(torch.rand(2, 3, base_px, base_px))
        assert vectors.shape == (2, length)
        assert maps.shape == (2, channels, side, side)
        assert maps.requires_grad


def test_a_network_cut_at_its_map_sees_there_what_the_whole_one_does():
    whole, cut = (
        build_backbone("tf_efficientnet_lite0", 64, "blocks.4", pooling=each).eval() for each in ("map", "cut")
    )
    load_weights(cut, whole.state_dict(), name="lite0", source="here")
    patches = torch.rand(2, 3, 64, 64)
    for seen, wanted in zip(cut(patches), whole(patches), strict=True):
        assert torch.equal(seen, wanted)
    assert cut.feature_length == cut.map_channels == 112
    assert sum(each.numel() for each in cut.parameters()) < 0.25 * sum(each.numel() for each in whole.parameters())
    with pytest.raises(ValueError, match="only in a plain sequence"):
        build_backbone("resnet18", 64, "layer3", pooling="cut")
    with pytest.raises(ValueError, match="no map to be cut at"):
        build_backbone("timm:vit_tiny_patch16_224", 64, pooling="cut")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "base_px", "tap"),
    [
        ("convnext_tiny", 64, "features.5"),
        ("densenet121", 64, "features.denseblock3"),
        ("vgg11_bn", 64, "features.27"),
        ("maxvit_t", 224, "blocks.2"),
        ("timm:swin_tiny_patch4_window7_224", 224, "layers.2"),
        ("timm:convnext_atto", 64, "stages.2"),
    ],
)
def test_larger_classifiers_have_their_tap(name, base_px, tap):
    backbone = build_backbone(name, base_px)
    assert isinstance(backbone, TappedBackbone)
    assert backbone.tap == tap
    assert backbone(torch.rand(1, 3, base_px, base_px))[1].shape[1:] == (backbone.map_channels,) + (base_px // 16,) * 2


def test_the_vector_is_what_the_classifiers_own_head_sees():
    torch.manual_seed(0)
    classifier = get_model("resnet18", weights=None).eval()
    backbone = build_backbone("resnet18", 64).eval()
    state = {f"network.{k}": v for k, v in classifier.state_dict().items() if not k.startswith("fc.")}
    backbone.load_state_dict(state)
    patches = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.fc(backbone(patches)[0]), classifier(patches))


def test_the_tap_can_be_chosen():
    backbone = build_backbone("resnet18", 64, tap="layer2")
    vectors, maps = backbone(torch.rand(1, 3, 64, 64))
    assert vectors.shape == (1, 512)
    assert maps.shape == (1, 128, 8, 8)


@pytest.mark.parametrize(
    ("name", "base_px", "tap", "message"),
    [
        (
            "resnet_18",
            64,
            None,
            "expected tnet_small, tf_efficientnet_lite0, tf_efficientnet_b0 to b4, a torchvision classifier",
        ),
        ("fasterrcnn_resnet50_fpn", 64, None, "a torchvision classifier or timm:NAME"),
        ("squeezenet1_1", 64, None, "no linear layer"),
        ("alexnet", 64, None, "no map at stride 16 of 64 px"),
        ("resnet18", 64, "layer9", "tap 'layer9' is not a module of it that gives a map"),
        ("resnet18", 64, "avgpool.x", "tap 'avgpool.x' is not a module"),
        ("tnet_small", 64, "fine", "tnet_small has one location map"),
        ("timm:resnet_nothing", 64, None, "timm:resnet_nothing: Unknown model"),
        ("timm:hf-hub:lab/encoder", 64, None, "nothing is fetched to build a network"),
        ("timm:local-dir:/etc", 64, None, "nothing is fetched to build a network"),
        ("timm:mixer_s16_224", 224, None, "no map at stride 16"),
        ("timm:mixer_s16_224", 64, None, "cannot take patches of 64 px"),
    ],
)
def test_what_cannot_serve_is_refused_with_the_reason(name, base_px, tap, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, base_px, tap)


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'tnet-cli\[timm\]'"):
        build_backbone("timm:resnet18", 64)


def test_the_papers_backbone_has_its_constants():
    backbone = build_backbone("tf_efficientnet_b0", 64)
    normalisations = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(module.eps, module.momentum) for module in normalisations} == {(1e-3, 0.01)}
    skips = [module.p for module in backbone.modules() if isinstance(module, StochasticDepth)]
    assert skips == pytest.approx([0.3 * number / 16 for number in range(1, 17)])
    assert not any(isinstance(module, nn.Dropout) for module in backbone.modules())
    padded = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert {type(module) for module in padded} == {SamePaddingConv2d}
    assert len(padded) == 17


@pytest.mark.parametrize("side", [(6, 6), (7, 5), (8, 3), (1, 9)])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_same_padding_is_tensorflows(side, kernel, stride, groups, rng):
    torch.manual_seed(7)
    convolution = SamePaddingConv2d(4, 8, kernel, stride=stride, groups=groups, bias=False)
    maps = rng.normal(size=(*side, 4))
    ours = convolution(torch.from_numpy(maps).float().permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    total = [max((-(-length // stride) - 1) * stride + kernel - length, 0) for length in side]
    before, after = (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
    weight = convolution.weight.detach().double().numpy()
    expected = oracles.convolve(maps, weight, stride, before, after)
    assert expected.shape[:2] == (-(-side[0] // stride), -(-side[1] // stride))
    np.testing.assert_allclose(ours.detach(), expected, atol=1e-5)


def test_the_odd_pixel_comes_after():
    convolution = SamePaddingConv2d(1, 1, 3, stride=2, bias=False)
    torch.nn.init.ones_(convolution.weight)
    row = torch.zeros(1, 1, 4, 4)
    row[0, 0, 0, 0] = 1
    assert convolution(row)[0, 0].tolist() == [[1, 0], [0, 0]]
    row = torch.zeros(1, 1, 4, 4)
    row[0, 0, 2, 2] = 1
    assert convolution(row)[0, 0].tolist() == [[1, 1], [1, 1]]


def test_padding_is_replaced_with_the_weights_kept():
    torch.manual_seed(8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=1, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1)))
    patches = torch.rand(1, 3, 7, 7)
    before = network(patches)
    pad_like_tensorflow(network)
    assert type(network[0]) is SamePaddingConv2d
    assert type(network.get_submodule("1.0")) is nn.Conv2d
    torch.testing.assert_close(network(patches), before)


def test_the_small_backbone_is_the_oracle(rng):
    torch.manual_seed(9)
    backbone = SmallBackbone().eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2)):
                assert tensor is not None
                tensor.uniform_(low, high)
    weights = {f"feature.backbone.{k}": v.double().numpy() for k, v in backbone.state_dict().items()}
    patch = rng.normal(size=(32, 32, 3))
    with torch.inference_mode():
        vectors, maps = backbone(torch.from_numpy(patch).float().permute(2, 0, 1)[None])
    assert vectors.shape == (1, 320)
    assert maps.shape == (1, 96, 2, 2)
    vector, expected = oracles.small_backbone(weights, patch)
    np.testing.assert_allclose(vectors[0], vector, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(maps[0].permute(1, 2, 0), expected, rtol=1e-3, atol=1e-4)


def test_the_small_backbone_costs_what_it_says():
    backbone, multiplications = SmallBackbone().eval(), []

    def count(module: nn.Conv2d, _given: object, out: torch.Tensor) -> None:
        multiplications.append(out[0].numel() * module.weight[0].numel())

    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    backbone(torch.zeros(1, 3, 256, 256))
    assert round(sum(multiplications) / 1e6) == 174
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == 0.87
