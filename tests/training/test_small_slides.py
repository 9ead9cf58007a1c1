"""Training on slides that begin at the first processing level that they fill."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_training import STILL, settings_with, state_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.patch_store import guided_patches
from tnet_cli.learning.slides import AnnotationTargets, TrainingSlide, load_training_slides
from tnet_cli.learning.state import random_source
from tnet_cli.places import Place
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.rollout import SlideStage
from tnet_cli.training.soft_attention import SoftAttention
from tnet_cli.training.validation import validation_metrics

FILLING = STILL.model_copy(update={"starts_where_filled": True})
SIZES = {(170, 60): 2, (500, 300): 1, (1100, 1030): 0}
"""Width and height, at 1 µm per pixel, and the processing level where such a slide begins."""


@pytest.fixture(scope="module")
def small_slides(tmp_path_factory) -> list[TrainingSlide]:
    folder: Path = tmp_path_factory.mktemp("small")
    inputs = []
    for number, (width, height) in enumerate(SIZES):
        rng = np.random.default_rng(number)
        pixels = rng.normal((170, 90, 150), 25, (height, width, 3)).clip(0, 255).astype(np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        inputs.append(SlideInput(path=Place(path), name=path.stem, mpp=1.0, label=("benign", "lesion")[number % 2]))
    slides = load_training_slides(inputs, FILLING)
    assert [slide.scale.start for slide in slides] == list(SIZES.values())
    return slides


@pytest.mark.parametrize("sampling", ["gumbel", "gumbel_redrawn", "top_k"])
@pytest.mark.parametrize("depth", [None, 1, 2])
def test_a_step_of_hard_attention_learns_from_slides_of_every_start_together(small_slides, sampling, depth):
    settings = settings_with(sampling=sampling, batch_slides=3, entropy_weight=0.1)
    state = state_of(small_slides, settings, FILLING)
    stage = HardAttention(state, 1, depth)
    stage.number = 1
    stage.resume()
    batch = stage.prepare(random_source(0, 1, 1), 1)
    rollouts = stage.roll_out(batch)
    batch.close()
    for rollout in rollouts:
        slide, traversal = rollout.slide, rollout.traversal
        reached = [record.processing_level for record in traversal.levels]
        last = max(slide.scale.start, 2 if depth is None else depth - 1)
        assert reached == list(range(slide.scale.start, last + 1))
        assert (traversal.levels[0].positions[:, 2] == slide.scale.start).all()
    terms = stage.learn(rollouts, 1.0).terms
    assert all(torch.isfinite(term) for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in state.network.parameters())
    assert sum(float(p.grad.norm()) for p in state.network.classification.parameters() if p.grad is not None) > 0


def test_soft_attention_and_validation_take_them_too(small_slides):
    state = state_of(small_slides, settings_with(soft_steps=1, batch_slides=3), FILLING)
    stage: SlideStage = SoftAttention(state)
    stage.resume()
    batch = stage.prepare(random_source(0, 0, 1), 1)
    terms = stage.compute(batch, 1.0).terms
    batch.close()
    assert all(torch.isfinite(term) for term in terms.values())
    for depth in (None, 1):
        metrics = validation_metrics(state, small_slides, depth)
        assert metrics is not None
        assert math.isfinite(metrics["loss"])


def test_the_warm_ups_patches_begin_where_the_slide_does(small_slides, rng):
    for slide, start in zip(small_slides, SIZES.values(), strict=True):
        pool = guided_patches(AnnotationTargets(slide, FILLING, settings_with(patches_per_slide=6)), rng)
        scales = [int(position[2]) for position in pool.positions]
        assert scales[: len(slide.roots)] == [start] * len(slide.roots)
        assert set(scales) == set(range(start, 3))
