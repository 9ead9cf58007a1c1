"""``tnet bench``: its document on a small slide, each arm in a process of its own, and what it says of wrong inputs."""

import json

import pytest


@pytest.mark.slow
def test_every_arm_has_a_process_and_so_a_memory_of_its_own(tnet, drawn_slide, untrained_model):
    asked = ("-m", untrained_model, "--rounds", "1", "--budgets", "9", "--no-every-tile", "--device", "cpu", "--json")
    slide = drawn_slide(seed=5, side_px=1500)
    ran = tnet("bench", slide, *asked)
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert document["model"] == "untrained"
    assert document["machine"]["cores"] >= 1
    ((measured),) = document["slides"]
    assert measured["slide"] == str(slide)
    assert [(row["arm"], row["budget"]) for row in measured["rows"]] == [
        ("tnet", 9),
        ("decode", 9),
        ("forward", 9),
        ("random", 9),
    ]
    for row in measured["rows"]:
        # This process, in which torch is already, would show nothing of what comes after importing it.
        assert 0 < row["over_torch_mb"] < row["peak_mb"]


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


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("a.svs")], ids=["file", "link"]
)
def test_only_a_plot_of_tnet_is_replaced(tnet, made_slide, noise_slide, untrained_model, tmp_path, make):
    (tmp_path / "a.svs").write_text("mine")
    make(tmp_path / "p.png")
    ran = tnet("bench", made_slide, noise_slide, "-m", untrained_model, "--plot", "p.png")
    assert (ran.code, ran.err.strip()) == (2, "tnet: --plot p.png: exists and is no plot of tnet; give another file")
    assert (tmp_path / "p.png").read_text() == (tmp_path / "a.svs").read_text() == "mine"
