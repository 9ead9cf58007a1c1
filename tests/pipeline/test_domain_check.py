"""Slides of another kind than the model knows are said to be so, everywhere a user looks."""

import csv
import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.data import astronaut

from tests.model_files import card_of, tiny_network
from tnet_cli.errors import ModelFileError
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.pipeline.card import DomainLimit
from tnet_cli.pipeline.classify import ClassifyOptions, classify_slides
from tnet_cli.pipeline.classify_run import RunRequest, run_classify
from tnet_cli.pipeline.evaluation.domain_fitting import finest_features, fit_domain
from tnet_cli.pipeline.inputs import SlideInput, read_manifest
from tnet_cli.pipeline.model_file import copy_model, load_model, save_model
from tnet_cli.pipeline.synthesis import synthesize

NETWORK = tiny_network().model_copy(update={"locations": (6, 16)})


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Ten synthetic slides to calibrate on and two fresh ones."""
    folder = tmp_path_factory.mktemp("slides")
    synthesize(folder, count=12, side_px=1000, seed=3, mpp=1.0, workers=1)
    return read_manifest(folder / "labels.csv")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A photograph that claims to be a slide."""
    path = tmp_path_factory.mktemp("foreign") / "photograph.tif"
    pixels = np.asarray(Image.fromarray(astronaut()).resize((1024, 1024)))
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        resolution=(10_000, 10_000),
        resolutionunit="CENTIMETER",
    )
    return path


@pytest.fixture(scope="module")
def model(slides, tmp_path_factory):
    """Random weights whose domain is the first ten slides."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(TNet(NETWORK), card_of(NETWORK), path)
    features = finest_features(slides[:10], load_model(path), ClassifyOptions())
    fitted = fit_domain(features, 2)
    assert fitted is not None
    domain, limit = fitted
    copy_model(path, load_model(path).card.model_copy(update={"domain": limit}), path, domain=domain)
    return path


def results(entries, path):
    return [outcome.result for _, outcome in classify_slides(entries, load_model(path), ClassifyOptions())]


def test_slides_of_the_same_kind_are_not_warned_of_and_others_are(slides, foreign, model):
    assert [result.qc for result in results(slides[10:], model)] == [None, None]
    (strange,) = results([SlideInput(path=str(foreign), name="photograph")], model)
    assert strange.status == "ok"
    assert strange.qc == "out_of_domain"
    assert strange.warning in strange.notes
    assert "does not look like those tiny was calibrated on" in strange.warning


def test_the_warning_is_in_every_place_a_user_looks_at(foreign, model, tmp_path):
    out = tmp_path / "out"
    with_warning = run_classify(RunRequest(inputs=[str(foreign)], out=out, model=str(model)))
    (row,) = with_warning.rows
    assert row.values["qc"] == "out_of_domain"
    with (out / "predictions.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["qc"] == "out_of_domain"
    folder = out / "slides" / "photograph"
    details = json.loads((folder / "result.json").read_text())
    assert details["qc"] == "out_of_domain"
    assert any("out of domain" in note for note in details["notes"])
    assert "out of domain" in (out / "report.html").read_text()
    plain = tmp_path / "plain.safetensors"
    card = load_model(model).card
    far = DomainLimit(processing_level=2, limit=1e9, slides=10)
    copy_model(model, card.model_copy(update={"domain": far}), plain)
    run_classify(RunRequest(inputs=[str(foreign)], out=tmp_path / "plain", model=str(plain)))
    heights = []
    for place in (out, tmp_path / "plain"):
        with Image.open(place / "slides" / "photograph" / "overlay.png") as picture:
            heights.append(picture.height)
    warned, unwarned = heights
    assert warned > unwarned


def test_a_model_for_synthetic_slides_says_so_of_any_other(slides, foreign, model, tmp_path):
    path = tmp_path / "made.safetensors"
    card = load_model(model).card.model_copy(update={"made_for": "synthetic", "domain": None})
    torch.manual_seed(1)
    save_model(TNet(NETWORK), card, path)
    drawn, strange = results([slides[0], SlideInput(path=str(foreign), name="photograph")], path)
    assert drawn.qc is None
    assert strange.qc == "out_of_domain"
    assert "was made for synthetic slides" in strange.warning


def test_a_limit_is_fitted_to_enough_slides_only_and_lies_above_all_of_them():
    def features(seed):
        return torch.randn(30, 6, generator=torch.Generator().manual_seed(seed))

    assert fit_domain([features(n) for n in range(7)], 2) is None
    fitted = fit_domain([features(n) for n in range(8)], 2)
    assert fitted is not None
    domain, limit = fitted
    assert limit.slides == 8
    assert limit.limit > max(float(domain.distances(features(n)).mean()) for n in range(8))
    assert limit.limit < float(domain.distances(features(9) + 5).mean())


def test_a_domain_that_does_not_fit_the_network_is_damage(model, tmp_path):
    torch.manual_seed(1)
    loaded = load_model(model)
    path = tmp_path / "broken.safetensors"
    copy_model(model, loaded.card, path, domain=FeatureDomain.fit(torch.randn(9, 4)))
    with pytest.raises(ModelFileError, match="domain does not fit"):
        load_model(path)
    save_model(loaded.network, loaded.card, path)
    with pytest.raises(ModelFileError, match="domain does not fit"):
        load_model(path)
    assert isinstance(loaded.card.domain, DomainLimit)
    assert (loaded.card.domain.processing_level, loaded.card.domain.slides) == (2, 10)
