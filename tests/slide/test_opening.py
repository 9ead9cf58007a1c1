"""Which image of a file is the slide, and which files hold none: pixels against tifffile's own reading of a page."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.slide.tiff_writer import RawPage, cut, pack_bits, plain_tags, write_raw_tiff
from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

SLIDE, HALF, QUARTER, MACRO, LABEL = (192, 128), (96, 64), (48, 32), (100, 75), (60, 60)
REDUCED, MASK = 1, 4
OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'


def drawn(size: tuple[int, int], seed: int = 0, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def write_pages(path: Path, pages: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> Path:
    """Write pages as they are told; those that are not told otherwise are tiled."""
    with tifffile.TiffWriter(path) as tif:
        for pixels, options in pages:
            kind = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", "tile": (32, 32), "metadata": None}
            tif.write(pixels, **{**kind, **options})
    return path


def whole(slide: Slide) -> np.ndarray:
    return slide.read(Region(0, 0, slide.size.width, slide.size.height), slide.size.width, slide.size.height)


def names(slide: Slide) -> list[str]:
    return [doubt.name for doubt in slide.doubts]


FULL: dict[str, Any] = {}
FLAGGED: dict[str, Any] = {"subfiletype": REDUCED}
ORDERS: dict[str, tuple[list[tuple[tuple[int, int], dict[str, Any]]], list[tuple[int, int]], list[str]]] = {
    "finest first": ([(SLIDE, FULL), (HALF, FLAGGED), (QUARTER, FLAGGED)], [SLIDE, HALF, QUARTER], []),
    "finest last": ([(QUARTER, FLAGGED), (HALF, FLAGGED), (SLIDE, FULL)], [SLIDE, HALF, QUARTER], []),
    "finest in the middle": ([(HALF, FLAGGED), (SLIDE, FULL), (QUARTER, FLAGGED)], [SLIDE, HALF, QUARTER], []),
    "ascending without marks": ([(QUARTER, FULL), (HALF, FULL), (SLIDE, FULL)], [SLIDE], []),
    "all but the smallest marked": (
        [(QUARTER, FULL), (HALF, FLAGGED), (SLIDE, FLAGGED)],
        [SLIDE, HALF, QUARTER],
        ["page_marks"],
    ),
    "a thumbnail first": ([(HALF, FLAGGED | {"tile": None}), (SLIDE, FULL)], [SLIDE], []),
    "a macro first, by its name": ([(MACRO, {"description": "Macro"}), (SLIDE, FULL)], [SLIDE], []),
    "a label larger than the slide": ([(HALF, FULL), (SLIDE, {"description": "label image"})], [HALF], []),
    "an unnamed macro in strips": ([(SLIDE, FULL), (MACRO, {"tile": None})], [SLIDE], []),
    "another tiled image": ([(SLIDE, FULL), (LABEL, FULL)], [SLIDE], ["other_images"]),
    "a mask of the same size": ([(SLIDE, FULL), (SLIDE, {"subfiletype": MASK, "tile": None})], [SLIDE], []),
}


NOT_BY_OPENSLIDE = frozenset(
    {
        "finest last",
        "finest in the middle",
        "ascending without marks",
        "a thumbnail first",
        "a macro first, by its name",
    }
)
"""It takes the first page and the marked ones for the slide, which is said and not shown."""


@pytest.mark.parametrize("reader", ["tifffile", "openslide"])
@pytest.mark.parametrize("name", ORDERS)
def test_the_largest_full_page_is_the_slide(tmp_path, name, reader):
    pages, expected, doubts = ORDERS[name]
    pixels = [drawn(size, number) for number, (size, _) in enumerate(pages)]
    if name.startswith("a mask"):
        pixels[1] = pixels[1][..., 0] > 128
    path = write_pages(tmp_path / "a.tif", [(pixels[n], options) for n, (_, options) in enumerate(pages)])
    if reader == "openslide" and name in NOT_BY_OPENSLIDE:
        with pytest.raises(SlideError, match=r"takes another of its images|no slide that OpenSlide knows"):
            open_slide(path, reader=reader)
        return
    with open_slide(path, reader=reader) as slide:
        assert slide.pyramid[0].size == Size(*expected[0])
        if reader == "tifffile":
            assert [stored.size for stored in slide.pyramid] == [Size(*size) for size in expected]
        np.testing.assert_array_equal(whole(slide), pixels[[size for size, _ in pages].index(expected[0])])
        assert names(slide) == doubts


def ome_image(name: str, size: tuple[int, int], mpp: float, pages: str, more: str = "", inside: str = "") -> str:
    channels = inside or '<Channel SamplesPerPixel="3"/>'
    counts = more or 'SizeC="3" SizeZ="1" SizeT="1"'
    return (
        f'<Image Name="{name}"><Pixels Type="uint8" SizeX="{size[0]}" SizeY="{size[1]}" {counts} '
        f'PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}">{channels}{pages}</Pixels></Image>'
    )


@pytest.mark.parametrize("is_macro_first_in_xml", [False, True])
@pytest.mark.parametrize("is_macro_first_in_file", [False, True])
@pytest.mark.parametrize("is_numbered", [False, True])
@pytest.mark.parametrize("macro_size", [MACRO, (300, 200)])
@pytest.mark.parametrize("macro", ["macro", "label image", "S1 Thumbnail", "overview_image_1"])
def test_the_ome_image_that_is_the_slide_gives_the_scale(
    tmp_path, is_macro_first_in_xml, is_macro_first_in_file, is_numbered, macro_size, macro
):
    """Whichever order XML and pages have; the macro is told by its name, however large it is."""

    def pages_of(number: int) -> str:
        return f'<TiffData IFD="{number}" PlaneCount="1"/>' if is_numbered else ""

    slide_page = int(is_macro_first_in_file)
    images = [
        ome_image("case 7", SLIDE, 0.5, pages_of(slide_page)),
        ome_image(macro, macro_size, 15, pages_of(1 - slide_page)),
    ]
    pages = [drawn(SLIDE, 1), drawn(macro_size, 2)]
    ordered = pages[::-1] if is_macro_first_in_file else pages
    xml = OME.format("".join(images[::-1] if is_macro_first_in_xml else images))
    path = write_pages(tmp_path / "a.ome.tif", [(ordered[0], {"description": xml}), (ordered[1], {})])
    with open_slide(path) as slide:
        assert (slide.size, slide.mpp, slide.doubts) == (Size(*SLIDE), 0.5, ())
        np.testing.assert_array_equal(whole(slide), pages[0])


def test_a_large_ome_image_of_coarser_pixels_may_be_the_macro(tmp_path):
    xml = OME.format(ome_image("a", SLIDE, 0.5, "") + ome_image("b", (400, 300), 15, ""))
    path = write_pages(tmp_path / "a.ome.tif", [(drawn(SLIDE), {"description": xml}), (drawn((400, 300)), {})])
    with pytest.raises(SlideError, match="holds several images, of 400 x 300 pixels and 192 x 128 pixels"):
        open_slide(path)


def test_planes_that_tifffile_laid_into_one_page_are_refused(tmp_path):
    stack = np.stack([drawn(SLIDE, number, channels=1) for number in range(5)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", truncate=True)
    tifffile.imwrite(tmp_path / "b.tif", stack, photometric="minisblack", volumetric=True, tile=(16, 32, 32))
    for name in ("a.tif", "b.tif"):
        with pytest.raises(SlideError, match="holds 5 focal planes"):
            open_slide(tmp_path / name)


PLAIN, STOPS = '<Channel SamplesPerPixel="1"/>', "SizeZ='1' SizeT='1' SizeC='3'"
NAMED = '<Channel Name="{}"/><Channel Name="{}"/><Channel Name="{}"/>'
COLOURED = '<Channel Color="{}"/><Channel Color="{}"/><Channel Color="{}"/>'
RED, GREEN, BLUE = -16776961, 16711935, 65535
CHANNELS: dict[str, tuple[str, tuple[int, int, int] | str]] = {
    "without names": (PLAIN * 3, (0, 1, 2)),
    "numbered": (NAMED.format("Channel 0", "Channel 1", "Channel 2"), (0, 1, 2)),
    "named": (NAMED.format("Red", "Green", "Blue"), (0, 1, 2)),
    "named in another order": (NAMED.format("Blue", "Green", "Red"), (2, 1, 0)),
    "letters": (NAMED.format("G", "B", "R"), (2, 0, 1)),
    "coloured": (COLOURED.format(RED, GREEN, BLUE), (0, 1, 2)),
    "coloured in another order": (COLOURED.format(BLUE, RED, GREEN), (1, 2, 0)),
    "other colours": (COLOURED.format(RED, GREEN, 0x00FFFFFF), "3 channels"),
    "fluorescence": (NAMED.format("DAPI", "FITC", "TRITC"), "3 channels (DAPI, FITC, TRITC)"),
    "light": ('<Channel EmissionWavelength="455"/>' + PLAIN * 2, "3 channels"),
}


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("is_deep", [False, True])
def test_channels_that_are_pages(tmp_path, name, is_deep):
    channels, expected = CHANNELS[name]
    stored = [drawn(SLIDE, number, channels=1) for number in range(3)]
    numbered = "".join(f'<TiffData FirstC="{number}" IFD="{number}" PlaneCount="1"/>' for number in range(3))
    xml = OME.format(ome_image("a", SLIDE, 0.5, numbered, STOPS, channels))
    path = write_pages(
        tmp_path / "a.ome.tif",
        [
            (pixels.astype(np.uint16) * 257 if is_deep else pixels, {"description": xml} if number == 0 else {})
            for number, pixels in enumerate(stored)
        ],
    )
    if is_deep or isinstance(expected, str):
        with pytest.raises(SlideError) as caught:
            open_slide(path)
        assert "holds " + (expected if isinstance(expected, str) else "3 channels") in str(caught.value)
        return
    with open_slide(path) as slide:
        assert names(slide) == ["channels_combined"]
        np.testing.assert_array_equal(whole(slide), np.dstack([stored[number] for number in expected]))
    with pytest.raises(SlideError, match="OpenSlide takes another of its images"):
        open_slide(path, reader="openslide")


def test_channels_that_are_pages_with_pyramids(tmp_path):
    stored = [[drawn(size, 10 * number + size[0], channels=1) for size in (SLIDE, HALF)] for number in range(3)]
    xml = OME.format(ome_image("a", SLIDE, 0.5, "", STOPS, PLAIN * 3))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for number, (fine, half) in enumerate(stored):
            options: dict[str, Any] = {"tile": (32, 32), "metadata": None, "photometric": "minisblack"}
            tif.write(fine, subifds=1, description=xml if number == 0 else None, **options)
            tif.write(half, subfiletype=REDUCED, **options)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert [level.size for level in slide.pyramid] == [Size(*SLIDE), Size(*HALF)]
        np.testing.assert_array_equal(whole(slide), np.dstack([fine for fine, _ in stored]))
        halved = slide.read(Region(0, 0, *SLIDE), *HALF)
        np.testing.assert_array_equal(halved, np.dstack([half for _, half in stored]))


@pytest.mark.parametrize(
    ("counts", "planes", "says"),
    [
        ('SizeC="1" SizeZ="4" SizeT="1"', 4, "4 focal planes;"),
        ('SizeC="1" SizeZ="1" SizeT="4"', 4, "4 points in time;"),
        ('SizeC="2" SizeZ="2" SizeT="1"', 4, "2 focal planes, 2 channels;"),
        ('SizeC="2" SizeZ="1" SizeT="1"', 2, "2 channels;"),
        ('SizeC="5" SizeZ="1" SizeT="1"', 5, "5 channels;"),
        ('SizeC="3" SizeZ="1" SizeT="1"', 1, "3 channels;"),
    ],
)
def test_ome_planes_are_refused(tmp_path, counts, planes, says):
    xml = OME.format(ome_image("a", SLIDE, 0.5, "", counts, PLAIN))
    pages = [(drawn(SLIDE, n, channels=1), {"description": xml} if n == 0 else {}) for n in range(planes)]
    with pytest.raises(SlideError, match=f"holds {says} export the plane that is the slide"):
        open_slide(write_pages(tmp_path / "a.ome.tif", pages))


def imagej(**options: Any) -> str:
    return "ImageJ=1.53t\n" + "".join(f"{key}={value}\n" for key, value in options.items())


@pytest.mark.parametrize(
    ("description", "count", "says"),
    [
        (imagej(images=3, channels=3, hyperstack="true", mode="composite"), 3, None),
        (imagej(images=3, channels=3, hyperstack="true", mode="color"), 3, None),
        (imagej(images=3, channels=3, hyperstack="true", mode="grayscale"), 3, "3 channels"),
        (imagej(images=3, slices=3), 3, "3 focal planes"),
        (imagej(images=4, frames=4), 4, "4 points in time"),
        (imagej(images=6, channels=3, slices=2, mode="composite"), 6, "2 focal planes, 3 channels"),
        (imagej(images=5), 1, "5 focal planes"),
        (imagej(images=200000, slices=200000), 1, "200000 focal planes"),
        (imagej(images=3, channels=3, mode="composite"), 1, "3 channels"),
        (imagej(images=1), 1, None),
    ],
)
def test_imagej_stacks(tmp_path, description, count, says):
    stored = [drawn(SLIDE, number, channels=1) for number in range(count)]
    path = write_pages(
        tmp_path / "a.tif",
        [(pixels, {"description": description} if n == 0 else {}) for n, pixels in enumerate(stored)],
    )
    if says is not None:
        with pytest.raises(SlideError, match=f"holds {says};"):
            open_slide(path)
        return
    with open_slide(path) as slide:
        np.testing.assert_array_equal(whole(slide), np.dstack(stored * (3 // count)))


def test_an_imagej_rgb_stack_by_its_labels_and_tables(tmp_path):
    stored = np.stack([drawn(SLIDE, number, channels=1) for number in range(3)])
    tifffile.imwrite(
        tmp_path / "labels.tif", stored, imagej=True, metadata={"axes": "ZYX", "Labels": ["Red", "Green", "Blue"]}
    )
    ramp = np.arange(256, dtype=np.uint8)
    tables = [np.stack([ramp * (channel == shown) for channel in range(3)]) for shown in (2, 1, 0)]
    tifffile.imwrite(
        tmp_path / "tables.tif", stored, imagej=True, metadata={"axes": "CYX", "mode": "composite", "LUTs": tables}
    )
    for name, order in (("labels.tif", (0, 1, 2)), ("tables.tif", (2, 1, 0))):
        with open_slide(tmp_path / name) as slide:
            np.testing.assert_array_equal(whole(slide), np.dstack([stored[number] for number in order]))


@pytest.mark.parametrize("reader", [None, "tifffile", "openslide"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_pages_of_one_size_that_nobody_explains_are_refused(tmp_path, count, channels, reader):
    pages = [(drawn(SLIDE, number, channels), FULL) for number in range(count)]
    with pytest.raises(SlideError, match=f"holds {count} images of one size"):
        open_slide(write_pages(tmp_path / "a.tif", pages), reader=reader)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ((HALF, FULL), (MACRO, FLAGGED)),
        ((HALF, FULL), (SLIDE, FLAGGED | {"tile": None})),
        ((HALF, {"tile": None}), (SLIDE, FLAGGED)),
        ((MACRO, FULL), (SLIDE, FLAGGED)),
    ],
)
@pytest.mark.parametrize("reader", ["tifffile", "openslide"])
def test_a_larger_image_that_is_marked_as_reduced_may_be_the_slide(tmp_path, smaller, larger, reader):
    path = write_pages(tmp_path / "a.tif", [(drawn(size), options) for size, options in (smaller, larger)])
    with pytest.raises(SlideError, match=r"holds several images|no slide that OpenSlide knows"):
        open_slide(path, reader=reader)


def test_nothing_that_is_marked_as_reduced_loses_to_a_label(tmp_path):
    pages = [(drawn(SLIDE), {"description": "label"}), (drawn(HALF), FLAGGED), (drawn(QUARTER), FLAGGED)]
    with open_slide(write_pages(tmp_path / "a.tif", pages)) as slide:
        np.testing.assert_array_equal(whole(slide), pages[1][0])


@pytest.mark.parametrize("tile", [None, (32, 32)])
@pytest.mark.parametrize("kind", ["macro", "label"])
@pytest.mark.parametrize("size", [MACRO, (400, 100)])
def test_aperio_names_its_macro_and_label_in_its_second_line(tmp_path, tile, kind, size):
    said = "Aperio Image Library v12.0.15\r\n"
    pages: list[tuple[np.ndarray, dict[str, Any]]] = [
        (drawn(SLIDE), {"tile": tile, "description": f"{said}192x128 (32x32) JPEG/RGB Q=70|MPP = 0.5"}),
        (drawn(size), {"tile": tile, "description": f"{said}{kind} {size[0]}x{size[1]}"}),
    ]
    with open_slide(write_pages(tmp_path / "a.svs", pages)) as slide:
        np.testing.assert_array_equal(whole(slide), pages[0][0])
        assert slide.mpp == 0.5


@pytest.mark.parametrize("name", ["macro 400x100", "slide_label.tif", "S1 label (1)", "Macro #2", "Overview 1.ome.tif"])
def test_a_label_by_its_name_however_it_is_numbered(tmp_path, name):
    pages = [(drawn(SLIDE), {}), (drawn((400, 100)), {"description": name})]
    with open_slide(write_pages(tmp_path / "a.tif", pages)) as slide:
        np.testing.assert_array_equal(whole(slide), pages[0][0])


def test_a_slide_that_is_called_barcode_does_not_give_way_to_a_smaller_image(tmp_path):
    xml = OME.format(ome_image("barcode_123456", SLIDE, 0.5, ""))
    with pytest.raises(SlideError, match="holds several images"):
        open_slide(write_pages(tmp_path / "a.ome.tif", [(drawn(SLIDE), {"description": xml}), (drawn(MACRO), {})]))


def test_a_large_image_in_strips_beside_a_tiled_one_may_be_a_photo(tmp_path):
    with pytest.raises(SlideError, match="holds several images"):
        open_slide(write_pages(tmp_path / "a.tif", [(drawn(SLIDE), {}), (drawn((600, 700)), {"tile": None})]))


@pytest.mark.parametrize("description", [None, "Aperio Image Library v12\r\n192x128 (32x32)|MPP = 0.25"])
@pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength"])
def test_an_image_without_size_may_have_been_the_slide(tmp_path, tag, description):
    pages = [(drawn(size), {"description": description}) for size in (SLIDE, HALF)]
    path = write_pages(tmp_path / "a.tif", pages)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags[tag].overwrite(0)
    with pytest.raises(SlideError, match="one of its images has no size"):
        open_slide(path)


def test_a_photo_of_the_slides_shape_is_no_copy_of_it(tmp_path):
    """Whether it is the larger image or the smaller, and told by its scale or by the way it is stored."""
    for photo in ((600, 600), (480, 480)):
        pages = [(drawn((512, 512)), {}), (drawn(photo), {"tile": None})]
        with pytest.raises(SlideError, match="holds several images"):
            open_slide(write_pages(tmp_path / "a.tif", pages))
    for mpp, size, refused in ((20, (600, 600), True), (0.5, (480, 480), True), (0.5, (256, 256), False)):
        xml = OME.format(ome_image("a", (512, 512), 0.5, "") + ome_image("b", size, mpp, ""))
        path = write_pages(tmp_path / "a.ome.tif", [(drawn((512, 512)), {"description": xml}), (drawn(size), {})])
        if refused:
            with pytest.raises(SlideError, match="holds several images"):
                open_slide(path)
        else:
            with open_slide(path) as slide:
                assert (slide.size, slide.mpp, names(slide)) == (Size(512, 512), 0.5, ["other_images"])


@pytest.mark.parametrize("text", ["unit=micron", "slices=3", "images=1", "channels=3\nmode=composite"])
def test_an_imagej_text_that_counts_no_images_hides_none(tmp_path, text):
    pages = [(drawn(SLIDE, n, channels=1), {} if n else {"description": f"ImageJ=1.53t\n{text}\n"}) for n in range(3)]
    with pytest.raises(SlideError, match="holds 3 images of one size;"):
        open_slide(write_pages(tmp_path / "a.tif", pages))


@pytest.mark.parametrize("kind", [{254: (4, [MASK])}, {254: (4, [REDUCED]), 262: (3, [4])}])
def test_a_mask_below_a_page_is_no_level_of_it(tmp_path, kind):
    fine, mask = drawn(SLIDE, 1, channels=1)[..., None], drawn(HALF, 2, channels=1)[..., None]

    def page(pixels: np.ndarray, more: dict[int, Any], below: list[RawPage]) -> RawPage:
        tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: 8, 259: 1, 262: 1, 277: 1, 322: 32, 323: 32}
        tiles = [piece.tobytes() for piece in cut(pixels, 32, 32, is_tiled=True)]
        return RawPage(plain_tags(tags) | more, tiles, is_tiled=True, below=below)

    path = write_raw_tiff(tmp_path / "a.tif", [page(fine, {}, [page(mask, kind, [])])])
    with open_slide(path) as slide:
        assert [stored.size for stored in slide.pyramid] == [Size(*SLIDE)]


def test_a_reduced_copy_of_another_depth_is_no_level(tmp_path):
    fine = drawn(SLIDE, channels=1)
    tags = {256: 96, 257: 64, 258: 4, 259: 1, 262: 1, 277: 1, 322: 32, 323: 32}
    pieces = cut(fine[:64, :96, None] >> 4, 32, 32, is_tiled=True)
    coarse = RawPage(plain_tags(tags) | {254: (4, [REDUCED])}, [pack_bits(one, 4) for one in pieces], is_tiled=True)
    tags = {**tags, 256: 192, 257: 128, 258: 8}
    tiles = [one.tobytes() for one in cut(fine[..., None], 32, 32, is_tiled=True)]
    path = write_raw_tiff(tmp_path / "a.tif", [RawPage(plain_tags(tags), tiles, is_tiled=True), coarse])
    with open_slide(path) as slide:
        assert [stored.size for stored in slide.pyramid] == [Size(*SLIDE)]


@pytest.mark.parametrize("planar", [0, 3])
def test_samples_that_lie_neither_together_nor_apart_are_refused(tmp_path, planar):
    path = write_pages(tmp_path / "a.tif", [(drawn(SLIDE), {})])
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["PlanarConfiguration"].overwrite(planar)
    with pytest.raises(SlideError, match="neither that the samples of a pixel lie together nor apart"):
        open_slide(path)


def test_two_ome_channels_of_three_samples_each_are_two(tmp_path):
    channels = '<Channel SamplesPerPixel="3"/>' * 2
    xml = OME.format(ome_image("a", SLIDE, 0.5, "", 'SizeC="6" SizeZ="1" SizeT="1"', channels))
    with pytest.raises(SlideError, match="holds 2 channels;"):
        open_slide(write_pages(tmp_path / "a.ome.tif", [(drawn(SLIDE), {"description": xml})]))


def test_scenes_are_refused(tmp_path):
    pages = [(drawn(SLIDE), FULL), (drawn((150, 120)), FULL)]
    with pytest.raises(SlideError, match="holds several images, of 192 x 128 pixels and 150 x 120 pixels"):
        open_slide(write_pages(tmp_path / "a.tif", pages))


def test_pages_named_red_green_and_blue(tmp_path):
    stored = [drawn(SLIDE, number, channels=1) for number in range(3)]
    pages: list[tuple[np.ndarray, dict[str, Any]]] = [
        (pixels, {"description": name}) for pixels, name in zip(stored, ("blue", "red", "green"), strict=True)
    ]
    with open_slide(write_pages(tmp_path / "a.tif", pages)) as slide:
        np.testing.assert_array_equal(whole(slide), np.dstack([stored[1], stored[2], stored[0]]))


def test_akoya_names_its_images(tmp_path):
    def said(kind: str, channel: str = "") -> dict[str, Any]:
        return {"description": f"<Q><ImageType>{kind}</ImageType>{channel and f'<Name>{channel}</Name>'}</Q>"}

    rgb = write_pages(
        tmp_path / "rgb.qptiff",
        [
            (drawn(MACRO, 1), said("Thumbnail") | {"tile": None}),
            (drawn(SLIDE, 2), said("FullResolution")),
            (drawn((300, 200), 3), said("Overview", "slide")),
        ],
    )
    with open_slide(rgb) as slide:
        np.testing.assert_array_equal(whole(slide), drawn(SLIDE, 2))
    channels = [(drawn(SLIDE, n, channels=1), said("FullResolution", name)) for n, name in enumerate(("DAPI", "CD3"))]
    with pytest.raises(SlideError, match=r"holds 2 images of one size \(DAPI, CD3\)"):
        open_slide(write_pages(tmp_path / "many.qptiff", channels))


def test_aperio_pages_in_any_order(tmp_path):
    """Its levels have no marks, and what is not tiled is something else."""
    said = "Aperio Image Library v12\r\n192x128 (32x32) J2K|AppMag = 20|MPP = 0.25"
    pages: list[tuple[np.ndarray, dict[str, Any]]] = [
        (drawn(HALF, 1), {"description": said}),
        (drawn((90, 60)), {"tile": None, "description": "Aperio\r\nmacro 90x60"}),
        (drawn(SLIDE, 2), {"description": said}),
    ]
    path = write_pages(tmp_path / "a.svs", pages)
    with open_slide(path) as slide:
        assert [level.size for level in slide.pyramid] == [Size(*SLIDE), Size(*HALF)]
        assert (slide.mpp, slide.vendor) == (0.25, "aperio")
        np.testing.assert_array_equal(whole(slide), pages[2][0])
    focal = write_pages(tmp_path / "b.svs", [(drawn(SLIDE, n), {"description": said}) for n in range(3)])
    with pytest.raises(SlideError, match="holds 3 images of one size"):
        open_slide(focal)


JPEG, PNG, TIFF = "jpeg", "png", "tiff"
PREVIEWS = [
    (suffix, kind)
    for suffix in (".mrxs", ".vms", ".vmu", ".ndpi", ".scn", ".bif", ".svslide", ".czi", ".dcm", ".vsi", ".ets")
    for kind in (JPEG, TIFF)
] + [
    (suffix, kind)
    for suffix in (".svs", ".isyntax", ".lif", ".nd2", ".kfb", ".sdpc", ".tmap", ".afi", ".xyz", ".zip", ".gz")
    for kind in (JPEG, PNG)
]


@pytest.mark.parametrize("reader", [None, "pillow", "tifffile", "openslide"])
@pytest.mark.parametrize(("suffix", "kind"), PREVIEWS)
def test_a_preview_is_never_the_slide(tmp_path, suffix, kind, reader):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(drawn(SLIDE)).save(path, format=kind)
    with pytest.raises(SlideError) as caught:
        open_slide(path, reader=reader)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.mrxs", r"its folder of the same name, with Slidedat\.ini in it, has to lie beside it"),
        ("a.vsi", r"the slide lies in the \.ets files beside it; export it as OME-TIFF"),
        ("a.vms", "the pictures that it lists have to lie beside it"),
        ("a.svs", r"is a JPEG picture inside, though its name ends in \.svs"),
    ],
)
def test_a_preview_says_what_is_missing_and_what_to_do(tmp_path, name, says):
    Image.fromarray(drawn(SLIDE)).save(tmp_path / name, format="jpeg")
    with pytest.raises(SlideError, match=says):
        open_slide(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "no suffix", "wrong kind.png"])
def test_a_picture_called_one_is_read(tmp_path, name):
    Image.fromarray(drawn(SLIDE)).save(tmp_path / name, format="jpeg")
    with open_slide(tmp_path / name) as slide, Image.open(tmp_path / name) as picture:
        np.testing.assert_array_equal(whole(slide), np.asarray(picture))
    for suffix in ("bmp", "webp", "jp2", "tga"):
        Image.fromarray(drawn(SLIDE)).save(tmp_path / f"own.{suffix}")
        with open_slide(tmp_path / f"own.{suffix}") as slide:
            assert slide.size == Size(*SLIDE)


@pytest.mark.parametrize(("name", "reader"), [("a.gif", None), ("a.webp", None), ("a.png", None), ("a.tif", "pillow")])
def test_a_picture_of_several_images_is_refused(tmp_path, name, reader):
    frames = [Image.fromarray(drawn(SLIDE, number)) for number in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(SlideError, match="holds several images"):
        open_slide(tmp_path / name, reader=reader)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"PK\x03\x04", "is a ZIP archive"),
        (b"\x1f\x8b\x08", "is packed with gzip"),
        (b"ZISRAWFILE", "of a kind that OpenSlide does not read; .* export it as OME-TIFF"),
        (b"SQLite format 3\x00", "is a Sakura file that OpenSlide does not know"),
        (b"\xda\xce\xbe\x0a", "is in the format ND2"),
        (struct.pack("<II", 0x70, 20), "is in the format LIF"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"II*\x00\xa0\xbf\x00\x00\x18\x00IS", "is an Olympus VSI"),
    ],
)
def test_containers_are_told_by_their_first_bytes(tmp_path, start, says):
    path = tmp_path / "renamed.tif"
    path.write_bytes(start + bytes(2000))
    with pytest.raises(SlideError, match=says):
        open_slide(path)


@pytest.mark.parametrize(
    ("software", "description", "says"),
    [
        ("Philips DPS", "<DataObject></DataObject>", "Philips TIFF"),
        ("MedScan", "", "Trestle"),
        ("", '<scn xmlns="x"></scn>', "Leica SCN"),
    ],
)
def test_a_vendor_of_openslide_that_it_does_not_know_is_not_taken_for_plain(tmp_path, software, description, says):
    page = (drawn(SLIDE), {"software": software, "description": description, "tile": None})
    with pytest.raises(SlideError, match=f"is a slide of the format {says}, but OpenSlide does not know it as one"):
        open_slide(write_pages(tmp_path / "a.tif", [page]))


CASES: dict[str, str | tuple[int | None, float | None]] = {
    "02-vsi-without-ets/vsi-ets-test-jpg2k.vsi": "export it as OME-TIFF",
    "03-mrxs-without-folder/c28_slide.mrxs": "its folder of the same name",
    "05-ome-macro-image/c06_ome_macro_first_in_xml.ome.tif": (0, 0.5),
    "06-smallest-page-first/c05_ascending.tif": (1, 0.5),
    "07-ome-rgb-channel-pages/c04_ome_rgb_planes.ome.tif": (None, 0.5),
    "10-non-ascii-description/c01_kfbio_nonascii.svs": (0, 0.48449),
    "15-resolution-over-zero/c10b_res_1over0.tif": (0, None),
}


@pytest.mark.parametrize("name", CASES)
def test_real_cases(shared, name):
    path, expected = shared / "data" / "cases" / name, CASES[name]
    if isinstance(expected, str):
        with pytest.raises(SlideError, match=expected):
            open_slide(path)
        return
    page, mpp = expected
    with open_slide(path) as slide, tifffile.TiffFile(path) as tif:
        right = tif.series[0].asarray().transpose(1, 2, 0) if page is None else tif.pages[page].asarray()
        assert slide.mpp == mpp
        np.testing.assert_array_equal(whole(slide), right)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pipe", ["a.mrxs", "a/Slidedat.ini", "a/Data0000.dat"])
def test_a_pipe_is_not_waited_for(tmp_path, pipe):
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Slidedat.ini"):
        (tmp_path / name).write_text("[GENERAL]")
    (tmp_path / pipe).unlink(missing_ok=True)
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(SlideError, match="is no ordinary file"):
        open_slide(tmp_path / "a.mrxs")
