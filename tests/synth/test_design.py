"""What a design promises before a pixel is drawn."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import ks_2samp
from shapely.geometry import Polygon

from tnet_cli.synth.design import CLASS_NAMES, Focus, SlideDesign, design_slide

SEEDS = range(8)


@cache
def designed(seed: int, side_px: int, label: str) -> SlideDesign:
    """A design that several tests look at."""
    return design_slide(seed, side_px, label=label)


def outline(focus: Focus) -> Polygon:
    return Polygon(focus.outline_um())


def depth_at(design: SlideDesign, points_um: np.ndarray) -> np.ndarray:
    index = (points_um / design.map_um).astype(int)
    return np.asarray(design.depth_um[index[:, 1], index[:, 0]])


def test_the_same_arguments_give_the_same_design():
    one, other = (design_slide(3, 8000, label="lesion") for _ in range(2))
    np.testing.assert_array_equal(one.depth_um, other.depth_um)
    np.testing.assert_array_equal(one.thickness, other.thickness)
    np.testing.assert_array_equal(one.mucosa, other.mucosa)
    assert [(f.x_um, f.y_um, f.nuclei) for f in one.foci] == [(f.x_um, f.y_um, f.nuclei) for f in other.foci]
    assert one.appearance.glass == other.appearance.glass


def test_seeds_give_different_designs():
    assert len({design_slide(seed, 4000).foci[0].x_um for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_tissue_covers_about_a_quarter(seed):
    assert 0.20 <= float((designed(seed, 20_000, "lesion").depth_um > 0).mean()) <= 0.30


@pytest.mark.parametrize("seed", SEEDS)
def test_only_the_nuclei_of_some_foci_depend_on_the_label(seed):
    benign, lesion = (designed(seed, 20_000, label) for label in CLASS_NAMES)
    np.testing.assert_array_equal(benign.depth_um, lesion.depth_um)
    np.testing.assert_array_equal(benign.thickness, lesion.thickness)
    np.testing.assert_array_equal(benign.mucosa, lesion.mucosa)
    np.testing.assert_array_equal(benign.appearance.haematoxylin, lesion.appearance.haematoxylin)
    np.testing.assert_array_equal(benign.appearance.eosin, lesion.appearance.eosin)
    assert (benign.appearance.glass, benign.appearance.gamma, benign.appearance.noise) == (
        lesion.appearance.glass,
        lesion.appearance.gamma,
        lesion.appearance.noise,
    )
    assert len(benign.foci) == len(lesion.foci)
    for mimic, focus in zip(benign.foci, lesion.foci, strict=True):
        np.testing.assert_array_equal(mimic.outline_um(), focus.outline_um())
        assert mimic.arrangement == focus.arrangement
    assert benign.lesions == ()
    assert 1 <= len(lesion.lesions) <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_four_to_eight_foci_lie_whole_in_tissue_and_apart(seed):
    design = designed(seed, 20_000, "lesion")
    assert 4 <= len(design.foci) <= 8
    for number, focus in enumerate(design.foci):
        assert 180 <= focus.radius_um <= 280
        assert depth_at(design, focus.outline_um()).min() > 0
        assert all(outline(focus).distance(outline(other)) > 50 for other in design.foci[:number])


@pytest.mark.parametrize("side_px", [800, 2000, 3000, 4000])
def test_a_small_slide_still_shows_what_its_label_says(side_px):
    for seed in range(30):
        design = design_slide(seed, side_px, label="lesion")
        assert len(design.lesions) >= 1
        for focus in design.foci:
            assert depth_at(design, focus.outline_um()).min() > 0


@pytest.mark.parametrize(("side_px", "mpp", "least_px"), [(799, 0.5, 800), (399, 1.0, 400), (1, 0.25, 1600)])
def test_a_slide_without_room_for_a_focus_is_refused(side_px, mpp, least_px):
    with pytest.raises(ValueError, match=rf"{side_px} px is too small for a focus: at {mpp} um a pixel .* {least_px}$"):
        design_slide(0, side_px, mpp=mpp, label="lesion")


def test_a_slide_that_found_no_place_for_a_focus_is_refused(monkeypatch):
    monkeypatch.setattr("tnet_cli.synth.design._draw_focus", lambda *_: None)
    with pytest.raises(ValueError, match="seed 3 found no place for a focus on a slide of 4000 px: take a larger one"):
        design_slide(3, 4000, label="benign")


def test_the_largest_slide_has_coarser_maps_and_the_same_structures():
    design = design_slide(2, 100_000, label="lesion")
    assert design.map_um == 32
    assert design.depth_um.shape == design.thickness.shape == design.mucosa.shape == (1563, 1563)
    assert 0.20 <= float((design.depth_um > 0).mean()) <= 0.30
    assert 4 <= len(design.foci) <= 8
    for focus in design.foci:
        assert 180 <= focus.radius_um <= 280
        assert max(focus.x_um, focus.y_um) > 10_000
        assert depth_at(design, focus.outline_um()).min() > 0


def test_maps_are_finest_up_to_forty_millimetres(monkeypatch):
    monkeypatch.setattr("tnet_cli.synth.design.LARGEST_MAP_PX", 250)
    assert design_slide(1, 8000).map_um == 16
    assert design_slide(1, 8001).map_um == 32
    assert design_slide(1, 16_001).map_um == 64


def test_what_the_seed_draws_has_the_same_distribution_for_both_labels():
    designs = [design_slide(seed, 5000) for seed in range(200)]
    lesion = np.array([design.label == "lesion" for design in designs])
    assert 80 <= lesion.sum() <= 120
    drawn = {
        "foci": np.array([len(design.foci) for design in designs], dtype=float),
        "radius": np.array([np.mean([focus.radius_um for focus in design.foci]) for design in designs]),
        "sheets": np.array([np.mean([focus.arrangement == "sheet" for focus in design.foci]) for design in designs]),
        "tissue": np.array([(design.depth_um > 0).mean() for design in designs]),
        "noise": np.array([design.appearance.noise for design in designs]),
    }
    for name, values in drawn.items():
        assert ks_2samp(values[lesion], values[~lesion]).pvalue > 0.01, name


def test_structures_are_measured_in_micrometres():
    fine, coarse = design_slide(5, 8000, mpp=0.5), design_slide(5, 4000, mpp=1.0)
    assert [(f.x_um, f.y_um, f.radius_um) for f in fine.foci] == [(f.x_um, f.y_um, f.radius_um) for f in coarse.foci]
    np.testing.assert_array_equal(fine.depth_um, coarse.depth_um)


def test_both_labels_are_drawn_when_none_is_asked_for():
    drawn = [design_slide(seed, 2000).label for seed in range(40)]
    assert 8 <= drawn.count("lesion") <= 32


def test_an_unknown_label_is_refused_by_name():
    with pytest.raises(ValueError, match=r"label 'malignant': expected one of benign, lesion"):
        design_slide(0, 4000, label="malignant")


def test_an_outline_is_closed_and_stays_within_reach():
    focus = Focus(500.0, 300.0, 200.0, np.array([[0.1, 0.0], [0.0, -0.05]]), "sheet", "small")
    ring = focus.outline_um()
    assert ring.shape == (65, 2)
    np.testing.assert_array_equal(ring[0], ring[-1])
    assert ring[0] == pytest.approx([500 + 200 * 1.1, 300.0])
    assert np.hypot(*(ring - [500.0, 300.0]).T).max() <= focus.reach_um == pytest.approx(200 * 1.15)
    assert outline(focus).area == pytest.approx(math.pi * 200**2, rel=0.02)
