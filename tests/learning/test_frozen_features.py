"""What frozen encoders see, kept and looked up: the same as computed, and never of another slide, encoder or way."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny_training import CONFIG, OWN, Told, settings_with, state_of
from tnet_cli.errors import UsageError
from tnet_cli.geometry import Region
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.feature_store import list_features
from tnet_cli.learning.frozen_features import FrozenFeatures, digest_of_encoder
from tnet_cli.learning.loop import StepOutput
from tnet_cli.learning.slides import TrainingSlide, load_training_slides
from tnet_cli.learning.state import TrainingState, random_source
from tnet_cli.model.config import EncoderConfig, TNetConfig
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.traversal import Traversal
from tnet_cli.slide.slide import Slide
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.rollout import SlideStage
from tnet_cli.training.soft_attention import SoftAttention
from tnet_cli.training.train import train
from tnet_cli.training.validation import validation_metrics

STILL = OWN.model_copy(update={"dropout": 0.0})
SETTINGS = settings_with(batch_slides=4, soft_steps=1)
FINEST = 2

FROZEN_FINDER = STILL.model_copy(
    update={
        "encoders": (
            EncoderConfig(backbone="tnet_small", processing_levels=(0, 1), input_px=64, frozen=True),
            EncoderConfig(backbone="tnet_small", processing_levels=(2,), input_px=64),
        )
    }
)
"""The encoder that looks for places is the frozen one."""


def features_of(state: TrainingState, store: Path) -> FrozenFeatures:
    return FrozenFeatures.of(
        state.network, store, state.device, side_px=lambda _number: 64, arithmetic=state.precision.dtype
    )


def state_with(slides: Sequence[TrainingSlide], store: Path | None, config: TNetConfig = STILL) -> TrainingState:
    settings = SETTINGS.model_copy(update={"features": None if store is None else str(store)})
    state = state_of(slides, settings, config)
    state.features = None if store is None else features_of(state, store)
    return state


def frozen_encoder(state: TrainingState) -> nn.Module:
    extraction = state.network.feature
    assert isinstance(extraction, FeatureExtractionByLevel)
    return next(extraction.encoder(n).backbone for n, each in enumerate(state.network.config.encoders) if each.frozen)


def seen_by_frozen(state: TrainingState) -> list[int]:
    """How many patches the frozen encoder is given, a number for each batch from now on."""
    counts: list[int] = []
    frozen_encoder(state).register_forward_hook(lambda _module, args, _result: counts.append(len(args[0])))
    return counts


def step_of(
    state: TrainingState, kind: Callable[[TrainingState], SlideStage] = lambda state: HardAttention(state, 3)
) -> tuple[StepOutput, list[Traversal]]:
    stage = kind(state)
    stage.number = 1
    stage.resume()
    state.network.train()
    batch = stage.prepare(random_source(0, 1, 1), 1)
    try:
        rollouts = stage.roll_out(batch)
    finally:
        batch.close()
    return stage.learn(rollouts, 1.0), [each.traversal for each in rollouts]


def gradients_of(state: TrainingState, output: StepOutput) -> dict[str, torch.Tensor]:
    state.network.zero_grad()
    torch.stack(list(output.terms.values())).sum().backward()
    return {name: each.grad.clone() for name, each in state.network.named_parameters() if each.grad is not None}


@pytest.fixture
def regions_read(monkeypatch: pytest.MonkeyPatch) -> list[Region]:
    """The regions that are read of slides from now on."""
    found: list[Region] = []
    read = Slide.read

    def noting(self: Slide, region: Region, width_px: int, height_px: int) -> np.ndarray:
        found.append(region)
        return read(self, region, width_px, height_px)

    monkeypatch.setattr(Slide, "read", noting)
    return found


@pytest.mark.parametrize("config", [STILL, FROZEN_FINDER], ids=["finest", "finder"])
@pytest.mark.parametrize("kind", [lambda state: HardAttention(state, 3), SoftAttention], ids=["hard", "soft"])
def test_a_step_with_kept_features_is_a_step_with_computed_ones(tiny_slides, tmp_path, kind, config):
    without, first, again = (state_with(tiny_slides, store, config) for store in (None, tmp_path, tmp_path))
    computed = [seen_by_frozen(state) for state in (without, first, again)]
    steps = [step_of(state, kind) for state in (without, first, again)]
    gradients = [gradients_of(state, output) for state, (output, _) in zip((without, first, again), steps, strict=True)]
    assert sum(computed[0]) == sum(computed[1]) > 0
    assert computed[2] == []
    for (output, traversals), found in zip(steps[1:], gradients[1:], strict=True):
        for expected, traversal in zip(steps[0][1], traversals, strict=True):
            for level, record in zip(expected.levels, traversal.levels, strict=True):
                assert level.regions == record.regions
                torch.testing.assert_close(record.features, level.features, atol=1e-5, rtol=0)
                if level.cell_log_probs is not None:
                    torch.testing.assert_close(record.cell_log_probs, level.cell_log_probs, atol=1e-5, rtol=0)
        for name, term in steps[0][0].terms.items():
            assert float(output.terms[name].detach()) == pytest.approx(float(term.detach()), abs=1e-5)
        assert found.keys() == gradients[0].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_what_is_kept_is_not_read_again(tiny_slides, tmp_path, regions_read):
    first, second = state_with(tiny_slides, tmp_path), state_with(tiny_slides, tmp_path)
    _, traversals = step_of(first)
    finest = {region for each in traversals for region in each.levels[FINEST].regions}
    assert finest <= set(regions_read)
    regions_read.clear()
    step_of(second)
    assert regions_read
    assert not finest & set(regions_read)


def test_of_some_regions_only_the_others_are_computed(tiny_slides, tmp_path):
    first, second = state_with(tiny_slides, tmp_path), state_with(tiny_slides, tmp_path)
    step_of(first)
    held = {region for folder in features_of(first, tmp_path).folders.values() for region in _all_of(folder.path)}
    second.settings = settings_with(batch_slides=4, hard_locations=(4, 8), features=str(tmp_path))
    computed = seen_by_frozen(second)
    _, traversals = step_of(second)
    wanted = [region for each in traversals for region in each.levels[FINEST].regions]
    assert 0 < sum(computed) < len(wanted)
    assert sum(computed) >= len(set(wanted) - held)


def _all_of(folder: Path) -> set[Region]:
    from safetensors.numpy import load_file

    boxes = [box for file in folder.glob("*.safetensors") for box in load_file(file)["regions"].tolist()]
    return {Region(*box) for box in boxes}


def test_validation_looks_up_what_it_has_computed_and_says_the_same(tiny_slides, tmp_path, regions_read):
    expected = validation_metrics(state_with(tiny_slides, None), tiny_slides, None)
    assert expected is not None
    said = [validation_metrics(state_with(tiny_slides, tmp_path), tiny_slides, None)]
    regions_read.clear()
    warm = state_with(tiny_slides, tmp_path)
    computed = seen_by_frozen(warm)
    said.append(validation_metrics(warm, tiny_slides, None))
    assert computed == []
    assert {region.width for region in regions_read} == {256, 1024}  # of the coarser processing levels alone
    for each in said:
        assert each == pytest.approx(expected, abs=1e-5)


def test_a_slide_all_of_which_is_known_needs_nothing_of_the_network_but_what_learns(tiny_inputs, tmp_path):
    config = STILL.model_copy(update={"starts_where_filled": True, "mpp": (256.0, 64.0, 16.0)})
    slides = load_training_slides(tiny_inputs, config)
    assert {slide.scale.start for slide in slides} == {FINEST}
    step_of(state_with(slides, tmp_path, config))
    warm = state_with(slides, tmp_path, config)
    computed = seen_by_frozen(warm)
    output, traversals = step_of(warm)
    assert computed == []
    assert [len(each.levels) for each in traversals] == [1] * 4
    assert gradients_of(warm, output)["position.project.weight"].abs().max() > 0


@pytest.fixture
def copied(tiny_inputs: Sequence[SlideInput], tmp_path: Path) -> list[SlideInput]:
    """The slides, copied so that they may be changed."""
    (tmp_path / "slides").mkdir()
    entries = []
    for entry in tiny_inputs:
        path = tmp_path / "slides" / Path(entry.path).name
        shutil.copyfile(entry.path, path)
        entries.append(replace(entry, path=type(entry.path)(path)))
    return entries


def test_a_slide_that_was_changed_is_another(copied, tmp_path):
    store = tmp_path / "store"
    step_of(state_with(load_training_slides(copied, CONFIG), store))
    changed = Path(copied[0].path)
    os.utime(changed, ns=(1, 1))
    warm = state_with(load_training_slides(copied, CONFIG), store)
    computed = seen_by_frozen(warm)
    _, traversals = step_of(warm)
    anew = [len(t.levels[FINEST].regions) for t, s in zip(traversals, _order(warm), strict=True) if s == changed]
    assert sum(computed) == sum(anew) > 0
    assert list_features(store)[0]["slides"] == 5


def _order(state: TrainingState) -> list[Path]:
    """The slides of the first step of hard attention."""
    stage = HardAttention(state, 3)
    stage.number = 1
    batch = stage.prepare(random_source(0, 1, 1), 1)
    batch.close()
    return [Path(each.slide.entry.path) for each in batch.opened]


def test_what_was_read_of_a_slide_that_changed_meanwhile_is_not_kept(copied, tmp_path):
    state = state_with(load_training_slides(copied, CONFIG), tmp_path / "store")
    os.utime(copied[0].path, ns=(1, 1))
    step_of(state)
    assert list_features(tmp_path / "store")[0]["slides"] == 3


def test_of_a_slide_that_nobody_can_tell_from_another_nothing_is_kept(tiny_slides, tmp_path):
    unknown = [replace(slide, fingerprint=None) for slide in tiny_slides]
    step_of(state_with(unknown, tmp_path))
    again = state_with(unknown, tmp_path)
    computed = seen_by_frozen(again)
    step_of(again)
    assert sum(computed) > 0
    assert list_features(tmp_path) == []


def test_of_a_slide_whose_reader_has_a_doubt_nothing_is_kept(tiny_slides, tmp_path, monkeypatch):
    opened = TrainingSlide.open

    def doubted(self: TrainingSlide) -> Slide:
        handle = opened(self)
        handle.doubt("missing", "some of it is missing")
        return handle

    monkeypatch.setattr(TrainingSlide, "open", doubted)
    step_of(state_with(tiny_slides, tmp_path))
    assert list_features(tmp_path) == []


def test_other_weights_or_another_way_of_showing_patches_see_nothing_of_it(tiny_slides, tmp_path):
    state = state_with(tiny_slides, tmp_path)
    extraction = state.network.feature
    assert isinstance(extraction, FeatureExtractionByLevel)
    encoder, before = extraction.encoder(1), features_of(state, tmp_path).folders[1].name
    ways = [
        FrozenFeatures.of(state.network, tmp_path, state.device, side_px=lambda _number: 48),
        FrozenFeatures.of(state.network, tmp_path, state.device, side_px=lambda _number: 64, arithmetic=torch.bfloat16),
    ]
    digest = digest_of_encoder(encoder)
    with torch.no_grad():
        next(encoder.parameters()).mul_(1 + 1e-6)
    assert digest_of_encoder(encoder) != digest
    names = [before, *(way.folders[1].name for way in ways), features_of(state, tmp_path).folders[1].name]
    assert len(set(names)) == 4
    encoder.settings = encoder.settings.model_copy(update={"interpolation": "bicubic"})
    assert features_of(state, tmp_path).folders[1].name not in names


def test_training_moves_nothing_that_features_depend_on(tiny_inputs, tmp_path):
    settings = settings_with(warmup_steps=3, rounds=1, hard_epochs=1, features=str(tmp_path))
    torch.manual_seed(0)
    network = train(tiny_inputs, OWN, settings)
    extraction = network.feature
    assert isinstance(extraction, FeatureExtractionByLevel)
    assert [each["encoder"]["digest"] for each in list_features(tmp_path)] == [digest_of_encoder(extraction.encoder(1))]


def test_a_run_with_features_learns_what_one_without_does_and_computes_them_once(tiny_inputs, tmp_path):
    def losses(store: Path | None) -> list[tuple[str, dict[str, float]]]:
        told, where = Told(), None if store is None else str(store)
        settings = settings_with(warmup_steps=3, rounds=1, hard_epochs=2, soft_steps=1, features=where)
        train(tiny_inputs, STILL, settings, validation=tiny_inputs[:2], progress=told)
        return [(report.stage, report.terms) for report in told.reports]

    without, cold = losses(None), losses(tmp_path)
    held = list_features(tmp_path)
    warm = losses(tmp_path)
    assert list_features(tmp_path) == held  # nothing was added, so nothing was computed
    assert [stage for stage, _ in without] == [stage for stage, _ in cold]
    for (_, expected), (_, first), (_, second) in zip(without, cold, warm, strict=True):
        assert first == pytest.approx(expected, abs=1e-4)
        assert second == pytest.approx(first, abs=1e-5)


def test_a_model_without_a_frozen_encoder_has_no_features_to_keep(tiny_inputs, tmp_path):
    with pytest.raises(UsageError, match=r"--features .*no encoder of this model is frozen.*--finest"):
        train(tiny_inputs, CONFIG, settings_with(features=str(tmp_path / "store")))


def test_a_place_that_cannot_hold_features_is_refused_before_a_slide_is_read(tiny_inputs, tmp_path, regions_read):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file is no folder"):
        train(tiny_inputs, OWN, settings_with(features=str(tmp_path / "file")))
    assert regions_read == []
