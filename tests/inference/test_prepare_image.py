"""Whole images: resized as the authors do, cut with grey outside, and told of in their own pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.model import oracles
from tnet_cli.geometry import Region, Size
from tnet_cli.inference import prepare_image as prepare_image_module
from tnet_cli.inference.prepare_image import cut, in_own_pixels, prepare_image, read_resized, resize, shown
from tnet_cli.inference.traversal_job import traversal_job
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.model.choice import TopK
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import Look
from tnet_cli.slide.opening import open_slide

BIRDS = TNetConfig.fine_grained(("a", "b"))


@pytest.fixture
def photograph(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    pixels = rng.integers(0, 256, (211, 307, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png", pixels


@pytest.mark.parametrize("side", [50, 211, 448])
@pytest.mark.parametrize("at_once_px", [307, 307 * 10, 10**9])
def test_an_image_is_resized_as_the_oracle_does_in_pieces_or_whole(photograph, side, at_once_px, monkeypatch):
    monkeypatch.setattr(prepare_image_module, "AT_ONCE_PX", at_once_px)
    path, pixels = photograph
    with open_slide(path) as slide:
        resized = read_resized(slide, side)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, oracles.resize(pixels / 255, side), rtol=0, atol=1e-6)


def test_an_image_of_the_models_size_is_taken_as_it_is(tmp_path, rng):
    pixels = rng.integers(0, 256, (448, 448, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    with open_slide(tmp_path / "square.png") as slide:
        prepared = prepare_image(slide, BIRDS)
    np.testing.assert_array_equal(prepared.pixels, pixels.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(prepared.thumbnail, pixels)
    assert prepared.roots == (Region(0, 0, 448, 448),)


def test_halving_averages_and_quartering_leaves_out():
    pixels = np.arange(64, dtype=np.float32).reshape(8, 8, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(resize(pixels, 4)[0, 0], pixels[:2, :2].mean(axis=(0, 1)))
    np.testing.assert_array_equal(resize(pixels, 2)[0, 0], pixels[1:3, 1:3].mean(axis=(0, 1)))
    assert resize(pixels, 8) is pixels


def test_a_cell_beyond_the_edge_is_grey_there(rng):
    pixels = rng.random((448, 448, 3), dtype=np.float32)
    for region in (Region(-1, -1, 157, 157), Region(291, 145, 157, 157), Region(292, 300, 157, 157)):
        expected = oracles.crop(pixels, region.x, region.y, region.width, region.height, fill=0.5)
        np.testing.assert_array_equal(cut(pixels, region), expected)
    np.testing.assert_array_equal(cut(pixels, Region(500, 0, 3, 2)), np.full((2, 3, 3), 0.5))


@pytest.mark.parametrize(
    ("region", "size", "expected"),
    [
        (Region(0, 0, 448, 448), Size(1000, 333), Region(0, 0, 1000, 333)),
        (Region(112, 224, 224, 224), Size(896, 448), Region(224, 224, 448, 224)),
        (Region(-1, 291, 157, 157), Size(4480, 448), Region(-10, 291, 1570, 157)),
        (Region(1, 1, 1, 1), Size(3, 3), Region(0, 0, 1, 1)),
    ],
)
def test_boxes_are_told_in_the_images_own_pixels(region, size, expected):
    assert in_own_pixels(region, 448, size) == expected


def test_patches_are_shown_as_bytes():
    assert shown(np.array([0, 0.5, 1], np.float32)).tolist() == [0, 128, 255]
    slides = np.zeros((2, 2, 3), np.uint8)
    assert shown(slides) is slides


def test_a_traversal_of_an_image_has_one_root_and_the_models_cells(photograph):
    path, pixels = photograph
    with open_slide(path) as slide:
        job = traversal_job(slide, prepare_image(slide, BIRDS), BIRDS, TraversalOptions(locations=(2,)), TopK())
    assert job is not None
    wanted = next(job.traversal)
    assert wanted.regions == (Region(0, 0, 448, 448),)
    square = oracles.resize(pixels / 255, 448)
    np.testing.assert_allclose(job.read(wanted.regions[0]), oracles.resize(square, 224), atol=1e-6)
    log_probs = np.full((1, 25), -4.0)
    log_probs[0, [1, 24]] = -1.0
    wanted = job.traversal.send(Look(np.zeros((1, 8)), log_probs))
    assert wanted.regions == (Region(72, -1, 157, 157), Region(291, 291, 157, 157))
    assert wanted.positions.tolist() == [[0, 1, 1], [4, 4, 1]]
    crop = oracles.crop(square, 72, -1, 157, 157, fill=0.5)
    np.testing.assert_allclose(job.read(wanted.regions[0]), oracles.resize(crop, 224), atol=1e-6)
    with pytest.raises(StopIteration) as end:
        job.traversal.send(Look(np.zeros((2, 8)), None))
    roots, attended = end.value.value.levels
    assert roots.regions == (Region(0, 0, 307, 211),)
    assert attended.regions[1] == Region(199, 137, 108, 74)
    assert attended.cells.tolist() == [1, 24]


def test_a_slide_model_takes_no_whole_images(photograph):
    with open_slide(photograph[0]) as slide, pytest.raises(ValueError, match="takes no whole images"):
        prepare_image(slide, TNetConfig.slide(("a", "b")))
