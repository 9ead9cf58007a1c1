"""An answer that does not count is not given: one decision, and every place where a user may look says the same."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFilter
from skimage.data import astronaut

from tests.model_files import card_of, tiny_network
from tnet_cli.geometry import Region
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.trust import slide_distance, slide_sharpness
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import DomainLimits
from tnet_cli.modelfile.modelfile import copy_model, load_model, save_model
from tnet_cli.report.colours import NOTICE_GROUND
from tnet_cli.slide.opening import open_slide
from tnet_cli.viewer.pages import RunPages

# Fields of 256 µm, so that there is tissue of less than a quarter of one.
NETWORK = tiny_network().model_copy(update={"mpp": (64.0, 16.0, 4.0), "locations": (4, 8)})

REASONS = {
    "foreign": ("out_of_domain", "looks unlike the slides this model was made for"),
    "coarse": ("too_coarse", "scanned too coarsely"),
    "speck": ("too_little_tissue", "too little tissue"),
    "blurred": ("unsharp", "out of focus"),
    "doubtful": ("reader", "not certain that the file was read rightly"),
}


def write(path: Path, pixels: np.ndarray, **options: object) -> None:
    """Write a slide of 1 µm per pixel."""
    unlike: dict[str, object] = {"photometric": "rgb", "compression": "deflate", "tile": (256, 256)} | options
    tifffile.imwrite(path, pixels, resolution=(10_000, 10_000), resolutionunit="CENTIMETER", **unlike)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def slides(labelled_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three slides that are as they should be, and one for each reason."""
    folder = tmp_path_factory.mktemp("slides")
    with open_slide(str(read_manifest(labelled_slides)[0].path)) as slide:
        whole = slide.read(Region(0, 0, 2000, 2000), 2000, 2000)
    good = whole[300:1500, 300:1500]
    for name, pixels in (("good", good), ("other", whole[:1200, :1200]), ("third", whole[800:, 800:])):
        write(folder / f"{name}.tif", pixels)
    write(folder / "foreign.tif", np.asarray(Image.fromarray(astronaut()).resize((1200, 1200))))
    write(folder / "coarse.tif", good)
    speck = np.full((1200, 1200, 3), 243, np.uint8)
    speck[500:620, 500:620] = good[500:620, 500:620] // 2 + np.array([90, 30, 80], np.uint8)
    write(folder / "speck.tif", speck)
    write(folder / "blurred.tif", np.asarray(Image.fromarray(good).filter(ImageFilter.GaussianBlur(8))))
    write(folder / "doubtful.tif", good, photometric="minisblack", planarconfig="contig")
    rows = [f"{path.name},{10 if path.stem == 'coarse' else ''}" for path in sorted(folder.glob("*.tif"))]
    (folder / "slides.csv").write_text("\n".join(["slide,mpp", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def careful_model(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that know the three good slides: what they look like, and how sharp they are."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "careful.safetensors"
    save_model(TNet(NETWORK), card_of(NETWORK, "careful"), path)
    entries = [entry for entry in read_manifest(slides / "slides.csv") if entry.name in {"good", "other", "third"}]
    results = [result for _, result in classify_slides(entries, load_model(path))]
    features = [result.evidence.features for result in results if result.evidence is not None]
    domain = [FeatureDomain.fit(torch.from_numpy(np.concatenate([each[n] for each in features]))) for n in range(3)]
    limits = tuple(1.5 * max(slide_distance(domain[n], each[n]) for each in features) for n in range(3))
    sharp = [value for result in results if (value := slide_sharpness(result, NETWORK)) is not None]
    assert len(sharp) == 3
    update = {"domain": DomainLimits(limits=limits, slides=3), "least_sharpness": min(sharp) / 1.25}
    copy_model(path, load_model(path).card.model_copy(update=update), path, domain=domain)
    return path


def headline_px(picture: Path) -> int:
    """Return how many rows of the upper part of an overlay are a notice."""
    with Image.open(picture) as page:
        column = np.asarray(page.convert("RGB"))[:140, 1200]
    return int((column == NOTICE_GROUND).all(axis=1).sum())


def test_every_place_says_the_same_for_each_reason(tnet, slides, careful_model, tmp_path):
    ran = tnet("classify", slides / "slides.csv", "-m", careful_model, "-o", "out")
    out = tmp_path / "out"
    assert ran.code == 0, ran.err
    assert ran.err.splitlines()[-1] == "5 of 8 slides: no answer that counts (status 'abstained')"
    document = json.loads(tnet("classify", slides / "slides.csv", "-m", careful_model, "-o", "out", "--json").out)
    as_json = {row["slide"]: row for row in document["slides"]}
    with (out / "predictions.csv").open(newline="") as file:
        rows = {row["slide"]: row for row in csv.DictReader(file)}
    assert json.loads((out / "run.json").read_text())["slides"] == {
        "ok": 3,
        "abstained": 5,
        "no_tissue": 0,
        "failed": 0,
    }
    report = (out / "report.html").read_text()
    assert "5 of 8 slides: no answer that counts" in report
    pages = RunPages(out)
    assert b"5 of 8 slides: no answer that counts" in pages.answer("/").body  # type: ignore[operator]
    lines = {line.split(": ")[0]: line for line in ran.out.splitlines()}
    for slide, (name, words) in REASONS.items():
        row, folder = rows[slide], out / "slides" / slide
        assert (row["status"], row["prediction"], row["probability"]) == ("abstained", "", ""), slide
        assert name in row["qc"].split(";"), (slide, row["qc"])
        assert float(row["prob_benign"]) + float(row["prob_lesion"]) == pytest.approx(1, abs=1e-5)
        assert as_json[slide]["status"] == "abstained"
        assert as_json[slide]["prediction"] is None
        assert as_json[slide]["qc"] == row["qc"]
        assert f"{slide}: NO ANSWER: " in lines[slide]
        assert words in lines[slide]
        assert "probability" not in lines[slide]
        details = json.loads((folder / "result.json").read_text())
        failed = [check for check in details["checks"] if check["failed"]]
        assert ";".join(check["name"] for check in failed) == row["qc"]
        (check,) = [check for check in failed if check["name"] == name]
        assert words in check["sentence"]
        is_least = name in {"too_little_tissue", "unsharp"}
        assert (check["value"] < check["limit"]) if is_least else (check["value"] > check["limit"])
        features = json.loads((folder / "regions.geojson").read_text())
        assert features["status"] == "abstained"
        for feature in features["features"]:
            assert feature["properties"]["name"].startswith("no answer, weight ")
            assert words in feature["properties"]["metadata"]["ANNOTATION_DESCRIPTION"]
        assert headline_px(folder / "overlay.png") > 30
        assert words in report
        page = pages.answer(f"/view/{slide}").body.decode()  # type: ignore[union-attr]
        assert '<p class="notice" role="alert"><strong><bdi>No answer that counts. ' in page
        assert words in page
        assert "lesion" not in page.split('id="view"')[0]
    for slide in ("good", "other", "third"):
        assert (rows[slide]["status"], rows[slide]["qc"]) == ("ok", "")
        assert rows[slide]["prediction"] in lines[slide]
        assert headline_px(out / "slides" / slide / "overlay.png") <= 30
        assert "No answer" not in pages.answer(f"/view/{slide}").body.decode()  # type: ignore[union-attr]
        assert "status" not in json.loads((out / "slides" / slide / "regions.geojson").read_text())
    pages.close()


def test_an_answer_is_given_anyway_and_taken_back_by_the_next_run(tnet, slides, careful_model, tmp_path):
    asked = ("classify", slides / "blurred.tif", "-m", careful_model, "-o", "out", "--no-overlay")

    def row() -> dict[str, str]:
        with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
            return next(csv.DictReader(file))

    assert tnet(*asked).code == 0
    withheld, reliance = row(), "A probability is the model's own: "
    assert reliance not in (tmp_path / "out" / "report.html").read_text()
    anyway = tnet(*asked, "--answer-anyway")
    filled = row()
    assert anyway.code == 0
    assert (filled["status"], filled["qc"]) == ("abstained", withheld["qc"])
    best = max(("benign", "lesion"), key=lambda name: float(filled[f"prob_{name}"]))
    assert (filled["prediction"], filled["probability"]) == (best, filled[f"prob_{best}"])
    assert f"does not count: {best}, probability" in anyway.out
    assert anyway.err.splitlines()[-1] == "1 of 1 slide: no answer that counts (status 'abstained')"
    assert reliance in (tmp_path / "out" / "report.html").read_text()
    pages = RunPages(tmp_path / "out")
    page = pages.answer("/view/blurred").body.decode()  # type: ignore[union-attr]
    pages.close()
    assert f"does not count: {best}" in page
    assert "No answer that counts." in page
    again = tnet(*asked, "--answer-anyway")
    assert "were done before" in again.err
    assert row() == filled
    tnet(*asked)
    assert (row()["status"], row()["prediction"], row()["probability"]) == ("abstained", "", "")


@pytest.mark.parametrize(("side_px", "radius_px"), [(1200, 4), (1200, 60), (300, 60)])
def test_no_blur_is_too_strong_to_be_noticed(tnet, slides, careful_model, tmp_path, side_px, radius_px):
    """Far out of focus no contrast is left to measure, but for the end of the slide, where patches go on white."""
    with Image.open(slides / "good.tif") as page:
        blurred = page.crop((0, 0, 1200, side_px)).filter(ImageFilter.GaussianBlur(radius_px))
    write(tmp_path / "far.tif", np.asarray(blurred))
    ran = tnet("classify", "far.tif", "-m", careful_model, "-o", "out", "--json")
    (row,) = json.loads(ran.out)["slides"]
    assert "unsharp" in row["qc"].split(";")
    assert "out of focus" in (tmp_path / "out" / "report.html").read_text()
