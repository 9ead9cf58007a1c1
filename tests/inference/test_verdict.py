"""What a distilled model says of a slide, against plain sums over its regions."""

import csv
import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from tnet_cli import api
from tnet_cli.benchmark.arms import ArmRequest
from tnet_cli.benchmark.measure import measure
from tnet_cli.errors import SlideError, UsageError
from tnet_cli.evaluation.arms import Comparison
from tnet_cli.evaluation.curve import CurvePoint, classify_for_curve
from tnet_cli.geometry import AttentionGrid
from tnet_cli.inference.classify import EngineOptions, classify_slides, look_with
from tnet_cli.inference.engine import drive
from tnet_cli.inference.every_cell import tissue_cells
from tnet_cli.inference.prepare import prepare
from tnet_cli.inference.traversal_job import TraversalResult
from tnet_cli.inference.verdict import job_of, judged
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.model.choice import TopK
from tnet_cli.model.config import EncoderConfig, TNetConfig, mpp_by_level
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, TraversalPlan, traverse
from tnet_cli.modelfile.card import ModelCard, TeacherCard, Verdict
from tnet_cli.modelfile.modelfile import LoadedModel, load_model, save_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide
from tnet_cli.synth.synthesis import write_synthetic_slide

CLASSES = ("benign", "tumour", "stroma")
FINE_PX = 48


def config() -> TNetConfig:
    finder = EncoderConfig(backbone="tnet_small", processing_levels=(0, 1), input_px=64)
    teacher = EncoderConfig(
        backbone="timm:resnet10t", processing_levels=(2,), input_px=FINE_PX, frozen=True, classes=CLASSES
    )
    return TNetConfig(
        backbone="tnet_small",
        class_names=("no tumour", "tumour"),
        base_px=64,
        grid=4,
        cell_fraction=0.25,
        processing_levels=3,
        mpp=mpp_by_level(60.0, 4, (64, 64, FINE_PX)),
        starts_where_filled=True,
        choice="beam",
        locations=(4, 12),
        position_axes="s",
        encoders=(finder, teacher),
        response=True,
    )


def verdict_of(model: LoadedModel) -> Verdict:
    assert model.card.verdict is not None
    return model.card.verdict


def model_with(tmp_path, **verdict) -> LoadedModel:
    torch.manual_seed(3)
    given = {
        "rule": "mean",
        "targets": ("tumour", "stroma"),
        "call_at": 0.3,
        "slope": 5.0,
        "intercept": -1.5,
        "sample": 6,
    }
    teacher = TeacherCard(
        name="t", digest="0" * 64, licence="MIT", architecture="x", patch_px=96, spacing_um_px=0.625, classes=CLASSES
    )
    card = ModelCard(
        name="distilled",
        summary="s",
        intended_use="u",
        licence="MIT",
        created=date(2026, 1, 1),
        package_version="0",
        network=config(),
        verdict=Verdict.model_validate(given | verdict | {"teacher": teacher}),
    )
    path = tmp_path / "model.safetensors"
    save_model(TNet(config()).eval(), card, path)
    return load_model(path)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    write_synthetic_slide(path, seed=1, side_px=4000, label="lesion")
    return SlideInput(path=Place(path), name="a")


def result_of(model, slide, options=None, **engine):
    ((_, result),) = classify_slides([slide], model, options or TraversalOptions(), EngineOptions(**engine))
    assert result.score is not None, result.error
    return result


def responses(result) -> np.ndarray:
    return np.array([each.class_probabilities[1] for each in result.regions if each.processing_level == 2])


def test_top_is_the_mean_of_the_highest_looked_at_and_they_have_the_weight(tmp_path, slide):
    result = result_of(model_with(tmp_path, rule="top", k=5, sample=0), slide)
    best = np.sort(responses(result))[::-1][:5]
    assert result.score.value == pytest.approx(best.mean())
    assert (result.score.low, result.score.attended, result.score.sampled) == (None, 12, 0)
    weights = [each.weight for each in result.regions]
    assert sorted(weights)[-5:] == pytest.approx([0.2] * 5)
    assert sum(weights) == pytest.approx(1)
    z = 5.0 * result.score.value - 1.5
    assert result.probabilities[1] == pytest.approx(1 / (1 + np.exp(-z)))


@pytest.mark.parametrize("rule", ["mean", "area"])
def test_the_mean_over_all_tissue_is_estimated_from_attended_predicted_and_drawn_cells(tmp_path, slide, rule):
    model = model_with(tmp_path, rule=rule, threshold=0.55)
    result = result_of(model, slide)
    score, seen = result.score, responses(result)
    with open_slide(slide.path) as handle:
        cells, _ = tissue_cells(prepare(handle, config()), config())
    assert (score.cells, score.attended, score.sampled) == (len(cells), 12, 6)
    assert len(seen) == 18
    assert score.low <= score.value <= score.high
    values = seen if rule == "mean" else (seen >= 0.55).astype(float)
    # Whatever is predicted, those looked at are counted as they are.
    assert score.low >= values.sum() / len(cells) - 1e-9
    assert score.high <= (values.sum() + len(cells) - 18) / len(cells) + 1e-9
    assert result.locations == 4 + 18


def test_the_draw_is_the_same_again_and_whatever_the_batches(tmp_path, slide):
    model = model_with(tmp_path)
    one, other = result_of(model, slide), result_of(model, slide, batch_size=3, readers=1)
    assert [each.region for each in one.regions] == [each.region for each in other.regions]
    assert one.score.value == pytest.approx(other.score.value, abs=1e-6)


def test_a_budget_holds_for_attended_and_drawn_cells_together(tmp_path, slide):
    result = result_of(model_with(tmp_path), slide, TraversalOptions(budget=10))
    assert result.locations == 10
    assert result.score.sampled == 5
    least = result_of(model_with(tmp_path), slide, TraversalOptions(budget=2))
    assert (least.locations, least.score.sampled) == (2, 0)


def test_every_cell_drawn_leaves_nothing_to_estimate(tmp_path, slide):
    score = result_of(model_with(tmp_path, sample=100_000), slide).score
    assert score.attended + score.sampled == score.cells
    assert score.low == score.high == pytest.approx(score.value)


def test_each_batching_gives_the_same_answer(tmp_path, slide):
    model = model_with(tmp_path)
    with open_slide(slide.path) as handle:
        answers = []
        for batching in ("in_order", "by_slide", "ready"):
            preparation = prepare(handle, config())
            job = job_of(handle, preparation, model.card, TraversalOptions(), TopK())
            assert job is not None
            look = look_with(model.network, torch.device("cpu"))
            ((_, ended),) = drive([job], look, batch_size=5, readers=2, batching=batching)
            assert isinstance(ended, TraversalResult)
            said = judged("a", verdict_of(model), preparation, ended.traversal, config())
            answers.append([said.score.value, said.score.low, said.score.high, *said.logits])
    np.testing.assert_allclose(answers, [answers[0]] * 3, atol=1e-6)


def test_the_mean_equals_a_sum_cell_by_cell(tmp_path, slide):
    model = model_with(tmp_path)
    with open_slide(slide.path) as handle:
        preparation = prepare(handle, config())
        job = job_of(handle, preparation, model.card, TraversalOptions(), TopK())
        assert job is not None
        ((_, ended),) = drive([job], look_with(model.network, torch.device("cpu")), batch_size=16, readers=2)
    assert isinstance(ended, TraversalResult)
    coarse, finer, attended, drawn = ended.traversal.levels
    seen = {
        region: float(each[1] + each[2])
        for record in (attended, drawn)
        for region, each in zip(record.regions, record.features, strict=True)
    }
    predicted = {}
    for record in (coarse, finer):  # what is said from nearer comes last
        assert record.cell_means is not None
        for region, means in zip(record.regions, record.cell_means, strict=True):
            side = region.width // 4
            for cell in tissue_cells(preparation, config())[0]:
                column = (cell.x + cell.width / 2 - region.x) // side
                row = (cell.y + cell.height / 2 - region.y) // side
                if 0 <= column < 4 and 0 <= row < 4:
                    predicted[cell] = float(means[int(4 * row + column)])
    cells = set(predicted) | set(seen)
    left = [cell for cell in cells if cell not in seen]
    wrong = np.mean([seen[cell] - predicted[cell] for cell in drawn.regions])
    expected = (sum(seen.values()) + sum(predicted[cell] for cell in left) + len(left) * wrong) / len(cells)
    said = judged("a", verdict_of(model), preparation, ended.traversal, config())
    assert said.score.value == pytest.approx(expected, abs=1e-6)
    assert said.logits[1] == pytest.approx(5 * expected - 1.5, abs=1e-5)


def test_a_teacher_that_gives_no_numbers_fails_the_slide_and_not_the_run(tmp_path, slide):
    model = model_with(tmp_path)
    with torch.no_grad():
        for name, weights in model.network.named_parameters():
            if name.startswith("feature.encoders.1."):
                weights.fill_(float("nan"))
    (one, other) = [result for _, result in classify_slides([slide, dataclasses.replace(slide, name="b")], model)]
    assert (one.status, other.status) == ("failed", "failed")
    assert "not a number" in (one.error or "")


def test_tissue_too_small_for_a_patch_is_not_blamed_on_the_scan(tmp_path, slide):
    model = model_with(tmp_path)
    with open_slide(slide.path) as handle:
        preparation = prepare(handle, config())
    steps = traverse(
        preparation.root_regions,
        preparation.root_log_probs,
        TraversalPlan(AttentionGrid(4, 0.25), 3, (4, 12), "beam", TopK(), by_response=True),
        lambda cells, _: np.zeros(len(cells), dtype=bool),
    )
    roots = len(next(steps).regions)
    with pytest.raises(StopIteration) as ended:
        steps.send(Look(torch.zeros(roots, 8), torch.full((roots, 16), -torch.inf), torch.zeros(roots, 16)))
    with pytest.raises(SlideError, match=r"too little tissue for the patch model t: .* 60 µm wide"):
        judged("a", verdict_of(model), preparation, ended.value.value, config())


@pytest.mark.parametrize("arm", ["tnet", "forward", "every-tile"])
def test_every_arm_of_a_benchmark_answers_by_the_rule(tmp_path, slide, arm):
    model_with(tmp_path, rule="top", k=5, sample=0)
    options = TraversalOptions(budget=10)
    request = ArmRequest(
        arm=arm,
        slide=slide.path,
        model=tmp_path / "model.safetensors",
        traversal=options,
        device="cpu",
        batch_size=16,
        readers=2,
        rounds=1,
    )
    found = measure(request)
    assert found.prediction in config().class_names
    assert found.locations == (10 if arm != "every-tile" else found.forward_passes)


def test_an_evaluation_by_labels_and_its_curve_hold_the_scores_of_each_budget(tmp_path, slide):
    model_with(tmp_path)
    (tmp_path / "slides.csv").write_text(f"slide,label\n{slide.path},tumour\n")
    model, manifest = str(tmp_path / "model.safetensors"), str(tmp_path / "slides.csv")
    with pytest.raises(UsageError, match="--arms coarse"):
        api.evaluate(manifest, model=model, out=str(tmp_path / "out"), arms=("tnet", "coarse"), device="cpu")
    api.evaluate(manifest, model=model, out=str(tmp_path / "out"), budget=10, bootstrap=0, device="cpu")
    expected = result_of(load_model(tmp_path / "model.safetensors"), slide, TraversalOptions(budget=10))
    with (tmp_path / "out" / "predictions.csv").open() as table:
        (row,) = csv.DictReader(table)
    assert float(row["score"]) == pytest.approx(expected.score.value, abs=1e-5)
    assert float(row["score_high"]) == pytest.approx(expected.score.high, abs=1e-5)
    with_curve = Comparison(inputs=[slide], model=load_model(Path(model)), options=TraversalOptions(), seed=0)
    ((_, (_, of_curve)),) = classify_for_curve([CurvePoint("tnet", 4), CurvePoint("tnet", 10)], with_curve)
    assert of_curve.score == expected.score


def test_an_early_end_is_refused_and_a_coarse_slide_is_told_why(tmp_path, slide):
    model = model_with(tmp_path)
    ((_, result),) = classify_slides([dataclasses.replace(slide, mpp=2.5)], model)
    assert result.status == "failed"
    assert "was not looked at as closely as the patch model t needs, 0.625" in (result.error or "")
    with pytest.raises(UsageError, match="distilled"):
        list(classify_slides([slide], model, TraversalOptions(stop_at=0.01)))
