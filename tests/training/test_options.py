"""Every switch of the training settings acts, and acts alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.training.conftest import CONFIG, SETTINGS, course_of
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.learning.loop import StageRun
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.stage import Computed, Stage
from tnet_cli.learning.state import Course, StepReport, random_source
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Traversal
from tnet_cli.training import hard_attention as hard
from tnet_cli.training import rollout as travels
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.pretrained import load_backbone_weights
from tnet_cli.training.soft_attention import SoftAttention
from tnet_cli.training.train import plan_stages, train
from tnet_cli.training.warmup import WarmUp, fill_pool

STILL = CONFIG.model_copy(update={"dropout": 0.0})
LABELS_ALONE = {"annotations": False, "normal_class": None}


def settings_with(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({**SETTINGS.model_dump(), **changes})


def bare(slides: Sequence[TrainingSlide]) -> list[TrainingSlide]:
    return [replace(slide, annotated=None) for slide in slides]


def hard_step(
    slides: Sequence[TrainingSlide],
    monkeypatch: pytest.MonkeyPatch,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    step: int = 1,
    depth: int | None = None,
) -> tuple[Computed, list[Traversal], TNet]:
    """Compute one step of hard attention from the same weights; return what was traversed too."""
    course = course_of(list(slides), settings, STILL)
    stage = HardAttention(settings, len(slides), 3, depth)
    stage.resume(course, 1)
    course.network.train()
    travelled: list[Traversal] = []
    real = travels.travel_together

    def spy(*given: Any) -> Any:
        found = real(*given)
        travelled.extend(traversal for _, traversal in found)
        return found

    monkeypatch.setattr(hard, "travel_together", spy)
    work = stage.prepare(random_source(seed, 1, step), step)
    computed = stage.compute(course, work)
    stage.release(work)
    monkeypatch.setattr(hard, "travel_together", real)
    return computed, travelled, course.network


def cells_of(traversals: Sequence[Traversal]) -> list[list[int]]:
    return [[*record.parents.tolist(), *record.cells.tolist()] for each in traversals for record in each.levels[1:]]


def location_gradient(network: TNet, terms: dict[str, Tensor]) -> float:
    network.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    norms = [float(p.grad.norm()) for p in network.location.parameters() if p.grad is not None]
    return sum(norms)


def test_slide_labels_reach_the_location_module_by_soft_attention_and_not_by_hard(tiny_slides, monkeypatch):
    slides = bare(tiny_slides)
    settings = settings_with(**LABELS_ALONE, soft_steps=1, reinforce_weight=0.0, batch_slides=4)
    computed, _, network = hard_step(slides, monkeypatch, settings)
    assert location_gradient(network, computed.terms) == 0
    course = course_of(slides, settings, STILL)
    stage = SoftAttention(settings)
    stage.begin(course, 0)
    work = stage.prepare(random_source(0, 0, 1), 1)
    computed = stage.compute(course, work)
    stage.release(work)
    assert set(computed.terms) == {"slide", "soft"}
    assert location_gradient(course.network, computed.terms) > 1e-4


def names_of(settings: TrainingSettings, slides: Sequence[TrainingSlide]) -> list[str]:
    return [stage.name for stage in plan_stages(course_of(list(slides), settings))]


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


def test_annotations_teach_only_where_they_are_wanted(tiny_inputs, tiny_slides, monkeypatch):
    with_them, _, _ = hard_step(tiny_slides, monkeypatch, settings_with(batch_slides=4))
    assert "location" in with_them.terms
    off = settings_with(**LABELS_ALONE, hard_epochs=1)
    reports: list[StepReport] = []
    notes: list[str] = []
    train(tiny_inputs, CONFIG, off, on_step=reports.append, on_note=notes.append)
    assert [report.stage for report in reports] == ["hard attention"]
    assert "location" not in reports[0].terms
    assert notes == ["no slide has an annotation that may teach, so the warm-up on patches is left out"]


def test_slide_labels_may_teach_the_warm_up_its_patches(tiny_slides):
    slides = bare(tiny_slides)
    weak = settings_with(**LABELS_ALONE, slide_labels_teach_patches=True, rounds=1)
    assert names_of(weak, slides) == ["warm-up 1", "hard attention"]
    course = course_of(slides, weak)
    fill_pool(course, random_source(0, 0, 0))
    finest = [position[2] == 2 for position in course.pool.positions]
    expected = [slides[number].label for number in course.pool.slides]
    labels = [label if is_finest else -1 for label, is_finest in zip(expected, finest, strict=True)]
    assert course.pool.labels == labels
    assert {0, 1} <= set(labels)
    # What somebody drew counts for more.
    drawn = course_of(tiny_slides, settings_with(slide_labels_teach_patches=True))
    without = course_of(tiny_slides, SETTINGS)
    for each in (drawn, without):
        fill_pool(each, random_source(0, 0, 0))
    of_annotated = [tiny_slides[number].annotated is not None for number in drawn.pool.slides]
    assert np.array_equal(np.array(drawn.pool.labels)[of_annotated], np.array(without.pool.labels)[of_annotated])


def test_exploration_is_mixed_into_what_is_drawn_and_decays(tiny_slides, monkeypatch):
    settings = settings_with(exploration=0.8)
    course = course_of(tiny_slides, settings)
    stage = HardAttention(settings, 4, 3, None, (0.5, 1.0))
    stage.resume(course, 1)
    shares = []
    for step in (1, 4, 6):
        work = stage.prepare(random_source(0, 1, step), step)
        shares.append(work.exploration)
        stage.release(work)
    np.testing.assert_allclose(shares, [0.8 * 0.5, 0.8 * 0.25, 0.8 * (1 - (0.5 + 0.5 * 5 / 6))])

    _, plain, _ = hard_step(tiny_slides, monkeypatch, settings_with())
    _, mixed, _ = hard_step(tiny_slides, monkeypatch, settings)
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


def test_staged_depth_stops_the_traversal_early(tiny_slides, monkeypatch):
    for depth, expected in ((1, 1), (2, 2), (None, 3)):
        computed, travelled, _ = hard_step(tiny_slides, monkeypatch, SETTINGS, depth=depth)
        assert {len(each.levels) for each in travelled} == {expected}
        assert all(torch.isfinite(term) for term in computed.terms.values())


def test_the_entropy_bonus_raises_entropy(tiny_slides, monkeypatch):
    assert "entropy" not in hard_step(tiny_slides, monkeypatch, SETTINGS)[0].terms
    computed, travelled, network = hard_step(tiny_slides, monkeypatch, settings_with(entropy_weight=0.5))
    entropies = []
    for each in travelled:
        for record in each.levels[:-1]:
            assert record.allowed is not None
            assert record.cell_log_probs is not None
            probs = record.cell_log_probs.detach().exp().numpy()
            for row, allowed in zip(probs, record.allowed, strict=True):
                if allowed.sum() > 1:
                    entropies.append(-(row[allowed] * np.log(row[allowed])).sum())
    assert float(computed.terms["entropy"].detach()) == pytest.approx(-0.5 * np.mean(entropies), rel=1e-4)
    assert location_gradient(network, {"entropy": computed.terms["entropy"]}) > 0


def test_top_k_is_the_same_whatever_is_rolled_and_gumbel_is_not(tiny_slides, monkeypatch):
    def cells(sampling: str, seed: int) -> list[list[int]]:
        settings = settings_with(sampling=sampling, batch_slides=4)
        return cells_of(hard_step(tiny_slides, monkeypatch, settings, seed=seed)[1])

    assert cells("top_k", 1) == cells("top_k", 2)
    assert cells("gumbel", 1) == cells("gumbel", 1)
    assert cells("gumbel", 1) != cells("gumbel", 2)
    assert cells("gumbel_redrawn", 1) != cells("gumbel", 1)


def test_credit_decides_what_reinforce_moves_and_nothing_else(tiny_slides, monkeypatch):
    drawn, first, _ = hard_step(tiny_slides, monkeypatch, settings_with(credit="draw"))
    cell, second, _ = hard_step(tiny_slides, monkeypatch, settings_with(credit="cell"))
    assert cells_of(first) == cells_of(second)
    for name in ("cross_entropy", "feature_cross_entropy", "location"):
        if name in drawn.terms:
            assert torch.equal(drawn.terms[name], cell.terms[name])
    assert not torch.equal(drawn.terms["reinforce"], cell.terms["reinforce"])


def statistics(network: TNet) -> list[Tensor]:
    return [b.clone() for name, b in network.named_buffers() if name.endswith(("running_mean", "running_var"))]


def features(course: Course, *, training: bool) -> Tensor:
    rng = np.random.default_rng(9)
    patches = torch.from_numpy(rng.integers(0, 255, (6, 3, 64, 64), dtype=np.uint8))
    course.network.train(training)
    with torch.no_grad():
        seen = course.network.look(patches, torch.zeros(6, 3, dtype=torch.int64), torch.ones(6, 16, dtype=torch.bool))
        assert seen.cell_log_probs is not None
        return torch.cat([course.network.classification(seen.features), seen.cell_log_probs], dim=1)


@pytest.mark.parametrize("normalisation", ["frozen", "none"])
def test_training_and_evaluation_agree_wherever_processing_levels_are_looked_at_apart(tiny_slides, normalisation):
    settings = settings_with(normalisation=normalisation, warmup_steps=2, rounds=1, hard_epochs=1, soft_steps=1)
    course = course_of(tiny_slides, settings, STILL)
    untouched = statistics(course.network)
    stages: list[Stage] = [WarmUp(settings, 1), SoftAttention(settings), HardAttention(settings, 4, 1)]
    for number, stage in enumerate(stages):
        stage.begin(course, number)
        # Only a warm-up that is to learn the statistics uses those of its batch.
        agree = torch.equal(features(course, training=True), features(course, training=False))
        assert agree is (number > 0 or normalisation == "none")
        before = statistics(course.network)
        StageRun(course, stage, number, None).run()
        same = all(torch.equal(a, b) for a, b in zip(before, statistics(course.network), strict=True))
        assert same is (number > 0 or normalisation == "none")
        assert torch.isfinite(features(course, training=False)).all()
    assert not all(torch.equal(a, b) for a, b in zip(untouched, statistics(course.network), strict=True))


def test_statistics_that_no_warm_up_learns_are_measured_once(tiny_slides):
    settings = settings_with(rounds=0, hard_epochs=1)
    course = course_of(tiny_slides, settings, STILL)
    HardAttention(settings, 4, 1).begin(course, 0)
    assert not all(bool((mean == 0).all()) for mean in statistics(course.network)[::2])
    assert torch.equal(features(course, training=True), features(course, training=False))
    # Units keep a scale to learn with: without statistics it falls from layer to layer.
    assert 0.05 < float(features(course, training=False).std()) < 50
    pretrained = course_of(tiny_slides, settings, STILL)
    pretrained.pretrained = True
    kept = statistics(pretrained.network)
    HardAttention(settings, 4, 1).begin(pretrained, 0)
    assert all(torch.equal(a, b) for a, b in zip(kept, statistics(pretrained.network), strict=True))


def resnet() -> TNet:
    return TNet(CONFIG.model_copy(update={"backbone": "resnet18"}))


def test_pretrained_weights_come_from_a_file_of_the_backbone_or_of_a_whole_model(tmp_path):
    torch.manual_seed(1)
    taught = resnet()
    classifier = {name.removeprefix("network."): v for name, v in taught.feature.backbone.state_dict().items()}
    for name, tensors in {
        "backbone": classifier | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
        "model": taught.state_dict(),
    }.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
        torch.manual_seed(2)
        fresh = resnet()
        head = fresh.classification.linear.weight.detach().clone()
        load_backbone_weights(fresh, str(tmp_path / f"{name}.safetensors"))
        for mine, theirs in zip(fresh.feature.parameters(), taught.feature.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(fresh.classification.linear.weight, head)


def test_pretrained_weights_come_from_torchvision_by_name(monkeypatch):
    from torchvision.models import ResNet18_Weights
    from torchvision.models import resnet18 as build

    taught: nn.Module = build(weights=None)
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: taught.state_dict())
    fresh = resnet()
    load_backbone_weights(fresh, "torchvision")
    assert torch.equal(fresh.feature.backbone.state_dict()["network.conv1.weight"], taught.state_dict()["conv1.weight"])
    with pytest.raises(UsageError, match=r"torchvision:BEST: for resnet18 there are IMAGENET1K_V1"):
        load_backbone_weights(fresh, "torchvision:BEST")
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(UsageError, match="the weights of resnet18 cannot be fetched: no network"):
        load_backbone_weights(fresh, "torchvision")


def unreachable(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_weights_that_do_not_fit_the_backbone_are_refused(tmp_path):
    small = TNet(CONFIG)
    with pytest.raises(UsageError, match="torchvision has no pretrained weights for backbone tnet_small"):
        load_backbone_weights(small, "torchvision")
    with pytest.raises(UsageError, match="is not of timm"):
        load_backbone_weights(small, "timm")
    with pytest.raises(UsageError, match=r"expected torchvision, timm, a \.safetensors file"):
        load_backbone_weights(small, str(tmp_path / "weights.pth"))
    with pytest.raises(ModelFileError, match="neither a file nor a bundled model"):
        load_backbone_weights(small, str(tmp_path / "missing.safetensors"))
    save_file({"conv1.weight": torch.zeros(4)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"holds no weights for backbone tnet_small: .* tensors are missing"):
        load_backbone_weights(small, str(tmp_path / "other.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelFileError, match="damaged"):
        load_backbone_weights(small, str(tmp_path / "torn.safetensors"))


def test_validation_is_what_evaluation_would_say(tiny_inputs, tiny_slides):
    from tnet_cli.training.validation import validate

    settings = settings_with(rounds=0, hard_epochs=2)
    reports: list[StepReport] = []
    network = train(tiny_inputs[:2], CONFIG, settings, validation=tiny_inputs, on_step=reports.append)
    told = [report for report in reports if report.stage == "validation hard attention"]
    assert [(report.step, report.steps) for report in told] == [(1, 2), (2, 2)]
    course = course_of(tiny_slides, settings)
    course.network.load_state_dict(network.state_dict())
    assert validate(course, tiny_slides, None) == told[-1].terms
    assert not course.network.training
    shallow = validate(course, tiny_slides, 1)
    assert set(shallow) == {"accuracy", "loss"}
    assert shallow != told[-1].terms


def test_mixed_precision_is_of_cuda_alone():
    from tnet_cli.learning.precision import Precision

    plain = Precision(torch.device("cpu"), mixed=True)
    assert plain.dtype is None
    with plain.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_run_in_mixed_precision_on_cuda_stays_finite(tiny_inputs):
    settings = settings_with(soft_steps=2, hard_epochs=1)
    reports: list[StepReport] = []
    network = train(tiny_inputs, CONFIG, settings, device=torch.device("cuda"), on_step=reports.append)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert reports
