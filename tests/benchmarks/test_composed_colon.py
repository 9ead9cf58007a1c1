"""Composed slides: split by source, laid without seams, with tumour where the outlines are; and distorted."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import shape
from sklearn.metrics import roc_auc_score

from benchmarks.composed_colon.compose import compose, compose_all, difficulty_of, slides_of_split, write_manifest
from benchmarks.composed_colon.design import LEAST_RADIUS_UM, MPP, SHARES, design_composed
from benchmarks.composed_colon.paint import Composer
from benchmarks.composed_colon.tiles import CLASS_NAMES, SPLITS, TILE_PX, draw_stain, load_tile, tiles_of_split
from benchmarks.composed_colorectal.distortion import DISTORTIONS, distort
from tnet_cli.geometry import Region
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.slide.opening import open_slide

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "colon_tiles"
SIDE = 4000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiles of one's own: ten sources a class, two copies of each; benign ones bluish and fine, tumour coarse."""
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    rows = []
    for label, block in zip(CLASS_NAMES, (4, 28), strict=True):
        for source in range(10):
            grain = rng.integers(90, 230, (TILE_PX // block, TILE_PX // block, 3))
            pixels = np.kron(grain, np.ones((block, block, 1))).astype(np.uint8)
            for copy in range(2):
                name = f"{label}-{source}-{copy}.png"
                Image.fromarray(np.rot90(pixels, copy)).save(folder / name)
                rows.append({"file": name, "label": label, "source_tile": f"{label}:{source}"})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "source_tile"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def positive(folder):
    design = design_composed(7, SIDE, CLASS_NAMES[1], "easy")
    return design, Composer(design, tiles_of_split(folder, "train"))


def test_copies_of_a_source_are_in_one_split_and_every_tile_in_one(folder):
    sources = {split: {(file.label, file.source) for file in tiles_of_split(folder, split)} for split in SPLITS}
    assert not sources["train"] & sources["test"]
    assert not sources["train"] & sources["val"]
    assert not sources["val"] & sources["test"]
    assert {split: len(found) for split, found in sources.items()} == {"train": 12, "val": 4, "test": 4}
    assert sum(len(tiles_of_split(folder, split)) for split in SPLITS) == 40


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")
def test_the_real_tiles_are_split_by_source_and_their_mean_colour_tells_nothing_once_they_are_stained():
    files = {split: tiles_of_split(REAL, split) for split in SPLITS}
    assert sum(map(len, files.values())) == 1499
    assert not {file.source for file in files["train"]} & {file.source for file in files["test"]}
    tiles = [load_tile(file) for file in files["test"][::4]]
    labels = [tile.label == CLASS_NAMES[1] for tile in tiles]
    before = [tile.pixels[..., 0].mean() for tile in tiles]
    after = []
    for number, tile in enumerate(tiles):
        rng = np.random.default_rng(number)
        table = draw_stain(tiles, rng).table(tile, rng)
        after.append(table[tile.pixels[..., 0], 0].mean())
    assert max(roc_auc_score(labels, before), 1 - roc_auc_score(labels, before)) > 0.7
    assert 0.35 < roc_auc_score(labels, after) < 0.65


def test_a_window_is_the_same_whatever_is_painted_around_it(positive, folder):
    design, composer = positive
    x, y = (round(value / MPP) for value in (design.foci[0].x_um, design.foci[0].y_um))
    large = composer.window(x - 300, y - 300, 600, 600)
    small = composer.window(x - 100, y - 80, 200, 200)
    # The camera's noise belongs to the window.
    assert np.abs(large[220:420, 200:400].astype(int) - small).mean() < 3
    again = Composer(design, tiles_of_split(folder, "train")).window(x - 300, y - 300, 600, 600)
    assert np.array_equal(large, again)


def test_tiles_fade_into_each_other_without_a_seam(folder):
    """Tiles of one colour give a plane of one colour."""
    design = design_composed(3, SIDE, CLASS_NAMES[0], "")
    composer = Composer(design, tiles_of_split(folder, "train"))
    layer = composer._benign
    layer._tiles = [np.full((TILE_PX, TILE_PX, 3), 120, np.uint8)]
    np.testing.assert_allclose(layer.window(37, 911, 500, 400), 120, atol=1e-3)


def test_tumour_is_inside_the_outlines_and_nowhere_else(positive):
    design, composer = positive
    focus = design.foci[0]
    x, y = round(focus.x_um / MPP), round(focus.y_um / MPP)

    def coarseness(pixels):
        """Blocks of 28 px change less from one pixel to the next than blocks of 4."""
        return np.abs(np.diff(pixels.astype(int), axis=1)).mean()

    inside = composer.window(x - 60, y - 60, 120, 120)
    rows, columns = np.nonzero(design.depth_um > 250)
    distances = [np.hypot(columns * 16 - f.x_um, rows * 16 - f.y_um) - f.reach_um for f in design.foci]
    far = int(np.argmax(np.min(distances, axis=0)))
    outside = composer.window(round(columns[far] * 16 / MPP) - 60, round(rows[far] * 16 / MPP) - 60, 120, 120)
    assert coarseness(inside) < 0.6 * coarseness(outside)


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_the_share_of_tumour_is_what_the_difficulty_says(difficulty):
    low, high = SHARES[difficulty]
    shares = []
    for seed in range(12):
        design = design_composed(seed, 20_000, CLASS_NAMES[1], difficulty)
        assert 1 <= len(design.foci) <= 4
        assert all(focus.radius_um >= LEAST_RADIUS_UM for focus in design.foci)
        shares.append(design.tumour_share)
    assert low * 0.7 < min(shares)
    assert max(shares) < high * 1.3
    assert design_composed(1, 20_000, CLASS_NAMES[0], "").foci == ()


def test_slides_and_manifest_are_what_training_takes(folder, tmp_path):
    wanted = slides_of_split("val", 4)
    assert [slide.difficulty for slide in wanted] == ["", "easy", "", "hard"]
    assert [difficulty_of(f"{slide.name}.tif") for slide in wanted] == ["", "easy", "", "hard"]
    small = [type(slide)(slide.seed, slide.split, SIDE, slide.label, slide.difficulty) for slide in wanted[:2]]
    compose_all(tmp_path, folder, small, workers=1)
    inputs = read_manifest(write_manifest(tmp_path, small))
    assert [entry.label for entry in inputs] == list(CLASS_NAMES)
    assert [entry.split for entry in inputs] == ["validation", "validation"]
    before = Path(inputs[1].path).stat().st_mtime_ns
    compose(tmp_path, folder, small[1])
    assert Path(inputs[1].path).stat().st_mtime_ns == before
    outlines = json.loads(Path(str(inputs[1].annotation)).read_text())["features"]
    assert all(shape(feature["geometry"]).area > 0 for feature in outlines)
    with open_slide(inputs[1].path) as slide:
        assert slide.mpp == pytest.approx(MPP)
        assert [level.size.width for level in slide.pyramid] == [SIDE, SIDE // 4]


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda each: each.name)
def test_distortions_change_what_they_say_and_keep_the_place(folder, tmp_path, distortion):
    (wanted,) = slides_of_split("test", 2)[1:]
    small = type(wanted)(wanted.seed, "test", 2100, wanted.label, "easy")
    compose(tmp_path, folder, small)
    source, target = tmp_path / f"{small.name}.tif", tmp_path / "copy.tif"
    distort(source, target, distortion, seed=1)
    with open_slide(str(source)) as slide, open_slide(str(target)) as copy:
        assert copy.mpp == pytest.approx(MPP * distortion.coarser, rel=1e-3)
        before, after = (
            each.read(Region(0, 0, each.size.width, each.size.height), 300, 300).astype(int) for each in (slide, copy)
        )
        finest = [each.read(Region(700, 700, 600, 600), 600, 600).astype(int) for each in (slide, copy)]
    # The same tissue in the same place.
    correlation = np.corrcoef(before.mean(axis=2).ravel(), after.mean(axis=2).ravel())[0, 1]
    assert correlation > (0.6 if distortion.befalls else 0.97)
    changed = np.abs(before - after).mean()
    if "stain" in distortion.name or distortion.befalls:
        assert changed > 1
    if distortion.name == "written again":
        assert np.abs(finest[0] - finest[1]).mean() < 4
    if distortion.name in ("slight blur", "JPEG quality 30"):
        assert np.abs(finest[0] - finest[1]).mean() > 2
