"""Encoders of their own for processing levels, and the responses that a distilled network predicts."""

from typing import cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.best_first import BestFirstPlan, traverse_best_first
from tnet_cli.model.choice import TopK
from tnet_cli.model.config import EncoderConfig, TNetConfig, mpp_by_level
from tnet_cli.model.encoder import PART_PATCHES
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal, TraversalPlan, traverse

SMALL = EncoderConfig(backbone="tnet_small", processing_levels=(0, 1), input_px=64)
RESNET = EncoderConfig(backbone="timm:resnet10t", processing_levels=(2,), input_px=48, frozen=True)
TEACHER = RESNET.model_copy(update={"classes": ("benign", "tumour", "stroma")})


def config_of(*encoders: EncoderConfig, **numbers) -> TNetConfig:
    inputs = [each.input_px for each in encoders for _ in each.processing_levels]
    given = {
        "backbone": encoders[0].backbone,
        "class_names": ("no tumour", "tumour"),
        "base_px": encoders[0].input_px,
        "grid": 2,
        "cell_fraction": 0.5,
        "processing_levels": len(inputs),
        "mpp": mpp_by_level(24.0, 2, inputs),
        "choice": "beam",
        "locations": (3,) * (len(inputs) - 1),
        "position_axes": "s",
        "encoders": encoders,
    }
    return TNetConfig.model_validate(given | numbers)


def extraction_of(network: TNet) -> FeatureExtractionByLevel:
    assert isinstance(network.feature, FeatureExtractionByLevel)
    return network.feature


def positions(processing_level: int, count: int = 2) -> torch.Tensor:
    return torch.tensor([[0, 0, processing_level]] * count)


def test_sides_are_grids_of_the_next_and_each_mpp_its_side_over_the_input():
    config = config_of(SMALL, RESNET)
    assert [config.side_um(level) for level in range(3)] == pytest.approx([96, 48, 24])
    assert config.mpp == pytest.approx((96 / 64, 48 / 64, 24 / 48))
    assert [config.input_px(level) for level in range(3)] == [64, 64, 48]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mpp": (2.0, 1.0, 0.5)}, "side in micrometres must be 2 times the next"),
        ({"encoders": (SMALL,)}, "must serve each processing level once"),
        ({"encoders": (RESNET, SMALL)}, "must serve each processing level once"),
        ({"base_px": 128}, "those of the first encoder"),
        ({"response": True}, "response goes with a teacher"),
        ({"encoders": (SMALL, TEACHER)}, "response goes with a teacher"),
        ({"encoders": (SMALL, TEACHER), "response": True, "class_names": ("a", "b", "c")}, "two classes"),
    ],
)
def test_encoders_that_do_not_go_together_are_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        TNetConfig.model_validate(config_of(SMALL, RESNET).model_dump() | change)


@pytest.mark.parametrize("name", ["pretrained", "checkpoint_path", "num_classes"])
def test_a_model_file_cannot_have_its_encoder_fetch_something(name):
    with pytest.raises(ValidationError, match=name):
        EncoderConfig(backbone="timm:resnet10t", input_px=64, arguments={name: True})


def test_a_projection_brings_vectors_of_other_lengths_to_that_of_the_finest():
    torch.manual_seed(0)
    network = TNet(config_of(SMALL, RESNET)).eval()
    coarse = network.look(torch.rand(2, 3, 64, 64), positions(1), torch.ones(2, 4, dtype=torch.bool))
    fine = network.look(torch.rand(2, 3, 48, 48), positions(2))
    assert coarse.features.shape == fine.features.shape == (2, 512)
    assert list(extraction_of(network).projections.keys()) == ["0"]  # the finest keeps its own
    assert network.classify([torch.cat([coarse.features, fine.features])]).logits.shape == (1, 2)


@pytest.mark.parametrize("length", [16, 23, 24, 47, 48])
def test_features_may_be_as_short_as_the_configuration_lets_them(length):
    torch.manual_seed(0)
    network = TNet(config_of(SMALL, RESNET, feature_length=length, position_axes="yxs")).eval()
    places = torch.tensor([[0, 0, 2], [1, 0, 2]])
    features = network.look(torch.rand(1, 3, 48, 48).expand(2, -1, -1, -1), places).features
    assert features.shape == (2, length)
    assert not torch.equal(features[0], features[1])  # the place is told
    assert bool(torch.isfinite(features).all())


def test_patches_of_several_encoders_are_seen_as_each_by_itself():
    torch.manual_seed(4)
    network = TNet(config_of(SMALL, RESNET.model_copy(update={"input_px": 64}))).eval()
    patches, allowed = torch.rand(4, 3, 64, 64), torch.ones(4, 4, dtype=torch.bool)
    places = torch.tensor([[0, 0, 2], [0, 0, 1], [0, 0, 2], [0, 0, 0]])
    together = network.look(patches, places, allowed)
    for row in range(4):
        alone = network.look(patches[row : row + 1], places[row : row + 1], allowed[row : row + 1])
        assert torch.allclose(together.features[row], alone.features[0], atol=1e-5)
        log_probs = [torch.as_tensor(each.cell_log_probs) for each in (together, alone)]
        assert torch.allclose(log_probs[0][row], log_probs[1][0], atol=1e-5)
    distilled = TNet(config_of(SMALL, TEACHER, response=True)).eval()
    with pytest.raises(ValueError, match="several encoders"):
        distilled.look(torch.rand(2, 3, 64, 64), places[:2])


def test_an_encoder_without_a_patch_can_compute_beside_another():
    torch.manual_seed(3)
    network = TNet(config_of(SMALL, RESNET)).eval()
    computed: list[int] = []
    extraction_of(network).encoder(0).backbone.register_forward_hook(lambda *_: computed.append(0))
    patches, allowed = torch.rand(2, 3, 48, 48), torch.ones(2, 4, dtype=torch.bool)
    beside = network.look(patches, positions(2), allowed, through=[0])
    assert computed == [0]
    assert torch.equal(beside.features, network.look(patches, positions(2), allowed).features)
    nothing = network.look(patches[:0], positions(2)[:0], allowed[:0], through=[0])
    assert nothing.features.shape == (0, 512)


def test_a_frozen_encoder_learns_nothing():
    network = TNet(config_of(SMALL, RESNET))
    frozen = {name for name, each in network.named_parameters() if not each.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith("feature.encoders.1.")}


def test_one_encoder_given_as_such_sees_what_the_shared_one_sees():
    torch.manual_seed(1)
    alone = TNet(
        config_of(EncoderConfig(backbone="tnet_small", processing_levels=(0, 1, 2), input_px=64), encoders=())
    ).eval()
    listed = TNet(config_of(EncoderConfig(backbone="tnet_small", processing_levels=(0, 1, 2), input_px=64))).eval()
    renamed = {
        name.replace("feature.backbone.", "feature.encoders.0.backbone.").replace("location.", "locations.0."): tensor
        for name, tensor in alone.state_dict().items()
    }
    listed.load_state_dict(renamed)
    patches, allowed = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.ones(2, 4, dtype=torch.bool)
    for one, other in [(alone.look(patches, positions(1), allowed), listed.look(patches, positions(1), allowed))]:
        assert torch.equal(one.features, other.features)
        assert torch.equal(torch.as_tensor(one.cell_log_probs), torch.as_tensor(other.cell_log_probs))


def test_a_frozen_encoder_is_in_evaluation_mode_from_its_making_on():
    extraction = extraction_of(TNet(config_of(SMALL, RESNET)))
    assert not any(module.training for module in extraction.encoder(1).modules())
    assert all(module.training for module in extraction.encoder(0).modules())


def test_what_a_frozen_encoder_sees_of_a_patch_depends_on_no_other_patch_before_a_mode_was_set():
    torch.manual_seed(5)
    encoder, patches = extraction_of(TNet(config_of(SMALL, RESNET))).encoder(1), torch.rand(3, 3, 48, 48)
    before = {name: values.clone() for name, values in encoder.named_buffers()}
    assert torch.allclose(encoder.encode(patches)[0][:1], encoder.encode(patches[:1])[0], atol=1e-5)
    assert all(torch.equal(values, before[name]) for name, values in encoder.named_buffers())


def test_a_frozen_encoder_sees_in_parts_what_it_sees_at_once():
    torch.manual_seed(6)
    frozen = EncoderConfig(backbone="timm:resnet10t", processing_levels=(0, 1), input_px=48, frozen=True)
    encoder, patches = extraction_of(TNet(config_of(frozen, RESNET))).encoder(0), torch.rand(11, 3, 48, 48)
    sizes: list[int] = []
    encoder.backbone.register_forward_pre_hook(lambda _module, given: sizes.append(len(given[0])))
    vectors, maps = encoder.encode(patches)
    assert max(sizes) <= PART_PATCHES < sum(sizes) == 11
    vectors_at_once, maps_at_once = encoder.backbone((patches - 0.5) / 0.5)
    assert torch.allclose(vectors, vectors_at_once, atol=1e-5)
    assert maps is not None
    assert torch.allclose(maps, maps_at_once, atol=1e-5)


def test_a_frozen_encoder_stays_in_evaluation_mode_while_the_rest_trains():
    network = TNet(config_of(SMALL, RESNET)).train()
    assert extraction_of(network).encoder(0).training
    assert not any(module.training for module in extraction_of(network).encoder(1).modules())


def test_a_teacher_gives_its_own_probabilities_and_responses_are_no_softmax():
    torch.manual_seed(2)
    network = TNet(config_of(SMALL, TEACHER, response=True)).eval()
    patches = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8)
    seen = network.look(patches, positions(2, 5))
    teacher = extraction_of(network).encoder(1)
    alone = teacher.backbone((patches / 255 - 0.5) / 0.5)[0].softmax(dim=1)
    assert torch.allclose(seen.features, alone, atol=1e-5)
    allowed = torch.tensor([[True, True, False, True]])
    look = network.look(torch.rand(1, 3, 64, 64), positions(0, 1), allowed)
    tops, means = torch.as_tensor(look.cell_log_probs), torch.as_tensor(look.cell_means)
    assert torch.isinf(tops[0, 2])
    assert means[0, 2] == 0
    assert torch.equal(means > 0, allowed)
    logits = network.response_logits(torch.rand(1, 3, 64, 64), positions(0, 1))
    assert logits.shape == (1, 2, 4)
    assert not hasattr(network, "classification")


class ByPlace:
    """Answers with responses that a table has for each cell, by the middle of its box."""

    def __init__(self, grid: AttentionGrid, responses: np.ndarray) -> None:
        self.grid, self.responses = grid, responses

    def __call__(self, wanted) -> Look:
        features = torch.zeros(len(wanted.regions), 3)
        if wanted.allowed is None:
            return Look(features, None)
        tops = np.array([[self._top(cell) for cell in self.grid.cells(region)] for region in wanted.regions])
        return Look(features, np.log(tops), cell_means=tops / 2)

    def _top(self, box: Region) -> float:
        return float(self.responses[box.y : box.bottom, box.x : box.right].max())


def ended(steps, look) -> Traversal:
    wanted = next(steps)
    while True:
        try:
            wanted = steps.send(look(wanted))
        except StopIteration as end:
            return cast("Traversal", end.value)


@pytest.mark.parametrize("kind", ["by processing level", "best first"])
def test_a_response_does_not_multiply_its_parents(kind):
    # The second root has the highest response, below a root of little tissue.
    grid, responses = AttentionGrid(2, 0.5), np.full((8, 16), 0.01)
    responses[5, 14], responses[0, 0] = 0.9, 0.5
    roots, shares = [Region(0, 0, 8, 8), Region(8, 0, 8, 8)], torch.tensor([0.99, 0.01]).log()
    if kind == "best first":
        steps = traverse_best_first(roots, shares, BestFirstPlan(grid, 3, 3, 1, by_response=True))
    else:
        steps = traverse(roots, shares, TraversalPlan(grid, 3, (2, 1), "beam", TopK(), by_response=True))
    traversal = ended(steps, ByPlace(grid, responses))
    finest = traversal.levels[-1]
    best = int(np.argmax([float(value) for value in finest.path_log_probs]))
    assert finest.regions[best].contains(Region(14, 5, 1, 1))
    assert np.exp(float(finest.path_log_probs[best])) == pytest.approx(0.9)
    means = traversal.levels[1].cell_means
    assert means is not None
    assert means.shape == (len(traversal.levels[1].regions), 4)
