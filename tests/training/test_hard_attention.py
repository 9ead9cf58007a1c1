"""Hard attention: every switch of its settings acts, and acts alone."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.tiny_training import SETTINGS, STILL, location_gradient, settings_with, state_of
from tnet_cli.errors import UsageError
from tnet_cli.learning.loop import StepOutput
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.state import random_source
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Traversal
from tnet_cli.training.hard_attention import HardAttention


def hard_step(
    slides: Sequence[TrainingSlide],
    settings: TrainingSettings,
    *,
    seed: int = 0,
    depth: int | None = None,
    config: TNetConfig = STILL,
) -> tuple[StepOutput, list[Traversal], TNet]:
    """Compute one step of hard attention from the same weights; return what was traversed too."""
    state = state_of(slides, settings, config)
    stage = HardAttention(state, 3, depth)
    stage.number = 1
    stage.resume()
    state.network.train()
    batch = stage.prepare(random_source(seed, 1, 1), 1)
    rollouts = stage.roll_out(batch)
    batch.close()
    return stage.learn(rollouts, 1.0), [each.traversal for each in rollouts], state.network


def cells_of(traversals: Sequence[Traversal]) -> list[list[int]]:
    return [[*record.parents.tolist(), *record.cells.tolist()] for each in traversals for record in each.levels[1:]]


def test_annotations_teach_the_location_module(tiny_slides):
    assert "location" in hard_step(tiny_slides, settings_with(batch_slides=4))[0].terms


def test_cells_that_stand_alone_are_drawn_and_credited_as_such(tiny_slides):
    alone = STILL.model_copy(update={"location_softmax": "sigmoid"})
    settings = settings_with(batch_slides=4, sampling="gumbel_redrawn")
    output, traversals, network = hard_step(tiny_slides, settings, config=alone)
    for each in traversals:
        for above, record in itertools.pairwise(each.levels):
            assert above.cell_log_probs is not None
            own = above.cell_log_probs[record.parents, record.cells]
            assert torch.equal(record.path_log_probs, own)
    assert float(output.terms["location"].detach()) > 0
    assert location_gradient(network, {"reinforce": output.terms["reinforce"]}) > 0
    # On slides without a lesion too they learn, that there is nothing.
    benign = [slide for slide in tiny_slides if slide.label == 0]
    assert "location" in hard_step(benign, settings, config=alone)[0].terms
    assert "location" not in hard_step(benign, settings)[0].terms
    with pytest.raises(UsageError, match="each cell stands alone"):
        settings_with(sampling="gumbel").check_fit(alone)
    settings.check_fit(alone)


def test_exploration_is_mixed_into_what_is_drawn_and_decays(tiny_slides):
    settings = settings_with(exploration=0.8)
    stage = HardAttention(state_of(tiny_slides, settings), 3, None, (0.5, 1.0))
    stage.number = 1
    stage.resume()
    shares = []
    for step in (1, 4, 6):
        batch = stage.prepare(random_source(0, 1, step), step)
        shares.append(batch.exploration)
        batch.close()
    np.testing.assert_allclose(shares, [0.8 * 0.5, 0.8 * 0.25, 0.8 * (1 - (0.5 + 0.5 * 5 / 6))])

    _, plain, _ = hard_step(tiny_slides, settings_with())
    _, mixed, _ = hard_step(tiny_slides, settings)
    for without, with_it in zip(plain, mixed, strict=True):
        first, second = without.levels[0], with_it.levels[0]
        assert first.allowed is not None
        assert first.cell_log_probs is not None
        assert second.cell_log_probs is not None
        count = torch.from_numpy(first.allowed).sum(dim=1, keepdim=True)
        expected = 0.2 * first.cell_log_probs.exp() + 0.8 / count * torch.from_numpy(first.allowed)
        torch.testing.assert_close(second.cell_log_probs.exp(), expected)
        # Draws are credited with the probabilities they were drawn with.
        again = second.cell_log_probs[with_it.levels[1].parents, with_it.levels[1].cells]
        assert torch.equal(with_it.levels[1].location_log_probs, again)


def test_staged_depth_stops_the_traversal_early(tiny_slides):
    for depth, expected in ((1, 1), (2, 2), (None, 3)):
        output, traversals, _ = hard_step(tiny_slides, SETTINGS, depth=depth)
        assert {len(each.levels) for each in traversals} == {expected}
        assert all(torch.isfinite(term) for term in output.terms.values())


def test_the_entropy_bonus_raises_entropy(tiny_slides):
    assert "entropy" not in hard_step(tiny_slides, SETTINGS)[0].terms
    output, traversals, network = hard_step(tiny_slides, settings_with(entropy_weight=0.5))
    entropies = []
    for each in traversals:
        for record in each.levels[:-1]:
            assert record.allowed is not None
            assert record.cell_log_probs is not None
            probs = record.cell_log_probs.detach().exp().numpy()
            for row, allowed in zip(probs, record.allowed, strict=True):
                if allowed.sum() > 1:
                    entropies.append(-(row[allowed] * np.log(row[allowed])).sum())
    assert float(output.terms["entropy"].detach()) == pytest.approx(-0.5 * np.mean(entropies), rel=1e-4)
    assert location_gradient(network, {"entropy": output.terms["entropy"]}) > 0


def test_top_k_is_the_same_whatever_is_rolled_and_gumbel_is_not(tiny_slides):
    def cells(sampling: str, seed: int) -> list[list[int]]:
        settings = settings_with(sampling=sampling, batch_slides=4)
        return cells_of(hard_step(tiny_slides, settings, seed=seed)[1])

    assert cells("top_k", 1) == cells("top_k", 2)
    assert cells("gumbel", 1) == cells("gumbel", 1)
    assert cells("gumbel", 1) != cells("gumbel", 2)
    assert cells("gumbel_redrawn", 1) != cells("gumbel", 1)


def test_credit_decides_what_reinforce_moves_and_nothing_else(tiny_slides):
    drawn, first, _ = hard_step(tiny_slides, settings_with(credit="draw"))
    cell, second, _ = hard_step(tiny_slides, settings_with(credit="cell"))
    assert cells_of(first) == cells_of(second)
    for name in ("cross_entropy", "feature_cross_entropy", "location"):
        if name in drawn.terms:
            assert torch.equal(drawn.terms[name], cell.terms[name])
    assert not torch.equal(drawn.terms["reinforce"], cell.terms["reinforce"])
