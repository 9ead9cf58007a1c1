"""``tnet distill`` on small synthetic slides, with the bundled model's finest view for a teacher."""

import csv
import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tnet_cli.cli.app import main
from tnet_cli.distillation import run as run_module
from tnet_cli.distillation.architecture import class_names_for, distilled_config, distilled_network
from tnet_cli.distillation.folder import DistillRequest
from tnet_cli.distillation.run import run_distill
from tnet_cli.distillation.targets import cell_responses
from tnet_cli.distillation.verdicts import fit_logistic, rule_of
from tnet_cli.errors import ModelFileError, PartialFailureError, UsageError
from tnet_cli.evaluation.agreement import AgreementRequest, run_agreement
from tnet_cli.geometry import Region
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.learning.teacher_scores import TeacherScores
from tnet_cli.metrics.agreement import cohens_kappa
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.modelfile.encoders import encoder_from
from tnet_cli.modelfile.modelfile import bundled_models, load_model, save_model
from tnet_cli.modelfile.zoo import load_patch_model
from tnet_cli.places import Place
from tnet_cli.synth.synthesis import write_synthetic_slide

COUNT = 6


class Told(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    rows = []
    for number in range(COUNT):
        made = write_synthetic_slide(
            folder / f"s{number}.tif", seed=40 + number, side_px=3000, label=("benign", "lesion")[number % 2], workers=1
        )
        rows.append(f"s{number}.tif,{made.label},p{number // 2}")
    (folder / "labels.csv").write_text("\n".join(["slide,label,patient", *rows]) + "\n")
    return folder / "labels.csv"


def request(slides, out, **given) -> DistillRequest:
    small: dict[str, Any] = {"steps": 8, "locations": 12, "rule": "top:4", "device": "cpu", "workers": 2}
    return DistillRequest(inputs=[Place(str(slides))], teacher="synthetic-demo", out=out, **small | given)


@pytest.fixture(scope="module")
def distilled(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return out, run_distill(request(slides, out, rule="area", call_at=0.001))


def test_a_run_leaves_a_model_its_agreement_and_the_scores(distilled):
    out, report = distilled
    model = load_model(out / "model.safetensors")
    assert model.card.verdict is not None
    assert model.card.verdict.teacher.name == "synthetic-demo"
    assert (model.card.verdict.rule, model.card.verdict.sample) == ("area", 6)
    assert model.card.network.locations[-1] == 6
    assert "kappa" in report.line()
    record = json.loads((out / "agreement.json").read_text())
    assert model.card.metrics["agreement with the teacher"]["kappa"] == record["kappa"]
    with (out / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    apart = {row["patient"] for row in rows if row["split"] == "test"}
    assert apart
    assert not apart & {row["patient"] for row in rows if row["split"] == "train"}
    assert len(list((out / "scores").glob("*.safetensors"))) == COUNT
    assert not (out / "checkpoints" / "patches").exists()


def test_the_same_command_again_does_nothing_and_another_is_refused(distilled, slides):
    out, _ = distilled
    before = (out / "model.safetensors").read_bytes()
    assert run_distill(request(slides, out, rule="area", call_at=0.001)).was_done
    assert (out / "model.safetensors").read_bytes() == before
    with pytest.raises(UsageError, match="another run"):
        run_distill(request(slides, out, rule="mean"))


def test_a_killed_run_scores_no_slide_again_and_ends_in_the_same_model(distilled, slides, tmp_path, monkeypatch):
    out, _ = distilled

    def stopped(*_given, **_more):
        raise KeyboardInterrupt

    again = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "learn_responses", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_distill(request(slides, again, rule="area", call_at=0.001))
    stamps = {path.name: path.stat().st_mtime_ns for path in (again / "scores").iterdir()}
    run_distill(request(slides, again, rule="area", call_at=0.001))
    assert {path.name: path.stat().st_mtime_ns for path in (again / "scores").iterdir()} == stamps
    one, other = load_model(out / "model.safetensors"), load_model(again / "model.safetensors")
    for name, tensor in one.network.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), other.network.state_dict()[name].numpy(), atol=1e-3, err_msg=name)


def test_agreement_with_the_teacher_is_measured_on_any_slides(distilled, slides, tmp_path):
    out, _ = distilled
    asked = AgreementRequest(
        inputs=[Place(str(slides))],
        model=str(out / "model.safetensors"),
        teacher="synthetic-demo",
        out=tmp_path / "agreement",
        traversal=TraversalOptions(),
        device="cpu",
        workers=2,
    )
    report = run_agreement(asked)
    assert report.record["slides"] == COUNT
    assert report.record["auroc_of_labels"]["slides"] == COUNT
    with (tmp_path / "agreement" / "agreement.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["low"]) <= float(row["score"]) <= float(row["high"])
        assert int(row["looked_at"]) <= int(row["cells"])
    assert (tmp_path / "agreement" / "agreement.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="was not distilled"):
        run_agreement(replace(asked, model="synthetic-demo", out=tmp_path / "other"))
    changed = load_model(bundled_models()["synthetic-demo"])
    save_model(changed.network, changed.card.model_copy(update={"summary": "another file"}), tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="other weights than the teacher"):
        run_agreement(replace(asked, teacher=str(tmp_path / "x.safetensors"), out=tmp_path / "other"))


def test_options_of_judging_by_labels_do_not_go_with_a_teacher(distilled, slides, tmp_path, capsys):
    out, _ = distilled
    model = str(out / "model.safetensors")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "evaluate",
                str(slides),
                "-m",
                model,
                "--teacher",
                "synthetic-demo",
                "--budgets",
                "12",
                "-o",
                str(tmp_path),
            ]
        )
    assert ended.value.code == 2
    assert "--budgets: is for judging by labels" in capsys.readouterr().err


def test_slides_that_cannot_be_scored_are_left_out_and_named(slides, tmp_path):
    folder = tmp_path / "slides"
    shutil.copytree(slides.parent, folder)
    (folder / "labels.csv").unlink()
    (folder / "broken.tif").write_bytes(b"II*\0not a slide")
    told = Told()
    report = run_distill(request(folder, tmp_path / "run", score=0.5), told)
    assert [path for path, _ in report.failures] == [str(folder / "broken.tif")]
    assert any(note.startswith("left out: ") for note in told.notes)
    with pytest.raises(PartialFailureError, match=r"broken\.tif"):
        report.raise_for_failures()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rule": "top"}, "expected top:K"),
        ({"rule": "top:0"}, "expected top:K"),
        ({"rule": "area:3"}, "expected top:K"),
        ({"rule": "top:40"}, "averages more cells than the 12"),
        ({"threshold": 1.0}, "--threshold"),
        ({"score": 0.0}, "--score"),
        ({"targets": ("necrosis",)}, "the classes of synthetic-demo are benign, lesion"),
        ({"targets": ("benign", "lesion")}, "nothing is sought"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_before_a_slide_is_read(tmp_path, slides, given, words):
    with pytest.raises(UsageError, match=words):
        run_distill(request(slides, tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()


def test_responses_of_cells_are_those_of_what_lies_in_them():
    boxes = np.array([[0, 0, 10], [10, 0, 10], [30, 30, 10], [90, 90, 10]])
    scores = TeacherScores(boxes, np.zeros((4, 2), np.float32), 4, 0, 0.0)
    responses = np.array([0.2, 0.6, 0.9, 1.0])
    found = cell_responses([Region(0, 0, 40, 40)], scores, responses, responses, 2)
    assert found.known.tolist() == [[True, False, False, True]]
    assert found.top[0, [0, 3]].tolist() == pytest.approx([0.6, 0.9])
    assert found.mean[0, [0, 3]].tolist() == pytest.approx([0.4, 0.9])


def test_the_logistic_follows_the_verdicts_and_stands_still_where_there_are_none():
    scores = np.linspace(0, 1, 40).tolist()
    slope, intercept, fitted = fit_logistic(scores, [each > 0.7 for each in scores], 0.5)
    assert fitted
    assert -intercept / slope == pytest.approx(0.7, abs=0.05)
    slope, intercept, fitted = fit_logistic(scores, [False] * 40, 0.25)
    assert not fitted
    assert -intercept / slope == pytest.approx(0.25)


def test_rules_and_kappa():
    assert rule_of("top:32") == ("top", 32)
    assert rule_of("mean") == ("mean", None)
    one, other = np.array([1, 1, 0, 0, 1, 0], bool), np.array([1, 0, 0, 0, 1, 0], bool)
    assert cohens_kappa(one, other) == pytest.approx((5 / 6 - 0.5) / 0.5)
    assert cohens_kappa(one, one) == 1.0


def test_what_looks_for_places_may_begin_with_weights_of_its_own():
    teacher = load_patch_model("synthetic-demo", trust_torchscript=False)
    names, path = class_names_for(teacher, ("lesion",)), bundled_models()["synthetic-demo"]
    finder = encoder_from(str(path), (0,))
    config = distilled_config(teacher, names, 12, finder)
    assert config.encoders[0].processing_levels == tuple(range(config.processing_levels - 1))
    assert not config.encoders[0].frozen
    network, whence = distilled_network(config, teacher, finder), load_model(path).network
    assert isinstance(network.feature, FeatureExtractionByLevel)
    begun = network.feature.encoder(0).backbone.state_dict()
    for name, tensor in whence.feature.backbone.state_dict().items():
        np.testing.assert_array_equal(begun[name].numpy(), tensor.numpy(), err_msg=name)
    unknown = replace(finder, config=finder.config.model_copy(update={"backbone": "no_network"}))
    with pytest.raises(UsageError, match="no_network cannot look for places"):
        distilled_network(distilled_config(teacher, names, 12, unknown), teacher, unknown)
