"""What a file is by its name and first bytes, where that alone decides who reads it.

Some formats are for OpenSlide alone, and of others the image that can be seen is the preview of a slide elsewhere.
"""

import re

import tifffile
from PIL import Image

from tnet_cli.places import Place

EXPORT = "export it as OME-TIFF or SVS"

NOT_WHOLE = "it is not whole, or is something else; copy it again"
OPENSLIDE_NAMES = {
    ".mrxs": ("mirax", "MIRAX", "its folder of the same name, with Slidedat.ini in it, has to lie beside it"),
    ".ndpi": ("hamamatsu", "Hamamatsu NDPI", NOT_WHOLE),
    ".vms": ("hamamatsu", "Hamamatsu VMS", "the pictures that it lists have to lie beside it"),
    ".vmu": ("hamamatsu", "Hamamatsu VMU", "the pictures that it lists have to lie beside it"),
    ".bif": ("ventana", "Ventana", NOT_WHOLE),
    ".scn": ("leica", "Leica SCN", NOT_WHOLE),
    ".svslide": ("sakura", "Sakura", NOT_WHOLE),
    ".czi": ("zeiss", "Zeiss CZI", f"it is not whole, or of a kind OpenSlide does not read; {EXPORT}"),
    ".dcm": ("dicom", "DICOM", "it is not whole, or is no image of a slide"),
}
"""Suffixes of formats that OpenSlide alone decides about, with its word for the vendor, the format's name, and what may
be the matter where it does not know the file. A MIRAX slide's main file is a JPEG picture, its preview."""

CLOSED_NAMES = {
    ".vsi": f"is an Olympus VSI, which holds a preview only: the slide lies in the .ets files beside it; {EXPORT}",
    ".ets": f"is a part of an Olympus VSI slide, which tnet does not read; {EXPORT}",
    ".isyntax": f"is a Philips iSyntax file, which tnet does not read; {EXPORT}",
    ".i2syntax": f"is a Philips iSyntax file, which tnet does not read; {EXPORT}",
    ".afi": "is a list of Aperio images, one for each channel; give one of the .svs files that it names",
    ".ndpis": "is a list of Hamamatsu images; give one of the .ndpi files that it names",
} | {
    f".{name.lower()}": f"is in the format {name}, which tnet does not read; {EXPORT}"
    for name in ("LIF", "ND2", "ZVI", "OIB", "OIF", "OIR", "FLEX", "IMS", "KFB", "SDPC", "TMAP", "MDS", "MDSX")
}
"""Suffixes of formats that neither tnet nor OpenSlide reads; a picture that can be seen in such a file is a preview."""

WEB_PAGE = "is a web page, not a slide; check the address it came from, and whether one has to log in"
XML = "is an XML file; give the slide that it describes"
SERVER_ERROR = "is the error answer of a server, not a slide; check the address, and whether one has to log in"
POSTSCRIPT = "is a PostScript document, which tnet does not run; give the slide that it was made from"
VIDEO = "is a video, not a slide; give the slide that it shows"
VIDEO_BRANDS = (b"iso", b"mp4", b"M4V", b"qt ", b"avc", b"3gp", b"das")

WHOLE_SLIDE_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"

FORMAT_STARTS = {
    b"ZISRAWFILE": "Zeiss CZI",
    b"SQLite format 3": "Sakura",
    b"[Virtual Microscope": "Hamamatsu VMS",
    b"[Uncompressed Virtual Microscope": "Hamamatsu VMU",
}
"""First bytes of formats of OpenSlide that say so."""

CLOSED_STARTS = {
    b"PK\x03\x04": "is a ZIP archive; unpack it, and give the slide that is in it",
    b"\x1f\x8b": "is packed with gzip; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "is a 7-Zip archive; unpack it, and give the slide that is in it",
    b"Rar!": "is a RAR archive; unpack it, and give the slide that is in it",
    b"\xda\xce\xbe\x0a": CLOSED_NAMES[".nd2"],
    b"\x70\x00\x00\x00": CLOSED_NAMES[".lif"],
    b"\x89HDF\r\n\x1a\n": f"is an HDF5 file, such as Imaris writes, which tnet does not read; {EXPORT}",
    b"\xd0\xcf\x11\xe0": f"is an OLE2 file, such as Zeiss ZVI or Olympus OIB, which tnet does not read; {EXPORT}",
    bytes(64): "begins with nothing but zeros: what wrote it did not finish; copy it again",
    b"%!PS": POSTSCRIPT,
    b"\xc5\xd0\xd3\xc6": POSTSCRIPT,
    b"%PDF": "is a PDF document; give the slide that it was made from",
    b"\x1aE\xdf\xa3": VIDEO,
    b"\x00\x00\x01\xba": VIDEO,
    b"version https://git-lfs": "only says where Git LFS keeps the slide; fetch it with git lfs pull",
}

OLYMPUS = b"\x18\x00IS"
"""What follows the TIFF header of an Olympus VSI."""

PICTURE_SUFFIXES = frozenset({"", ".png", ".jpg", ".jpeg"})
"""Names under which a picture is read, whatever its kind; under others only if they are those of its kind."""


def closed_format(name: str, start: bytes, vendor: str | None) -> str | None:
    """Say why a file is not opened at all, whatever picture may be found in it; None where nothing speaks against it.

    Args:
        start: The first bytes of the file.
        vendor: As OpenSlide recognises the file.
    """
    suffix = Place(name).suffix
    content = None if vendor is not None else foreign_content(start)
    if content is not None and suffix not in CLOSED_NAMES:
        return content
    if suffix in OPENSLIDE_NAMES:
        expected, format_name, matter = OPENSLIDE_NAMES[suffix]
        refusal = f"is named as a {format_name} slide, but OpenSlide does not recognise it as one: {matter}"
        return None if vendor == expected else refusal
    if suffix in CLOSED_NAMES:
        return CLOSED_NAMES[suffix]
    known = next((name for first_bytes, name in FORMAT_STARTS.items() if start.startswith(first_bytes)), None)
    if vendor is not None or known is None:
        return None
    return f"is a {known} file that OpenSlide does not know as a slide; copy it again, or {EXPORT}"


def foreign_content(start: bytes) -> str | None:
    """Say what a file is that holds no slide, by its first bytes; None where they do not tell."""
    if start[:4] == b"II*\x00" and start[8:12] == OLYMPUS:
        return CLOSED_NAMES[".vsi"]
    if start[128:132] == b"DICM":
        return _foreign_dicom(start)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<ome", b"<dataobject", b"<error>")):
        if b"<error>" in text and b"<code>" in text:
            return SERVER_ERROR
        described = CLOSED_NAMES[".isyntax"] if b"dpufsimport" in text else XML
        return WEB_PAGE if b"html" in text or text.startswith(b"<head") else described
    if (start[4:8] == b"ftyp" and start[8:11] in VIDEO_BRANDS) or (start[:4], start[8:12]) == (b"RIFF", b"AVI "):
        return VIDEO
    return next((said for first_bytes, said in CLOSED_STARTS.items() if start.startswith(first_bytes)), None)


def _foreign_dicom(start: bytes) -> str:
    # Here and not above: pydicom takes a third of a second to import.
    from pydicom.uid import UID

    found = re.search(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.[0-9.]+", start)
    kind = UID(found[0].decode()) if found else None
    if kind is None or kind == WHOLE_SLIDE_STORAGE:
        return "is a DICOM file that OpenSlide does not know as a slide: it is not whole, or damaged; copy it again"
    return f"is a DICOM file of another kind ({kind.name}); give files of VL Whole Slide Microscopy Image Storage"


def misnamed_picture(name: str, picture_format: str) -> str | None:
    """Say why a picture is not taken for the slide its name promises; None where the name is that of a picture."""
    suffix = Place(name).suffix
    if suffix in PICTURE_SUFFIXES or Image.registered_extensions().get(suffix) == picture_format:
        return None
    return (
        f"is a {picture_format} picture inside, though its name ends in {suffix}: at most the preview of a slide that "
        "lies elsewhere. If it is the whole image, let its name end in .png or .jpg, as its kind is"
    )


def vendor_with_quirks(page: tifffile.TiffPage) -> str | None:
    """Return the format of a TIFF whose pages are not what they seem, as OpenSlide knows it; None for plain ones."""
    if page.is_ndpi:
        return "Hamamatsu NDPI"
    if page.is_scn:
        return "Leica SCN"
    if page.is_philips:
        return "Philips TIFF"
    if page.is_bif:
        return "Ventana"
    return "Trestle" if str(page.software).startswith("MedScan") else None
