"""Windows of a slide that join without a seam, and what a reader sees in them."""

from dataclasses import replace

import numpy as np
import pytest

from tnet_cli.synth.design import Arrangement, Focus, Nuclei, SlideDesign, design_slide
from tnet_cli.synth.paint import Painter, colour_table
from tnet_cli.synth.sprites import FULL

KINDS: tuple[tuple[Arrangement, Nuclei], ...] = (
    ("sheet", "small"),
    ("sheet", "large"),
    ("acini", "small"),
    ("acini", "large"),
)


@pytest.fixture(scope="module")
def design() -> SlideDesign:
    return design_slide(11, 4000, label="lesion")


@pytest.fixture(scope="module")
def painter(design: SlideDesign) -> Painter:
    return Painter(design)


def box_around(focus: Focus, design: SlideDesign, side: int) -> tuple[int, int, int, int]:
    return round(focus.x_um / design.mpp) - side // 2, round(focus.y_um / design.mpp) - side // 2, side, side


def test_a_window_in_parts_equals_the_whole(design, painter):
    # Across a focus's edge, with stroma, glands and nuclei on both sides of every cut.
    x, y, width, height = box_around(design.foci[0], design, 900)
    whole = painter.window(x, y, width, height)
    cut = 333
    joined = np.vstack(
        [
            np.hstack([painter.window(x, top, cut, tall), painter.window(x + cut, top, width - cut, tall)])
            for top, tall in ((y, cut), (y + cut, height - cut))
        ]
    )
    # Interpolated thickness may round the other way by one step of concentration.
    assert np.abs(joined.astype(int) - whole).max() <= 3
    assert (joined == whole).all(axis=2).mean() > 0.999


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (257, 129), (511, 640)])
def test_shifted_windows_agree_to_the_bit_where_they_overlap(design, painter, dx, dy, monkeypatch):
    # The same section everywhere: its interpolation is the only part that rounds by the window.
    even = replace(design, thickness=np.full_like(design.thickness, 1.001), depth_um=np.full_like(design.depth_um, 500))
    monkeypatch.setattr(painter, "design", even)
    side = 1024
    # From the middle of a focus into the stroma beside it, so that edges cut both kinds of nuclei, and glands.
    x, y = box_around(design.foci[0], design, 0)[0], box_around(design.foci[0], design, side)[1]
    one, other = painter.window(x, y, side, side), painter.window(x + dx, y + dy, side, side)
    np.testing.assert_array_equal(one[dy:, dx:], other[: side - dy, : side - dx])


def test_another_painter_of_the_same_design_draws_the_same(design, painter):
    box = box_around(design.foci[0], design, 300)
    np.testing.assert_array_equal(Painter(design).window(*box), painter.window(*box))


def test_glass_is_one_pale_colour(design, painter):
    corner = painter.window(0, 0, 256, 128)
    assert corner.shape == (128, 256, 3)
    assert corner.dtype == np.uint8
    assert design.is_glass(0, 0, 40, 40)
    assert (painter.window(0, 0, 40, 40) == np.array(painter.glass)).all()
    assert min(painter.glass) > 225


def test_what_is_called_glass_holds_no_tissue(design):
    for x in range(0, 4000, 500):
        for y in range(0, 4000, 500):
            if not design.is_glass(x, y, 500, 500):
                continue
            columns, rows = (slice(int(v / 32), int((v + 500) / 32) + 1) for v in (x, y))
            assert design.depth_um[rows, columns].max() < 0


def test_foci_stand_out_as_darker_and_bluer_spots_at_low_power(design, painter):
    focus = design.foci[0]
    inside = painter.window(*box_around(focus, design, 300)).mean(axis=(0, 1))
    x, y, _, _ = box_around(focus, design, 0)
    out = round((focus.reach_um + 40) / design.mpp)
    around = [
        painter.window(x + dx - 60, y + dy - 60, 120, 120).mean(axis=(0, 1))
        for dx, dy in ((out, 0), (-out, 0), (0, out), (0, -out))
    ]
    tissue = [colour for colour in around if colour[1] < painter.glass[1] - 25]
    assert tissue
    around_it = np.mean(tissue, axis=0)
    assert inside.mean() < around_it.mean() - 8
    assert inside[0] - inside[2] < around_it[0] - around_it[2] - 5


def test_a_lesion_has_the_mean_colour_of_its_mimic():
    colours: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in (100, 101):
        design = design_slide(seed, 2000, mpp=1.0)
        painter = Painter(design)
        for arrangement, nuclei in KINDS:
            focus = replace(design.foci[0], arrangement=arrangement, nuclei=nuclei)
            painter.design = replace(design, foci=(focus,))
            colours.setdefault((arrangement, nuclei), []).append(mean_colour_inside(painter, focus))
    for arrangement in ("sheet", "acini"):
        benign, lesion = (np.mean(colours[arrangement, nuclei], axis=0) for nuclei in ("small", "large"))
        # Of 255 grey levels; the lesion of a single slide differs by up to 3.
        assert np.abs(benign - lesion).max() < 3


def mean_colour_inside(painter: Painter, focus: Focus) -> np.ndarray:
    """Mean R, G, B of the part of a focus that is clear of its soft edge, float64 (3,)."""
    mpp = painter.design.mpp
    side = min(1024, 2 * int(0.8 * focus.radius_um / mpp))
    x, y, _, _ = box_around(focus, painter.design, side)
    dx = (np.arange(side)[None, :] + x) * mpp - focus.x_um
    dy = (np.arange(side)[:, None] + y) * mpp - focus.y_um
    inside = np.hypot(dx, dy) < focus.radius_at(np.arctan2(dy, dx)) - 15
    return np.asarray(painter.window(x, y, side, side)[inside].mean(axis=0))


def test_colours_follow_beer_and_lambert(design):
    appearance = replace(design.appearance, gamma=1.0, glass=(240, 240, 240))
    table = colour_table(appearance).reshape(256, 256, 3)
    assert table[0, 0].tolist() == [240, 240, 240]
    np.testing.assert_allclose(table[FULL, 0], 240 * np.exp(-appearance.haematoxylin), atol=0.5)
    np.testing.assert_allclose(table[0, FULL], 240 * np.exp(-appearance.eosin), atol=0.5)
    assert (np.diff(table.astype(int), axis=0) <= 0).all()
    assert (np.diff(table.astype(int), axis=1) <= 0).all()
