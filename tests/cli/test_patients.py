"""Patients of several slides, in ``tnet classify`` and ``tnet evaluate``."""

import csv
import json
import shutil
from pathlib import Path

import pytest


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def manifest(drawn_slide, tmp_path) -> str:
    for name in ("a", "b", "c"):
        shutil.copy(drawn_slide(), tmp_path / f"{name}.tif")
    (tmp_path / "bad.tif").write_bytes(b"nothing")
    rows = ["a.tif,P1,no", "b.tif,P1,yes", "c.tif,P2,no", "bad.tif,P2,no"]
    (tmp_path / "slides.csv").write_text("\n".join(["slide,patient,label", *rows]) + "\n")
    return "slides.csv"


def test_classify_writes_a_row_for_each_patient(tnet, manifest, untrained_model, tmp_path):
    command = ("classify", manifest, "-m", untrained_model, "--no-overlay", "--no-report")
    assert tnet(*command).code == 6
    first, second = table(tmp_path / "tnet-out/patients.csv")
    of_slides = {row["slide"]: row for row in table(tmp_path / "tnet-out/predictions.csv")}
    assert (first["patient"], first["status"], first["slides"], first["rule"]) == ("P1", "ok", "2", "max")
    assert first["prob_yes"] == of_slides["a"]["prob_yes"]
    assert (second["patient"], second["counted"], second["failed"]) == ("P2", "1", "bad")
    # Another rule looks at no slide again.
    again = tnet(*command, "--patient-rule", "mean")
    assert "3 of 4 slides were done before" in again.err
    assert {row["rule"] for row in table(tmp_path / "tnet-out/patients.csv")} == {"mean"}


def test_rules_that_cannot_be_followed(tnet, manifest, untrained_model, tmp_path):
    unknown = tnet("classify", manifest, "-m", untrained_model, "--patient-rule", "median")
    assert (unknown.code, "--patient-rule median: expected max or mean" in unknown.err) == (2, True)
    nobody = tnet("classify", "a.tif", "-m", untrained_model, "--patient-rule", "max")
    assert (nobody.code, "no slide has a patient" in nobody.err) == (2, True)
    assert tnet("classify", "a.tif", "-m", untrained_model, "--no-overlay", "--no-report").code == 0
    assert not (tmp_path / "tnet-out/patients.csv").exists()


def test_evaluate_judges_patients_beside_slides(tnet, manifest, untrained_model, tmp_path):
    ran = tnet("evaluate", manifest, "-m", untrained_model, "--patient-rule", "mean", "--bootstrap", "50")
    assert ran.code == 6
    found = json.loads((tmp_path / "tnet-evaluation/metrics.json").read_text())["by_patient"]
    assert found["rule"] == "mean"
    assert found["patients"] == {"listed": 2, "judged": 2, "without_answer": 0, "left_out": []}
    rows = table(tmp_path / "tnet-evaluation/patients.csv")
    assert [(row["patient"], row["label"], row["failed"]) for row in rows] == [("P1", "yes", ""), ("P2", "no", "bad")]
    right = sum(row["prediction"] == row["label"] for row in rows)
    assert found["accuracy"]["value"] == right / 2
    assert sum(map(sum, found["confusion_matrix"]["counts"])) == 2
