"""``tnet evaluate`` from a CSV to metrics, tables, plots and a calibrated model, and what it says of wrong inputs."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn import metrics

from tests.model_files import save_random, tiny_network
from tnet_cli.cli.app import main
from tnet_cli.modelfile.card import CalibrationError
from tnet_cli.modelfile.modelfile import load_model

ARMS = ("tnet", "random", "coarse", "exhaustive")
PLOTS = (
    *("roc.png", "precision_recall.png", "confusion_matrix.png", "reliability.png"),
    *("accuracy_by_locations.png", "accuracy_by_coverage.png"),
)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_manifest(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A model file with random weights for such slides: 64 px patches at 16, 4 and 1 µm."""
    return save_random(tmp_path_factory.mktemp("models"), tiny_network(), seed=5)


@pytest.fixture(scope="module")
def rows(small_labelled_slides):
    """The rows of four slides of 1000 px: one of each class to validate on, one of each to test on."""
    folder, listed = small_labelled_slides.parent, table(small_labelled_slides)
    by_label = {label: [row for row in listed if row["label"] == label] for label in ("benign", "lesion")}
    return [
        {
            "slide": folder / row["slide"],
            "label": label,
            "patient": f"patient-{label}-{number}",
            "split": split,
            "annotation": folder / row["annotation"],
        }
        for label, of_label in by_label.items()
        for number, (row, split) in enumerate(zip(of_label, ("validation", "test"), strict=True))
    ]


@pytest.fixture(scope="module")
def evaluated(rows, tiny_model, tmp_path_factory):
    """Everything at once, over two good slides and a broken one: exit code and folder."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "broken.tif").write_bytes(b"this is no slide")
    broken = {"slide": "broken.tif", "label": "lesion", "patient": "p", "split": "test"}
    manifest = write_manifest(folder / "labels.csv", [*rows, broken])
    where = ("-m", str(tiny_model), "-o", str(folder / "eval"), "--device", "cpu", "--bootstrap", "20")
    what = ("--arms", ",".join(ARMS), "--budgets", "7,2,4", "--calibrate", "validation")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(manifest), *where, *what])
    return ended.value.code, folder / "eval"


@pytest.fixture(scope="module")
def document(evaluated):
    return json.loads((evaluated[1] / "metrics.json").read_text())


def test_a_slide_that_fails_is_a_row_and_exit_code_6(evaluated, document):
    code, out = evaluated
    assert code == 6
    for arm in ARMS:
        listed = table(out / ("predictions.csv" if arm == "tnet" else f"predictions_{arm}.csv"))
        assert [row["status"] for row in listed] == ["ok", "ok", "failed"]
        assert listed[2]["label"] == "lesion"
        assert "broken.tif" in listed[2]["error"]
        assert listed[2]["prediction"] == ""
    assert document["slides"] == {
        "listed": 3,
        "judged": 2,
        "abstained": 0,
        "failed": 1,
        "no_tissue": 0,
        "by_label": {"benign": 1, "lesion": 2},
        "patients": 3,
    }
    ((failed),) = document["failed"]
    assert failed["arm"] == "tnet"
    assert failed["error"].startswith(failed["path"])
    # Against all that were listed, a failed slide counts as wrong.
    right = round(document["accuracy"]["value"] * 2)
    assert document["accuracy_of_listed"]["value"] == pytest.approx(right / 3, abs=1e-5)


def test_metrics_are_those_of_the_table(evaluated, document):
    judged = [row for row in table(evaluated[1] / "predictions.csv") if row["status"] == "ok"]
    truth, called = [row["label"] for row in judged], [row["prediction"] for row in judged]
    lesion = [float(row["prob_lesion"]) for row in judged]
    is_lesion = [label == "lesion" for label in truth]
    assert document["positive_class"] == "lesion"
    assert document["accuracy"]["value"] == metrics.accuracy_score(truth, called)
    assert document["accuracy"]["method"] == "Wilson"
    assert document["balanced_accuracy"]["value"] == metrics.balanced_accuracy_score(truth, called)
    assert document["auroc"]["value"] == metrics.roc_auc_score(is_lesion, lesion)
    assert document["average_precision"]["value"] == pytest.approx(
        metrics.average_precision_score(is_lesion, lesion), abs=1e-5
    )
    assert document["confusion_matrix"]["counts"] == metrics.confusion_matrix(truth, called).tolist()
    assert [row["class"] for row in document["per_class"]] == ["benign", "lesion"]
    assert [int(row["support"]) for row in table(evaluated[1] / "per_class.csv")] == [1, 1]
    missed = [0.0] * 10
    for probability, label in zip(lesion, is_lesion, strict=True):
        missed[math.ceil(10 * probability) - 1] += label - probability
    error = sum(map(abs, missed)) / len(lesion)
    assert document["calibration"]["expected_calibration_error"]["value"] == pytest.approx(error, abs=1e-5)


def test_arms_and_curve(evaluated, document):
    arms = {row["arm"]: row for row in table(evaluated[1] / "arms.csv")}
    assert tuple(arms) == ARMS
    assert float(arms["tnet"]["locations"]) == float(arms["random"]["locations"]) == 7
    assert float(arms["coarse"]["locations"]) == 0
    assert float(arms["exhaustive"]["locations"]) > 50
    assert all(float(row["seconds_per_slide"]) > 0 and float(row["fraction_read"]) > 0 for row in arms.values())
    curve = table(evaluated[1] / "curve.csv")
    assert [(row["arm"], int(row["budget"])) for row in curve] == [
        (arm, budget) for arm in ("tnet", "random") for budget in (2, 4, 7)
    ]
    least, between, most = ({float(row["locations"]) for row in curve if row["budget"] == n} for n in ("2", "4", "7"))
    assert (least, most) == ({2}, {7})
    # With four, the cells below the first may have less tissue than locations.
    assert all(2 < locations <= 4 for locations in between)
    # The model's own locations are seven: the curve ends where the arm is.
    assert document["curve"][2]["accuracy"] == document["arms"][0]["accuracy"]
    assert document["curve"][5]["auroc"]["value"] == document["arms"][1]["auroc"]["value"]
    assert {each["failed"] for each in document["curve"]} == {1}


def test_localisation(evaluated, document):
    of_lesions = table(evaluated[1] / "localisation.csv")
    assert [row["arm"] for row in of_lesions] == list(ARMS)
    found = document["localisation"]["arms"]
    assert found["tnet"]["lesion_slides"] == 1
    assert found["coarse"]["share_on_lesion"]["value"] is None
    assert found["exhaustive"]["hit_rate"]["value"] == 1.0
    assert 0 < found["exhaustive"]["share_on_lesion"]["value"] < 0.5


def test_every_file_is_named_and_every_plot_is_a_picture(evaluated, document):
    out = evaluated[1]
    assert sorted(path.name for path in out.iterdir()) == [".tnet", *document["files"]]
    for name in PLOTS:
        with Image.open(out / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 600
    run = json.loads((out / "run.json").read_text())
    assert run["arms"]["exhaustive"]["fraction_read"] > 0
    assert run["model"]["sha256"] == document["model"]["sha256"]


def test_the_calibrated_model_carries_what_was_fitted(evaluated, document, tiny_model, rows, tnet, tmp_path):
    out = evaluated[1]
    before, after = load_model(tiny_model), load_model(out / "model.safetensors")
    fit = document["fit"]
    assert fit["split"] == "validation"
    assert fit["judged"] == 2
    assert after.card.temperature == fit["temperature"]["value"] == pytest.approx(document["decision"]["temperature"])
    assert list(after.card.bias) == fit["bias"]["value"] == pytest.approx(document["decision"]["bias"])
    # Two slides of random weights fix one of the two at least.
    assert (after.card.temperature, after.card.bias) != (before.card.temperature, before.card.bias)
    assert after.card.metrics["evaluation"]["slides"] == 2
    assert after.card.metrics["calibration"]["split"] == "validation"
    error = document["calibration"]["expected_calibration_error"]["value"]
    assert after.card.calibration_error == CalibrationError(value=error, slides=2)
    assert f"| temperature | {after.card.temperature:g} |" in (out / "model.md").read_text()
    with safe_open(tiny_model, "pt") as old, safe_open(out / "model.safetensors", "pt") as new:
        assert set(old.keys()) == set(new.keys())
        assert all(torch.equal(old.get_tensor(name), new.get_tensor(name)) for name in old.keys())  # noqa: SIM118
        assert old.metadata()["tnet_tensors_sha256"] == new.metadata()["tnet_tensors_sha256"]
    test_slide = next(row for row in rows if row["split"] == "test")
    ran = tnet("classify", test_slide["slide"], "-m", out / "model.safetensors", "--no-overlay", "--json")
    answered = json.loads(ran.out)["slides"][0]
    evaluated_row = table(out / "predictions.csv")[0]
    assert answered["prediction"] == evaluated_row["prediction"]
    assert answered["prob_lesion"] == pytest.approx(float(evaluated_row["prob_lesion"]), abs=1e-5)


def test_the_same_seed_gives_the_same_metrics(rows, tiny_model, tnet, tmp_path):
    manifest = write_manifest(tmp_path / "labels.csv", rows)
    command = ("evaluate", manifest, "-m", tiny_model, "--arms", "random,tnet", "--budgets", "2", "--device", "cpu")
    first, again = tnet(*command, "-o", "a"), tnet(*command, "-o", "b", "--json")
    assert first.code == again.code == 0, first.err
    assert first.out.startswith("accuracy ")
    assert first.out.rstrip().endswith("2 slides judged; results: a")
    assert first.out.count("\n") == 1
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()
    printed = json.loads(again.out)
    assert printed.pop("run") == json.loads((tmp_path / "b" / "run.json").read_text())
    assert printed == json.loads((tmp_path / "b" / "metrics.json").read_text())

    other_seed = ("evaluate", manifest, "-m", tiny_model, "-o", "a", "--arms", "random", "--seed", "1")
    refused = tnet(*other_seed)
    assert refused.code == 2
    assert "--seed 0 instead of 1" in refused.err
    (tmp_path / "a" / "notes.txt").write_text("mine")
    assert tnet(*other_seed, "--overwrite").code == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert "notes.txt" in names
    # What this evaluation has not written is not left beside it.
    assert not names & {"predictions_tnet.csv", "curve.csv", "accuracy_by_locations.png"}
    seeds = [table(tmp_path / folder / "predictions.csv") for folder in ("a", "b")]
    assert [row["prob_lesion"] for row in seeds[0]] != [row["prob_lesion"] for row in seeds[1]]


def test_slides_of_one_class_and_a_lone_broken_one(rows, tiny_model, tnet, tmp_path):
    lesions = [row for row in rows if row["label"] == "lesion"]
    manifest = write_manifest(tmp_path / "lesions.csv", lesions)
    ran = tnet("evaluate", manifest, "-m", tiny_model, "-o", "eval", "--split", "all", "--device", "cpu")
    assert ran.code == 0
    assert "AUROC undefined" in ran.out
    assert ran.err.count("every slide to be judged is labelled 'lesion'; balanced accuracy") == 1
    document = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert document["auroc"] == {
        "value": None,
        "interval_95": None,
        "method": None,
        "reason": "the judged slides are all of one class",
    }
    assert document["accuracy"]["value"] in {0.0, 0.5, 1.0}
    assert "roc.png" not in document["files"]

    (tmp_path / "broken.tif").write_bytes(b"no slide")
    alone = write_manifest(tmp_path / "alone.csv", [{"slide": "broken.tif", "label": "lesion"}])
    ran = tnet("evaluate", alone, "-m", tiny_model, "-o", "alone", "--device", "cpu")
    assert ran.code == 3
    assert ran.err.splitlines()[-1].startswith(f"tnet: {tmp_path / 'broken.tif'}: ")
    assert table(tmp_path / "alone" / "predictions.csv")[0]["status"] == "failed"
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text())["accuracy"]["reason"] == (
        "no slide could be judged"
    )


def test_a_model_of_whole_images(image_model, tnet, tmp_path, rng):
    for number in range(4):
        pixels = rng.integers(0, 255, (80, 100, 3), dtype="uint8")
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    manifest = write_manifest(
        tmp_path / "m.csv", [{"slide": f"{number}.png", "label": ("cat", "dog")[number % 2]} for number in range(4)]
    )
    ran = tnet("evaluate", manifest, "-m", image_model, "-o", "eval", "--arms", ",".join(ARMS), "--device", "cpu")
    assert ran.code == 0, ran.err
    arms = table(tmp_path / "eval" / "arms.csv")
    assert [float(row["locations"]) for row in arms] == [3, 3, 0, 9]
    refused = tnet("evaluate", manifest, "-m", image_model, "-o", "other", "--budgets", "1,2", "--device", "cpu")
    assert refused.code == 2
    assert "chooses locations for each grid" in refused.err


WRONG = {
    "no label column": ({"label": None}, (), 5, "no row has a label; evaluate needs a column 'label'"),
    "unknown label": ({"label": "melanoma"}, (), 5, "labelled 'melanoma', which the model does not know"),
    "label missing": ({"label": ""}, (), 5, "has no label"),
    "unknown split": ({}, ("--split", "holdout"), 5, "no row has the split 'holdout'; found test, validation"),
    "no calibration split": ({}, ("--calibrate", "tuned"), 5, "no row has the split 'tuned'"),
    "judged and calibrated on": ({}, ("--split", "Val", "--calibrate", "validation"), 5, "must not be judged"),
    "one patient in both": ({"patient": "p"}, ("--calibrate", "validation"), 5, "give each patient one split"),
    "calibration of one class": ({"label": "lesion"}, ("--calibrate", "validation"), 5, "at least two classes"),
    "annotation missing": ({"annotation": "nowhere.geojson"}, (), 5, "nowhere.geojson"),
    "unknown arm": ({}, ("--arms", "tnet,best"), 2, "unknown arm 'best'; expected some of tnet, random"),
    "arm twice": ({}, ("--arms", "tnet,tnet"), 2, "name each arm once"),
    "no model": ({}, ("-m", "missing.safetensors"), 4, "missing.safetensors"),
    "no number": ({}, ("--budgets", "1,two"), 2, "--budgets 1,two: expected whole numbers"),
    "budget too small": ({}, ("--budgets", "1,8"), 2, "--budgets 1,8: the least for this model is 2"),
    "budget of nothing": ({}, ("--budgets", "0"), 2, "a budget is at least 1"),
    "budgets without an arm": ({}, ("--budgets", "4", "--arms", "coarse"), 2, "--budgets needs an arm"),
    "locations and budget": ({}, ("--locations", "2,2", "--budget", "4"), 2, "exclude each other"),
    "model to nowhere": ({}, ("--save-model", "x.safetensors"), 2, "--save-model writes what --calibrate fits"),
    "model of another kind": ({}, ("--calibrate", "validation", "--save-model", "x.bin"), 2, ".safetensors"),
    "model into nowhere": (
        {},
        ("--calibrate", "validation", "--save-model", "labels.csv/m.safetensors"),
        2,
        "nothing can be written",
    ),
    "budget below the model's least": ({}, ("--budget", "1"), 2, "--budget must be at least 2"),
    "too few locations": ({}, ("--locations", "3"), 2, "--locations needs 2 positive numbers"),
    "stop-at with locations": ({}, ("--locations", "2,2", "--stop-at", "0.1"), 2, "--stop-at"),
    "no such reader": ({}, ("--reader", "gdal"), 2, "--reader gdal: expected one of"),
    "no such scale": ({}, ("--mpp", "500"), 2, "--mpp 500: no slide has that scale"),
    "unknown device": ({}, ("--device", "tpu"), 2, "--device tpu"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_inputs_are_said_in_a_sentence(what, rows, tiny_model, tnet, tmp_path):
    change, options, code, sentence = WRONG[what]
    changed = [{key: value for key, value in (row | change).items() if value is not None} for row in rows]
    if what == "label missing":
        changed = [*rows[:3], rows[3] | change]
    manifest = write_manifest(tmp_path / "labels.csv", changed)
    model = () if "-m" in options else ("-m", tiny_model)
    ran = tnet("evaluate", manifest, *model, "-o", "eval", *options)
    assert ran.code == code, ran.err
    assert ran.out == ""
    (line,) = [line for line in ran.err.splitlines() if line.startswith("tnet: ")]
    assert sentence in line
    assert "Traceback" not in ran.err
    assert not (tmp_path / "eval").exists()


def test_manifests_that_are_none(tiny_model, tnet, tmp_path):
    ran = tnet("evaluate", "missing.csv", "-m", tiny_model)
    assert ran.code == 5
    assert "missing.csv" in ran.err
    ran = tnet("evaluate", "slide.tif", "-m", tiny_model)
    assert ran.code == 5
    assert "slide.tif: is a slide by its name; give a table of slides" in ran.err


def test_a_folder_that_cannot_be_made(rows, tiny_model, tnet, tmp_path):
    manifest = write_manifest(tmp_path / "labels.csv", rows)
    (tmp_path / "file").write_text("")
    ran = tnet("evaluate", manifest, "-m", tiny_model, "-o", "file")
    assert ran.code == 2
    assert "is a file" in ran.err
    ran = tnet("evaluate", manifest, "-m", tiny_model, "-o", "file/eval")
    assert ran.code == 2
    assert "file/eval: cannot be written" in ran.err


FOREIGN = {
    "a table that is no text": (lambda out: (out / "predictions.csv").write_bytes(b"\xff\xfe\x00"), "predictions.csv"),
    "a table that is a folder": (lambda out: (out / "predictions.csv").mkdir(), "predictions.csv"),
    "a plot that is a folder": (lambda out: (out / "roc.png").mkdir(), "roc.png"),
    "a ledger that is a link": (lambda out: (out / ".tnet").symlink_to(out.parent), ".tnet"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_another_wrote_is_left_alone(what, rows, tiny_model, tnet, tmp_path):
    manifest = write_manifest(tmp_path / "labels.csv", rows)
    (tmp_path / "eval").mkdir()
    make, name = FOREIGN[what]
    make(tmp_path / "eval")
    for option in ((), ("--overwrite",)):
        ran = tnet("evaluate", manifest, "-m", tiny_model, "-o", "eval", "--device", "cpu", *option)
        assert ran.code == 2
        (line,) = [line for line in ran.err.splitlines() if line]
        assert line.startswith("tnet: eval")
        assert name in line
        assert [path.name for path in (tmp_path / "eval").iterdir()] == [name]
