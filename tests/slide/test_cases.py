"""Files with one fault each: every one of them is read as it should be, or refused in a sentence that says why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tnet_cli import classify
from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide


@dataclass(frozen=True)
class Read:
    """How a file is to be read.

    Attributes:
        oracle: Pixels of the finest level (H, W, 3), by a decoder that is not under test.
        doubts: Names of what is said of it.
        off_by: By how much a pixel may differ, where decoders round or interpolate in ways of their own.
        status: Of its row.
    """

    oracle: Callable[[Path], np.ndarray]
    mpp: float | None = None
    doubts: tuple[str, ...] = ()
    off_by: int = 0
    status: str = "ok"


@dataclass(frozen=True)
class Case:
    """A folder of cases: what is to become of each of its files, a sentence (as a pattern) where it is refused."""

    folder: str
    files: dict[str, str | Read] = field(default_factory=dict)


def by_openslide(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def page(number: int) -> Callable[[Path], np.ndarray]:
    return lambda path: np.asarray(tifffile.imread(path, key=number, series=None))


def by_planes(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as tif:
        return np.stack([tif.pages[number].asarray() for number in range(3)], axis=2)


def by_libtiff(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def by_libpng(path: Path) -> np.ndarray:
    return np.asarray(imagecodecs.png_decode(path.read_bytes()))[..., :3]


NO_SCALE = "failed"
DOUBTED = "abstained"

CASES = [
    Case("01-aperio-jp2k-33003", {"c02_aperio_33003.svs": Read(by_openslide, 0.499, off_by=2)}),
    Case("02-vsi-without-ets", {"vsi-ets-test-jpg2k.vsi": r"Olympus VSI.*\.ets files.*export"}),
    Case("03-mrxs-without-folder", {"c28_slide.mrxs": "MIRAX.*folder of the same name"}),
    Case(
        "04-aperio-level-tiles-missing",
        {
            "c11g_lvl1_all_zero.svs": Read(by_openslide, 0.499, ("missing_tiles",)),
            "c11r_reference.svs": Read(by_openslide, 0.499),
        },
    ),
    Case("05-ome-macro-image", {"c06_ome_macro_first_in_xml.ome.tif": Read(page(0), 0.5)}),
    Case("06-smallest-page-first", {"c05_ascending.tif": Read(page(1), 0.5, status=DOUBTED)}),
    Case("07-ome-rgb-channel-pages", {"c04_ome_rgb_planes.ome.tif": Read(by_planes, 0.5, status=DOUBTED)}),
    Case("08-truncated-ok", {"c23_trunc90.svs": "is cut off: .* beyond the end of the file; copy it again"}),
    Case("09-all-tiles-missing", {"c29_all_tiles_missing.tif": "none of the 6 tiles .* did not finish"}),
    Case("10-non-ascii-description", {"c01_kfbio_nonascii.svs": Read(by_openslide, 0.48449)}),
    Case("11-dicom-jpeg-labelled-rgb", {"a.dcm": "colours are RGB, and its JPEG data that they are YCbCr"}),
    Case(
        "12-sample-range",
        {
            "c14d_u16_8bit.tif": Read(page(0), 0.5, status=DOUBTED),
            "float32_0-255.tif": Read(page(0), 0.5, off_by=1, status=DOUBTED),
        },
    ),
    Case("13-photometric-missing", {"c20c_no_photometric.tif": Read(page(0), 0.5)}),
    Case("15-resolution-over-zero", {"c10b_res_1over0.tif": Read(by_openslide, None, status=NO_SCALE)}),
    Case("17-old-jpeg-called-cut-off", {"libtiffpic_smallliz.tif": Read(by_libtiff, None, status=NO_SCALE)}),
    Case("19-png-text-chunk", {"c24_bigtext.png": Read(by_libpng, None, status=NO_SCALE)}),
    Case(
        "20-messages",
        {
            "c22.isyntax": "Philips iSyntax.*export it as OME-TIFF",
            "c22_html.svs": "is a web page, not a slide; check the address",
            "ct_image.dcm": r"DICOM file of another kind \(CT Image Storage\); give",
            "sm_image_grayscale.dcm": "samples of more than 8 bits.* export it with 8",
        },
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.folder)
def case(request) -> Case:
    assert isinstance(request.param, Case)
    return request.param


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    if not (shared / "data" / "cases").is_dir():
        pytest.skip("needs the cases in the shared data folder")
    return shared / "data" / "cases"


def test_every_case_is_known(cases):
    found = {(path.parent.name, path.name) for path in cases.glob("*/*")}
    assert found == {(case.folder, name) for case in CASES for name in case.files}


def test_a_case_is_read_as_it_should_be_or_refused(cases, case):
    for name, expected in case.files.items():
        path = cases / case.folder / name
        if isinstance(expected, str):
            with pytest.raises(SlideError, match=expected) as caught:
                open_slide(path)
            assert str(caught.value).startswith(f"{path}: ")
            continue
        pixels = expected.oracle(path)
        with open_slide(path) as slide:
            height, width = pixels.shape[:2]
            assert (slide.size.width, slide.size.height) == (width, height)
            assert slide.mpp == (None if expected.mpp is None else pytest.approx(expected.mpp))
            read = slide.read(Region(0, 0, width, height), width, height)
            assert np.abs(read - pixels.astype(float)).max() <= expected.off_by
            # What is read coarsely is the same slide.
            thumbnail = slide.thumbnail(width // 4)
            assert np.abs(thumbnail.mean((0, 1)) - pixels.mean((0, 1))).max() < 2
            assert set(expected.doubts) <= {doubt.name for doubt in slide.doubts}


def test_the_status_of_every_case(cases, untrained_model, tmp_path):
    known = [(cases / case.folder / name, expected) for case in CASES for name, expected in case.files.items()]
    report = classify([path for path, _ in known], model=untrained_model, out=tmp_path, overlay=False, report=False)
    for (path, expected), row in zip(known, report.rows, strict=True):
        status = "failed" if isinstance(expected, str) else expected.status
        assert (row.values["path"], row.status) == (str(path), status), row.values["error"]
        if isinstance(expected, Read):
            assert row.values["mpp"] == (None if expected.mpp is None else pytest.approx(expected.mpp))
