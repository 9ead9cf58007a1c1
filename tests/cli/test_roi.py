"""``tnet classify`` where a user says: regions of interest, a row for each, masks, and runs that go on."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drawn_regions import drawn, write_regions
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.annotation import mask_of
from tnet_cli.inputs.geojson import read_annotation_areas
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.tiff_backend import TiffSlide

BLUNT = [(2600.0, 2000.0), (3700.0, 2100.0), (3500.0, 3500.0), (2500.0, 3000.0)]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def regions_in(folder: Path) -> list[Region]:
    with (folder / "regions.csv").open(newline="") as file:
        sides = ("minx", "miny", "width", "height")
        return [Region(*(int(row[side]) for side in sides)) for row in csv.DictReader(file)]


def test_nothing_outside_a_region_is_decoded_but_the_thumbnail_and_tiles_on_its_border(
    tnet, made_slide, untrained_model, tmp_path, monkeypatch
):
    roi = write_regions(tmp_path / "roi.geojson", drawn(BLUNT))
    within = mask_of(read_annotation_areas(roi), Size(6000, 6000), longest_px=3000)
    tiles: list[tuple[Region, bool]] = []
    is_thumbnail = [False]
    decode, thumbnail = TiffSlide._decode_tile, TiffSlide.thumbnail

    def recorded(self, pyramid_level, column, row):
        unit, shrink = self._unit(pyramid_level), self.pyramid[pyramid_level].downsample
        edge = round(shrink)
        box = Region(
            round(column * unit.width * shrink) - edge,
            round(row * unit.height * shrink) - edge,
            round(unit.width * shrink) + 2 * edge,
            round(unit.height * shrink) + 2 * edge,
        )
        tiles.append((box, is_thumbnail[0]))
        return decode(self, pyramid_level, column, row)

    def in_thumbnail(self, max_px):
        is_thumbnail[0] = True
        try:
            return thumbnail(self, max_px)
        finally:
            is_thumbnail[0] = False

    monkeypatch.setattr(TiffSlide, "_decode_tile", recorded)
    monkeypatch.setattr(TiffSlide, "thumbnail", in_thumbnail)
    assert tnet("classify", made_slide, "-m", untrained_model, "--roi", roi, "--no-overlay").code == 0
    others = [box for box, is_thumbnail in tiles if not is_thumbnail]
    assert len(others) > 2
    assert within.fractions(others).min() > 0
    tiles.clear()
    assert tnet("classify", made_slide, "-m", untrained_model, "--no-overlay", "-o", "all").code == 0
    assert within.fractions([box for box, is_thumbnail in tiles if not is_thumbnail]).min() == 0
    (row,) = rows_of(tmp_path / "tnet-out")
    assert int(row["roi_area_px"]) == pytest.approx(within.area_px, rel=0.01)
    assert float(row["fraction_read"]) == pytest.approx(int(row["pixels_read"]) / 6000**2, rel=1e-5)
    finest = [region for region in regions_in(tmp_path / "tnet-out/slides/made") if region.width < 300]
    assert finest
    assert within.fractions(finest).min() > 0


def test_a_row_for_each_region(tnet, made_slide, untrained_model, tmp_path):
    tissue, glass = Region(2500, 2500, 900, 900), Region(20, 20, 60, 60)
    roi = write_regions(
        tmp_path / "roi.geojson", drawn(tissue, name="Core A"), drawn(BLUNT, of="Tumor"), drawn(glass, name="empty")
    )
    ran = tnet("classify", made_slide, "-m", untrained_model, "--roi", roi, "--per-roi", "--no-overlay")
    assert ran.code == 6
    rows = rows_of(tmp_path / "tnet-out")
    assert [(row["slide"], row["status"]) for row in rows] == [
        *(("made#Core A", "ok"), ("made#2", "ok"), ("made#empty", "failed"))
    ]
    assert (
        rows[2]["error"] == f"{made_slide}: no tissue was found in region 3 (roi.geojson); give another that holds some"
    )
    assert int(rows[0]["roi_area_px"]) == pytest.approx(900 * 900, rel=0.02)
    in_core = regions_in(tmp_path / "tnet-out" / "slides" / "made#Core A")
    assert all(region.intersect(tissue) for region in in_core)
    one = tnet("classify", made_slide, "-m", untrained_model, "--roi", roi, "--roi-class", "Tumor", "--no-overlay")
    assert one.code == 2
    assert "--roi-class not given instead of Tumor and --per-roi True instead of not given" in one.err


def test_the_only_region_without_tissue_fails(tnet, made_slide, untrained_model, tmp_path):
    roi = write_regions(tmp_path / "roi.geojson", drawn(Region(20, 20, 60, 60)))
    ran = tnet("classify", made_slide, "-m", untrained_model, "--roi", roi)
    assert ran.code == 3
    assert ran.err.splitlines()[-1].endswith(
        "no tissue was found in the region of interest (roi.geojson); give another that holds some"
    )
    assert rows_of(tmp_path / "tnet-out")[0]["status"] == "failed"


def test_what_was_drawn_anew_is_looked_at_again(tnet, made_slide, untrained_model, tmp_path):
    roi = write_regions(tmp_path / "roi.geojson", drawn(BLUNT))
    Image.fromarray(np.full((60, 60), 255, np.uint8)).save(tmp_path / "mask.png")
    command = ("classify", made_slide, "-m", untrained_model, "--roi", roi, "--mask", "mask.png", "--no-overlay")
    assert tnet(*command).code == 0
    (first,) = rows_of(tmp_path / "tnet-out")
    assert "1 of 1 slides were done before" in tnet(*command).err
    write_regions(roi, drawn(Region(2500, 2500, 900, 900)))
    assert "were done before" not in tnet(*command).err
    (second,) = rows_of(tmp_path / "tnet-out")
    assert int(second["roi_area_px"]) < int(first["roi_area_px"])
    half = np.zeros((60, 60), np.uint8)
    half[:30] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    assert "were done before" not in tnet(*command).err
    assert "were done before" in tnet(*command).err
    assert rows_of(tmp_path / "tnet-out") != [second]


def test_a_mask_that_was_saved_gives_the_same_answer(tnet, made_slide, untrained_model, tmp_path):
    command = ("classify", made_slide, "-m", untrained_model)
    assert tnet(*command, "--no-overlay", "-o", "own").code == 0
    assert not (tmp_path / "own/slides/made/mask.png").exists()
    # A mask that is wanted and not there is a reason to look again.
    assert "were done before" not in tnet(*command, "--no-overlay", "-o", "own", "--save-mask").err
    mask = tmp_path / "own/slides/made/mask.png"
    assert tnet(*command, "-o", "given", "--mask", mask).code == 0
    (own,), (given,) = rows_of(tmp_path / "own"), rows_of(tmp_path / "given")
    assert (own["prob_yes"], own["locations"]) == (given["prob_yes"], given["locations"])
    assert "roi_area_px" not in given
    assert (tmp_path / "own/slides/made/regions.csv").read_bytes() == (
        tmp_path / "given/slides/made/regions.csv"
    ).read_bytes()


def test_a_mask_limits_what_is_attended_and_is_outlined(tnet, made_slide, untrained_model, tmp_path):
    left = np.zeros((120, 120), np.uint8)
    left[:, :60] = 255
    Image.fromarray(left).save(tmp_path / "left.png")
    (tmp_path / "slides.csv").write_text(f"slide,mask\n{made_slide},left.png\n")
    assert tnet("classify", "slides.csv", "-m", untrained_model).code == 0
    folder = tmp_path / "tnet-out/slides/made"
    assert max(region.x for region in regions_in(folder) if region.width < 300) < 3000
    with Image.open(folder / "overlay.png") as page:
        pixels = np.asarray(page.convert("RGB"))
    black = (pixels == 0).all(axis=2)
    # The border runs down the middle of both panels.
    assert (black.sum(axis=0) > 500).sum() >= 2


def test_a_region_in_the_frame_of_qupath_is_where_tnet_says_it_is(tnet, made_slide, untrained_model, tmp_path):
    """Regions that tnet wrote are taken as regions of interest."""
    assert tnet("classify", made_slide, "-m", untrained_model, "--no-overlay", "-o", "whole").code == 0
    features = json.loads((tmp_path / "whole/slides/made/regions.geojson").read_text())["features"]
    coarse = next(each for each in features if each["properties"]["measurements"]["processing_level"] == 2)
    roi = write_regions(tmp_path / "one.geojson", coarse)
    assert tnet("classify", made_slide, "-m", untrained_model, "--no-overlay", "--roi", roi).code == 0
    (left, top), _, (right, bottom), *_ = coarse["geometry"]["coordinates"][0]
    box = Region(left, top, right - left, bottom - top)
    with open_slide(made_slide) as slide:
        assert box.intersect(Region(0, 0, slide.size.width, slide.size.height)) == box
    finest = [region for region in regions_in(tmp_path / "tnet-out/slides/made") if region.width < 300]
    assert finest
    assert all(box.intersect(region) for region in finest)


def test_a_model_of_whole_images_takes_no_region(tnet, image_model, tmp_path):
    Image.new("RGB", (90, 80), (200, 120, 160)).save(tmp_path / "photo.png")
    roi = write_regions(tmp_path / "roi.geojson", drawn(Region(0, 0, 40, 40)))
    ran = tnet("classify", "photo.png", "-m", image_model, "--roi", roi)
    assert ran.code == 2
    assert "the model small-photos takes whole images" in ran.err
