"""What becomes of a slide: its result says in one sentence why there is no answer, or gives the network's numbers."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model_files import card_of, tiny_network
from tnet_cli.classification.writing import drawn
from tnet_cli.errors import SlideError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.outcome import classified, failed, sentence_of, without_tissue
from tnet_cli.inference.prepare import prepare
from tnet_cli.inference.slide_task import GivenUpError
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.choice import TopK
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Traversal, TraversalPlan, Wanted, traverse
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.places import Place
from tnet_cli.results.layout import RunDirectory
from tnet_cli.slide.opening import open_slide
from tnet_cli.viewer.pages import RunPages

CARD = card_of(tiny_network())
ENTRY = SlideInput(path=Place("https://user:secret@host/a.svs?token=abc"), name="a")


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (SlideError("b.svs", "two\nlines"), "b.svs: two lines"),
        (GivenUpError(), "a.svs: reading it did not come to an end in the time of --slide-timeout, so it was given up"),
        (MemoryError(), "a.svs: there is not enough memory for it (MemoryError)"),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "a.svs: there is not enough memory for it (OutOfMemoryError: CUDA out of memory)",
        ),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "a.svs: cannot be read: Permission denied"),
        (KeyError("a\nbug"), "a.svs: could not be classified: KeyError: 'a\\nbug'"),
        (RecursionError(), "a.svs: could not be classified: RecursionError"),
        (
            ValueError("no https://u:secret@host/a?sig=b"),
            "a.svs: could not be classified: ValueError: no https://host/a",
        ),
    ],
)
def test_why_a_slide_failed_is_one_sentence(problem, expected):
    assert sentence_of("a.svs", problem) == expected


def test_a_slide_that_could_not_be_opened_has_no_facts_and_no_secret():
    result = failed(ENTRY, CARD, SlideError(ENTRY.path, "is gone"))
    assert (result.status, result.seconds, result.reader, result.size) == ("failed", 0, None, None)
    assert "secret" not in repr(result)
    assert "token" not in repr(result)


def test_a_slide_of_nothing_but_black_says_why_there_may_be_tissue(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    with open_slide(tmp_path / "black.png") as slide:
        slide.thumbnail(64)
        result = without_tissue(ENTRY, CARD, slide)
    assert result.error is not None
    assert result.error.startswith("no tissue was found on the slide; all of it is black: it may be empty, but")
    assert [doubt.name for doubt in result.doubts] == ["blank"]


def test_a_slide_without_tissue_says_what_was_read(small_labelled_slides):
    with open_slide(str(small_labelled_slides.parent / "synth-12-0000.tif")) as slide:
        slide.thumbnail(256)
        result = without_tissue(ENTRY, CARD, slide)
    assert result.status == "no_tissue"
    assert result.pixels_read > 1_000_000  # its tiles reach beyond its edge
    assert result.fraction_read == 1
    assert result.row()["prediction"] is None


def test_doubts_of_the_reader_reach_the_result_its_notes_and_its_file(small_labelled_slides, tmp_path):
    with open_slide(str(small_labelled_slides.parent / "synth-12-0000.tif")) as slide:
        slide.doubt("missing_tiles", "lacks 3 tiles")
        result = without_tissue(ENTRY, CARD, slide)
    RunDirectory(tmp_path).write_slide(result, {})
    details = json.loads((tmp_path / "slides" / "a" / "result.json").read_text())
    expected = {"name": "missing_tiles", "sentence": "lacks 3 tiles", "may_change_answer": True}
    assert (details["doubts"], details["notes"]) == ([expected], ["lacks 3 tiles"])
    assert result.doubts == slide.doubts
    assert result.error == "no tissue was found on the slide; lacks 3 tiles"


def test_the_answer_is_that_of_the_networks_own_classifier(small_labelled_slides):
    torch.manual_seed(5)
    network = TNet(CARD.network).eval()
    root, log_share = Region(0, 0, 1024, 1024), torch.zeros(1)
    plan = TraversalPlan(AttentionGrid(CARD.network.grid, 0.25), 2, (3,), "beam", TopK())
    steps = traverse([root], log_share, plan)
    wanted: Wanted | Traversal = next(steps)
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        while not isinstance(wanted, Traversal):
            pixels = torch.randint(0, 255, (len(wanted.regions), 3, 64, 64), generator=generator, dtype=torch.uint8)
            allowed = None if wanted.allowed is None else torch.from_numpy(wanted.allowed)
            look = network.look(pixels, torch.from_numpy(wanted.positions), allowed)
            try:
                wanted = steps.send(look)
            except StopIteration as end:
                wanted = end.value
    traversal = wanted
    features = torch.cat([record.features for record in traversal.levels])
    with torch.inference_mode():
        logits = network.classify([features]).logits[0].numpy()
    with open_slide(str(small_labelled_slides.parent / "synth-12-0000.tif")) as slide:
        model, preparation = LoadedModel(network, CARD, "", Path()), prepare(slide, CARD.network)
        result = classified(ENTRY, model, slide, preparation, traversal)
    np.testing.assert_allclose(result.logits, logits, atol=1e-6)
    called = int(np.argmax(result.probabilities))
    assert result.prediction == CARD.network.class_names[called]
    assert (result.roots, result.locations, len(result.regions)) == (1, 3, 4)
    assert [region.is_location for region in result.regions] == [False, True, True, True]
    assert sum(region.weight for region in result.regions) == pytest.approx(1, abs=1e-5)
    for region in result.regions[1:]:
        assert region.path_probability == pytest.approx(region.location_probability)
        assert sum(region.class_probabilities) == pytest.approx(1, abs=1e-5)


def test_a_root_of_the_finest_view_counts_as_a_location_wherever_locations_are_shown(tmp_path, small_labelled_slides):
    """A slide that begins at the finest processing level has no other locations."""
    torch.manual_seed(5)
    config = CARD.network.model_copy(update={"starts_where_filled": True, "mpp": (100.0, 25.0, 6.25)})
    model = LoadedModel(TNet(config), card_of(config), "0", tmp_path / "m.safetensors")
    entry = SlideInput(Place(str(small_labelled_slides.parent / "synth-12-0000.tif")), "small")
    ((_, result),) = classify_slides([entry], model)
    assert (result.status, {region.processing_level for region in result.regions}) == ("ok", {2})
    assert result.roots == result.locations == len(result.regions) >= 1
    directory = RunDirectory(tmp_path / "out")
    directory.write_slide(*drawn(result, model.card, overlay=True))
    directory.write_predictions([result.row()], config.class_names)
    (feature, *_) = json.loads((tmp_path / "out/slides/small/regions.geojson").read_text())["features"]
    assert feature["properties"]["classification"]["name"] == "Attended 6.2 µm/px"
    pages = RunPages(tmp_path / "out")
    page = pages.answer("/view/small").body.decode()  # type: ignore[union-attr]
    pages.close()
    assert '"name": "Location 1"' in page
    assert f"{result.locations} location" in page
    assert '"name": "Root"' not in page
