"""Legend, as words and numbers."""

import pytest

from tnet_cli.geometry import Region
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.colours import processing_level_colour
from tnet_cli.report.sections import legend_entries


def attended(processing_level: int, side: int, mpp: float | None) -> AttendedRegion:
    return AttendedRegion(
        Region(0, 0, side, side), processing_level, mpp, 0.1, 0.1, 0.1, (1.0,), is_location=processing_level > 0
    )


def test_each_processing_level_has_its_entry():
    regions = [attended(1, 1024, 2.0), attended(0, 4096, 8.0), attended(1, 1024, 2.0)]
    first, second = legend_entries(regions, 0.25)
    assert first == (processing_level_colour(0), "Processing level 0: 8 µm/px, field 1.02 mm, 1 root")
    assert second == (processing_level_colour(1), "Processing level 1: 2 µm/px, field 256 µm, 2 locations")
    assert first[0] != second[0]


def test_without_a_scale_fields_are_in_pixels():
    ((_, words),) = legend_entries([attended(2, 31, None)], None)
    assert words == "Processing level 2: field 31 px, 1 location"
    assert legend_entries([], 0.5) == []


def test_five_processing_levels_have_five_colours():
    assert len({processing_level_colour(i) for i in range(5)}) == 5
    assert processing_level_colour(5) == processing_level_colour(0)
    with pytest.raises(ValueError, match="0 or more"):
        processing_level_colour(-1)
