"""Soft attention: slide labels reach the location module."""

from tests.tiny_training import LABELS_ALONE, STILL, bare, location_gradient, settings_with, state_of
from tnet_cli.learning.state import random_source
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.rollout import SlideStage
from tnet_cli.training.soft_attention import SoftAttention


def test_slide_labels_reach_the_location_module_by_soft_attention_and_not_by_hard(tiny_slides):
    settings = settings_with(**LABELS_ALONE, soft_steps=1, reinforce_weight=0.0, batch_slides=4)

    def terms_and_gradient(stage: SlideStage) -> tuple[set[str], float]:
        stage.begin()
        batch = stage.prepare(random_source(0, 0, 1), 1)
        terms = stage.compute(batch, 1.0).terms
        batch.close()
        return set(terms), location_gradient(stage.state.network, terms)

    assert terms_and_gradient(HardAttention(state_of(bare(tiny_slides), settings, STILL), 3))[1] == 0
    names, gradient = terms_and_gradient(SoftAttention(state_of(bare(tiny_slides), settings, STILL)))
    assert names == {"slide", "soft"}
    assert gradient > 1e-4
