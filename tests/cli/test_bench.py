"""``tnet bench``: its table and document on small slides, and what it says of wrong inputs."""

import json

import pytest
from PIL import Image

from tnet_cli.benchmark.measurement import ARMS
from tnet_cli.cli.app import main
from tnet_cli.inference.every_cell import tissue_tiles
from tnet_cli.inference.prepare import prepare
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.slide.opening import open_slide
from tnet_cli.synth.synthesis import write_synthetic_slide


@pytest.fixture(scope="module")
def benched(tmp_path_factory, untrained_model):
    """Two slides measured: their paths, the document and the plot."""
    folder = tmp_path_factory.mktemp("bench")
    slides = [
        write_synthetic_slide(folder / f"{side}.tif", seed=5, side_px=side, label="lesion", workers=1).path
        for side in (2500, 4000)
    ]
    plot, document = folder / "plots" / "scaling.png", folder / "document.json"
    plot.parent.mkdir()
    asked = ["--budgets", "12,40", "--stop-at", "1", "--rounds", "1"]
    asked += ["--json", "--plot", str(plot), "-m", str(untrained_model)]
    with pytest.MonkeyPatch.context() as patched, document.open("w") as out:
        patched.setattr("sys.stdout", out)
        with pytest.raises(SystemExit) as ended:
            main(["bench", *map(str, slides), *asked, "--device", "cpu"])
    assert ended.value.code in (0, None)
    return slides, json.loads(document.read_text()), plot


def rows_of(document, number=0):
    return {(row["arm"], row["budget"]): row for row in document["slides"][number]["rows"]}


@pytest.mark.slow
def test_every_arm_is_a_row(benched):
    slides, document, _ = benched
    assert [each["slide"] for each in document["slides"]] == list(map(str, slides))
    attended = [(arm, budget) for budget in (12, 40) for arm in ("tnet", "decode", "forward")]
    assert list(rows_of(document)) == [*attended, ("early", 40), ("random", 40), ("every-tile", None)]
    assert {arm for arm, _ in rows_of(document)} == set(ARMS)
    assert document["machine"]["cores"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_counts_are_those_of_the_slide(benched, untrained_model, number):
    slides, document, _ = benched
    rows, network = rows_of(document, number), load_model(untrained_model).card.network
    with open_slide(str(slides[number])) as slide:
        preparation = prepare(slide, network)
        tiles, positions = tissue_tiles(preparation, network)
    roots = len(preparation.roots)
    assert len(set(tiles)) == len(tiles) == len(positions)
    assert rows["every-tile", None]["forward_passes"] == rows["every-tile", None]["locations"] == len(tiles)
    tnet, decode, forward = (rows[arm, 12] for arm in ("tnet", "decode", "forward"))
    # A cell of a small slide may have less tissue below it than locations.
    assert 10 <= tnet["locations"] <= 12
    assert tnet["forward_passes"] == forward["forward_passes"] == tnet["locations"] + roots
    assert decode["forward_passes"] == forward["tiles_decoded"] == 0
    # The traversal has also read the thumbnail.
    assert 0 < decode["tiles_decoded"] <= tnet["tiles_decoded"]
    assert 0 < decode["pixels_read"] <= tnet["pixels_read"]
    assert rows["every-tile", None]["tiles_decoded"] >= len(tiles)
    assert tnet["prediction"] == forward["prediction"]
    assert tnet["probability"] == pytest.approx(forward["probability"], abs=1e-5)
    assert 0 < tnet["traversal_seconds"] < tnet["seconds"]
    assert tnet["times_faster_than_every_tile"] == rows["every-tile", None]["seconds"] / tnet["seconds"]
    assert 0 < tnet["to_floor"] == min(decode["traversal_over"], forward["traversal_over"])
    assert 0 < tnet["over_torch_mb"] < tnet["peak_mb"]
    assert rows["random", 40]["to_floor"] is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_the_row_that_may_end_early_does(benched, number):
    rows = rows_of(benched[1], number)
    early = rows["early", 40]
    # With so lax a rule at the first look that may end it: the third or fourth, eight locations after the last.
    assert 16 <= early["locations"] <= 32
    assert early["forward_passes"] > early["locations"]
    assert early["prediction"] is not None
    assert early["times_faster_than_every_tile"] == rows["every-tile", None]["seconds"] / early["seconds"]


@pytest.mark.slow
def test_the_plot_is_a_picture(benched):
    with Image.open(benched[2]) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1600


@pytest.mark.slow
def test_the_table_names_what_was_asked(tnet, made_slide, untrained_model):
    asked = ("-m", untrained_model, "--rounds", "1", "--budgets", "9", "--no-every-tile", "--device", "cpu")
    ran = tnet("bench", made_slide, *asked)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == f"{made_slide}: 6000 px a side, 0.036 gigapixels; untrained"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == [
        "tnet, 9",
        "decode, 9",
        "forward, 9",
        "random, 9",
    ]
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert lines[-1].startswith("random, 9: ")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--budgets", "a"), 2, "--budgets a: expected whole numbers"),
        (("--budgets", "0,4"), 2, "--budgets 0,4: a budget is at least 1"),
        (("--budgets", "1,4"), 2, "--budgets: the least for this model is 3"),
        (("--plot", "p.png"), 2, "--plot draws time and memory against the slide's side"),
    ],
)
def test_options_that_cannot_be_followed(tnet, made_slide, untrained_model, options, code, said):
    ran = tnet("bench", made_slide, "-m", untrained_model, *options)
    assert ran.code == code
    assert said in ran.err


def test_models_of_images_and_files_that_are_no_slides(tnet, made_slide, image_model, untrained_model, tmp_path):
    ran = tnet("bench", made_slide, "-m", image_model)
    assert ran.code == 2
    assert "is a model of ordinary images" in ran.err
    (tmp_path / "no.tif").write_bytes(b"this is no slide")
    ran = tnet("bench", "no.tif", "-m", untrained_model, "--rounds", "1", "--device", "cpu")
    assert ran.code == 3
    assert ran.err.splitlines()[-1].startswith("tnet: no.tif: ")
