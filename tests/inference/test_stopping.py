"""The rule that ends a traversal, and traversals that end by it."""

import numpy as np
import pytest
import torch

from tests.model_files import save_random, tiny_network
from tnet_cli.errors import UsageError
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.stopping import StandsStill
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.modelfile.modelfile import LoadedModel, load_model
from tnet_cli.slide.opening import open_slide


@pytest.mark.parametrize(
    ("lesion", "stops_after"),
    [
        ([0.5, 0.505, 0.5], 3),
        ([0.5, 0.9, 0.905, 0.9], 4),
        ([0.5, 0.505, 0.6, 0.605, 0.6], 5),  # one look that stands still is not enough
        ([0.5, 0.51, 0.52, 0.53], None),  # by as much as the threshold is not less
        ([0.5], None),
        ([], None),
    ],
)
def test_the_answer_must_stand_still_twice_in_a_row(lesion, stops_after):
    rule = StandsStill(0.0099, lambda answer, _: answer.numpy())
    said = [rule.update(torch.tensor([1 - p, p]), np.ones(2, bool)) for p in lesion]
    assert (said.index(True) + 1 if True in said else None) == stops_after


def test_a_threshold_of_nothing_never_stops():
    rule = StandsStill(0, lambda answer, _: answer.numpy())
    assert not any(rule.update(torch.tensor([0.5, 0.5]), np.ones(2, bool)) for _ in range(9))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Random weights: 64 px patches at 16, 4 and 1 µm."""
    network = tiny_network().model_copy(update={"locations": (6, 30)})
    return load_model(save_random(tmp_path_factory.mktemp("model"), network, seed=8))


def test_slides_end_early_and_what_is_shown_is_what_was_read(labelled_slides, model):
    entries = read_manifest(labelled_slides)[:2]

    def classified(stop_at: float, budget: int | None = None):
        options = TraversalOptions(stop_at=stop_at, budget=budget)
        return [result for _, result in sorted(classify_slides(entries, model, options), key=lambda each: each[0])]

    assert [result.locations for result in classified(0)] == [36, 36], "the model's own numbers together"
    all_of_it, early = classified(0, budget=400), classified(1, budget=400)
    for result, whole in zip(early, all_of_it, strict=True):
        assert 0 < result.locations < whole.locations <= 400
        assert result.locations % 8 == 0
        assert max(region.processing_level for region in result.regions) == 2
    assert [result.locations for result in classified(0, budget=11)] == [11, 11]
    with open_slide(entries[0].path) as slide:
        shown = all_of_it[0]
        for region, patch in zip(shown.regions, shown.evidence.patches, strict=True):
            assert (slide.read(region.region, 64, 64) == patch).all()


def test_what_the_rule_does_not_go_with(labelled_slides, model):
    entries = read_manifest(labelled_slides)[:1]
    with pytest.raises(UsageError, match=r"--stop-at .* not with --locations"):
        list(classify_slides(entries, model, TraversalOptions(stop_at=0.1, locations=(2, 2))))
