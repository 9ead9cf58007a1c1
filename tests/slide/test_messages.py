"""What tnet says of files that are no slides, or that it cannot read: what they are, and what to do."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from tests.slide.dicom_writer import write_dicom
from tests.slide.tiff_writer import RawPage, cut, plain_tags, write_raw_tiff
from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.slide.opening import open_slide

TIFF_PREAMBLE = b"II*\x00\x10\x00\x00\x00"


def said_of(path: Path) -> str:
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.ndpi", "a.dcm", "a", "a.png"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf\r\n<!DOCTYPE HTML><html>log in", "is a web page, not a slide; check the address"),
        (b"<html><body>404", "is a web page, not a slide"),
        (b'<?xml version="1.0"?><html xmlns="x">', "is a web page, not a slide"),
        (b'<?xml version="1.0"?><DataObject ObjectType="DPUfsImport">', "is a Philips iSyntax file"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is the error answer of a server, not a slide"),
        (b'<?xml version="1.0"?><TapeMeasure>', "is an XML file; give the slide that it describes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is a PostScript document, which tnet does not run"),
        (b"\xc5\xd0\xd3\xc6\x1e\x00\x00\x00", "is a PostScript document, which tnet does not run"),
        (b"PK\x03\x04\x14\x00", "is a ZIP archive; unpack it"),
        (b"\x1f\x8b\x08\x00", "is packed with gzip; unpack it"),
        (b"%PDF-1.7", "is a PDF document; give the slide"),
        (b"\x00\x00\x00\x18ftypmp42", "is a video, not a slide"),
        (b"RIFF\x00\x10\x00\x00AVI LIST", "is a video, not a slide"),
        (b"\x1aE\xdf\xa3\x01", "is a video, not a slide"),
        (b"version https://git-lfs.github.com/spec/v1\n", "fetch it with git lfs pull"),
        (bytes(500), "begins with nothing but zeros: what wrote it did not finish; copy it again"),
    ],
)
def test_each_kind_of_file_has_a_sentence_whatever_its_name(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content + bytes(200) if content.strip(b"\x00") else content)
    assert said in said_of(path)


def write_ct(path: Path, preamble: bytes = bytes(128)) -> None:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.Rows = image.Columns = 4
    image.preamble = preamble.ljust(128, b"\x00")
    image.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("name", ["a.dcm", "a.tif", "a"])
@pytest.mark.parametrize("preamble", [bytes(128), TIFF_PREAMBLE])
def test_dicom_that_is_no_slide_is_named_and_is_no_damaged_tiff(tmp_path, name, preamble):
    write_ct(tmp_path / name, preamble)
    said = "is a DICOM file of another kind (CT Image Storage); give files of VL Whole Slide Microscopy Image Storage"
    assert said_of(tmp_path / name) == said


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("BitsAllocated", 16, "has samples of more than 8 bits, and OpenSlide reads none; export it with 8 ("),
        ("SamplesPerPixel", 1, "is not stored in RGB colours"),
        ("PhotometricInterpretation", "YBR_FULL", "is not stored in RGB colours"),
        ("PlanarConfiguration", 1, "stores each colour apart"),
        ("TotalPixelMatrixFocalPlanes", 3, "has several focal planes"),
    ],
)
def test_what_openslide_cannot_read_is_said_in_words_with_its_reason_in_brackets(
    tmp_path, smooth, attribute, value, said
):
    path = tmp_path / "a.dcm"
    write_dicom(path, smooth(128, 128), 64, left_out=[])
    changed = dcmread(path)
    setattr(changed, attribute, value)
    changed.save_as(path)
    sentence = said_of(path)
    assert sentence.startswith(said)
    assert sentence.endswith(")")
    assert "libdicom" not in sentence.partition("(")[0]


def test_a_reader_that_does_not_know_a_file_says_so(tmp_path):
    path = tmp_path / "notes.svs"
    path.write_text("nothing of a slide " * 20)
    with pytest.raises(SlideError, match="is no slide that OpenSlide knows; leave out --reader"):
        open_slide(path, reader="openslide")


def test_frames_beyond_the_end_of_a_dicom_file_are_said_in_words(tmp_path, smooth):
    path = tmp_path / "cut.dcm"
    write_dicom(path, smooth(256, 256), 64, left_out=[])
    path.write_bytes(path.read_bytes()[:-20_000])
    with open_slide(path) as slide, pytest.raises(UnreadableRegionError) as caught:
        slide.thumbnail(256)
    said, _, cause = str(caught.value).partition(" (")
    assert said.endswith("cannot be decoded: the file is damaged or not whole, so copy it again")
    assert cause.endswith(")")


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_dicom_of_another_encoding_is_not_only_said_to_be_damaged(tmp_path, smooth, syntax):
    path = tmp_path / "a.dcm"
    write_dicom(path, smooth(128, 128), 64, left_out=[])
    changed = dcmread(path)
    changed.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dcmwrite(path, changed, implicit_vr=implicit, little_endian=little)
    assert "encod" in said_of(path).partition(" (lib")[0].partition(" (Uns")[0]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({258: [8, 8, 16]}, "its samples are of (8, 8, 16) bits"),
        ({339: [1, 2, 1]}, "cannot be read as a TIFF: it is cut off, or what it says of itself makes no sense"),
        (
            {258: [8] * 4, 262: 5, 277: 4, 332: 2},
            "its pixels are SEPARATED, compressed as NONE, which is not supported",
        ),
        ({258: 8, 262: 3, 277: 1, 320: [0, 1] * 192}, "its palette has only 128 colours, and its samples name others"),
    ],
)
def test_tags_that_tnet_cannot_follow_are_no_damage(tmp_path, tags, said):
    plain = {256: 64, 257: 32, 258: [8] * 3, 259: 1, 262: 2, 277: 3, 322: 32, 323: 32} | tags
    samples = np.full((32, 64, plain[277]), 200, np.uint8)
    tiles = [tile.tobytes() for tile in cut(samples, 32, 32, is_tiled=True)]
    path = write_raw_tiff(tmp_path / "a.tif", [RawPage(plain_tags(plain), tiles, is_tiled=True)])
    with pytest.raises(SlideError) as caught, open_slide(path) as slide:
        slide.thumbnail(64)
    assert said in str(caught.value)


def test_a_tiff_of_four_bytes_is_cut_off(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\x00")
    assert said_of(tmp_path / "a.tif").startswith("cannot be read as a TIFF: it is cut off")
