"""Micrometres per pixel: what files say, what is believed, and what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile
from PIL import Image
from pydicom import Dataset, dcmread

from tests.slide.tiff_writer import RawPage, plain_tags, write_raw_tiff
from tnet_cli.errors import MissingMppError
from tnet_cli.geometry import Size
from tnet_cli.inference.prepare import prepare
from tnet_cli.model.config import TNetConfig
from tnet_cli.slide.mpp import aperio_mpp, first_stated, option_mpp, resolution_mpp, stated_mpp
from tnet_cli.slide.ome import ome_images
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

TILED: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64)}


def aperio(mpp: str) -> str:
    return f"Aperio Image Library v12\r\n64x64 (64x64) JPEG/RGB Q=80|AppMag = 20|MPP = {mpp}|Filename = made"


def said(slide: Slide) -> tuple[float | None, str | None]:
    return None if slide.mpp is None else round(slide.mpp, 6), slide.mpp_source


@pytest.fixture(params=["tifffile", "openslide"])
def reader(request) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.2520", 0.252), ("0,25", 0.25), ("5e-1", 0.5), (".5", 0.5), ("20", 20.0), ("0.05", 0.05)],
)
def test_aperio(write_tiff, coded, text, expected, reader):
    path = write_tiff(coded(64, 64), description=aperio(text), **TILED)
    with open_slide(path, reader=reader) as slide:
        assert said(slide) == (expected, "aperio.MPP")


@pytest.mark.parametrize("text", [".", "", "unknown", "nan", "inf", "0", "-0.25", "0.25.1"])
def test_aperio_that_does_not_know(write_tiff, coded, text, reader):
    path = write_tiff(coded(64, 64), description=aperio(text), **TILED)
    with open_slide(path, reader=reader) as slide:
        assert said(slide) == (None, None)
    with open_slide(path, reader=reader, mpp=0.5) as slide:
        assert said(slide) == (0.5, "option")


def test_aperio_without_mpp(write_tiff, coded, reader):
    path = write_tiff(coded(64, 64), description="Aperio Image Library\r\n64x64|AppMag = 20", **TILED)
    with open_slide(path, reader=reader) as slide:
        assert said(slide) == (None, None)


@pytest.mark.parametrize("text", ["0.049", "20.1", "250", "1e-9"])
def test_implausible_is_refused_unless_the_option_says_otherwise(write_tiff, coded, text, reader):
    path = write_tiff(coded(64, 64), description=aperio(text), **TILED)
    with pytest.raises(MissingMppError, match=r"aperio\.MPP says .* not between 0\.05 and 20; .* --mpp") as caught:
        open_slide(path, reader=reader)
    assert str(caught.value).startswith(f"{path}: ")
    with open_slide(path, reader=reader, mpp=0.25) as slide:
        assert said(slide) == (0.25, "option")


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.0499, 20.01, math.nan, math.inf])
def test_an_implausible_option_is_refused(write_tiff, coded, mpp, reader):
    path = write_tiff(coded(64, 64), description=aperio("0.25"), **TILED)
    with pytest.raises(MissingMppError, match=r"--mpp .* is not between 0\.05 and 20"):
        open_slide(path, reader=reader, mpp=mpp)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((40000, 40000), "CENTIMETER", 0.25),
        ((20000, 20400), "CENTIMETER", (0.5 + 10000 / 20400) / 2),
        ((101600, 101600), "INCH", 0.25),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((1200, 1200), "INCH", None),
        ((28.35, 28.35), "CENTIMETER", None),
        ((40000, 40000), "NONE", None),
        ((40000, 20000), "CENTIMETER", None),
        ((1, 1), "INCH", None),
    ],
)
def test_resolution_tags(write_tiff, coded, resolution, unit, expected, reader):
    path = write_tiff(coded(64, 64), resolution=resolution, resolutionunit=unit, **TILED)
    with open_slide(path, reader=reader) as slide:
        assert slide.mpp == (None if expected is None else pytest.approx(expected, rel=1e-6))
        assert slide.mpp_source == (None if expected is None else "tiff resolution")


def test_resolution_of_zero_over_zero(write_tiff, coded):
    path = write_tiff(coded(64, 64), resolution=(40000, 40000), resolutionunit="CENTIMETER", **TILED)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["XResolution"].overwrite((0, 0))
        tif.pages.first.tags["YResolution"].overwrite((1, 0))
    with open_slide(path) as slide:
        assert said(slide) == (None, None)


@pytest.mark.parametrize(
    ("x", "unit", "expected"),
    [
        ("0.25", None, 0.25),
        ("0.25", "\u00b5m", 0.25),
        ("0.25", "\u03bcm", 0.25),
        ("0.25", "um", 0.25),
        ("0.25", "micrometre", 0.25),
        ("0.25", "Micrometers", 0.25),
        ("0.25", "MICRONS", 0.25),
        ("0.25", "UM", 0.25),
        ("0.25", "MM", None),
        ("0.25", "Mm", None),
        ("250", "nm", 0.25),
        ("2.5E+2", "nm", 0.25),
        ("0,25", None, 0.25),
        ("0.00025", "mm", 0.25),
        ("2.5e-5", "cm", 0.25),
        ("1e-5", "in", 0.254),
        ("1e-5", "inch", 0.254),
        ("2500", "\u00c5", 0.25),
        ("0.25", "pixel", None),
        ("0.25", "reference frame", None),
        ("0.25", "furlong", None),
        ("many", "nm", None),
        ("2_5", "um", None),
        ("", "um", None),
        ("0", "nm", None),
        ("-0.25", "um", None),
        ("NaN", None, None),
        ("inf", None, None),
        ("1e400", None, None),
        ("325", "um", MissingMppError),
        ("1e-9", "um", MissingMppError),
        ("0.25", "m", MissingMppError),
    ],
)
def test_ome_units(x, unit, expected):
    stated = "" if unit is None else f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'PhysicalSizeX="{x}" PhysicalSizeY="{x}" {stated}/></Image></OME>'
    )
    (image,) = ome_images(xml)
    if expected is MissingMppError:
        with pytest.raises(MissingMppError, match="ome-xml says"):
            image.mpp("a.ome.tif")
        return
    scale = image.mpp("a.ome.tif")
    if expected is None:
        assert scale is None
    else:
        assert scale is not None
        assert scale.mpp == pytest.approx(expected)
        assert (scale.source, scale.doubt) == ("ome-xml", "")


@pytest.mark.parametrize(
    "other", ["", 'PhysicalSizeY="0"', 'PhysicalSizeY="nan"', 'PhysicalSizeY="1" PhysicalSizeYUnit="pixel"']
)
def test_ome_that_knows_one_axis(other):
    (image,) = ome_images(f'<OME><Image><Pixels PhysicalSizeX="0.25" {other}/></Image></OME>')
    scale = image.mpp("a.ome.tif")
    assert scale is not None
    assert (scale.mpp, scale.doubt) == (
        0.25,
        "ome-xml gives the scale of one axis only; its pixels were taken for square",
    )


@pytest.mark.parametrize("xml", ["", "<OME>", "<OME/>", "<OME><Image><Pixels/></Image></OME>", "not xml"])
def test_ome_without_sizes(xml):
    assert [image.mpp("a.ome.tif") for image in ome_images(xml)] in ([], [None])


INCH, CM = 2, 3
RATIONAL, FLOAT, DOUBLE = 5, 11, 12


def raw_tiff(path: Path, scale: dict[int, tuple[int, Any]], description: str = "") -> Path:
    """Write a tiled page of 64 x 64 whose tags of the scale are these and no others; byte by byte as it is told."""
    tags = plain_tags({256: 64, 257: 64, 258: [8, 8, 8], 259: 1, 262: 2, 277: 3, 322: 64, 323: 64}) | scale
    if description:
        tags[270] = (2, description)
    return write_raw_tiff(path, [RawPage(tags, [bytes(range(256)) * 48], is_tiled=True)])


def rational(numerator: int, denominator: int = 1) -> tuple[int, list[int]]:
    return RATIONAL, [numerator, denominator]


UNIT = {unit: {296: (3, [unit])} for unit in (0, 1, 2, 3, 4, 5, 9)}
ONE_AXIS = "tiff resolution gives the scale of one axis only; its pixels were taken for square"
NOT_SQUARE = "tiff resolution says pixels of 0.25 x 0.5 µm, which are not square"
TAGS: dict[str, tuple[dict[int, tuple[int, Any]], float | None, str]] = {
    "cm": ({282: rational(40000), 283: rational(40000)} | UNIT[CM], 0.25, ""),
    "inch": ({282: rational(101600), 283: rational(101600)} | UNIT[INCH], 0.25, ""),
    "as fractions": ({282: rational(120000, 3), 283: rational(400000, 10)} | UNIT[CM], 0.25, ""),
    "as floats": ({282: (FLOAT, [4e4]), 283: (DOUBLE, [4e4])} | UNIT[CM], 0.25, ""),
    "a float that is no number": ({282: (FLOAT, [math.nan]), 283: (DOUBLE, [math.inf])} | UNIT[CM], None, ""),
    "negative": ({282: (FLOAT, [-4e4]), 283: (FLOAT, [-4e4])} | UNIT[CM], None, ""),
    "whole numbers": ({282: (4, [40000]), 283: (4, [40000])} | UNIT[CM], 0.25, ""),
    "text": ({282: (2, "40000"), 283: (2, "40000")} | UNIT[CM], None, ""),
    "unit none": ({282: rational(40000), 283: rational(40000)} | UNIT[1], None, ""),
    "unit unknown": ({282: rational(40000), 283: rational(40000)} | UNIT[9], None, ""),
    "unit zero": ({282: rational(40000), 283: rational(40000)} | UNIT[0], None, ""),
    "no unit": ({282: rational(40000), 283: rational(40000)}, None, ""),
    "unit as text": ({282: rational(40000), 283: rational(40000), 296: (2, "cm")}, None, ""),
    "only a unit": (UNIT[CM], None, ""),
    "over zero": ({282: rational(20000, 0), 283: rational(20000, 0)} | UNIT[CM], None, ""),
    "zero": ({282: rational(0), 283: rational(0)} | UNIT[CM], None, ""),
    "zero over zero": ({282: rational(0, 0), 283: rational(0, 0)} | UNIT[CM], None, ""),
    "huge": ({282: rational(2**32 - 1), 283: rational(2**32 - 1)} | UNIT[CM], None, ""),
    "tiny": ({282: rational(1, 2**32 - 1), 283: rational(1, 2**32 - 1)} | UNIT[CM], None, ""),
    "for a printer": ({282: rational(300), 283: rational(300)} | UNIT[INCH], None, ""),
    "across only": ({282: rational(40000)} | UNIT[CM], 0.25, ONE_AXIS),
    "down only": ({283: rational(40000)} | UNIT[CM], 0.25, ONE_AXIS),
    "down over zero": ({282: rational(40000), 283: rational(1, 0)} | UNIT[CM], 0.25, ONE_AXIS),
    "not square": ({282: rational(40000), 283: rational(20000)} | UNIT[CM], None, NOT_SQUARE),
    "down for a printer": ({282: rational(40000), 283: rational(118)} | UNIT[CM], None, ""),
    "nearly square": ({282: rational(40000), 283: rational(41000)} | UNIT[CM], (0.25 + 1e4 / 41000) / 2, ""),
}


@pytest.mark.parametrize("name", TAGS)
def test_tags_byte_by_byte(tmp_path, name, reader):
    tags, expected, doubt = TAGS[name]
    with open_slide(raw_tiff(tmp_path / "a.tif", tags), reader=reader) as slide:
        assert slide.mpp == (None if expected is None else pytest.approx(expected))
        assert [found.sentence for found in slide.doubts if found.name == "scale"] == ([doubt] if doubt else [])


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [
        ("micron", rational(4), 0.25),
        ("um", rational(4), 0.25),
        ("\u00c2\u00b5m", rational(4), 0.25),
        ("\\u00B5m", rational(4), 0.25),
        ("\\u00b5m", rational(4), 0.25),
        ("\\u03BCm", rational(4), 0.25),
        ("Micron", rational(4), 0.25),
        ("UM", rational(4), 0.25),
        ("nm", rational(4, 1000), 0.25),
        ("mm", rational(4000), 0.25),
        ("cm", rational(40000), 0.25),
        ("inch", rational(101600), 0.25),
        ("inch", rational(72), None),
        ("pixel", rational(1), None),
        ("micron", rational(4, 0), None),
        ("micron", rational(1, 10**6), None),
        ("", rational(4), None),
    ],
)
def test_imagej(tmp_path, unit, per_unit, expected):
    """ImageJ's unit counts for the tags, whatever unit these have; its spacing is between planes."""
    tags = {282: per_unit, 283: per_unit} | UNIT[1]
    path = raw_tiff(tmp_path / "a.tif", tags, f"ImageJ=1.53t\nunit={unit}\nspacing=5.0\n")
    with open_slide(path) as slide:
        assert said(slide) == ((None, None) if expected is None else (expected, "imagej unit"))


def test_two_places_that_disagree(tmp_path):
    tags = {282: rational(20000), 283: rational(20000)} | UNIT[CM]
    doubt = "aperio.MPP says 0.25 µm per pixel, and tiff resolution 0.5; the first was taken"
    with open_slide(raw_tiff(tmp_path / "a.svs", tags, aperio("0.25")), reader="tifffile") as slide:
        assert (said(slide), [found.sentence for found in slide.doubts]) == ((0.25, "aperio.MPP"), [doubt])
    with open_slide(raw_tiff(tmp_path / "b.svs", tags, aperio("unknown")), reader="tifffile") as slide:
        assert (said(slide), slide.doubts) == ((0.5, "tiff resolution"), ())


def test_aperio_text_of_an_image_before_it_was_shrunk(tmp_path, reader):
    text = aperio("0.25").replace("64x64 (64x64)", "300x260 [20,4 256x256] (64x64)")
    with open_slide(raw_tiff(tmp_path / "a.svs", {}, text), reader=reader) as slide:
        (doubt,) = slide.doubts
        assert (doubt.name, said(slide)) == ("scale", (0.25, "aperio.MPP"))
        assert "an image of 256 x 256 pixels; if this one was made from it, aperio.MPP is 4 times too" in doubt.sentence
    with open_slide(raw_tiff(tmp_path / "b.svs", {}, text.replace("256x256", "64x64")), reader=reader) as slide:
        assert (said(slide), slide.doubts) == ((0.25, "aperio.MPP"), ())


def test_aperio_text_of_a_reduced_copy_has_the_scale_of_its_source(tmp_path, reader):
    text = aperio("0.25").replace("64x64 (64x64)", "256x256 [0,0 256x256] (64x64) -> 64x64")
    with open_slide(raw_tiff(tmp_path / "a.svs", {}, text), reader=reader) as slide:
        (doubt,) = slide.doubts
        assert "an image of 256 x 256 pixels; if this one was made from it, aperio.MPP is 4 times too" in doubt.sentence


@pytest.mark.parametrize("text", [aperio("0.25").replace("made", "\x03\x8d\x81"), aperio("0.25") + "|User = M\xfcller"])
def test_bytes_that_are_no_text_lose_nothing_else(tmp_path, text, reader):
    with open_slide(raw_tiff(tmp_path / "a.svs", {}, text), reader=reader) as slide:
        assert (said(slide), slide.vendor) == ((0.25, "aperio.MPP"), "aperio")


MADE_OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
    'ID="Image:0" Name="{name}"><Pixels ID="Pixels:0" SizeX="{width}" SizeY="64" SizeC="3" SizeZ="1" SizeT="1" '
    'PhysicalSizeX="0.25" PhysicalSizeY="0.25"><Channel SamplesPerPixel="3"/></Pixels></Image></OME>'
)


@pytest.mark.parametrize("name", ["caf\xe9", "\x01\x81", "ordinary"])
@pytest.mark.parametrize("end", ["", "\n", "<!-- made -->", " " * 200])
def test_ome_with_odd_bytes_and_ends(tmp_path, name, end, reader):
    path = raw_tiff(tmp_path / "a.ome.tif", {}, MADE_OME.format(name=name, width=64) + end)
    with open_slide(path, reader=reader) as slide:
        assert said(slide) == (0.25, "ome-xml")


def test_ome_of_another_image_is_not_believed(tmp_path):
    """A reduced copy that kept the XML of the slide would be given its scale."""
    with open_slide(raw_tiff(tmp_path / "a.ome.tif", {}, MADE_OME.format(name="a", width=256))) as slide:
        assert said(slide) == (None, None)
        (doubt,) = slide.doubts
        assert doubt.sentence == "its OME-XML describes no image of 64 x 64 pixels, and was not believed"


def image_xml(name: str, mpp: float, data: str = "", samples: int = 3) -> str:
    return (
        f'<Image Name="{name}"><Pixels SizeX="64" SizeY="64" SizeC="{samples}" PhysicalSizeX="{mpp}" '
        f'PhysicalSizeY="{mpp}"><Channel SamplesPerPixel="{samples}"/>{data}</Pixels></Image>'
    )


def test_of_ome_images_of_one_size_that_of_the_pages_samples_counts(tmp_path):
    text = f"<OME>{image_xml('mask', 1, samples=1)}{image_xml('slide', 0.5)}</OME>"
    with open_slide(raw_tiff(tmp_path / "a.ome.tif", {}, text)) as slide:
        assert (said(slide), slide.doubts) == ((0.5, "ome-xml"), ())


def test_ome_images_of_one_size_and_several_scales_state_none(tmp_path):
    text = f"<OME>{image_xml('a', 1)}{image_xml('b', 0.5)}</OME>"
    with open_slide(raw_tiff(tmp_path / "a.ome.tif", {}, text)) as slide:
        assert said(slide) == (None, None)
        (doubt,) = slide.doubts
        assert doubt.sentence == "its OME-XML says more than one scale of images of 64 x 64 pixels"


def test_an_ome_image_of_another_file_is_told_by_the_files_name(tmp_path):
    owned = '<TiffData IFD="0"><UUID FileName="{}">urn:uuid:1</UUID></TiffData>'
    images = image_xml("slide", 0.5, owned.format("a.ome.tif")) + image_xml("b", 15, owned.format("b.ome.tif"))
    with open_slide(raw_tiff(tmp_path / "a.ome.tif", {}, f"<OME>{images}</OME>")) as slide:
        assert (said(slide), slide.doubts) == ((0.5, "ome-xml"), ())


@pytest.mark.parametrize("text", ["ImageJ=1.5\nunit=mm\n", "Aperio Image Library\r\nlabel 40x40|MPP = 5"])
def test_the_text_of_another_page_is_not_that_of_the_slide(tmp_path, coded, text):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(coded(40, 40), photometric="rgb", description=text, metadata=None)
        tif.write(coded(64, 64), resolution=(20000, 20000), resolutionunit="CENTIMETER", metadata=None, **TILED)
    with open_slide(tmp_path / "a.tif") as slide:
        assert said(slide) == (0.5, "tiff resolution")


def spaced(spacing: list[float]) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = spacing

    return change


def without(*keywords: str) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        for keyword in keywords:
            delattr(data, keyword)

    return change


SHARED_GROUPS, VOLUME = "SharedFunctionalGroupsSequence", ("ImagedVolumeWidth", "ImagedVolumeHeight")
VOLUME_SAYS = "openslide.mpp-x says 0.25 µm per pixel, and dicom.ImagedVolumeWidth 0.499; the first was taken"
DICOM: dict[str, tuple[list[Callable[[Dataset], None]], float | None, str]] = {
    "as it is": ([], 0.499, ""),
    "spacing alone": ([without(*VOLUME)], 0.499, ""),
    "volume alone": ([without(SHARED_GROUPS)], 0.499, ""),
    "neither": ([without(SHARED_GROUPS, *VOLUME)], None, ""),
    "zero": ([spaced([0, 0]), without(*VOLUME)], None, ""),
    "negative": ([spaced([-0.0005, -0.0005]), without(*VOLUME)], None, ""),
    "they disagree": ([spaced([0.00025, 0.00025])], 0.25, VOLUME_SAYS),
    "outside the groups": (
        [without(SHARED_GROUPS, *VOLUME), lambda data: setattr(data, "PixelSpacing", [0.00025] * 2)],
        0.25,
        "",
    ),
}


@pytest.mark.parametrize("name", DICOM)
def test_dicom(slides, tmp_path, name):
    changes, expected, doubt = DICOM[name]
    data = dcmread(slides / "boxes_0.dcm")
    for change in changes:
        change(data)
    data.save_as(tmp_path / "a.dcm")
    with open_slide(tmp_path / "a.dcm") as slide:
        assert slide.mpp == (None if expected is None else pytest.approx(expected, rel=1e-4))
        assert [found.sentence for found in slide.doubts if found.name == "scale"] == ([doubt] if doubt else [])


@pytest.mark.parametrize(("spacing", "says"), [([0.0005, 0.001], "not square"), ([5, 5], "not between")])
def test_dicom_beyond_belief_is_refused(slides, tmp_path, spacing, says):
    data = dcmread(slides / "boxes_0.dcm")
    spaced(spacing)(data)
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(MissingMppError, match=says):
        open_slide(tmp_path / "a.dcm")


def test_ome_file(tmp_path, coded):
    path = tmp_path / "made.ome.tif"
    metadata: dict[str, Any] = {"axes": "YXS", "PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm"}
    metadata |= {"PhysicalSizeY": 325.0, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(path, coded(64, 64), ome=True, metadata=metadata, **TILED)
    with open_slide(path) as slide:
        assert said(slide) == (0.325, "ome-xml")


def test_ome_file_without_sizes_has_the_resolution_of_its_tags(tmp_path, coded):
    path = tmp_path / "made.ome.tif"
    options: dict[str, Any] = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", **TILED}
    tifffile.imwrite(path, coded(64, 64), ome=True, metadata={"axes": "YXS"}, **options)
    with open_slide(path) as slide:
        assert said(slide) == (0.5, "tiff resolution")


def test_ome_beyond_belief_is_refused(tmp_path, coded):
    path = tmp_path / "made.ome.tif"
    metadata: dict[str, Any] = {"axes": "YXS", "PhysicalSizeX": 325.0, "PhysicalSizeY": 325.0}
    tifffile.imwrite(path, coded(64, 64), ome=True, metadata=metadata, **TILED)
    with pytest.raises(MissingMppError, match="ome-xml says 325 "):
        open_slide(path)


def test_pixels_that_are_not_square_are_refused():
    for x, y in ((0.25, 0.5), (0.25, 0.265)):
        with pytest.raises(MissingMppError, match=rf"pixels of {x} x {y} µm, which are not square"):
            stated_mpp("a.svs", x, y, "openslide.mpp-x")
    nearly = stated_mpp("a.svs", 0.25, 0.252, "openslide.mpp-x")
    assert nearly is not None
    assert nearly.mpp == pytest.approx(0.251)


def test_numbers_without_a_file():
    assert aperio_mpp("a.svs", "Aperio|AppMag = 20|MPP = 0.4990", Size(64, 64)) is not None
    assert aperio_mpp("a.svs", "Aperio|XMPP = 0.4990", Size(64, 64)) is None
    one = resolution_mpp(math.nan, 1e4, "cm")
    assert one is not None
    assert (one.mpp, one.doubt != "") == (1.0, True)
    assert resolution_mpp(math.inf, math.inf, "cm") is None
    assert resolution_mpp(0, 0, "cm") is None
    assert option_mpp("a.svs", 20).mpp == 20


def test_the_first_place_counts_and_another_scale_is_a_doubt():
    one, other = (
        stated_mpp("a.svs", mpp, mpp, source) for mpp, source in ((0.25, "ome-xml"), (0.5, "tiff resolution"))
    )
    taken = first_stated(None, one, other)
    assert taken is not None
    assert (taken.mpp, taken.source) == (0.25, "ome-xml")
    assert taken.doubt == "ome-xml says 0.25 µm per pixel, and tiff resolution 0.5; the first was taken"
    assert first_stated(None, one, None) == one
    assert first_stated(one, stated_mpp("a.svs", 0.255, 0.255, "tiff resolution")) == one


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_have_the_scale_of_the_option_only(tmp_path, coded, suffix):
    path = tmp_path / f"scan.{suffix}"
    Image.fromarray(coded(64, 64)).save(path, dpi=(101600, 101600) if suffix == "png" else (300, 300))
    with open_slide(path) as slide:
        assert said(slide) == (None, None)
    with open_slide(path, mpp=2.0) as slide:
        assert said(slide) == (2.0, "option")
    with pytest.raises(MissingMppError):
        open_slide(path, mpp=30)


def test_a_scale_that_was_not_believed_is_named_where_one_is_needed(tmp_path):
    with (
        open_slide(raw_tiff(tmp_path / "a.tif", TAGS["not square"][0])) as slide,
        pytest.raises(MissingMppError, match=f"{NOT_SQUARE}; give one value with --mpp"),
    ):
        prepare(slide, TNetConfig.slide(("no", "yes")))
