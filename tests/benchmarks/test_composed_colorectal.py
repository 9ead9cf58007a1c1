"""Slides composed of two collections: split by origin, one stain, foci of another origin, artefacts at random."""

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Point, shape

from benchmarks.composed_colorectal.artefacts import Artefacts, bubbles, folds, patches, pen
from benchmarks.composed_colorectal.compose import (
    KINDS,
    LABELS,
    Wanted,
    compose,
    compose_all,
    crowded_slides,
    serrated_fields,
    wanted_of,
    write_tables,
)
from benchmarks.composed_colorectal.design import SCALE_SPREAD, design_composed
from benchmarks.composed_colorectal.paint import Composer
from benchmarks.composed_colorectal.tiles import (
    CLASS_NAMES,
    COLLECTIONS,
    SERRATED,
    SPLITS,
    TILE_PX,
    Tile,
    draw_stain,
    draw_tiles,
    tiles_of_split,
)
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.opening import open_slide
from tnet_cli.training.manifest import TrainingManifest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
REAL = {"lc": SHARED / "colon_tiles", "ebhi": SHARED / "ebhi_tiles"}
BLOCKS = {CLASS_NAMES[0]: 4, CLASS_NAMES[1]: 14, CLASS_NAMES[2]: 28, SERRATED: 8}
"""Coarseness of the made-up tiles of each class, which so can be told apart."""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Both collections, made up: thirty origins a label, a tile of each."""
    rng, folders = np.random.default_rng(0), {}
    for name, collection in COLLECTIONS.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        rows = []
        for label, meaning in collection.classes.items():
            block = BLOCKS[meaning]
            for origin in range(30):
                pixels = np.kron(
                    rng.integers(90, 230, (TILE_PX // block, TILE_PX // block, 3)), np.ones((block, block, 1))
                )
                file = f"{label}-{origin}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / file)
                rows.append({"file": file, "label": label, collection.origin: f"{origin}"})
        with (folder / "index.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file", "label", collection.origin])
            writer.writeheader()
            writer.writerows(rows)
    return folders


def design_of(kind, label, seed=5, collection="ebhi", difficulty="easy"):
    return design_composed(seed, COLLECTIONS[collection], kind, label, difficulty, sides_mm=(3.0, 4.0))


@pytest.mark.parametrize("name", list(COLLECTIONS))
def test_what_has_one_origin_is_in_one_split(tiles, name):
    origins = {split: {f.origin for f in tiles_of_split(tiles[name], COLLECTIONS[name], split)} for split in SPLITS}
    everything = [origin for some in origins.values() for origin in some]
    assert len(everything) == len(set(everything)) == (60 if name == "lc" else 30)
    assert all(origins.values())


@pytest.mark.parametrize(("name", "count"), [("lc", 1499), ("ebhi", 1768)])
def test_the_real_tiles_are_split_by_origin_and_each_split_has_every_class(name, count):
    if not REAL[name].exists():
        pytest.skip(f"{REAL[name]} is not here")
    files = {split: tiles_of_split(REAL[name], COLLECTIONS[name], split) for split in SPLITS}
    assert sum(map(len, files.values())) == count
    assert len({f.origin for some in files.values() for f in some}) == sum(
        len({f.origin for f in some}) for some in files.values()
    )
    for some in files.values():
        assert set(LABELS[name]) <= {file.label for file in some}


def test_the_ground_and_its_foci_are_of_other_origins(tiles):
    files = tiles_of_split(tiles["lc"], COLLECTIONS["lc"], "train")
    _, ground = draw_tiles(files, CLASS_NAMES[0], 3, np.random.default_rng(0))
    _, beside = draw_tiles(files, CLASS_NAMES[0], 99, np.random.default_rng(1), ground)
    assert len(ground) == 3
    assert beside
    assert not ground & beside


def test_tiles_of_any_class_have_the_slides_mean_density():
    rng = np.random.default_rng(0)
    pale, dark = (Tile(rng.integers(low, low + 40, (TILE_PX, TILE_PX, 3), dtype=np.uint8)) for low in (170, 120))
    stain = dataclasses.replace(draw_stain([pale], rng), brightness_spread=0.0, hue_spread=0.0, gamma=1.0)
    found = [stain.stained(tile, rng).mean() for tile in (pale, dark)]
    assert abs(found[0] - found[1]) < 12
    assert abs(pale.pixels.mean() - dark.pixels.mean()) > 45


@pytest.mark.parametrize("kind", ["slide", "biopsy", "core", "field"])
def test_negatives_carry_pseudo_foci_and_positives_foci_of_their_class(kind):
    for label in CLASS_NAMES:
        designs = [design_of(kind, label, seed) for seed in range(12)]
        for design in designs:
            if design.whole:
                assert design.focus_share == 1
                assert not design.foci
            else:
                assert label in {focus.label for focus in design.foci}
                assert design.focus_share > 0
                assert {focus.label for focus in design.foci} <= {label, CLASS_NAMES[0]}
        assert any(design.whole for design in designs) == (kind == "field")
    if kind == "slide":
        # On some positives too.
        assert any(f.label == CLASS_NAMES[0] for s in range(12) for f in design_of(kind, CLASS_NAMES[2], s).foci)


def test_the_label_changes_nothing_but_what_the_foci_are():
    for kind in ("slide", "field"):
        negative, positive = (design_of(kind, label, 8) for label in (CLASS_NAMES[0], CLASS_NAMES[2]))
        assert (negative.size, negative.mpp, negative.tile_mpp) == (positive.size, positive.mpp, positive.tile_mpp)
        assert np.array_equal(negative.depth_um, positive.depth_um)
        count = len(negative.foci)
        for one, other in zip(negative.foci, positive.foci[:count], strict=True):
            assert one.outline.x_um == other.outline.x_um
            assert one.outline.radius_um == other.outline.radius_um


def test_crowded_slides_have_many_foci_and_some_positives_pseudo_foci_beside_them():
    wanted = crowded_slides("ebhi", 16)
    assert {slide.difficulty for slide in wanted} == {"crowded"}
    assert len({slide.name for slide in wanted} | {slide.name for slide in wanted_of("train", "ebhi", 100)}) == 116
    foci, pseudo = [], []
    for slide in wanted:
        design = slide.design()
        assert max(design.size.width, design.size.height) * design.mpp <= 7_000
        if slide.label != CLASS_NAMES[0]:
            foci.append(sum(focus.label == slide.label for focus in design.foci))
            pseudo.append(sum(focus.label == CLASS_NAMES[0] for focus in design.foci))
    assert np.mean(foci) > 4
    assert sum(count > 0 for count in pseudo) > 1


def test_the_scale_is_that_of_the_collection_a_quarter_up_or_down():
    for name, collection in COLLECTIONS.items():
        ratios = [design_of("core", CLASS_NAMES[0], seed, name).tile_mpp / collection.mpp for seed in range(60)]
        assert max(ratios) <= 1 + SCALE_SPREAD
        assert min(ratios) >= 1 / (1 + SCALE_SPREAD)
        assert max(ratios) / min(ratios) > 1.4


def test_serial_sections_show_the_same_foci():
    serial = 0
    for seed in range(40):
        design = design_of("slide", CLASS_NAMES[0], seed)
        by_height = Counter(round(focus.outline.y_um, 6) for focus in design.foci)
        if max(by_height.values(), default=0) > 1:
            serial += 1
            (height, count), *_ = by_height.most_common()
            x_um = sorted(f.outline.x_um for f in design.foci if round(f.outline.y_um, 6) == height)
            steps = np.diff(x_um)
            assert np.allclose(steps, steps[0])
            assert count == len(x_um) <= 4
    assert 4 <= serial <= 28


def composer_of(tiles, design, artefacts=None):
    name = design.collection.name
    files = tiles_of_split(tiles[name], design.collection, "train")
    return Composer(design, files, artefacts or Artefacts.none(design.size))


def test_a_window_is_the_same_whatever_is_painted_around_it(tiles):
    design = design_of("core", CLASS_NAMES[2])
    artefacts = Artefacts(design.size, blur_px=1.5, passed=pen(design.size, np.random.default_rng(0)))
    composer = composer_of(tiles, design, artefacts)
    x, y = design.size.width // 2, design.size.height // 2
    large = composer.window(x - 200, y - 200, 400, 400)
    small = composer.window(x - 100, y - 80, 200, 200)
    # A page of marks is cut with rounding of its own.
    assert np.abs(large[120:320, 100:300].astype(int) - small).max() <= 2
    assert np.array_equal(large, composer_of(tiles, design, artefacts).window(x - 200, y - 200, 400, 400))


@pytest.mark.parametrize("collection", list(COLLECTIONS))
def test_the_stain_tells_nothing_of_the_label(tiles, collection):
    labels = sorted(set(LABELS[collection]))
    stains = [composer_of(tiles, design_of("core", label, 6, collection)).stain for label in labels]
    for stain in stains[1:]:
        assert stain.density.tolist() == stains[0].density.tolist()
        assert stain.glass == stains[0].glass
        assert stain.gamma == stains[0].gamma


def coarseness(pixels):
    """Large blocks change less often from one pixel to the next."""
    return np.abs(np.diff(pixels.astype(int), axis=1)).mean()


def test_a_focus_is_of_its_class_and_the_rest_is_not(tiles):
    design = next(found for seed in range(40) if len((found := design_of("slide", CLASS_NAMES[2], seed)).foci) == 1)
    composer, focus = composer_of(tiles, design), design.foci[0].outline
    x, y = round(focus.x_um / design.mpp), round(focus.y_um / design.mpp)
    inside = composer.window(x - 60, y - 60, 120, 120)
    rows, columns = np.nonzero(design.depth_um > 200)
    away = np.hypot(columns * design.map_um - focus.x_um, rows * design.map_um - focus.y_um)
    far = int(np.argmax(away))
    x, y = (round(at[far] * design.map_um / design.mpp) for at in (columns, rows))
    assert coarseness(inside) < 0.6 * coarseness(composer.window(x - 60, y - 60, 120, 120))


def test_the_kinds_and_classes_of_a_split_are_those_that_were_asked_for():
    for name in COLLECTIONS:
        wanted = wanted_of("train", name, 40)
        assert Counter(slide.label for slide in wanted)[CLASS_NAMES[0]] == 20
        assert set(LABELS[name]) == {slide.label for slide in wanted}
        assert {slide.kind for slide in wanted} == set(KINDS["train"])
    seeds = [s.seed for split in SPLITS for name in COLLECTIONS for s in wanted_of(split, name, 999)]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("name", list(COLLECTIONS))
def test_composed_slides_open_with_their_scale_and_make_a_manifest(tiles, tmp_path, name):
    wanted = [
        Wanted(number, name, "train", kind, label)
        for number, (kind, label) in enumerate(
            (kind, label) for kind in ("field", "core") for label in sorted(set(LABELS[name]))
        )
    ]
    rows = compose_all(tmp_path, tiles, wanted, 1)
    write_tables(tmp_path, "some", wanted, rows)
    classes = tuple(each for each in CLASS_NAMES if each in LABELS[name])
    manifest = TrainingManifest.read(tmp_path / "some.csv", classes, CLASS_NAMES[0])
    assert [slide.label for slide in manifest.slides] == [slide.label for slide in wanted]
    for slide, row in zip(manifest.slides, rows, strict=True):
        with open_slide(slide.entry.path, mpp=slide.entry.mpp) as opened:
            assert (opened.size.width, opened.size.height) == (row["width"], row["height"])
            assert opened.mpp == pytest.approx(row["mpp"], rel=1e-3)
            pixels = opened.read(Region(0, 0, opened.size.width, opened.size.height), 64, 64)
        assert pixels.std() > 3
    for asked, row in zip(wanted, rows, strict=True):
        drawn = json.loads((tmp_path / f"{asked.name}.geojson").read_text())["features"]
        assert bool(drawn) == (asked.label != CLASS_NAMES[0])
        for feature in drawn:
            assert feature["properties"]["classification"]["name"] == asked.label
            assert shape(feature["geometry"]).intersects(Point(row["width"] / 2, row["height"] / 2).buffer(1e5))


def test_the_same_slide_is_the_same_file_and_what_is_there_is_not_composed_again(tiles, tmp_path):
    slide = Wanted(3, "ebhi", "val", "core", CLASS_NAMES[1])
    names = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        names.append(compose(folder, tiles, slide))
    assert names[0] == names[1]
    file = names[0]["slide"]
    assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    (tmp_path / "one" / file).write_bytes(b"kept")
    compose(tmp_path / "one", tiles, slide)
    assert (tmp_path / "one" / file).read_bytes() == b"kept"


def test_serrated_fields_are_of_no_class(tiles, tmp_path):
    slide = serrated_fields("test", 1)[0]
    assert slide.label == SERRATED
    assert compose(tmp_path, tiles, slide)["label"] == SERRATED


@pytest.mark.parametrize("name", ["blur", "defocus", "pen", "fold", "bubble"])
def test_an_artefact_changes_what_it_is_about(name):
    size, rng = Size(600, 600), np.random.default_rng(1)
    befallen = {
        "blur": Artefacts(size, blur_px=2.0),
        "defocus": Artefacts(size, blur_px=2.0, defocus=patches(size, rng)),
        "pen": Artefacts(size, passed=pen(size, rng)),
        "fold": Artefacts(size, folded=folds(size, rng)),
        "bubble": Artefacts(size, passed=bubbles(size, rng)),
    }[name]
    margin = befallen.margin_px
    side = 600 + 2 * margin
    painted = np.kron(rng.integers(90, 230, (side // 4 + 1, side // 4 + 1, 3)), np.ones((4, 4, 1)))[:side, :side]
    painted = painted.astype(np.uint8)
    clean = painted[margin : margin + 600, margin : margin + 600]
    changed = befallen.applied(painted, 0, 0, (245.0, 245.0, 245.0))
    assert changed.shape == clean.shape
    different = float((np.abs(clean.astype(int) - changed).max(axis=2) > 8).mean())
    assert different > 0.9 if name == "blur" else 0.002 < different < 0.99
    if name in ("blur", "defocus"):
        assert coarseness(changed) < 0.95 * coarseness(clean)
    else:
        assert changed.mean() < clean.mean()


def test_what_befalls_a_slide_does_not_depend_on_its_label():
    size = Size(4000, 3000)
    one, other = (Artefacts.drawn(size, 0.5, np.random.default_rng(9)) for _ in range(2))
    assert (one.blur_px, one.quality, one.passed is None) == (other.blur_px, other.quality, other.passed is None)
    drawn = [Artefacts.drawn(size, 0.5, np.random.default_rng(seed)) for seed in range(60)]
    assert 5 < sum(each.blur_px > 0 for each in drawn) < 30
    assert 1 < sum(each.passed is not None for each in drawn) < 30
    assert len({each.quality for each in drawn}) > 20
