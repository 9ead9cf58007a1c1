"""Legend and scale bar, as words and numbers."""

import pytest

from tnet_cli.geometry import Region
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import processing_level_colour
from tnet_cli.report.legend import legend_entries, scale_bar


def attended(processing_level: int, side: int, mpp: float | None) -> AttendedRegion:
    return AttendedRegion(Region(0, 0, side, side), processing_level, mpp, 0.1, 0.1, 0.1, (1.0,))


def test_each_processing_level_has_its_entry():
    regions = [attended(1, 1024, 2.0), attended(0, 4096, 8.0), attended(1, 1024, 2.0)]
    first, second = legend_entries(regions, 0.25)
    assert first.text == "Processing level 0: 8 µm/px, field 1.02 mm, 1 root"
    assert second.text == "Processing level 1: 2 µm/px, field 256 µm, 2 locations"
    assert (first.colour, second.colour) == (processing_level_colour(0), processing_level_colour(1))
    assert first.colour != second.colour


def test_without_a_scale_fields_are_in_pixels():
    (entry,) = legend_entries([attended(2, 31, None)], None)
    assert entry.text == "Processing level 2: field 31 px, 1 location"
    assert legend_entries([], 0.5) == []


@pytest.mark.parametrize(
    ("um_per_px", "panel_px", "text", "width_px"),
    [
        (20.0, 750, "2 mm", 100),
        (50.0, 750, "5 mm", 100),
        (1.0, 700, "100 µm", 100),
        (4.0, 1000, "1 mm", 250),
        (0.25, 750, "20 µm", 80),
        (3.2, 750, "0.5 mm", 156),
        (40.0, 10, "1 mm", 25),
    ],
)
def test_the_scale_bar_has_a_round_length(um_per_px, panel_px, text, width_px):
    bar = scale_bar(um_per_px, panel_px)
    assert bar is not None
    assert (bar.text, bar.width_px) == (text, width_px)


def test_there_is_no_scale_bar_without_a_scale():
    assert scale_bar(None, 750) is None


def test_five_processing_levels_have_five_colours():
    assert len({processing_level_colour(i) for i in range(5)}) == 5
    assert processing_level_colour(5) == processing_level_colour(0)
    with pytest.raises(ValueError, match="0 or more"):
        processing_level_colour(-1)
