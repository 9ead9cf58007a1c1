"""A directory as labs have them: slides of several vendors, some without a scale, some broken, in one run."""

import csv
from pathlib import Path

NO_MPP = "no micrometres per pixel in the file, and the model needs them; give them with --mpp"

EXPECTED = {
    "CMU-1-Small-Region": ("ok", ""),
    "OS-1-detail.ome": ("ok", ""),
    "OS-2-ndpi.ome": ("ok", ""),
    "boxes": ("failed", NO_MPP),
    "boxes_0": ("abstained", ""),  # boxes_1.dcm is another pyramid level of it
    "broken/highdicom_sm_image_grayscale": (
        "failed",
        "has samples of more than 8 bits, and OpenSlide reads none; export it with 8",
    ),
    "broken/unopenable": ("failed", "compressed as 52479, which is not supported"),
    "broken/unreadable": ("failed", "cannot be decoded"),
    "broken/zero_gi": ("failed", "its first image is 2 x 0 pixels; expected an image"),
    "rgba_geotiff": ("failed", NO_MPP),
    "small": ("abstained", ""),
    "test3-DAPI-2-387": ("ok", ""),
    "test_orient1": ("failed", NO_MPP),
    "test_orient6": ("failed", NO_MPP),
    "yb10kx5k.zstd": ("failed", NO_MPP),
}


def test_every_file_gets_its_row_and_the_failures_are_a_manifest(tnet, shared: Path, untrained_model, tmp_path: Path):
    ran = tnet("classify", shared / "data" / "slides", "-o", tmp_path / "out", "-m", untrained_model, "--no-overlay")
    assert ran.code == 6
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {row["slide"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        name: status for name, (status, _) in EXPECTED.items()
    }
    for name, (_, sentence) in EXPECTED.items():
        assert sentence in rows[name]["error"]
        assert "\n" not in rows[name]["error"]

    again = tnet("classify", tmp_path / "out" / "failures.csv", "-o", tmp_path / "again", "--mpp", "0.5")
    assert again.code == 6
    with (tmp_path / "again" / "predictions.csv").open(newline="") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert statuses.count("failed") == 4, "those without a scale are read once it is given"
