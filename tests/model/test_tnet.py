"""The network as a whole: shapes, pixels, gradients, and a tiny slide end to end against slow arithmetic."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.model import oracles
from tests.model.lockstep import features_of, plan_for, traverse_pictures
from tnet_cli.geometry import Region
from tnet_cli.model.choice import TopK
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.feature import cells_of_map
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Traversal, traverse

CLASSES = ("a", "b", "c")
SMALL: dict[str, Any] = {
    "backbone": "tnet_small",
    "class_names": CLASSES,
    "base_px": 64,
    "grid": 2,
    "cell_fraction": 0.5,
    "processing_levels": 3,
    "image_px": 256,
    "choice": "beam",
    "locations": (2, 3),
}


def build(**changes: Any) -> TNet:
    torch.manual_seed(11)
    return TNet(TNetConfig(**SMALL | changes)).eval()


def patches(count: int, side: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(pixels)


def positions(count: int) -> torch.Tensor:
    return torch.arange(3 * count).reshape(count, 3)


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({}, 320),
        ({"grid": 4, "cell_fraction": 0.25, "weighting": True, "location_pool": "mean"}, 320),
        ({"grid": 3, "cell_fraction": 0.5, "choice": "per_grid", "location_softmax": "l2"}, 320),
        ({"backbone": "resnet18", "location_softmax": "temperature", "position_length": 12}, 512),
        ({"backbone": "resnet18", "tap": "layer2", "grid": 4, "cell_fraction": 0.25}, 512),
        ({"location_pool": "slice", "location_slice": (1, 2), "position_axes": "s"}, 320),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_shapes(changes, length, count):
    network = build(**changes)
    cells = network.config.grid**2
    look = network.look(patches(count, 64), positions(count), torch.ones(count, cells, dtype=torch.bool))
    assert look.features.shape == (count, length)
    assert look.cell_log_probs is not None
    assert look.cell_log_probs.shape == (count, cells)
    assert look.features.dtype == look.cell_log_probs.dtype == torch.float32
    torch.testing.assert_close(look.cell_log_probs.exp().sum(dim=1), torch.ones(count))
    answer = network.classify([look.features, look.features[:1]])
    assert answer.logits.shape == (2, 3)
    assert answer.combined.shape == (2, length)
    assert [each.shape for each in answer.weights] == [(count,), (1,)]
    assert [each.shape for each in answer.location_logits] == [(count, 3), (1, 3)]
    for share in answer.weights:
        assert float(share.detach().sum()) == pytest.approx(1, abs=1e-6)


def test_the_location_module_does_not_run_unless_asked():
    network = build()
    network.location.register_forward_hook(lambda *_: pytest.fail("the location module ran"))
    assert network.look(patches(2, 64), positions(2)).cell_log_probs is None


def test_bytes_and_floats_of_any_size_are_the_same_patches():
    network = build()
    pixels = patches(2, 100)
    seen: list[torch.Tensor] = []
    network.feature.backbone.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    with torch.inference_mode():
        from_bytes = network.look(pixels, positions(2)).features
        from_floats = network.look(pixels.float() / 255, positions(2)).features
    torch.testing.assert_close(from_bytes, from_floats)
    expected = np.stack([oracles.resize(each.numpy() / 255, 64) for each in pixels.permute(0, 2, 3, 1)])
    np.testing.assert_allclose(seen[0].permute(0, 2, 3, 1), expected * 2 - 1, atol=1e-5)
    assert pixels.dtype == torch.uint8


def test_pixels_are_normalised_with_the_configurations_numbers():
    network = build(pixel_mean=(0.1, 0.2, 0.3), pixel_std=(0.5, 1.0, 2.0))
    seen: list[torch.Tensor] = []
    network.feature.backbone.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    network.look(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8), positions(1))
    np.testing.assert_allclose(seen[0][0, :, 5, 5], [1.8, 0.8, 0.35], atol=1e-6)
    assert not any("pixel" in name for name in network.state_dict())


def test_the_state_reads_like_the_paper():
    modules = {name.split(".")[0] for name in build(weighting=True).state_dict()}
    assert modules == {"feature", "location", "position", "weighting", "classification"}


def test_a_slice_that_does_not_fit_the_map_is_refused():
    network = build(location_pool="slice", location_slice=(0, 1))
    with pytest.raises(ValueError, match=r"a slice of 0::1 gives \(4, 4\) cells, not 2 x 2"):
        network.look(patches(1, 64), positions(1), torch.ones(1, 4, dtype=torch.bool))


@pytest.mark.parametrize(
    ("taken", "rows"), [((0, 1, 2), [0, 1]), ((1, 2), [1, 3]), ((1, 1, 3), [1, 2]), ((0, 3, 4), [0, 3])]
)
def test_a_slice_takes_the_rows_and_columns_it_names(taken, rows):
    network = build(location_pool="slice", location_slice=taken)
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert cells_of_map(maps, network.config).tolist() == [[[[4.0 * row + column for column in rows] for row in rows]]]


@pytest.mark.parametrize("detached", [True, False])
def test_the_location_modules_gradients_reach_the_extractor_only_when_wanted(detached):
    network = build()
    look = network.look(patches(2, 64), positions(2), torch.ones(2, 4, dtype=torch.bool), detach_location=detached)
    assert look.cell_log_probs is not None
    look.cell_log_probs[:, 1].sum().backward()
    extractor = [parameter.grad for parameter in network.feature.parameters()]
    assert all(gradient is None for gradient in extractor) == detached
    assert all(parameter.grad is not None for parameter in network.location.parameters())


def test_padding_a_batch_with_other_slides_changes_nothing():
    network = build(weighting=True)
    features = [torch.randn(count, 320) for count in (1, 7, 4)]
    together = network.classify(features)
    for number, each in enumerate(features):
        alone = network.classify([each])
        torch.testing.assert_close(together.logits[number], alone.logits[0])
        torch.testing.assert_close(together.weights[number], alone.weights[0])
        torch.testing.assert_close(together.location_logits[number], alone.location_logits[0])


@pytest.mark.parametrize("weighting", [True, False])
def test_a_verdict_from_the_closest_views_is_that_of_a_slide_of_these_alone(weighting):
    network, judge = build(weighting=weighting), build(weighting=weighting, verdict_from="closest")
    features, closest = torch.randn(6, 320), np.array([False, True, False, True, True, False])
    answer = judge.classify([features], closest=[closest])
    alone = network.classify([features[closest]])
    torch.testing.assert_close(answer.logits, alone.logits)
    torch.testing.assert_close(answer.weights[0][closest], alone.weights[0])
    assert not answer.weights[0][~closest].any()
    assert answer.location_logits[0].shape == (6, 3)
    with pytest.raises(ValueError, match="closest"):
        judge.classify([features])


def test_the_closest_views_are_those_of_the_last_processing_level_that_was_reached():
    network = build()
    traversal = traverse_pictures(network, [np.zeros((256, 256, 3), np.uint8)], [TopK()])[0][0]
    last = len(traversal.levels[-1].regions)
    assert last == 3
    assert traversal.closest.tolist() == [False] * (len(traversal.closest) - last) + [True] * last


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_attends_to_the_same_and_takes_roots_from_anywhere():
    network = build()
    root, plan = Region(0, 0, 256, 256), plan_for(network.config, TopK())
    pixels = patches(1, 256)[0]
    ended: dict[str, Traversal] = {}
    for device in ("cpu", "cuda"):
        network.to(device)
        generator = traverse([root], np.zeros(1), plan)
        wanted = next(generator)
        while device not in ended:
            crops = torch.stack(
                [
                    functional.interpolate(pixels[None, :, r.y : r.bottom, r.x : r.right].float(), 64)[0] / 255
                    for r in wanted.regions
                ]
            )
            allowed = None if wanted.allowed is None else torch.from_numpy(wanted.allowed).to(device)
            with torch.inference_mode():
                look = network.look(crops.to(device), torch.from_numpy(wanted.positions).to(device), allowed)
            try:
                wanted = generator.send(look)
            except StopIteration as end:
                ended[device] = end.value
    for there, here in zip(ended["cuda"].levels, ended["cpu"].levels, strict=True):
        assert there.regions == here.regions
        assert there.path_log_probs.device.type == "cuda"
        torch.testing.assert_close(there.path_log_probs.cpu(), here.path_log_probs, rtol=0, atol=1e-3)


def slide_weights(network: TNet) -> oracles.Weights:
    return {name: value.double().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"weighting": True, "location_softmax": "plain", "position_axes": "s"},
        {"choice": "per_grid", "locations": (2, 1), "location_softmax": "l2"},
    ],
)
def test_a_tiny_picture_end_to_end_is_the_oracle(changes, rng):
    """Every pixel, cell, weight and logit of a picture of 128 px, in float64 loops that share no code with the package.

    Tolerances: 1e-4 relative or 1e-4 absolute, for five strided stages in float32.
    """
    network = build(image_px=128, **changes)
    for name, value in network.state_dict().items():
        # Away from the initialisation, so that no scale is one and no shift is zero.
        if value.is_floating_point() and value.ndim < 2:
            low, high = (0.6, 1.4) if "running_var" in name else (-0.2, 0.2)
            value.copy_(torch.from_numpy(rng.uniform(low, high, tuple(value.shape))) + value * ("var" not in name))
    image = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    with torch.inference_mode():
        (traversal,), _ = traverse_pictures(network, [image], [TopK()])
        answer = network.classify(features_of([traversal]))

    weights, config = slide_weights(network), network.config
    boxes = [oracles.Box(0, 0, 128, 128, (0, 0, 0), 0.0)]
    features: list[np.ndarray] = []
    for processing_level, record in enumerate(traversal.levels):
        assert [(r.x, r.y, r.width, r.height) for r in record.regions] == [(b.x, b.y, b.width, b.height) for b in boxes]
        np.testing.assert_allclose(record.path_log_probs, [box.path for box in boxes], rtol=1e-4, atol=1e-4)
        cells = []
        for box in boxes:
            patch = oracles.resize(oracles.crop(image, box.x, box.y, box.width, box.height) / 255, 64) * 2 - 1
            vector, maps = oracles.small_backbone(weights, patch)
            features.append(oracles.positioned(weights, vector, box.position, config.position_axes))
            cells.append(oracles.pooled(maps, config.grid))
        if processing_level < 2:
            everything = np.ones(config.grid**2, dtype=bool)
            probs = [oracles.location_probs(weights, each, everything, config.location_softmax) for each in cells]
            k = config.locations[processing_level]
            boxes = oracles.expand(boxes, probs, config.grid, config.cell_fraction, k, config.choice)
    assert len(features) == 1 + traversal.location_count == len(answer.weights[0])
    np.testing.assert_allclose(features_of([traversal])[0], np.stack(features), rtol=1e-4, atol=1e-4)
    shares = oracles.feature_weights(weights, np.stack(features))
    np.testing.assert_allclose(answer.weights[0], shares, rtol=1e-4, atol=1e-4)
    combined = shares @ np.stack(features)
    logits = weights["classification.linear.weight"] @ combined + weights["classification.linear.bias"]
    np.testing.assert_allclose(answer.logits[0], logits, rtol=1e-4, atol=1e-4)
