"""Folders of all sorts through the commands: the right row for every file, and the frame that QuPath expects."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tnet_cli.evaluation.selection import select_rows
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.annotation import read_annotation
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.learning.slides import load_training_slides
from tnet_cli.model.config import TNetConfig
from tnet_cli.slide.opening import open_slide


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


@pytest.fixture
def mixed(made_slide: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    for name in ("good", "a/same", "b/same"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made_slide, folder / f"{name}.tif")
    Image.fromarray(np.full((300, 400, 3), 243, np.uint8)).save(folder / "picture.png")
    shutil.copy(folder / "picture.png", folder / "good_thumbnail.png")
    (folder / "broken.tif").write_bytes(made_slide.read_bytes()[:2000])
    (folder / "empty.svs").touch()
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "._good.tif").write_bytes(b"\0\5\26\7")
    (folder / "gone.ndpi").symlink_to("nowhere.ndpi")
    (folder / "again.tif").symlink_to("good.tif")
    (folder / "a" / "loop").symlink_to("..")
    return folder


def test_every_file_of_a_mixed_folder_gets_the_right_row(tnet, mixed, untrained_model):
    arguments = ("classify", "mixed", "-m", untrained_model, "-o", "mixed/out", "--locations", "1,1,1")
    ran = tnet(*arguments)
    assert ran.code == 6
    rows = rows_of(mixed / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "a/same": "ok",
        "b/same": "ok",
        "broken": "failed",
        "empty": "failed",
        "gone": "failed",
        "good": "ok",
        "picture": "failed",
    }
    assert list(rows) == ["a/same", "b/same", "broken", "empty", "gone", "good", "picture"]
    assert rows["a/same"]["path"] == "mixed/a/same.tif"
    assert "is empty" in rows["empty"]["error"]
    assert "no such file" in rows["gone"]["error"]
    assert "--mpp" in rows["picture"]["error"]
    assert "mixed: ignored 1 file: no slides (1 .txt)" in ran.err
    assert "mixed: 1 slide found again through links and counted once" in ran.err
    assert (mixed / "out" / "slides" / "a" / "same" / "overlay.png").is_file()
    assert "Traceback" not in ran.err

    # The results lie in the folder now: they are not taken for slides.
    again = tnet(*arguments, "--no-overlay", "--overwrite")
    assert again.code == 6
    assert list(rows_of(mixed / "out")) == list(rows)


def test_folders_below_are_left_alone_on_request(tnet, mixed):
    flat = tnet("info", "mixed", "--json", "--no-recursive")
    deep = tnet("info", "mixed", "--json")
    paths = [[slide["path"] for slide in json.loads(ran.out)["slides"]] for ran in (flat, deep)]
    assert paths[1] == ["mixed/a/same.tif", "mixed/b/same.tif", *paths[0]]
    assert deep.code == flat.code == 6


def test_a_pattern_in_quotes_is_followed(tnet, mixed):
    ran = tnet("info", "mixed/**/same.t*", "--json")
    assert ran.code == 0
    assert [slide["path"] for slide in json.loads(ran.out)["slides"]] == ["mixed/a/same.tif", "mixed/b/same.tif"]
    nothing = tnet("info", "mixed/*.mrxs")
    assert (nothing.code, nothing.out) == (2, "")
    assert nothing.err.startswith("tnet: mixed/*.mrxs: matches no slide, nothing; ")


@pytest.mark.parametrize("command", ["classify", "info"])
def test_a_folder_without_slides_is_one_sentence_and_code_2(tnet, command, tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a.txt").touch()
    ran = tnet(command, "dir")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1].startswith("tnet: dir: no slides in it or the folders below it; found 1 other file")


# The frame of QuPath

LEICA = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">
<collection name="c" sizeX="{slide[0]}" sizeY="{slide[1]}"><barcode>MQ==</barcode>
<image name="i"><creationDate>2020-01-01T00:00:00Z</creationDate><device model="m" version="1"/>
<pixels sizeX="{px[0]}" sizeY="{px[1]}"><dimension sizeX="{px[0]}" sizeY="{px[1]}" r="0" ifd="0"/></pixels>
<view sizeX="{scan[0]}" sizeY="{scan[1]}" offsetX="{corner[0]}" offsetY="{corner[1]}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings>
</scanSettings></image></collection></scn>"""

NM = 500
"""Nanometres a pixel."""


@pytest.fixture(scope="module")
def bounded_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Leica slide of 5000 x 4000 px of which 3000 x 2000 are scanned, from 1200, 900 on; OpenSlide states bounds."""
    path = tmp_path_factory.mktemp("leica") / "bounded.scn"
    rng = np.random.default_rng(4)
    pixels = np.full((2000, 3000, 3), 243, np.uint8)
    pixels[400:1700, 500:2500] = rng.normal((190, 110, 165), 12, (1300, 2000, 3)).clip(0, 255).astype(np.uint8)
    xml = LEICA.format(
        slide=(5000 * NM, 4000 * NM), px=(3000, 2000), scan=(3000 * NM, 2000 * NM), corner=(1200 * NM, 900 * NM)
    )
    resolution = (1e7 / NM, 1e7 / NM)  # pixels a centimetre
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        description=xml,
        metadata=None,
        bigtiff=True,
        resolution=resolution,
        resolutionunit="CENTIMETER",
    )
    return path


def test_regions_count_from_the_bounds_for_qupath_and_read_back_where_they_were(
    tnet, bounded_slide, untrained_model, tmp_path
):
    with open_slide(bounded_slide) as slide:
        assert (slide.size, slide.bounds) == (Size(5000, 4000), Region(1200, 900, 3000, 2000))
        assert slide.properties["openslide.bounds-x"] == "1200"
    ran = tnet("classify", bounded_slide, "-m", untrained_model, "--no-overlay")
    assert ran.code == 0
    folder = tmp_path / "tnet-out" / "slides" / "bounded"
    with (folder / "regions.csv").open(newline="") as file:
        regions = [
            Region(*(int(row[side]) for side in ("minx", "miny", "width", "height"))) for row in csv.DictReader(file)
        ]
    features = json.loads((folder / "regions.geojson").read_text())["features"]
    corners = [tuple(feature["geometry"]["coordinates"][0][0]) for feature in features]
    assert sorted(corners) == sorted((region.x - 1200, region.y - 900) for region in regions)
    assert any(1200 <= region.x < 4200 and 900 <= region.y < 2900 for region in regions)

    one = next(region for region in regions if region.width == 256)
    drawn = features[corners.index((one.x - 1200, one.y - 900))]
    assert drawn["properties"]["objectType"] == "annotation"
    (tmp_path / "drawn.geojson").write_text(json.dumps(drawn))
    annotated = read_annotation(tmp_path / "drawn.geojson", Size(5000, 4000), origin=(1200, 900))
    assert annotated.fractions([one]).item() == pytest.approx(1, abs=0.06)
    assert annotated.fractions([Region(0, 0, 5000, 4000)]).item() == pytest.approx(one.area / 20e6, rel=0.06)


def test_an_annotation_from_qupath_teaches_where_it_was_drawn(bounded_slide, tmp_path):
    square = [[500, 400], [1524, 400], [1524, 1424], [500, 1424], [500, 400]]
    (tmp_path / "drawn.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    (tmp_path / "labels.csv").write_text(f"slide,label,annotation\n{bounded_slide},yes,drawn.geojson\n")
    (slide,) = load_training_slides(read_manifest(tmp_path / "labels.csv"), TNetConfig.slide(("no", "yes")))
    assert slide.annotated is not None
    annotated = slide.annotated.unpacked()
    there, elsewhere = annotated.fractions([Region(1700, 1300, 1024, 1024), Region(500, 400, 1024, 800)])
    assert there == pytest.approx(1, abs=0.02)
    assert elsewhere == 0


@pytest.mark.parametrize("room", ["evaluation", "training"])
def test_who_judges_or_teaches_hears_what_of_an_annotation_does_not_count(bounded_slide, tmp_path, room):
    point = {"type": "Point", "coordinates": [600, 500]}
    (tmp_path / "drawn.geojson").write_text(json.dumps(point))
    notes: list[str] = []
    manifest, classes = tmp_path / "labels.csv", ("no", "yes")
    manifest.write_text(f"slide,label,annotation\n{bounded_slide},yes,drawn.geojson\n")
    if room == "evaluation":
        select_rows(manifest, classes, split=None, calibrate=None, on_note=notes.append)
    else:
        load_training_slides(read_manifest(manifest), TNetConfig.slide(classes), on_note=notes.append)
    assert f"{tmp_path}/drawn.geojson: left out objects without an area: 1 Point" in notes
