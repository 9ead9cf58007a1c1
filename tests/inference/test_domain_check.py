"""Slides of another kind than the model knows are said to be so, everywhere a user looks."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.data import astronaut

from tests.model_files import card_of, tiny_network
from tnet_cli.classification.run import RunRequest, run_classify
from tnet_cli.errors import ModelFileError
from tnet_cli.evaluation.calibrate import fit_domain
from tnet_cli.geometry import Region
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.trust import slide_distance
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import DomainLimits
from tnet_cli.modelfile.modelfile import copy_model, load_model, save_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide

NETWORK = tiny_network().model_copy(update={"locations": (6, 16)})


def write_flat(path, pixels):
    """Write a slide without a pyramid, of 1 µm per pixel."""
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        resolution=(10_000, 10_000),
        resolutionunit="CENTIMETER",
    )
    return SlideInput(path=Place(path), name=path.stem)


@pytest.fixture(scope="module")
def slides(labelled_slides, tmp_path_factory):
    """Twelve quarters of synthetic slides: ten to calibrate on and two fresh ones."""
    folder = tmp_path_factory.mktemp("quarters")
    quarters = []
    for number, entry in enumerate(read_manifest(labelled_slides)[:3]):
        with open_slide(entry.path) as slide:
            for x, y in ((0, 0), (1000, 0), (0, 1000), (1000, 1000)):
                pixels = slide.read(Region(x, y, 1000, 1000), 1000, 1000)
                quarters.append(write_flat(folder / f"{number}-{x}-{y}.tif", pixels))
    return quarters


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A photograph that claims to be a slide."""
    pixels = np.asarray(Image.fromarray(astronaut()).resize((1024, 1024)))
    return write_flat(tmp_path_factory.mktemp("foreign") / "photograph.tif", pixels)


@pytest.fixture(scope="module")
def model(slides, tmp_path_factory):
    """Random weights whose domain is the first ten slides."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(TNet(NETWORK), card_of(NETWORK), path)
    features = [
        result.evidence.features
        for _, result in classify_slides(slides[:10], load_model(path))
        if result.evidence is not None
    ]
    fitted = fit_domain(features, 3)
    assert fitted is not None
    domain, limits = fitted
    copy_model(path, load_model(path).card.model_copy(update={"domain": limits}), path, domain=domain)
    return path


def results(entries, path):
    """Classify slides, and return their results in the order of the entries, not in that in which they ended."""
    ended = dict(classify_slides(entries, load_model(path)))
    return [ended[position] for position in range(len(entries))]


def test_slides_of_the_same_kind_are_not_warned_of_and_others_are(slides, foreign, model):
    assert [result.qc for result in results(slides[10:], model)] == [None, None]
    (strange,) = results([foreign], model)
    assert strange.status == "ok"
    assert strange.qc == "out_of_domain"
    assert strange.warning in strange.notes
    assert "does not look like those tiny was calibrated on" in strange.warning


def test_the_warning_is_in_every_place_a_user_looks_at(foreign, model, tmp_path):
    out = tmp_path / "out"
    with_warning = run_classify(RunRequest(inputs=[foreign.path], out=out, model=str(model)))
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
    far = DomainLimits(limits=(1e9,) * 3, slides=10)
    copy_model(model, card.model_copy(update={"domain": far}), plain)
    run_classify(RunRequest(inputs=[foreign.path], out=tmp_path / "plain", model=str(plain)))
    heights = []
    for place in (out, tmp_path / "plain"):
        with Image.open(place / "slides" / "photograph" / "overlay.png") as picture:
            heights.append(picture.height)
    warned, unwarned = heights
    assert warned > unwarned


def test_a_model_for_synthetic_slides_says_so_of_any_other(labelled_slides, foreign, model, tmp_path):
    path = tmp_path / "made.safetensors"
    card = load_model(model).card.model_copy(update={"made_for": "synthetic", "domain": None})
    torch.manual_seed(1)
    save_model(TNet(NETWORK), card, path)
    drawn, strange = results([read_manifest(labelled_slides)[0], foreign], path)
    assert drawn.qc is None
    assert strange.qc == "out_of_domain"
    assert "was made for synthetic slides" in strange.warning


def test_limits_are_fitted_to_enough_slides_only_and_lie_above_all_of_them():
    def features(seed):
        return {0: np.random.default_rng(seed).standard_normal((30, 6), dtype=np.float32)}

    assert fit_domain([features(n) for n in range(7)], 1) is None
    assert fit_domain([features(n) for n in range(8)], 2) is None
    fitted = fit_domain([features(n) for n in range(8)], 1)
    assert fitted is not None
    (domain,), limits = fitted
    assert limits.slides == 8
    assert limits.limits[0] > max(slide_distance(domain, features(n)[0]) for n in range(8))
    assert limits.limits[0] < slide_distance(domain, features(9)[0] + 5)


def test_a_lesion_like_none_before_is_no_reason_for_a_warning():
    usual = np.random.default_rng(0).standard_normal((400, 6), dtype=np.float32)
    domain = FeatureDomain.fit(torch.from_numpy(usual))
    with_lesion = np.concatenate([usual[:40], usual[:60] + 30])
    assert slide_distance(domain, with_lesion) < 1.5
    assert slide_distance(domain, usual[:100] + 30) > 5


def test_a_slide_with_nothing_to_look_at_closer_is_said_to_be_so(slides, model, monkeypatch):
    monkeypatch.setattr("tnet_cli.inference.prepare.TISSUE_IN_A_CELL", 1e9)
    (found,) = results(slides[:1], model)
    assert (found.status, found.locations) == ("ok", 0)
    assert found.qc == "out_of_domain"
    assert "too little tissue" in str(found.warning)


@pytest.mark.parametrize("has_domain", [True, False])
def test_a_slide_too_coarse_for_the_finest_view_is_said_to_be_so(slides, model, tmp_path, has_domain):
    path = model
    if not has_domain:
        path = tmp_path / "plain.safetensors"
        torch.manual_seed(1)
        save_model(TNet(NETWORK), card_of(NETWORK), path)
    mpp = load_model(path).card.network.mpp
    assert mpp is not None
    finest = mpp[-1]
    (coarse,) = results([replace(slides[0], mpp=finest * 1.5)], path)
    assert coarse.status == "ok"
    assert coarse.qc == "out_of_domain"
    assert "without its finest view" in str(coarse.warning)
    (fine,) = results([replace(slides[0], mpp=finest)], path)
    assert fine.qc is None


def test_a_domain_that_does_not_fit_the_network_is_damage(model, tmp_path):
    loaded = load_model(model)
    path = tmp_path / "broken.safetensors"
    copy_model(model, loaded.card, path, domain=[FeatureDomain.fit(torch.randn(9, 4))])
    with pytest.raises(ModelFileError, match="domain does not fit"):
        load_model(path)
    save_model(loaded.network, loaded.card, path)
    with pytest.raises(ModelFileError, match="domain does not fit"):
        load_model(path)
    copy_model(model, loaded.card.model_copy(update={"domain": None}), path)
    with pytest.raises(ModelFileError, match="domain does not fit"):
        load_model(path)
