"""Rows of the tables, and where they are written."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tnet_cli.errors import UsageError
from tnet_cli.files import table_text
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.names import OVERLAY
from tnet_cli.metrics.predictions import softmax
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.thumbnail import overlay_file
from tnet_cli.results.layout import RunDirectory
from tnet_cli.results.result import Score, SlideResult, prediction_columns

CLASSES = ("benign", "lesion")


def made_result(**changes) -> SlideResult:
    facts: dict[str, Any] = {
        "slide": "a",
        "path": "x/a.svs",
        "status": "ok",
        "class_names": CLASSES,
        "prediction": "lesion",
        "probability": 0.75,
        "probabilities": (0.25, 0.75),
        "logits": (0.0, 1.0986),
        "size": Size(1000, 500),
        "mpp": 0.5,
        "mpp_source": "option",
        "reader": "tifffile",
        "roots": 1,
        "locations": 2,
        "pixels_read": 1000,
        "fraction_read": 1000 / 500_000,
        "seconds": 1.23456,
        "regions": (
            AttendedRegion(Region(-5, 0, 64, 64), 0, 8.0, 1.0, 1.0, 0.4, (0.5, 0.5), is_location=False),
            AttendedRegion(Region(16, 32, 16, 16), 1, 2.0, 0.123456789, 0.123456789, 0.6, (0.1, 0.9)),
        ),
        "bounds": Region(0, 0, 1000, 500),
    }
    return SlideResult(**(facts | changes))


def test_the_row_has_the_columns_of_the_contract_in_order():
    expected = [
        *("slide", "path", "status", "prediction", "probability", "prob_benign", "prob_lesion", "mpp", "mpp_source"),
        *("reader", "roots", "locations", "pixels_read", "fraction_read", "seconds", "error", "qc"),
    ]
    assert list(made_result().row()) == expected
    assert prediction_columns(CLASSES) == expected


def test_a_failed_row_keeps_every_column_and_says_why():
    row = SlideResult(slide="b", path="b.svs", status="failed", class_names=CLASSES, error="b.svs: is empty").row()
    assert row["error"] == "b.svs: is empty"
    assert (row["prediction"], row["prob_benign"], row["locations"]) == (None, None, 0)


def test_tables_and_documents_are_written(tmp_path: Path):
    directory = RunDirectory(tmp_path)
    results = [
        made_result(),
        SlideResult(slide="b", path="b.svs", status="failed", class_names=CLASSES, error='no, "b" is empty'),
    ]
    rows = [
        directory.write_slide(results[0], {OVERLAY: overlay_file(Image.new("RGB", (4, 3)))}),
        directory.write_slide(results[1], {}),
    ]
    directory.write_predictions([row.values for row in rows], CLASSES)

    with (tmp_path / "predictions.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["slide"], first["prob_lesion"], first["seconds"], first["error"]) == ("a", "0.75", "1.235", "")
    assert (second["status"], second["prediction"], second["error"]) == ("failed", "", 'no, "b" is empty')

    folder = tmp_path / "slides" / "a"
    assert [directory.overlay_of(row) for row in rows] == [folder / "overlay.png", None]
    assert sorted(path.name for path in folder.iterdir()) == [
        "overlay.png",
        "regions.csv",
        "regions.geojson",
        "result.json",
    ]
    assert [path.name for path in (tmp_path / "slides" / "b").iterdir()] == ["result.json"]
    assert json.loads((folder / "result.json").read_text())["logits"] == [0.0, 1.0986]
    lines = (folder / "regions.csv").read_text().splitlines()
    assert lines[0] == (
        "minx,miny,width,height,processing_level,mpp,location_probability,path_probability,weight,"
        "prob_benign,prob_lesion"
    )
    assert lines[2] == "16,32,16,16,1,2.0,0.123457,0.123457,0.6,0.1,0.9"
    assert len(json.loads((folder / "regions.geojson").read_text())["features"]) == 2


def test_a_slides_files_are_replaced_together_and_the_users_own_are_kept(tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.write_slide(made_result(), {OVERLAY: overlay_file(Image.new("RGB", (4, 3)))})
    folder = tmp_path / "slides" / "a"
    (folder / "my notes.txt").write_text("look again")
    row = directory.write_slide(
        SlideResult(slide="a", path="x/a.svs", status="failed", class_names=CLASSES, error="x/a.svs: gone"), {}
    )
    assert sorted(path.name for path in folder.iterdir()) == ["my notes.txt", "result.json"]
    assert list(row.files) == ["result.json"]
    assert directory.has_files(row)
    (folder / "result.json").write_text("{}")
    assert not directory.has_files(row)
    assert list((tmp_path / ".tnet" / "drafts").iterdir()) == []


def test_rows_of_another_run_are_protected(tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.write_predictions([made_result().row()], CLASSES)
    directory.refuse_if_it_holds_another_run(["x/a.svs", "more.svs"])
    with pytest.raises(UsageError, match=r"1 slides not in this one, such as x/a\.svs"):
        directory.refuse_if_it_holds_another_run(["more.svs"])


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="is a file"):
        RunDirectory(tmp_path / "out").check()


def test_a_row_with_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match="surplus"):
        table_text(["a"], [{"a": 1, "surplus": 2}])


def test_softmax_divides_by_the_temperature_and_survives_large_logits():
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0]), 1.0), [0.5, 0.5])
    np.testing.assert_allclose(softmax(np.array([[0.0, np.log(9.0)]]), 2.0), [[0.25, 0.75]])


def test_an_area_is_said_in_per_cent_and_other_scores_as_they_are():
    area = Score(rule="area", value=0.031, low=0.02, high=0.044, cells=900, attended=25, sampled=25)
    assert area.words() == "area 3.1 % (95 % interval 2 to 4.4 %)"
    top = Score(rule="top:32", value=0.7125, low=None, high=None, cells=900, attended=50, sampled=0)
    assert top.words() == "top:32 0.713"
