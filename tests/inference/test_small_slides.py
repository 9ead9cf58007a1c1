"""Models whose small slides begin at the first processing level that they fill; and those whose slides do not."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model_files import save_random, tiny_network
from tnet_cli.geometry import AttentionGrid, Region, Size
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.every_cell import tissue_cells
from tnet_cli.inference.prepare import Preparation, fit_scale, prepare
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import DEFAULT_MODEL, DEMO_MODEL, TraversalOptions
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.modelfile import find_model, load_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide
from tnet_cli.tissue.roots import cover_with_roots
from tnet_cli.tissue.tissue import TissueMask

FILLING = tiny_network().model_copy(update={"starts_where_filled": True})
"""Regions of 1024, 256 and 64 µm a side, on slides of 1 µm per pixel."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(save_random(tmp_path_factory.mktemp("models"), FILLING, seed=3))


@pytest.fixture
def picture(tmp_path, rng):
    """Draw a picture that is all tissue."""

    def drawn(width: int, height: int) -> SlideInput:
        pixels = rng.normal((170, 90, 150), 25, (height, width, 3)).clip(0, 255).astype(np.uint8)
        path = tmp_path / f"{width}x{height}.png"
        Image.fromarray(pixels).save(path)
        return SlideInput(path=Place(path), name=path.stem, mpp=1.0)

    return drawn


def classified(entry, model, **options):
    ((_, result),) = classify_slides([entry], model, TraversalOptions(**options))
    assert result.error is None
    return result


@pytest.mark.parametrize(
    ("width", "height", "start", "side_px"),
    [
        (1024, 1024, 0, 1024),
        (5000, 700, 0, 1024),  # a strip of which a region is two thirds
        (5000, 500, 1, 256),  # less than half
        (730, 730, 0, 1024),
        (720, 720, 1, 256),
        (256, 128, 1, 256),
        (256, 127, 2, 64),
        (20, 20, 2, 64),  # as far as there are views
    ],
)
def test_a_slide_begins_at_the_first_processing_level_of_which_half_a_region_lies_on_it(width, height, start, side_px):
    scale = fit_scale("s", 1.0, FILLING).where_filled(Size(width, height), FILLING.grid)
    assert (scale.start, scale.root_side_px) == (start, side_px)
    assert scale.mpp == (16.0, 4.0, 1.0)


def test_roots_of_a_small_slide_lie_on_it_and_the_traversal_goes_on_from_their_processing_level(picture, model):
    result = classified(picture(500, 300), model)
    roots = [region for region in result.regions if region.processing_level == 1]
    assert result.roots == len(roots) == 2 * 2
    whole = Region(0, 0, 500, 300)
    assert all(whole.contains(root.region) and root.mpp == 4.0 and not root.is_location for root in roots)
    below = [region for region in result.regions if region.processing_level == 2]
    assert result.locations == len(below) == 4
    assert len(result.regions) == 8


def test_roots_of_the_finest_view_are_attended_locations(picture, model):
    result = classified(picture(170, 60), model)
    assert {region.processing_level for region in result.regions} == {2}
    assert all(region.is_location for region in result.regions)
    assert result.locations == result.roots == len(result.regions) == 3 * 1


@pytest.mark.parametrize("stop_at", [None, 0.0])
def test_no_more_of_them_are_looked_at_than_the_budget_allows(picture, model, stop_at):
    entry = picture(180, 180)
    assert classified(entry, model, stop_at=stop_at).locations == 3 + 4
    some = classified(entry, model, budget=2, stop_at=stop_at)
    assert some.locations == len(some.regions) == 2
    assert some.roots == 2


def test_the_roots_that_are_kept_are_those_with_the_most_tissue():
    mask = np.zeros((64, 192), bool)
    mask[:, 64:] = True
    mask[:10, 70:80] = False
    tissue = TissueMask(mask, Size(192, 64))
    scale = fit_scale("s", 1.0, FILLING).where_filled(Size(192, 64), FILLING.grid)
    roots = tuple(cover_with_roots(tissue, scale.root_side_px, 64, inward=True))
    kept = Preparation(scale, np.zeros((0, 0, 3), np.uint8), tissue, roots).with_most_tissue(1)
    assert kept.root_regions == (Region(128, 0, 64, 64),)


def test_best_first_goes_down_from_where_a_small_slide_begins(picture, model):
    entry = picture(500, 300)
    result = classified(entry, model, stop_at=0.0, budget=6)
    assert [region.processing_level for region in result.regions] == [1] * 4 + [2] * 6
    every = classified(entry, model, budget=1000)
    assert len({region.region for region in every.regions}) == len(every.regions)


@pytest.mark.parametrize("size", [(500, 300), (260, 300), (490, 257), (1100, 1030)])
def test_where_roots_overlap_nothing_is_attended_through_two_of_them(picture, size):
    """Every pixel lies in an attended cell, and hardly more cells are attended than would cover the slide."""
    with open_slide(str(picture(*size).path), mpp=1.0) as slide:
        preparation = prepare(slide, FILLING)
    cells, positions = tissue_cells(preparation, FILLING)
    seen = np.zeros(size[::-1], np.uint8)
    for cell in cells:
        seen[cell.y : cell.bottom, cell.x : cell.right] += 1
    assert (seen > 0).mean() > 0.9
    assert seen.mean() < 1.5
    assert len(set(cells)) == len(cells)
    assert (positions[:, 2] == 2).all()


def test_every_cell_of_a_slide_of_the_finest_view_is_every_root(picture):
    with open_slide(str(picture(170, 60).path), mpp=1.0) as slide:
        preparation = prepare(slide, FILLING)
    cells, positions = tissue_cells(preparation, FILLING)
    assert cells == preparation.root_regions
    assert (positions == [0, 0, 2]).all()


def test_large_slides_are_looked_at_as_by_any_model(picture, model, tmp_path):
    """Of a whole number of roots, none of which hangs over an edge."""
    plain = load_model(save_random(tmp_path, tiny_network(), seed=3))
    entry = picture(2048, 1024)
    ours, theirs = classified(entry, model), classified(entry, plain)
    assert ours.probabilities == theirs.probabilities
    assert [each.region for each in ours.regions] == [each.region for each in theirs.regions]


def test_a_small_field_begins_at_the_finest_view_of_the_model_of_real_tissue(picture):
    network = load_model(find_model(DEFAULT_MODEL)).card.network
    assert network.starts_where_filled
    with open_slide(str(picture(775, 522).path), mpp=0.62) as slide:
        preparation = prepare(slide, network)
    assert preparation.scale.start == network.processing_levels - 1
    assert len(preparation.roots) == 3 * 2
    whole = Region(0, 0, 775, 522)
    assert all(whole.contains(region) for region in preparation.root_regions)


def test_slides_of_the_demonstration_begin_at_the_coarsest_view(picture):
    network = load_model(find_model(DEMO_MODEL)).card.network
    assert not network.starts_where_filled
    with open_slide(str(picture(300, 200).path), mpp=0.5) as slide:
        preparation = prepare(slide, network)
    assert preparation.scale.start == 0
    side_px = fit_scale("s", 0.5, network).root_side_px
    assert preparation.root_regions == (Region(0, 0, side_px, side_px),)
    cells = AttentionGrid(network.grid, network.cell_fraction).cells(preparation.root_regions[0])
    assert preparation.allowed()(cells, np.zeros(len(cells), int)).tolist() == [True] + [False] * (len(cells) - 1)


def test_an_image_model_cannot_begin_where_it_is_filled():
    with pytest.raises(ValueError, match="starts_where_filled is for slide models"):
        TNetConfig.model_validate(TNetConfig.fmow(("a", "b")).model_dump() | {"starts_where_filled": True})


def test_positions_tell_the_network_the_processing_level(picture, model):
    """The same pixels are another view at another scale."""
    entry = picture(170, 60)
    result = classified(entry, model)
    with open_slide(str(entry.path), mpp=1.0) as slide:
        patches = np.stack([slide.read(each.region, 64, 64) for each in result.regions])
    positions = torch.tensor([[0, 0, 2]] * len(patches))
    with torch.inference_mode():
        features = model.network.look(torch.from_numpy(patches).permute(0, 3, 1, 2), positions, None).features
        logits = model.network.classify([features]).logits[0]
    assert result.logits == pytest.approx(logits.tolist(), abs=1e-5)
