"""Masks of other programs: pictures of every mode, outlines, and what is no mask of the slide."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drawn_regions import drawn, write_regions
from tnet_cli.errors import ManifestError
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.mask_file import LONGEST_PX, read_mask

SIZE = Size(4000, 2000)
LEFT, RIGHT = Region(0, 0, 2000, 2000), Region(2000, 0, 2000, 2000)


def half() -> np.ndarray:
    mask = np.zeros((20, 40), np.uint8)
    mask[:, :20] = 1
    return mask


def picture(mode: str) -> Image.Image:
    mask = half()
    match mode:
        case "1" | "L":
            return Image.fromarray(mask * 255).convert(mode)
        case "number 1":
            return Image.fromarray(mask)
        case "I;16":
            return Image.fromarray(mask.astype(np.uint16) * 40_000)
        case "RGB":
            return Image.fromarray(np.stack([mask * 0, mask * 9, mask * 0], axis=2))
        case "RGBA":  # white everywhere, and transparent on the right
            return Image.fromarray(np.dstack([np.full((20, 40, 3), 255, np.uint8), mask * 255]))
    indexed = Image.fromarray(mask, mode="P") if mode == "P" else None
    assert indexed is not None
    indexed.putpalette([255, 255, 255, 0, 0, 0])  # labels are numbers, whatever their colours
    return indexed


@pytest.mark.parametrize("mode", ["1", "L", "number 1", "I;16", "RGB", "RGBA", "P"])
def test_a_picture_of_any_mode_says_where_the_tissue_is(mode: str, tmp_path: Path):
    picture(mode).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", SIZE)
    np.testing.assert_array_equal(mask.fractions([LEFT, RIGHT]), [1, 0])


def test_a_large_picture_is_reduced_by_majority(tmp_path: Path):
    side = 2 * LONGEST_PX
    pixels = np.zeros((side // 2, side), np.uint8)
    pixels[:, : side // 4] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", SIZE)
    assert mask.mask.shape == (LONGEST_PX // 2, LONGEST_PX)
    np.testing.assert_array_equal(mask.fractions([Region(0, 0, 1000, 2000), Region(1000, 0, 3000, 2000)]), [1, 0])


def test_outlines_count_from_the_origin_of_their_frame(tmp_path: Path):
    file = write_regions(tmp_path / "mask.geojson", drawn(Region(100, 200, 800, 400)))
    mask = read_mask(file, SIZE, origin=(1000, 500))
    assert mask.fractions([Region(1100, 700, 800, 400)]).item() == pytest.approx(1, abs=0.02)
    assert mask.area_px == pytest.approx(800 * 400, rel=0.02)


def test_a_picture_of_another_shape_is_refused(tmp_path: Path):
    Image.new("L", (40, 40), 255).save(tmp_path / "mask.png")
    with pytest.raises(ManifestError, match=r"mask of 40 x 40 pixels, and the slide of 4000 x 2000 has another shape"):
        read_mask(tmp_path / "mask.png", SIZE)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x89PNG\r\n\x1a\n and no picture", "cannot be read as a mask"), (b"nothing", "not a GeoJSON document")],
)
def test_what_is_no_mask_is_refused_in_a_sentence(content: bytes, said: str, tmp_path: Path):
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(ManifestError, match=said):
        read_mask(tmp_path / "mask.png", SIZE)
    with pytest.raises(ManifestError, match="No such file"):
        read_mask(tmp_path / "gone.png", SIZE)
