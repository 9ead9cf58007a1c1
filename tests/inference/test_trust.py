"""Whether an answer counts: by how far a slide is from those a model knows, how sharp it is, and what it shows."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFilter
from skimage.data import astronaut

from tests.model_files import card_of, tiny_network
from tnet_cli.errors import ModelFileError
from tnet_cli.geometry import Region
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.limits import fit_domain, fit_sharpness
from tnet_cli.inference.prepare import prepare
from tnet_cli.inference.trust import decided, sharpness, slide_distance
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import ProcessingLevelRecord, Traversal
from tnet_cli.modelfile.modelfile import copy_model, load_model, save_model
from tnet_cli.places import Place
from tnet_cli.results.result import SlideResult
from tnet_cli.slide.opening import open_slide
from tnet_cli.tissue.tissue import TissueMask

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


def test_slides_of_the_same_kind_have_an_answer_and_others_have_none(slides, foreign, model):
    assert [(result.status, result.qc) for result in results(slides[10:], model)] == [("ok", None)] * 2
    (strange,) = results([foreign], model)
    assert (strange.status, strange.prediction, strange.probability) == ("abstained", None, None)
    assert strange.qc == "out_of_domain"
    assert strange.reasons == ("this slide looks unlike the slides this model was made for",)
    assert strange.answered().prediction in strange.class_names


def test_a_model_for_synthetic_slides_says_so_of_any_other(labelled_slides, foreign, model, tmp_path):
    path = tmp_path / "made.safetensors"
    card = load_model(model).card.model_copy(update={"made_for": "synthetic", "domain": None})
    torch.manual_seed(1)
    save_model(TNet(NETWORK), card, path)
    drawn, strange = results([read_manifest(labelled_slides)[0], foreign], path)
    assert drawn.status == "ok"
    assert strange.qc == "out_of_domain"
    assert strange.reasons == ("this model was made for synthetic slides, and this is none",)


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


def test_specks_none_of_which_is_worth_a_closer_look_are_too_little_tissue(slides, model):
    loaded = load_model(model)
    with open_slide(slides[0].path) as slide:
        prepared = prepare(slide, NETWORK)
        mask = np.zeros((1000, 1000), dtype=bool)
        mask[::125, ::125] = True  # in no cell of 256 px more than nine pixels, in all of them 64
        root = np.zeros((1, 16), dtype=bool)
        for tissue, allowed, fields in (
            (TissueMask(mask, slide.size), root, 9 / 64**2),
            (TissueMask(~np.zeros_like(mask), slide.size), ~root, 1000**2 / 64**2),
        ):
            none, whole = np.zeros(1), (Region(0, 0, 1024, 1024),)
            record = ProcessingLevelRecord(0, whole, none, none, none, none, none, allowed=allowed)
            result = SlideResult(slide="a", path="a", status="ok", class_names=NETWORK.class_names)
            changed = replace(prepared, tissue=tissue)
            checked = decided(result, replace(loaded, card=card_of(NETWORK)), slide, changed, Traversal((record,)))
            (check,) = [check for check in checked.checks if check.name == "too_little_tissue"]
            assert check.value == pytest.approx(fields)
            assert checked.status == ("abstained" if fields < 0.25 else "ok")


@pytest.mark.parametrize("has_domain", [True, False])
def test_a_slide_too_coarse_for_the_finest_view_has_no_answer(slides, model, tmp_path, has_domain):
    path = model
    if not has_domain:
        path = tmp_path / "plain.safetensors"
        torch.manual_seed(1)
        save_model(TNet(NETWORK), card_of(NETWORK), path)
    finest = (NETWORK.mpp or (0,))[-1]
    coarse, fine = results([replace(slides[0], mpp=finest * 1.26), replace(slides[0], mpp=finest * 1.2)], path)
    assert coarse.status == "abstained"
    assert "too_coarse" in str(coarse.qc)
    assert "too_coarse" not in str(fine.qc)


def test_blurred_slides_are_not_sharp_and_others_are_whatever_their_contrast(slides):
    """The limit is fitted as ``tnet evaluate --calibrate`` fits it."""

    def found(entry, radius=0.0, contrast=1.0):
        with Image.open(entry.path) as page:
            blurred = np.asarray(page.convert("RGB").filter(ImageFilter.GaussianBlur(radius)))
        pale = (255 - contrast * (255.0 - blurred)).astype(np.uint8)
        values = [sharpness(pale[y : y + 64, x : x + 64]) for y in range(0, 960, 64) for x in range(0, 960, 64)]
        return float(np.median([value for value in values if value is not None]))

    limit = fit_sharpness([found(entry) for entry in slides[:10]])
    assert limit is not None
    for entry in slides[10:]:
        assert found(entry, contrast=0.5) == pytest.approx(found(entry), rel=0.1)
        assert found(entry, 1.5) < limit < found(entry)
    assert sharpness(np.full((64, 64, 3), 200, np.uint8)) is None
    assert fit_sharpness([0.2] * 7) is None


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
