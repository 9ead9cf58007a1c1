"""What a configuration accepts, and what it says of what it refuses."""

from typing import Any

import pytest
from pydantic import ValidationError

from tnet_cli.model.config import TNetConfig

SLIDE = TNetConfig.slide(("benign", "lesion"))
PHOTO = TNetConfig.fmow(("a", "b", "c"))
BIRDS = TNetConfig.fine_grained(("a", "b", "c"))


def changed(config: TNetConfig, **changes: Any) -> TNetConfig:
    return TNetConfig.model_validate(config.model_dump() | changes)


def test_the_slide_preset_spans_32_to_half_a_micrometre():
    assert (SLIDE.backbone, SLIDE.base_px, SLIDE.grid, SLIDE.cell_fraction) == ("tnet_small", 256, 4, 0.25)
    assert SLIDE.mpp == (32.0, 8.0, 2.0, 0.5)
    assert len(SLIDE.locations) == 3
    assert (SLIDE.choice, SLIDE.location_softmax, SLIDE.position_axes) == ("beam", "plain", "s")
    assert SLIDE.weighting


@pytest.mark.parametrize(("image_px", "levels", "locations"), [(224, 1, ()), (448, 2, (2,)), (896, 3, (2, 1))])
def test_the_papers_preset_has_a_level_for_each_doubling(image_px, levels, locations):
    config = TNetConfig.fmow(("a", "b"), image_px=image_px)
    assert (config.processing_levels, config.locations, config.image_px) == (levels, locations, image_px)
    assert (config.backbone, config.base_px, config.grid, config.cell_fraction) == ("tf_efficientnet_b0", 224, 3, 0.5)
    assert (config.location_softmax, config.location_slice, config.position_length) == ("l2", (2, 4), 320)


@pytest.mark.parametrize(
    ("number", "tap", "taken"),
    # Blocks and rows of the map as the authors' code takes them: part5_block1 of B0, part4_block2 of the others.
    [(0, "features.4.0", (2, 2, 11)), (1, "features.3.1", (5, 4, 22)), (4, "features.3.1", (5, 4, 22))],
)
def test_the_preset_of_birds_looks_at_448_px_with_three_of_25_cells(number, tap, taken):
    config = TNetConfig.fine_grained(("a", "b"), f"tf_efficientnet_b{number}")
    assert (config.image_px, config.base_px, config.processing_levels, config.locations) == (448, 224, 2, (3,))
    assert (config.grid, config.cell_fraction, config.choice) == (5, 0.35, "per_grid")
    assert (config.tap, config.location_slice, config.location_softmax) == (tap, taken, "l2")
    assert (config.weighting, config.dropout, config.position_axes) == (True, 0.75, "yxs")


def test_a_configuration_survives_json():
    for config in (SLIDE, PHOTO, BIRDS):
        assert TNetConfig.model_validate_json(config.model_dump_json()) == config


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        setattr(SLIDE, "grid", 5)  # noqa: B010 (mypy would refuse the assignment too)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (SLIDE, {"class_names": ("a",)}, "at least 2 items"),
        (SLIDE, {"class_names": ("a", "a")}, "class_names must be different names"),
        (SLIDE, {"class_names": ("a", " ")}, "none of them empty"),
        (
            SLIDE,
            {"class_names": ("a", "=1+1")},
            "the class name '=1\\+1' begins with '='",
        ),
        (SLIDE, {"class_names": ("a", "b\x1b[2J")}, "holds a control character"),
        (SLIDE, {"class_names": ("a", "b" * 101)}, "longer than 100 characters"),
        (SLIDE, {"backbone": ""}, "at least 1 character"),
        (SLIDE, {"position_length": 10**9}, "less than or equal to 65536"),
        (SLIDE, {"base_px": 10**6}, "less than or equal to 8192"),
        (SLIDE, {"grid": 1000, "cell_fraction": 0.001}, "less than or equal to 64"),
        (SLIDE, {"processing_levels": 10**9}, "less than or equal to 20"),
        (SLIDE, {"colour": "red"}, "Extra inputs are not permitted"),
        (SLIDE, {"base_px": 8}, "greater than or equal to 16"),
        (SLIDE, {"grid": 1, "cell_fraction": 1.0}, "greater than or equal to 2"),
        (SLIDE, {"cell_fraction": 0.2}, "leave gaps in a grid of 4"),
        (SLIDE, {"cell_fraction": 0.3}, "beam choice needs cells that tile"),
        (
            SLIDE,
            {"cell_fraction": 0.3, "choice": "per_grid", "locations": (4, 4, 4)},
            "slide model needs cells that tile",
        ),
        (SLIDE, {"locations": (4, 4)}, "locations needs 3 positive numbers"),
        (SLIDE, {"locations": (4, 0, 4)}, "locations needs 3 positive numbers"),
        (SLIDE, {"mpp": None}, "either mpp .* or image_px"),
        (SLIDE, {"image_px": 512}, "either mpp .* or image_px"),
        (SLIDE, {"mpp": (32, 8, 2)}, "mpp needs 4 positive numbers"),
        (SLIDE, {"mpp": (32, 8, 2, 0)}, "mpp needs 4 positive numbers"),
        (SLIDE, {"mpp": (float("inf"), 8, 2, 0.5)}, "mpp needs 4 positive numbers"),
        (SLIDE, {"mpp": (0.5, 2, 8, 32)}, "each mpp must be 4 times the next, not 0.5 and 2"),
        (SLIDE, {"mpp": (32, 8, 2, 0.6)}, "each mpp must be 4 times the next, not 2 and 0.6"),
        (SLIDE, {"choice": "best"}, "'per_grid' or 'beam'"),
        (SLIDE, {"location_softmax": "hard"}, "'plain', 'temperature', 'l2' or 'sigmoid'"),
        (SLIDE, {"position_axes": "xyz"}, "'yxs' or 's'"),
        (SLIDE, {"position_length": 11}, "greater than or equal to 12"),
        (SLIDE, {"location_slice": (2, 4)}, "location_slice goes with location_pool 'slice'"),
        (SLIDE, {"location_pool": "slice"}, "location_slice goes with location_pool 'slice'"),
        (SLIDE, {"dropout": 1.0}, "less than 1"),
        (SLIDE, {"pixel_std": (0.5, 0, 0.5)}, "pixel_std must be positive"),
        (SLIDE, {"pixel_mean": (0.5, float("nan"), 0.5)}, "pixel_mean must be finite"),
        (PHOTO, {"choice": "beam"}, "beam choice needs cells that tile"),
        (PHOTO, {"locations": (10,)}, "a grid has 9 cells; locations \\(10,\\) asks for more"),
        (PHOTO, {"location_slice": (2, 0)}, "a step >= 1"),
        (PHOTO, {"location_slice": (-1, 4)}, "a first row >= 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(config, changes, message):
    with pytest.raises(ValidationError, match=message):
        changed(config, **changes)


def test_a_beam_may_keep_more_than_one_grid_has():
    assert changed(SLIDE, locations=(10, 200, 400)).locations == (10, 200, 400)
