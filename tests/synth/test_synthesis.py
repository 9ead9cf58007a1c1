"""Synthetic slides on disk, read back by other programs' readers."""

import csv
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from shapely.geometry import Point, shape
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tnet_cli.errors import UsageError
from tnet_cli.files import claim, held_by_command
from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide
from tnet_cli.synth.design import design_slide
from tnet_cli.synth.outline import outlines_geojson
from tnet_cli.synth.paint import Painter, colour_table
from tnet_cli.synth.pyramid import encode_window
from tnet_cli.synth.synthesis import CLASS_NAMES, SYNTHESIS, SyntheticSlide, synthesize, write_synthetic_slide

SIDE = 2100  # no multiple of a tile or of a window
SEED = 4


class StopError(Exception):
    """Stands for whatever ends a slide halfway."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSlide:
    folder = tmp_path_factory.mktemp("made")
    return write_synthetic_slide(folder / "a.tif", seed=SEED, side_px=SIDE, label="lesion", workers=1)


def histogram(path: Path, reduction: int) -> np.ndarray:
    """Share of pixels in 16 bins of each colour, float64 (48,), of the slide's first reduced page, reduced further."""
    with tifffile.TiffFile(path) as file:
        return colour_histogram(Image.fromarray(file.pages[1].asarray()).reduce(reduction))


def test_openslide_reads_the_pyramid_and_the_scale(made):
    with openslide.OpenSlide(made.path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((2100, 2100), (525, 525))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)


def test_pages_are_tiled_jpeg_in_a_bigtiff_that_says_what_it_is(made):
    with tifffile.TiffFile(made.path) as file:
        assert file.is_bigtiff
        assert [page.aspage().subfiletype for page in file.pages] == [0, 1]
        for number, downsample in enumerate((1, 4)):
            page = file.pages[number].aspage()
            assert page.compression == tifffile.COMPRESSION.JPEG
            assert page.photometric == tifffile.PHOTOMETRIC.YCBCR
            assert (page.tilewidth, page.tilelength) == (256, 256)
            numerator, denominator = page.tags["XResolution"].value
            assert 10_000 * denominator / numerator == pytest.approx(0.5 * downsample)
        description = file.pages[0].aspage().description
    assert "synthetic" in description
    assert f"seed {SEED}" in description


def test_the_file_holds_what_the_painter_draws(made):
    design = design_slide(SEED, SIDE, label="lesion")
    focus = design.lesions[0]
    x, y = round(focus.x_um / 0.5) - 150, round(focus.y_um / 0.5) - 150
    drawn = Painter(design).window(x, y, 300, 300).astype(int)
    with openslide.OpenSlide(made.path) as slide:
        read = np.asarray(slide.read_region((x, y), 0, (300, 300)).convert("RGB")).astype(int)
    assert np.abs(read - drawn).mean() < 6  # what JPEG at quality 80 loses
    np.testing.assert_allclose(read.mean(axis=(0, 1)), drawn.mean(axis=(0, 1)), atol=1)


def test_coarser_pages_are_box_averages_of_the_finest(made):
    with tifffile.TiffFile(made.path) as file:
        fine, coarse = (page.asarray().astype(float) for page in file.pages)
    averaged = fine.reshape(525, 4, 525, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - coarse).mean() < 2.5


@pytest.fixture(scope="module")
def tall_pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide large enough for four pages, of which only a small island is tissue, so that it is drawn quickly."""
    design = design_slide(SEED, 16_901, label="benign")
    row, column = (round(value / design.map_um) for value in (design.foci[0].y_um, design.foci[0].x_um))
    depth_um = np.full_like(design.depth_um, -1000)
    depth_um[row - 20 : row + 20, column - 20 : column + 20] = 300
    path = tmp_path_factory.mktemp("tall") / "tall.tif"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tnet_cli.synth.synthesis.design_slide", lambda *_, **__: replace(design, depth_um=depth_um))
        write_synthetic_slide(path, seed=SEED, side_px=16_901, workers=1)
    return path


def test_a_large_slide_has_four_pages_each_a_quarter_as_wide(tall_pyramid):
    with openslide.OpenSlide(tall_pyramid) as slide:
        assert slide.level_dimensions == ((16_901, 16_901), (4225, 4225), (1056, 1056), (264, 264))
        assert slide.level_downsamples == pytest.approx((1, 4, 16, 64), rel=0.002)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)


def test_every_page_is_the_box_average_of_the_one_before(tall_pyramid):
    with tifffile.TiffFile(tall_pyramid) as file:
        # The finest page would fill a gigabyte here; the test of the small slide compares it.
        pictures = [page.asarray() for page in file.pages[1:]]
    assert len(pictures) == 3
    for finer, coarser in itertools.pairwise(pictures):
        side = coarser.shape[0] // 4 * 4
        averaged = box_average(box_average(finer[: 4 * side, : 4 * side]))
        once = box_average(coarser[:side, :side])
        # Sixteen pixels are averaged to still the JPEG's noise.
        np.testing.assert_allclose(once[averaged < 200], averaged[averaged < 200], atol=8)
        assert np.abs(once - averaged)[averaged < 200].mean() < 2
        assert (averaged < 200).sum() >= 3


def box_average(pixels: np.ndarray) -> np.ndarray:
    """Mean of each 4 x 4 pixels, float64 (H / 4, W / 4, 3)."""
    height, width = (side // 4 for side in pixels.shape[:2])
    return np.asarray(pixels.reshape(height, 4, width, 4, 3).mean(axis=(1, 3)))


@pytest.mark.parametrize(("side_px", "mpp"), [(1101, 0.4), (1403, 1.0)])
def test_other_scales_and_odd_sides_are_read_back(tmp_path, side_px, mpp):
    made = write_synthetic_slide(tmp_path / "a.tif", seed=6, side_px=side_px, mpp=mpp, label="lesion", workers=1)
    with openslide.OpenSlide(made.path) as slide:
        assert slide.dimensions == (side_px, side_px)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp)
        corner = np.asarray(slide.read_region((side_px - 90, side_px - 90), 0, (90, 90)))
    assert (corner[..., 3] == 255).all()  # the last, partial tiles are there
    assert corner[..., :3].min() > 200
    for feature in json.loads(made.annotation.read_text())["features"]:
        assert 0 < min(shape(feature["geometry"]).bounds) < max(shape(feature["geometry"]).bounds) < side_px


@pytest.mark.parametrize("reader", ["openslide", "tifffile"])
def test_tnet_reads_the_same_pixels_as_openslide(made, reader):
    box = Region(SIDE // 2 - 300, SIDE // 2 - 200, 600, 400)
    with openslide.OpenSlide(made.path) as slide, open_slide(made.path, reader=reader) as opened:
        expected = np.asarray(slide.read_region((box.x, box.y), 0, (box.width, box.height)).convert("RGB"))
        assert opened.mpp == pytest.approx(0.5)
        assert (opened.size.width, opened.size.height) == (SIDE, SIDE)
        read = opened.read(box, box.width, box.height)
    assert expected.std() > 20
    np.testing.assert_allclose(read.astype(int), expected, atol=0 if reader == "openslide" else 2)


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(made, tmp_path):
    again = write_synthetic_slide(tmp_path / "b.tif", seed=SEED, side_px=SIDE, label="lesion", workers=2)
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again.annotation.read_bytes() == made.annotation.read_bytes()


def test_the_annotation_outlines_the_lesions_as_qupath_does(made):
    design = design_slide(SEED, SIDE, label="lesion")
    document = json.loads(made.annotation.read_text())
    assert made.annotation == made.path.with_suffix(".geojson")
    assert document["type"] == "FeatureCollection"
    assert len(document["features"]) == len(design.lesions) >= 1
    for feature, focus in zip(document["features"], design.lesions, strict=True):
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] == "lesion"
        assert len(feature["properties"]["classification"]["color"]) == 3
        polygon = shape(feature["geometry"])
        assert polygon.is_valid
        assert polygon.contains(Point(focus.x_um / 0.5, focus.y_um / 0.5))
        left, top, right, bottom = polygon.bounds
        assert min(left, top) > 0
        assert max(right, bottom) < SIDE
        assert polygon.area == pytest.approx(np.pi * (focus.radius_um / 0.5) ** 2, rel=0.1)


def test_a_benign_slide_has_foci_and_no_annotation():
    design = design_slide(SEED, SIDE, label="benign")
    assert len(design.foci) >= 1
    assert outlines_geojson(design.lesions, 0.5, "lesion") == {"type": "FeatureCollection", "features": []}


def test_annotations_are_in_pixels_of_the_slides_own_scale():
    def centre(side_px: int, mpp: float) -> Point:
        design = design_slide(SEED, side_px, mpp=mpp, label="lesion")
        document = outlines_geojson(design.lesions, mpp, "lesion")
        return shape(document["features"][0]["geometry"]).centroid

    assert centre(4000, 0.25).x / centre(1000, 1.0).x == pytest.approx(4, rel=0.001)


def test_a_slide_that_stops_halfway_leaves_nothing(tmp_path):
    def stop(_done: int, _total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        write_synthetic_slide(tmp_path / "a.tif", seed=1, side_px=1000, mpp=1.0, workers=1, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_slide_that_stops_halfway_stops_at_once_and_leaves_the_old_one(tmp_path, monkeypatch):
    def stop(_done: int, _total: int) -> None:
        raise StopError

    drawn = FakePool()
    monkeypatch.setattr("tnet_cli.synth.synthesis.ProcessPoolExecutor", lambda *_, **__: drawn)
    (tmp_path / "a.tif").write_bytes(b"old")
    with pytest.raises(StopError):
        write_synthetic_slide(tmp_path / "a.tif", seed=1, side_px=2000, mpp=1.0, workers=2, on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == b"old"
    assert drawn.ended == {"cancel_futures": True}


class FakePool:
    """Draws nothing but glass, and remembers how it was shut down."""

    def __init__(self) -> None:
        self.ended: dict[str, bool] = {}

    def map(self, _draw: object, places: list[tuple[int, int]], **_options: int) -> Iterator[object]:
        white = np.full((1024, 1024, 3), 255, np.uint8)
        return (encode_window(white) for _ in places)

    def shutdown(self, **how: bool) -> None:
        self.ended = how


SetOfSlides = tuple[list[SyntheticSlide], list[tuple[int, int]]]
"""Slides, and what was told while they were made."""


@pytest.fixture(scope="module")
def made_set(tmp_path_factory: pytest.TempPathFactory) -> SetOfSlides:
    """Two slides, where there were others."""
    folder, told = tmp_path_factory.mktemp("set"), list[tuple[int, int]]()
    claim(folder, SYNTHESIS)
    (folder / "labels.csv").write_text("old")
    (folder / "synth-3-0001.tif").write_bytes(b"old")
    slides = synthesize(
        folder, count=2, side_px=1000, seed=3, mpp=1.0, workers=1, on_progress=lambda *done: told.append(done)
    )
    return slides, told


def test_a_set_does_not_depend_on_the_number_of_processes(made_set, tmp_path):
    together = synthesize(tmp_path, count=2, side_px=1000, seed=3, mpp=1.0, workers=2)
    for one, other in zip(made_set[0], together, strict=True):
        assert (one.label, one.seed, one.path.name) == (other.label, other.seed, other.path.name)
        assert one.path.read_bytes() == other.path.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_as_many_lesions_as_benign_slides_are_ordered(tmp_path, monkeypatch, count):
    ordered: list[str] = []

    def make(directory: Path, *_: object) -> SyntheticSlide:
        ordered.append(str(_[-1]))
        return SyntheticSlide(directory / f"{len(ordered)}.tif", ordered[-1], directory / "a.geojson", len(ordered))

    monkeypatch.setattr("tnet_cli.synth.synthesis._make_numbered", make)
    synthesize(tmp_path, count=count, side_px=1000, seed=8, workers=1)
    assert ordered.count("lesion") == count // 2
    assert len(ordered) == count


@pytest.mark.parametrize("name", ["labels.csv", "synth-3-0001.tif", "synth-9-0000.geojson"])
def test_nothing_of_somebody_else_is_replaced(tmp_path, name):
    (tmp_path / name).write_text("somebody's")
    with pytest.raises(UsageError, match=f"holds a file {name} that no run of tnet synth left there"):
        synthesize(tmp_path, count=1, side_px=1000, seed=3, workers=1)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "somebody's")]


def test_a_set_that_was_made_before_folders_were_claimed_may_be_made_again(drawn_slide, tmp_path):
    shutil.copy(drawn_slide(), tmp_path / "synth-3-0000.tif")
    assert held_by_command(tmp_path, SYNTHESIS)
    (tmp_path / "synth-4-0000.tif").write_bytes(b"II*\0")
    with pytest.raises(UsageError, match=r"holds a file synth-3-0000\.tif"):
        held_by_command(tmp_path, SYNTHESIS)


def test_a_slide_too_small_for_a_focus_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="700 px is too small for a focus"):
        write_synthetic_slide(tmp_path / "a.tif", seed=1, side_px=700, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_set_is_balanced_listed_and_replaced_whole(made_set):
    slides, told = made_set
    folder = slides[0].path.parent
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert told == [(1, 2), (2, 2)]
    assert [tuple(row) for row in rows] == [("slide", "label", "annotation")] * 2
    assert sorted(row["label"] for row in rows) == ["benign", "lesion"]
    assert len({slide.seed for slide in slides}) == 2
    for row, slide in zip(rows, slides, strict=True):
        assert (folder / row["slide"], folder / row["annotation"]) == (slide.path, slide.annotation)
        features = json.loads(slide.annotation.read_text())["features"]
        assert bool(features) == (row["label"] == CLASS_NAMES[1] == slide.label)
        with openslide.OpenSlide(slide.path) as opened:
            assert opened.dimensions == (1000, 1000)
            assert f"seed {slide.seed};" in opened.properties["tiff.ImageDescription"]


def test_the_label_hardly_moves_the_histogram_at_low_power(made, tmp_path):
    mimic = write_synthetic_slide(tmp_path / "benign.tif", seed=SEED, side_px=SIDE, label="benign", workers=1)
    benign, lesion = (histogram(slide.path, 4) for slide in (mimic, made))  # 8 um a pixel
    # A fifth of this small slide's tissue is the one focus that changed; on glass, stroma and glands nothing may.
    assert np.abs(benign - lesion).sum() / 3 < 0.03


@pytest.mark.slow
def test_the_label_cannot_be_read_from_colour_histograms_at_any_power():
    lesion = np.arange(60) % 2 == 1
    # The textures are made once: they are most of the work on a small slide, and know nothing of the label.
    painter = Painter(design_slide(0, 2400, mpp=1.0))
    histograms: dict[int, list[np.ndarray]] = {1: [], 2: [], 4: [], 8: [], 32: []}
    for seed, label in enumerate(lesion, start=77):
        painter.design = design_slide(seed, 2400, mpp=1.0, label=CLASS_NAMES[int(label)])
        painter._colours = colour_table(painter.design.appearance)
        picture = np.vstack(
            [np.hstack([painter.window(x, y, 800, 800) for x in range(0, 2400, 800)]) for y in range(0, 2400, 800)]
        )
        for scale_um, rows in histograms.items():
            rows.append(colour_histogram(Image.fromarray(picture).reduce(scale_um)))
    for scale_um, rows in histograms.items():
        assert mean_auroc(np.array(rows), lesion) < 0.65, f"at {scale_um} um a pixel"


def colour_histogram(picture: Image.Image) -> np.ndarray:
    """Share of pixels in 16 bins of each colour, float64 (48,)."""
    return np.asarray(np.reshape(picture.histogram(), (48, 16)).sum(axis=1) / (picture.width * picture.height))


def mean_auroc(histograms: np.ndarray, lesion: np.ndarray) -> float:
    """Cross-validated AUROC of a logistic regression, the mean of five ways to split."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, solver="newton-cholesky"))
    scores = []
    for split in range(5):
        folds = StratifiedKFold(5, shuffle=True, random_state=split)
        told = cross_val_predict(model, histograms, lesion, cv=folds, method="predict_proba")[:, 1]
        scores.append(roc_auc_score(lesion, told))
    return float(np.mean(scores))
