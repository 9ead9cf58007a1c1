"""A whole training: its stages, what it learns, and slides that cannot be read."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tifffile
import torch

from tests.tiny_training import (
    CONFIG,
    LABELS_ALONE,
    SETTINGS,
    STILL,
    Told,
    batch_statistics,
    seen_by,
    settings_with,
    state_of,
)
from tnet_cli.errors import SlideError, UnreadableRegionError, UsageError
from tnet_cli.learning.loop import StageRun
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.places import Place
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.rollout import OpenedSlide
from tnet_cli.training.train import plan_stages, train
from tnet_cli.training.warmup import WarmUp

HARD = settings_with(rounds=0, hard_epochs=1, checkpoint_every=1)


def names_of(settings: TrainingSettings, slides: Sequence[TrainingSlide]) -> list[str]:
    return [stage.name for stage in plan_stages(state_of(slides, settings))]


def test_stages_are_those_that_were_asked_for(tiny_slides):
    assert names_of(SETTINGS, tiny_slides) == ["warm-up 1", "warm-up 2", "hard attention"]
    every = settings_with(soft_steps=3, staged_depth=[[1, 1], [2, 2]], rounds=1)
    assert names_of(every, tiny_slides) == [
        "warm-up 1",
        "soft attention",
        "hard attention to 1 processing levels",
        "hard attention to 2 processing levels",
        "hard attention",
    ]
    assert names_of(settings_with(hard_epochs=0, rounds=0), tiny_slides) == []


def test_annotations_teach_only_where_they_are_wanted(tiny_inputs):
    told = Told()
    train(tiny_inputs, CONFIG, settings_with(**LABELS_ALONE, hard_epochs=1), progress=told)
    assert [report.stage for report in told.reports] == ["hard attention"]
    assert "location" not in told.reports[0].terms
    assert told.notes == ["no slide has an annotation that may teach, so the warm-up on patches is left out"]


@pytest.mark.parametrize("normalisation", ["frozen", "none"])
def test_training_and_evaluation_agree_wherever_processing_levels_are_looked_at_apart(tiny_slides, normalisation):
    settings = settings_with(normalisation=normalisation, warmup_steps=2, rounds=1, hard_epochs=1, soft_steps=1)
    state = state_of(tiny_slides, settings, STILL)
    untouched = batch_statistics(state.network)
    for number, stage in enumerate(plan_stages(state)):
        stage.begin()
        # Only a warm-up that is to learn the statistics uses those of its batch.
        agree = torch.equal(seen_by(state.network, training=True), seen_by(state.network, training=False))
        assert agree is (number > 0 or normalisation == "none")
        before = batch_statistics(state.network)
        StageRun(stage).run()
        same = all(torch.equal(a, b) for a, b in zip(before, batch_statistics(state.network), strict=True))
        assert same is (number > 0 or normalisation == "none")
        assert torch.isfinite(seen_by(state.network, training=False)).all()
    assert not all(torch.equal(a, b) for a, b in zip(untouched, batch_statistics(state.network), strict=True))


@pytest.mark.slow
def test_training_learns_from_synthetic_slides_with_frozen_normalisation(tiny_slides):
    assert sorted(slide.label for slide in tiny_slides) == [0, 0, 1, 1]
    settings = settings_with(
        patches_per_slide=6,
        warmup_steps=50,
        rounds=1,
        warmup_learning_rate=3e-3,
        batch_patches=12,
        hard_epochs=20,
        hard_learning_rate=1e-3,
        batch_slides=4,
    )
    told = Told()
    state = state_of(tiny_slides, settings, progress=told)
    network, warm = state.network, WarmUp(state, 1)
    before = batch_statistics(network)
    warm.begin()
    StageRun(warm).run()
    assert {-1, 0, 1} == set(state.pool.column("labels").tolist())
    assert [report.step for report in told.reports] == [25, 50]
    assert told.reports[-1].terms["total"] < 0.85 * told.reports[0].terms["total"]
    assert any(not torch.equal(a, b) for a, b in zip(before, batch_statistics(network), strict=True))

    frozen, weights = batch_statistics(network), [p.detach().clone() for p in network.parameters()]
    told.reports.clear()
    hard = HardAttention(state, settings.hard_epochs)
    hard.number = 1
    hard.begin()
    StageRun(hard).run()
    assert [report.step for report in told.reports] == [10, 20]
    assert told.reports[-1].terms["total"] < told.reports[0].terms["total"]
    assert all(torch.equal(a, b) for a, b in zip(frozen, batch_statistics(network), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())
    assert len(state.pool) == 0


@pytest.fixture
def with_a_bad_one(tiny_inputs, tmp_path):
    bad = tmp_path / "torn.tif"
    bad.write_bytes(Path(tiny_inputs[0].path).read_bytes()[:200])
    return [*tiny_inputs, replace(tiny_inputs[0], path=str(bad), name="torn")]


def test_what_the_reader_of_a_slide_doubts_is_told_once(tiny_inputs, tmp_path):
    doubtful = tmp_path / "doubtful.tif"
    shutil.copy(tiny_inputs[0].path, doubtful)
    with tifffile.TiffFile(doubtful, mode="r+") as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        page.tags["TileByteCounts"].overwrite([0, *page.databytecounts[1:]])
    told = Told()
    inputs = [replace(tiny_inputs[0], path=Place(doubtful)), *tiny_inputs[1:]]
    train(inputs, CONFIG, HARD, validation=inputs[:1], progress=told)
    (said,) = [note for note in told.notes if "doubtful" in note]
    assert said.startswith(f"{doubtful}: the file lacks 1 of 64 tiles of its image of 2000 x 2000 pixels")
    assert said.endswith("; what is learnt from it may be wrong")


def test_a_slide_that_cannot_be_opened_is_named_or_left_out(with_a_bad_one):
    with pytest.raises(SlideError, match=r"torn\.tif"):
        train(with_a_bad_one, CONFIG, HARD)
    told = Told()
    train(with_a_bad_one, CONFIG, HARD, skip_bad=True, progress=told)
    assert len(told.notes) == 1
    assert told.notes[0].startswith("left out: ")
    assert "torn.tif" in told.notes[0]


def test_a_slide_that_breaks_while_training_is_named_or_left_out(tiny_inputs, monkeypatch):
    real, broken = OpenedSlide.read, tiny_inputs[1].shown_path

    def read(self: OpenedSlide, region: Any) -> Any:
        if self.slide.entry.shown_path == broken and region not in self.roots:
            raise UnreadableRegionError(broken, f"the region at {region.x}, {region.y} cannot be decoded")
        return real(self, region)

    monkeypatch.setattr(OpenedSlide, "read", read)
    with pytest.raises(UnreadableRegionError, match="cannot be decoded"):
        train(tiny_inputs, CONFIG, HARD)
    told = Told()
    # Alone in its batch, it leaves a step without any slide.
    alone = HARD.model_copy(update={"batch_slides": 1, "hard_epochs": 2})
    train(tiny_inputs, CONFIG, alone, skip_bad=True, progress=told)
    assert len(told.notes) == 1
    assert told.notes[0].startswith(f"left out: {broken}: the region at ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hard_locations": (2, 3, 4)}, "has 3 numbers; a model of 3 processing levels needs 2"),
        ({"normal_class": "healthy"}, "normal_class 'healthy' is not among"),
        ({"staged_depth": ((3, 1),)}, "staged_depth names processing levels before all 3"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(change, said):
    with pytest.raises(UsageError, match=said):
        train([], CONFIG, SETTINGS.model_copy(update=change))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_run_in_mixed_precision_on_cuda_stays_finite(tiny_inputs):
    told = Told()
    settings = settings_with(soft_steps=2, hard_epochs=1)
    network = train(tiny_inputs, CONFIG, settings, device=torch.device("cuda"), progress=told)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert told.reports
