"""Micrometres per pixel: what files say, what is believed, and what is refused."""

import math
from typing import Any

import pytest
import tifffile
from PIL import Image

from tnet_cli.errors import MissingMppError
from tnet_cli.slide.mpp import aperio_mpp, checked_mpp, ome_mpp, option_mpp, resolution_mpp
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
    ("size", "unit", "expected"),
    [
        (0.25, None, 0.25),
        (0.25, "\u00b5m", 0.25),
        (0.25, "\u03bcm", 0.25),
        (250, "nm", 0.25),
        (0.00025, "mm", 0.25),
        (2.5e-5, "cm", 0.25),
        (2500, "Å", 0.25),
        (0.25, "pixel", None),
        ("many", "nm", None),
        (0, "nm", None),
        ("NaN", None, None),
    ],
)
def test_ome_units(size, unit, expected):
    stated = "" if unit is None else f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'PhysicalSizeX="{size}" PhysicalSizeY="{size}" {stated}/></Image></OME>'
    )
    scale = ome_mpp("a.ome.tif", xml)
    if expected is None:
        assert scale is None
    else:
        assert scale is not None
        assert scale.mpp == pytest.approx(expected)
        assert scale.source == "ome-xml"


@pytest.mark.parametrize("xml", ["", "<OME>", "<OME/>", "<OME><Pixels PhysicalSizeX='1'/></OME>", "not xml"])
def test_ome_without_sizes(xml):
    assert ome_mpp("a.ome.tif", xml) is None


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
    with pytest.raises(MissingMppError, match=r"pixels of 0\.25 x 0\.5 µm, which are not square"):
        checked_mpp("a.svs", 0.25, 0.5, "openslide.mpp-x")
    nearly = checked_mpp("a.svs", 0.25, 0.252, "openslide.mpp-x")
    assert nearly is not None
    assert nearly.mpp == pytest.approx(0.251)


def test_numbers_without_a_file():
    assert aperio_mpp("a.svs", "Aperio|AppMag = 20|MPP = 0.4990") is not None
    assert aperio_mpp("a.svs", "Aperio|XMPP = 0.4990") is None
    assert resolution_mpp(math.nan, 1, "cm") is None
    assert resolution_mpp(math.inf, math.inf, "cm") is None
    assert resolution_mpp(0, 0, "cm") is None
    assert option_mpp("a.svs", 20).mpp == 20


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
