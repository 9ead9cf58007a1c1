"""The warm-up: patches changed and carried along, the location module's loss, and the statistics it leaves."""

import numpy as np
import pytest
import torch

from tests.tiny_training import (
    CONFIG,
    LABELS_ALONE,
    SETTINGS,
    STILL,
    bare,
    batch_statistics,
    seen_by,
    settings_with,
    state_of,
)
from tnet_cli.learning.augment import augment_patch
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.train import plan_stages
from tnet_cli.training.warmup import WarmUp, fill_pool, location_loss, presence_loss


def test_a_changed_patch_carries_its_cells_along(rng):
    seen = set()
    for _ in range(60):
        row, column = (int(value) for value in rng.integers(4, size=2))
        pixels = np.full((64, 64, 3), 60, np.uint8)
        pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 200
        cells = np.zeros((2, 16), np.float32)
        cells[0, 4 * row + column], cells[1] = 1, np.arange(16)
        changed, carried = augment_patch(pixels, cells, 0.1, rng)
        assert changed.shape == (64, 64, 3)
        assert changed.dtype == np.uint8
        brightness = changed.astype(float).mean(axis=2).reshape(4, 16, 4, 16).mean(axis=(1, 3)).ravel()
        assert brightness.argmax() == carried[0].argmax()
        assert carried[0].sum() == 1
        seen.add(tuple(carried[1]))
    assert len(seen) == 8  # the symmetries of the square


def test_colours_change_by_no_more_than_they_may(rng):
    pixels = np.full((8, 8, 3), 100, np.uint8)
    changed = np.array([augment_patch(pixels, np.zeros((1, 16)), 0.08, rng)[0][0, 0] for _ in range(200)]).astype(int)
    assert changed.min() >= 91  # rounded down from 92
    assert changed.max() <= 108
    assert (changed.max(axis=0) - changed.min(axis=0)).min() > 10
    assert augment_patch(pixels, np.zeros((1, 16)), 0.0, rng)[0].tolist() == pixels.tolist()


def test_location_loss_is_the_cross_entropy_over_taught_regions():
    log_probs = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25] * 4]).log()
    targets = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 4])
    expected = (0.5 * np.log(2) + 0.5 * np.log(4) - np.log(0.4)) / 2
    assert float(location_loss(log_probs, targets)) == pytest.approx(expected, rel=1e-6)
    assert float(location_loss(log_probs, torch.zeros(3, 4))) == 0


def test_presence_loss_is_the_cross_entropy_of_something_and_nothing_in_cells_that_are_decided():
    present = torch.tensor([[0.9, 0.2, 0.5, 0.0], [0.1, 0.3, 0.6, 0.8], [0.7] * 4, [0.2] * 4])
    # A small share is an edge and teaches nothing; the last cell of the first row may not be attended.
    targets = torch.tensor([[0.8, 0.2, 0.0, 0.0], [0.0] * 4, [0.0] * 4, [1.0, 0.0, 0.0, 0.0]])
    known = torch.tensor([True, True, False, False])
    first = -(np.log(0.9) + np.log(0.5)) / 2
    second = -np.log([0.9, 0.7, 0.4, 0.2]).mean()
    # Whether all is known says nothing against what was drawn.
    fourth = -(np.log(0.2) + 3 * np.log(0.8)) / 4
    assert float(presence_loss(present.log(), targets, known)) == pytest.approx((first + second + fourth) / 3, rel=1e-5)
    assert float(presence_loss(present.log(), targets, known, 6)) == pytest.approx(
        (first + second + fourth) / 6, rel=1e-5
    )
    assert float(presence_loss(present.log(), torch.zeros(4, 4), torch.zeros(4, dtype=torch.bool))) == 0


def test_presence_loss_has_the_gradient_of_logits_even_where_a_cell_is_certain():
    logits = torch.tensor([[0.3, -0.2, 80.0, 0.1]], requires_grad=True)
    allowed = torch.tensor([[True, True, True, False]])
    log_probs = torch.nn.functional.logsigmoid(logits).masked_fill(~allowed, -torch.inf)
    presence_loss(log_probs, torch.tensor([[1.0, 0.0, 0.0, 0.0]])).backward()
    assert logits.grad is not None
    expected = (torch.sigmoid(logits.detach()) - torch.tensor([[1.0, 0.0, 0.0, 0.0]])) / 3
    np.testing.assert_allclose(logits.grad[0, :2].numpy(), expected[0, :2].numpy(), atol=1e-6)
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad[0, 3]) == 0


def test_what_holds_nothing_teaches_a_sigmoid_where_to_look(tiny_slides):
    config = CONFIG.model_copy(update={"location_softmax": "sigmoid"})
    for softmax, taught in ((config, True), (CONFIG, False)):
        state = state_of([slide for slide in tiny_slides if slide.label == 0], SETTINGS, softmax)
        warmup = WarmUp(state, 1)
        warmup.begin()
        pool = state.pool
        coarse = pool.column("positions")[:, 2] < CONFIG.processing_levels - 1
        assert bool(warmup.weights[coarse].any()) == taught
        batch = warmup.prepare(np.random.default_rng(0), 1)
        terms = warmup.compute(batch, 1.0).terms
        assert (float(terms["location"].detach()) > 0) == taught


def test_location_loss_has_a_finite_gradient_beside_forbidden_cells():
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.1]], requires_grad=True)
    allowed = torch.tensor([[True, True, False, True]])
    log_probs = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), dim=1)
    targets = torch.tensor([[0.75, 0.25, 0.0, 0.0]])
    loss = location_loss(log_probs, targets)
    assert loss.item() == pytest.approx(-float((0.75 * log_probs[0, 0] + 0.25 * log_probs[0, 1]).detach()))
    loss.backward()
    assert logits.grad is not None
    expected = log_probs.detach().exp() - targets
    np.testing.assert_allclose(logits.grad.numpy(), expected.numpy(), atol=1e-6)


def test_slide_labels_may_teach_the_warm_up_its_patches(tiny_slides):
    slides = bare(tiny_slides)
    weak = settings_with(**LABELS_ALONE, slide_labels_teach_patches=True, rounds=1)
    state = state_of(slides, weak)
    assert [stage.name for stage in plan_stages(state)] == ["warm-up 1", "hard attention"]
    fill_pool(state, np.random.default_rng(0))
    of_slides = np.repeat(*state.pool.as_arrays()["parts"].T)
    finest = state.pool.column("positions")[:, 2] == 2
    labels = np.where(finest, np.array([slide.label for slide in slides])[of_slides], -1)
    assert np.array_equal(state.pool.column("labels"), labels)
    assert {0, 1} <= set(labels.tolist())
    # What somebody drew counts for more.
    drawn = state_of(tiny_slides, settings_with(slide_labels_teach_patches=True))
    without = state_of(tiny_slides, SETTINGS)
    for each in (drawn, without):
        fill_pool(each, np.random.default_rng(0))
    annotated = np.array([slide.annotated is not None for slide in tiny_slides])
    of_annotated = annotated[np.repeat(*drawn.pool.as_arrays()["parts"].T)]
    labels, expected = (each.pool.column("labels") for each in (drawn, without))
    assert np.array_equal(labels[of_annotated], expected[of_annotated])


def test_statistics_that_no_warm_up_learns_are_measured_once(tiny_slides):
    settings = settings_with(rounds=0, hard_epochs=1)
    state = state_of(tiny_slides, settings, STILL)
    HardAttention(state, 1).begin()
    assert not all(bool((mean == 0).all()) for mean in batch_statistics(state.network)[::2])
    assert torch.equal(seen_by(state.network, training=True), seen_by(state.network, training=False))
    # Units keep a scale to learn with: without statistics it falls from layer to layer.
    assert 0.05 < float(seen_by(state.network, training=False).std()) < 50
    pretrained = state_of(tiny_slides, settings, STILL)
    pretrained.pretrained = True
    kept = batch_statistics(pretrained.network)
    HardAttention(pretrained, 1).begin()
    assert all(torch.equal(a, b) for a, b in zip(kept, batch_statistics(pretrained.network), strict=True))
