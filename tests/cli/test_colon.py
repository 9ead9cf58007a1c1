"""The bundled model of composed colon slides: there offline, and careful with slides of another kind."""

import csv
from pathlib import Path

import pytest

from tnet_cli.modelfile.modelfile import bundled_models, load_model

NAME = "colon-adenocarcinoma-composed"
SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"


def row_of(folder: Path) -> dict[str, str]:
    with (folder / "predictions.csv").open(newline="") as file:
        return next(csv.DictReader(file))


def test_it_is_bundled_with_its_limits_and_its_licence(tnet):
    model = load_model(bundled_models()[NAME])
    assert model.card.licence == "CC-BY-SA-4.0"
    assert any("never validated on real slides" in limit.lower() for limit in model.card.limits)
    assert "not for diagnosis" in model.card.intended_use
    assert model.card.domain is not None
    assert len(model.domain) == 4
    assert (Path(model.path).with_suffix(".md")).read_text().startswith(f"# {NAME}\n")
    assert tnet("models", "verify", NAME).code == 0
    listed = tnet("models", "list")
    assert "for: Research on composed slides of colon" in listed.out
    assert "for: A demonstration on synthetic slides" in listed.out


def test_a_synthetic_slide_is_out_of_its_domain(tnet, made_slide):
    ran = tnet("classify", made_slide, "-m", NAME)
    assert ran.code == 0, ran.err
    assert f"Model {NAME}: Research" in ran.err
    assert "out of domain: this slide does not look like those" in ran.err
    assert row_of(Path("tnet-out"))["qc"] == "out_of_domain"


@pytest.mark.skipif(not SLIDES.exists(), reason=f"{SLIDES} is not here")
@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "small.svs", "test3-DAPI-2-387.ndpi", "OS-1-detail.ome.tif", "OS-2-ndpi.ome.tif"]
)
def test_real_slides_of_other_kinds_are_out_of_its_domain(tnet, name):
    ran = tnet("classify", SLIDES / name, "-m", NAME, "--no-overlay")
    assert ran.code == 0, ran.err
    assert row_of(Path("tnet-out"))["qc"] == "out_of_domain"


def test_the_demonstration_says_that_a_slide_is_not_synthetic(tnet, tmp_path, made_slide):
    plain = tnet("classify", made_slide, "--no-overlay")
    assert "Model synthetic-demo" in plain.err
    assert "made for synthetic slides" not in plain.err
    assert row_of(Path("tnet-out"))["qc"] == ""


@pytest.mark.skipif(not SLIDES.exists(), reason=f"{SLIDES} is not here")
def test_the_demonstration_warns_of_a_real_slide(tnet):
    ran = tnet("classify", SLIDES / "CMU-1-Small-Region.svs", "--no-overlay")
    assert "synthetic-demo was made for synthetic slides, and this is none" in ran.err
    assert row_of(Path("tnet-out"))["qc"] == "out_of_domain"
