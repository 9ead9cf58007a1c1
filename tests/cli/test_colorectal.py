"""The bundled model of colorectal tissue: there offline, and careful with slides of another kind."""

import csv
from pathlib import Path

import pytest

from tnet_cli.modelfile.modelfile import bundled_models, load_model

NAME = "colorectal-neoplasia"
SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"


def row_of(folder: Path) -> dict[str, str]:
    with (folder / "predictions.csv").open(newline="") as file:
        return next(csv.DictReader(file))


def test_it_is_bundled_with_its_limits_and_its_licence(tnet):
    model = load_model(bundled_models()[NAME])
    assert model.card.licence == "CC-BY-SA-4.0"
    assert any("never validated on diagnosed whole slides" in limit.lower() for limit in model.card.limits)
    assert "not for diagnosis" in model.card.intended_use
    assert model.card.domain is not None
    assert len(model.domain) == 4
    assert model.card.network.class_names == ("non_neoplastic", "adenoma", "adenocarcinoma")
    assert model.card.tile_rates is not None
    named = " ".join(f"{source.name} {source.licence}" for source in model.card.training_data)
    assert "LC25000" in named
    assert "EBHI-Seg" in named
    assert (Path(model.path).with_suffix(".md")).read_text().startswith(f"# {NAME}\n")
    assert tnet("models", "verify", NAME).code == 0
    listed = tnet("models", "list")
    assert "for: Research on H&E slides and fields of colon and rectum" in listed.out
    assert "for: A demonstration on synthetic slides" in listed.out


def test_it_is_taken_where_no_model_is_named_and_gives_no_answer_for_a_synthetic_slide(tnet, made_slide):
    ran = tnet("classify", made_slide)
    assert ran.code == 0, ran.err
    assert f"Model {NAME}: Research" in ran.err
    assert "made: NO ANSWER: this slide looks unlike the slides this model was made for" in ran.out
    assert row_of(Path("tnet-out"))["qc"] == "out_of_domain"


def test_another_is_taken_where_the_environment_names_it(tnet, made_slide, untrained_model, monkeypatch):
    monkeypatch.setenv("TNET_MODEL", str(untrained_model))
    ran = tnet("classify", made_slide, "--no-overlay")
    assert "Model untrained: " in ran.err
    assert row_of(Path("tnet-out"))["status"] == "ok"


@pytest.mark.skipif(not SLIDES.exists(), reason=f"{SLIDES} is not here")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CMU-1-Small-Region.svs", "out_of_domain"),
        ("small.svs", "too_little_tissue"),
        ("test3-DAPI-2-387.ndpi", "out_of_domain"),
        ("OS-1-detail.ome.tif", "out_of_domain"),
        ("OS-2-ndpi.ome.tif", "out_of_domain"),
    ],
)
def test_real_slides_of_other_kinds_have_no_answer(tnet, name, reason):
    ran = tnet("classify", SLIDES / name, "--no-overlay")
    assert ran.code == 0, ran.err
    row = row_of(Path("tnet-out"))
    assert (row["status"], row["prediction"], row["qc"]) == ("abstained", "", reason)


def test_the_demonstration_answers_for_a_synthetic_slide(tnet, made_slide):
    plain = tnet("classify", made_slide, "--no-overlay", "-m", "synthetic-demo")
    assert "Model synthetic-demo" in plain.err
    assert "made: lesion, probability " in plain.out
    row = row_of(Path("tnet-out"))
    assert (row["status"], row["qc"]) == ("ok", "")


@pytest.mark.skipif(not SLIDES.exists(), reason=f"{SLIDES} is not here")
def test_the_demonstration_gives_no_answer_for_a_real_slide(tnet):
    ran = tnet("classify", SLIDES / "CMU-1-Small-Region.svs", "--no-overlay", "-m", "synthetic-demo")
    assert "NO ANSWER: this model was made for synthetic slides, and this is none" in ran.out
    row = row_of(Path("tnet-out"))
    assert (row["status"], row["prediction"], row["qc"]) == ("abstained", "", "out_of_domain")
