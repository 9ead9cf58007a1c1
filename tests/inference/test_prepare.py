"""Laying a model's scales over a slide's, and sharing out a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet_cli.errors import MissingMppError, UsageError
from tnet_cli.inference.prepare import choose_locations, fit_scale
from tnet_cli.model.config import TNetConfig

CONFIG = TNetConfig.slide(("a", "b")).model_copy(update={"locations": (8, 16, 16)})


def test_a_slide_at_the_finest_scale_is_read_pixel_for_pixel():
    scale = fit_scale("s", 0.5, CONFIG)
    assert scale.root_side_px == 256 * 64
    assert list(scale.mpp) == [32, 8, 2, 0.5]
    assert not scale.notes


@pytest.mark.parametrize(("mpp", "finest_px"), [(0.499, 256), (0.2525, 512), (0.228, 561), (0.25, 512)])
def test_nearly_whole_ratios_snap_to_stored_pixels(mpp: float, finest_px: int):
    scale = fit_scale("s", mpp, CONFIG)
    assert scale.root_side_px == finest_px * 64
    assert scale.mpp[-1] == pytest.approx(mpp * finest_px / 256)


def test_a_coarse_slide_skips_the_views_it_cannot_serve():
    scale = fit_scale("s", 1.0, CONFIG)
    assert scale.processing_levels == 3
    assert scale.root_side_px == 512 * 16
    assert list(scale.mpp) == [32, 8, 2]
    assert scale.notes == (
        "the slide's 1 µm per pixel is too coarse for the view at 0.5 µm per pixel, which is skipped",
    )
    assert choose_locations(CONFIG, scale, None, None) == (8, 16)


def test_a_slightly_coarser_slide_is_still_served():
    scale = fit_scale("s", 0.6, CONFIG)
    assert scale.processing_levels == 4
    assert scale.root_side_px == round(256 * 0.5 / 0.6) * 64


def test_a_slide_coarser_than_every_view_is_refused():
    with pytest.raises(MissingMppError, match="coarser than the model's coarsest view"):
        fit_scale("s", 41.0, CONFIG)


def test_an_unknown_scale_is_refused_with_the_option_named():
    with pytest.raises(MissingMppError, match=r"s: .*--mpp"):
        fit_scale("s", None, CONFIG)


@given(st.floats(0.05, 0.62))
def test_the_scale_given_is_close_to_the_scale_wanted(mpp: float):
    scale = fit_scale("s", mpp, CONFIG)
    assert scale.root_side_px % 64 == 0
    allowed = 0.0205 if mpp <= 0.5 else 0.25
    assert scale.mpp[-1] == pytest.approx(0.5, rel=allowed)
    assert all(coarse == pytest.approx(4 * fine) for coarse, fine in zip(scale.mpp, scale.mpp[1:], strict=False))


@given(st.integers(3, 500))
def test_a_budget_is_shared_out_to_the_last_location(budget: int):
    shares = choose_locations(CONFIG, fit_scale("s", 0.5, CONFIG), None, budget)
    assert sum(shares) == budget
    assert min(shares) >= 1


def test_the_default_budget_gives_the_default_locations():
    scale = fit_scale("s", 0.5, CONFIG)
    assert choose_locations(CONFIG, scale, None, 40) == choose_locations(CONFIG, scale, None, None) == (8, 16, 16)


def test_a_budget_below_one_location_a_view_is_refused():
    with pytest.raises(UsageError, match="at least 3"):
        choose_locations(CONFIG, fit_scale("s", 0.5, CONFIG), None, 2)


def test_a_model_of_single_grids_has_no_budget():
    config = CONFIG.model_copy(update={"choice": "per_grid"})
    with pytest.raises(UsageError, match="no --budget"):
        choose_locations(config, fit_scale("s", 0.5, config), None, 40)
