"""What tnet says of files that are no slides, or that it cannot read: what they are, and what to do."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.slide.dicom_writer import write_dicom
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
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is an XML file; give the slide that it describes"),
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
        ("TotalPixelMatrixFocalPlanes", 3, "has several focal planes"),
    ],
)
def test_what_openslide_cannot_read_is_said_in_words_with_its_reason_in_brackets(
    tmp_path, smooth, attribute, value, said
):
    from pydicom import dcmread

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
