"""Views of patches, each encoded once: the same as encoded anew, whatever is drawn with them."""

import numpy as np
import pytest
import torch

from tests.learning.test_frozen_features import FROZEN_FINDER, STILL, frozen_encoder, gradients_of, seen_by_frozen
from tests.tiny_training import CONFIG, settings_with, state_of
from tnet_cli.learning.loop import StepOutput
from tnet_cli.learning.state import TrainingState, random_source
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.train import train
from tnet_cli.training.warmup import PatchBatch, WarmUp, fill_pool

VIEWS = 2
SETTINGS = settings_with(views=VIEWS, rounds=1, warmup_steps=12)
MIXED = [pytest.param(STILL, id="finest"), pytest.param(FROZEN_FINDER, id="finder")]


def warm_up_of(slides, config, settings=SETTINGS) -> tuple[TrainingState, WarmUp]:
    state = state_of(slides, settings, config)
    stage = WarmUp(state, 1)
    fill_pool(state, np.random.default_rng(0))
    stage.resume()
    state.network.train()
    return state, stage


def step_of(stage: WarmUp, step: int) -> tuple[PatchBatch, StepOutput]:
    batch = stage.prepare(random_source(0, 0, step), step)
    return batch, stage.compute(batch, 1.0)


@pytest.mark.parametrize("config", MIXED)
def test_each_view_is_encoded_once_alone_and_learnt_from_as_any_patch(tiny_slides, config):
    state, stage = warm_up_of(tiny_slides, config)
    given = seen_by_frozen(state)
    outputs = [step_of(stage, step) for step in range(1, 13)]
    views = np.concatenate([batch.views.numpy() for batch, _ in outputs])
    drawn = views[views >= 0]
    assert 0 < len(set(drawn.tolist())) < len(drawn)
    assert given == [1] * len(set(drawn.tolist()))
    assert drawn.max() < VIEWS * len(state.pool)
    assert (views < 0).any()  # the encoder that learns is shown patches as ever

    # A step of views that are held is, to the last digit, the step in which they were encoded.
    again = gradients_of(state, step_of(stage, 1)[1])
    other, anew = warm_up_of(tiny_slides, config)
    other.network.load_state_dict(state.network.state_dict())
    first = gradients_of(other, step_of(anew, 1)[1])
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("config", MIXED)
def test_a_step_of_views_is_what_the_network_makes_of_their_pixels(tiny_slides, config):
    state, stage = warm_up_of(tiny_slides, config)
    batch, output = step_of(stage, 1)
    ours = gradients_of(state, output)
    batch.views.fill_(-1)
    theirs = gradients_of(state, stage.compute(batch, 1.0))
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5)


def test_a_view_is_turned_and_tinted_alike_whenever_it_is_drawn(tiny_slides):
    _, stage = warm_up_of(tiny_slides, FROZEN_FINDER)
    cells: dict[int, torch.Tensor] = {}
    repeated = 0
    for step in range(1, 13):
        batch, _ = step_of(stage, step)
        for view, targets in zip(batch.views.tolist(), batch.targets, strict=True):
            if view >= 0 and view in cells:
                repeated += 1
                assert torch.equal(cells[view], targets)
            cells[view] = targets
    assert repeated > 0


def test_without_a_frozen_encoder_or_without_views_every_patch_is_shown_anew(tiny_slides):
    for config, settings in ((CONFIG, SETTINGS), (STILL, settings_with(rounds=1))):
        state, stage = warm_up_of(tiny_slides, config, settings)
        assert state.views is None
        assert (step_of(stage, 1)[0].views == -1).all()


def test_a_run_with_views_trains_to_its_end_and_lets_them_go(tiny_inputs, tiny_slides):
    network = train(tiny_inputs, STILL, settings_with(views=VIEWS))
    assert all(bool(torch.isfinite(each).all()) for each in network.state_dict().values())
    state, _ = warm_up_of(tiny_slides, STILL)
    assert state.views is not None
    assert frozen_encoder(state) is not None
    HardAttention(state, 1).begin()
    assert state.views is None
