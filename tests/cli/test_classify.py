"""``tnet classify``: rows, files, streams and exit codes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_slide_gives_a_line_a_row_and_the_files(tnet, made_slide, untrained_model, tmp_path):
    ran = tnet("classify", made_slide, "-m", untrained_model)
    assert ran.code == 0
    assert ran.out.startswith("made: ")
    assert ran.out.count("\n") == 1
    assert "9 locations" in ran.out
    assert "overlay: tnet-out/slides/made/overlay.png" in ran.out
    assert "For tests only." in ran.err

    out = tmp_path / "tnet-out"
    (row,) = rows_of(out)
    assert row["status"] == "ok"
    assert row["reader"] == "tifffile"
    assert float(row["mpp"]) == pytest.approx(0.5, rel=1e-3)
    assert float(row["prob_no"]) + float(row["prob_yes"]) == pytest.approx(1, abs=1e-5)
    assert row["prediction"] == ("yes" if float(row["prob_yes"]) >= 0.5 else "no")
    assert int(row["locations"]) == 9
    assert float(row["fraction_read"]) == pytest.approx(int(row["pixels_read"]) / 6000**2, rel=1e-5)

    files = sorted(path.name for path in (out / "slides" / "made").iterdir())
    assert files == ["overlay.png", "regions.csv", "regions.geojson", "result.json"]
    with (out / "slides" / "made" / "regions.csv").open(newline="") as file:
        regions = list(csv.DictReader(file))
    assert len(regions) == int(row["roots"]) + 9
    assert sum(float(region["weight"]) for region in regions) == pytest.approx(1, abs=1e-4)
    with Image.open(out / "slides" / "made" / "overlay.png") as overlay:
        assert overlay.width == 1600
    record = json.loads((out / "run.json").read_text())
    assert record["slides"] == {"ok": 1, "abstained": 0, "no_tissue": 0, "failed": 0}
    assert len(record["model"]["sha256"]) == 64


def test_a_second_run_gives_the_same_row_but_for_the_time(tnet, made_slide, untrained_model, tmp_path):
    for folder in ("first", "second"):
        assert tnet("classify", made_slide, "-m", untrained_model, "-o", folder, "--no-overlay").code == 0
    first, second = rows_of(tmp_path / "first"), rows_of(tmp_path / "second")
    for row in (*first, *second):
        del row["seconds"]
    assert first == second
    assert not (tmp_path / "first" / "slides" / "made" / "overlay.png").exists()


def test_json_is_one_document_with_the_rows(tnet, made_slide, untrained_model, tmp_path):
    ran = tnet("classify", made_slide, "-m", untrained_model, "--json", "--locations", "1,1,2")
    document = json.loads(ran.out)
    assert list(document) == ["run", "slides"]
    assert list(document["slides"][0]) == list(rows_of(tmp_path / "tnet-out")[0])
    assert document["slides"][0]["locations"] == 4
    assert document["run"]["options"]["locations"] == [1, 1, 2]


def test_a_budget_is_kept(tnet, made_slide, untrained_model):
    ran = tnet("classify", made_slide, "-m", untrained_model, "--json", "--budget", "6", "--no-overlay")
    assert json.loads(ran.out)["slides"][0]["locations"] == 6


def test_several_slides_one_of_them_broken(tnet, made_slide, untrained_model, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"not a slide at all")
    copy = tmp_path / "copy.tif"
    shutil.copy(made_slide, copy)
    ran = tnet("classify", made_slide, broken, copy, "-m", untrained_model, "--no-overlay")
    assert ran.code == 6
    assert [row["status"] for row in rows_of(tmp_path / "tnet-out")] == ["ok", "failed", "ok"]
    assert "1 of 3 slides failed" in ran.err
    assert str(broken) in ran.err
    assert "Traceback" not in ran.err


def test_the_only_slide_broken(tnet, untrained_model, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"")
    ran = tnet("classify", broken, "-m", untrained_model)
    assert ran.code == 3
    assert ran.err.splitlines()[-1].startswith(f"tnet: {broken}: ")
    assert rows_of(tmp_path / "tnet-out")[0]["status"] == "failed"


def test_fail_fast_stops_at_the_first(tnet, made_slide, untrained_model, tmp_path):
    ran = tnet("classify", "gone.svs", made_slide, made_slide, "-m", untrained_model, "--fail-fast")
    assert ran.code != 0
    assert rows_of(tmp_path / "tnet-out")[0]["status"] == "failed"


def test_a_slide_without_tissue_is_not_guessed(tnet, untrained_model, tmp_path):
    glass = np.full((3000, 4000, 3), 243, np.uint8)
    Image.fromarray(glass).save(tmp_path / "glass.png")
    ran = tnet("classify", "glass.png", "-m", untrained_model, "--mpp", "0.5")
    assert ran.code == 0
    assert "no tissue" in ran.out
    (row,) = rows_of(tmp_path / "tnet-out")
    assert (row["status"], row["prediction"], row["mpp_source"]) == ("no_tissue", "", "option")


def test_an_unknown_scale_is_never_guessed(tnet, untrained_model, tmp_path):
    Image.new("RGB", (3000, 2000), (200, 120, 160)).save(tmp_path / "plain.png")
    ran = tnet("classify", "plain.png", "-m", untrained_model)
    assert ran.code == 3
    assert "plain.png" in ran.err
    assert "--mpp" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["classify"], 2, "Missing argument"),
        (["classify", "a.svs", "--locations", "1,x"], 2, "expected whole numbers"),
        (["classify", "a.svs", "--device", "gpu9"], 2, "expected auto, cpu, cuda"),
        (["classify", "a.svs", "-m", "nothing"], 4, "neither a file nor a bundled model"),
        (["classify", "none.csv"], 5, "cannot be read as a CSV manifest"),
        (["classify", "."], 2, ".: no slides in it or the folders below it; found no files at all"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_wrong_usage_is_one_sentence_and_the_right_code(tnet, arguments, code, complaint):
    ran = tnet(*arguments)
    assert ran.code == code
    assert complaint in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_options_that_do_not_fit_the_model(tnet, made_slide, untrained_model):
    both = tnet("classify", made_slide, "-m", untrained_model, "--locations", "1,1,1", "--budget", "9")
    assert (both.code, "exclude each other" in both.err) == (2, True)
    short = tnet("classify", made_slide, "-m", untrained_model, "--locations", "1,1")
    assert (short.code, "needs 3 positive numbers" in short.err) == (2, True)


def test_another_run_in_the_folder_is_protected(tnet, made_slide, untrained_model, tmp_path):
    assert tnet("classify", made_slide, "-m", untrained_model, "--no-overlay").code == 0
    refused = tnet("classify", "other.tif", "-m", untrained_model)
    assert refused.code == 2
    assert "holds the results of another run" in refused.err
    assert rows_of(tmp_path / "tnet-out")[0]["slide"] == "made"


def test_without_a_report_nothing_is_left_of_one(tnet, made_slide, untrained_model, tmp_path):
    page = tmp_path / "tnet-out" / "report.html"
    command = ("classify", made_slide, "-m", untrained_model, "--no-overlay")
    told = tnet(*command)
    assert page.is_file()
    assert f"review them in {page.relative_to(tmp_path)}" in told.err
    told = tnet(*command, "--no-report")
    assert told.code == 0
    assert not page.exists()
    assert "report.html" not in told.err
    assert rows_of(tmp_path / "tnet-out")[0]["status"] == "ok"
