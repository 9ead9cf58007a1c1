"""Tissue on made thumbnails of every kind of glass and pen, and on real slides."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from tnet_cli.geometry import Region, Size
from tnet_cli.slide.opening import open_slide
from tnet_cli.tissue.tissue import TissueMask, find_tissue

GLASS = {
    "white": (246, 246, 246),
    "grey": (205, 206, 207),
    "dim": (165, 165, 163),
    "warm": (240, 235, 218),
    "bluish": (222, 228, 240),
    "pinkish": (240, 230, 236),
}
PENS = {
    "blue": (30, 60, 170),
    "navy": (20, 20, 140),
    "light blue": (60, 120, 220),
    "green": (30, 140, 80),
    "dark green": (10, 80, 50),
    "red": (205, 30, 40),
    "black": (25, 25, 28),
    "pure black": (0, 0, 0),
    "blue-black": (30, 32, 60),
}
WHITE = GLASS["white"]
WIDTH, HEIGHT = 600, 400
PINK = (215, 140, 185)


def as_jpeg(pixels: np.ndarray, quality: int = 70) -> np.ndarray:
    """What a lossy file gives back."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


def make_glass(colour: tuple[int, int, int], *, noise: float = 2.0, fall_off: float = 0.0, seed: int = 5) -> np.ndarray:
    """An empty slide; the light in its corners is down by ``fall_off``."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    light = 1 - 2 * fall_off * ((columns / WIDTH - 0.5) ** 2 + (rows / HEIGHT - 0.5) ** 2)
    pixels = np.array(colour) * light[..., None] + np.random.default_rng(seed).normal(0, noise, (HEIGHT, WIDTH, 3))
    return np.asarray(np.clip(pixels, 0, 255).astype(np.uint8))


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.asarray(np.hypot(columns - x, rows - y) < radius)


def stain(pixels: np.ndarray, where: np.ndarray, colour: tuple[float, float, float], texture: float = 10) -> np.ndarray:
    grain = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=where.shape), 2)
    stained = pixels.astype(np.float64)
    stained[where] = np.array(colour) + (texture / grain.std() * grain)[where, None]
    return np.clip(stained, 0, 255).astype(np.uint8)


def draw(pixels: np.ndarray, colour: tuple[int, int, int], points: list[tuple[float, float]], width: int) -> np.ndarray:
    """A pen stroke with soft edges."""
    image = Image.fromarray(pixels)
    stroke = Image.new("L", (2 * image.width, 2 * image.height))
    ImageDraw.Draw(stroke).line([(2 * x, 2 * y) for x, y in points], fill=255, width=2 * width, joint="curve")
    image.paste(Image.new("RGB", image.size, colour), (0, 0), stroke.resize(image.size, Image.Resampling.BOX))
    return np.asarray(image)


def scribble(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A ring around the middle and a zigzag."""
    ring = [(300 + 140 * np.cos(t), 200 + 140 * np.sin(t)) for t in np.linspace(0, 6.3, 60)]
    return draw(draw(pixels, colour, ring, 8), colour, [(30, 40), (110, 60), (60, 160)], 6)


def find(thumbnail: np.ndarray, mpp: float | None = None) -> TissueMask:
    height, width = thumbnail.shape[:2]
    return find_tissue(thumbnail, Size(20 * width, 20 * height), mpp)


def overlap(found: TissueMask, truth: np.ndarray) -> float:
    """Intersection over union."""
    return float((found.mask & truth).sum() / (found.mask | truth).sum())


@pytest.mark.parametrize("fall_off", [0.0, 0.25])
@pytest.mark.parametrize("glass", GLASS)
def test_an_empty_slide_stays_empty(glass, fall_off):
    thumbnail = as_jpeg(make_glass(GLASS[glass], noise=4, fall_off=fall_off))
    assert find(thumbnail).is_empty
    assert find(thumbnail, 20.0).is_empty


@pytest.mark.parametrize(
    "thumbnail",
    [
        np.zeros((300, 400, 3), np.uint8),
        np.full((300, 400, 3), 255, np.uint8),
        make_glass((6, 6, 14), noise=3),
        make_glass((30, 12, 12), noise=3, fall_off=0.4),
        np.repeat(make_glass(WHITE, fall_off=0.2)[..., :1], 3, axis=2),
    ],
    ids=["black", "white", "fluorescence", "uneven fluorescence", "greyscale"],
)
def test_darkness_and_blank_images_stay_empty(thumbnail):
    tissue = find(thumbnail)
    assert tissue.is_empty
    assert tissue.area_px == 0


@pytest.mark.parametrize("glass", GLASS)
@pytest.mark.parametrize("colour", [PINK, (243, 226, 236), (190, 200, 222), (125, 80, 50)])
def test_tissue_of_every_stain_is_found_on_every_glass(glass, colour):
    truth = disc(300, 200, 90)
    seen = tuple(c * g / 250 for c, g in zip(colour, GLASS[glass], strict=True))
    tissue = find(as_jpeg(stain(make_glass(GLASS[glass], fall_off=0.15), truth, seen, texture=5), quality=80))
    assert overlap(tissue, truth) > 0.9


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("lossy", [True, False])
def test_pen_alone_is_no_tissue(pen, lossy):
    glass = make_glass(WHITE) if lossy else np.full((HEIGHT, WIDTH, 3), 245, np.uint8)
    thumbnail = scribble(glass, PENS[pen])
    assert find(as_jpeg(thumbnail) if lossy else thumbnail).is_empty


@pytest.mark.parametrize("pen", PENS)
def test_pen_around_and_over_tissue_is_left_out(pen):
    truth = disc(300, 200, 80)
    thumbnail = draw(scribble(stain(make_glass(WHITE), truth, PINK), PENS[pen]), PENS[pen], [(100, 200), (340, 205)], 8)
    assert overlap(find(as_jpeg(thumbnail)), truth) > 0.85
    assert not find(as_jpeg(thumbnail)).mask[~disc(300, 200, 90)].any()


def test_dust_is_no_tissue():
    thumbnail, rng = make_glass(WHITE), np.random.default_rng(2)
    for i in range(120):
        y, x, side = rng.integers(5, HEIGHT - 5), rng.integers(5, WIDTH - 5), 1 + i % 5
        thumbnail[y : y + side, x : x + side] = (120, 121, 122) if i % 2 else (235, 228, 215)
    thumbnail[:, 500:502] = 190  # the edge of a cover slip
    assert find(as_jpeg(thumbnail)).is_empty


def test_a_biopsy_of_a_few_dozen_pixels_is_kept_and_a_speck_is_not():
    thumbnail = make_glass(WHITE)
    thumbnail[100:107, 200:207] = PINK
    thumbnail[300:302, 450:452] = PINK
    tissue = find(as_jpeg(thumbnail, quality=85))
    assert tissue.mask[103, 203]
    assert not tissue.mask[250:].any()
    assert tissue.mask[100:107, 200:207].any(axis=0).all()
    assert tissue.mask[100:107, 200:207].any(axis=1).all()


def test_specks_and_holes_are_measured_in_micrometres_where_the_scale_is_known():
    thumbnail = make_glass(WHITE)
    thumbnail[100:300, 200:400] = PINK
    thumbnail[150:160, 250:260] = WHITE  # 400 um aside at 40 um per pixel, filled; 1000 um at 100, not filled
    thumbnail[20:28, 20:28] = PINK
    assert find(thumbnail, 40.0).mask[155, 255]
    assert not find(thumbnail, 100.0).mask[155, 255]
    assert find(thumbnail, 40.0).mask[24, 24]
    assert not find(thumbnail, 8.0).mask[24, 24]  # 64 um aside


def test_dark_folds_belong_to_the_tissue():
    truth = disc(300, 200, 90)
    fold = disc(300, 200, 60) & (np.abs(np.mgrid[0:HEIGHT, 0:WIDTH][1] - 300) < 6)
    for colour in [(35, 20, 40), (12, 10, 12)]:
        thumbnail = stain(stain(make_glass(WHITE), truth, PINK), fold, colour, texture=2)
        assert find(as_jpeg(thumbnail)).mask[fold].mean() > 0.95


@pytest.mark.parametrize("colour", [(20, 30, 90), (60, 60, 60), (20, 90, 30)])
def test_fluorescence_is_found_on_darkness(colour):
    truth = disc(300, 200, 90)
    tissue = find(as_jpeg(stain(make_glass((6, 8, 11), noise=3), truth, colour, texture=12)))
    assert overlap(tissue, truth) > 0.9


def test_black_padding_does_not_pass_for_fluorescence():
    thumbnail = stain(make_glass(WHITE), disc(430, 260, 80), PINK)
    thumbnail[:, :280] = 0
    thumbnail[:120] = 0
    assert overlap(find(as_jpeg(thumbnail)), disc(430, 260, 80)) > 0.9


def test_an_image_without_glass_is_all_tissue():
    everywhere = np.ones((HEIGHT, WIDTH), dtype=bool)
    for colour in [(225, 150, 190), (150, 110, 170), (190, 200, 225), (130, 90, 60)]:
        assert find(as_jpeg(stain(make_glass(WHITE), everywhere, colour))).mask.mean() > 0.99
    assert find(np.full((300, 400, 3), (225, 150, 190), np.uint8)).mask.all()


def test_greyscale_tissue_is_found_by_its_density():
    truth = disc(300, 200, 90)
    grey = stain(make_glass((230, 230, 230)), truth, (150, 150, 150))[..., :1]
    assert overlap(find(np.repeat(grey, 3, axis=2)), truth) > 0.9


def test_the_mask_has_the_thumbnails_shape_and_does_not_depend_on_chance():
    thumbnail = stain(make_glass(WHITE), disc(300, 200, 90), PINK)[:397, :599]
    for mpp in (None, 0.7, 1.3, 25.0):
        first, second = find(thumbnail, mpp), find(thumbnail, mpp)
        assert first.mask.shape == (397, 599)
        assert np.array_equal(first.mask, second.mask)
        assert overlap(first, disc(300, 200, 90)[:397, :599]) > 0.85


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (900, 1, 3), (2, 2, 3), (3, 5000, 3)])
def test_odd_shapes_are_fine(shape):
    assert find(np.full(shape, 244, np.uint8), 0.5).mask.shape == shape[:2]
    assert find(np.full(shape, PINK, np.uint8), 0.5).mask.all()


@pytest.mark.parametrize("thumbnail", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_thumbnail_is_refused(thumbnail):
    with pytest.raises(ValueError, match="uint8"):
        find_tissue(thumbnail, Size(4, 4), None)


def test_real_colon_tissue_without_glass_is_found(shared: Path):
    tiles = sorted((shared / "data" / "colon_tiles").glob("*/*.jpeg"))[::60]
    shares = [find_tissue(np.asarray(Image.open(t).convert("RGB")), Size(224, 224), 0.5).mask.mean() for t in tiles]
    assert len(shares) == 25
    assert min(shares) > 0.5
    assert np.mean(shares) > 0.95


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("CMU-1-Small-Region.svs", 0.33, 0.45), ("test3-DAPI-2-387.ndpi", 0.6, 0.9), ("OS-1-detail.ome.tif", 0.97, 1.0),
     ("OS-2-ndpi.ome.tif", 0.7, 0.9)],
)  # fmt: skip
def test_real_slides(shared: Path, name, least, most):
    with open_slide(shared / "data" / "slides" / name) as slide:
        thumbnail = slide.thumbnail(1500)
        mpp = (slide.mpp or 0.45) * slide.size.width / thumbnail.shape[1]
        tissue = find_tissue(thumbnail, slide.size, mpp)
    assert least < tissue.mask.mean() <= most


# --- the mask itself -------------------------------------------------------------------------------------------------


def brute_fraction(mask: np.ndarray, size: Size, region: Region) -> float:
    """The share of a region's level-0 area on tissue, pixel by pixel of the thumbnail."""
    th_height, th_width = mask.shape
    area = 0.0
    for row, column in np.argwhere(mask):
        left, right = column * size.width / th_width, (column + 1) * size.width / th_width
        top, bottom = row * size.height / th_height, (row + 1) * size.height / th_height
        across = max(0.0, min(right, region.right) - max(left, region.x))
        area += across * max(0.0, min(bottom, region.bottom) - max(top, region.y))
    return area / region.area


@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    size=st.builds(Size, st.integers(1, 60), st.integers(1, 60)),
    region=st.builds(Region, st.integers(-40, 60), st.integers(-40, 60), st.integers(1, 90), st.integers(1, 90)),
)
def test_fraction_is_exact(seed, shape, size, region):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    tissue = TissueMask(mask, size)
    assert tissue.fractions([region]).item() == pytest.approx(brute_fraction(mask, size, region), abs=1e-12)
    assert tissue.fractions([region, Region(0, 0, size.width, size.height)]) == pytest.approx(
        [tissue.fractions([region]).item(), mask.mean()]
    )


@given(
    seed=st.integers(0, 99),
    grain=st.integers(2, 7),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.builds(Size, st.integers(40, 4000), st.integers(40, 4000)),
    region=st.builds(
        Region, st.integers(-99, 4000), st.integers(-99, 4000), st.integers(1, 5000), st.integers(1, 5000)
    ),
)
def test_a_mask_of_squares_is_measured_as_its_pixels_are(seed, grain, shape, size, region):
    squares = np.random.default_rng(seed).random((-(-shape[0] // grain), -(-shape[1] // grain))) < 0.5
    mask = squares.repeat(grain, axis=0).repeat(grain, axis=1)[: shape[0], : shape[1]]
    plain, grained = TissueMask(mask, size), TissueMask(mask, size, grain=grain)
    assert grained.fractions([region]) == plain.fractions([region])
    assert (grained.area_px, grained.is_empty) == (plain.area_px, plain.is_empty)


def test_fractions_of_a_gigapixel_slide_do_not_overflow():
    tissue = TissueMask(np.ones((1600, 1600), dtype=bool), Size(300_000, 300_000))
    assert tissue.fractions([Region(0, 0, 300_000, 300_000)]).item() == 1.0
    assert tissue.fractions([Region(299_999, 299_999, 2, 2)]).item() == 0.25
    assert tissue.area_px == 9e10


def test_fractions_of_no_regions():
    assert TissueMask(np.ones((2, 2), dtype=bool), Size(4, 4)).fractions([]).shape == (0,)


def test_the_area_is_that_of_the_tissue():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2] = True
    tissue = TissueMask(mask, Size(20, 10))  # a thumbnail pixel is 3.33 x 2.5 level-0 pixels
    assert tissue.area_px == pytest.approx(2 * 20 / 6 * 10 / 4)
    assert not tissue.is_empty


def test_the_mask_cannot_be_changed_behind_its_table():
    mask = np.zeros((2, 2), dtype=bool)
    tissue = TissueMask(mask, Size(2, 2))
    mask[:] = True
    assert tissue.is_empty
    with pytest.raises(ValueError, match="read-only"):
        tissue.mask[0, 0] = True


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros(3, dtype=bool), np.zeros((0, 2), dtype=bool)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match="boolean"):
        TissueMask(mask, Size(2, 2))
    with pytest.raises(ValueError, match="positive"):
        TissueMask(np.ones((2, 2), dtype=bool), Size(0, 2))
