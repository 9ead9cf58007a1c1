"""What a file is by its name and first bytes, where that alone decides who reads it.

Some formats are for OpenSlide alone, and of others the image that can be seen is the preview of a slide elsewhere.
"""

from pathlib import PurePath

import tifffile

from tnet_cli.urls import redacted

EXPORT = "export it as OME-TIFF or SVS"

OPENSLIDE_NAMES = {
    ".mrxs": ("mirax", "MIRAX", "its folder of the same name, with Slidedat.ini in it, has to lie beside it"),
    ".ndpi": ("hamamatsu", "Hamamatsu NDPI", "it is not whole, or is something else; copy it again"),
    ".vms": ("hamamatsu", "Hamamatsu VMS", "the pictures that it lists have to lie beside it"),
    ".vmu": ("hamamatsu", "Hamamatsu VMU", "the pictures that it lists have to lie beside it"),
    ".bif": ("ventana", "Ventana", "it is not whole, or is something else; copy it again"),
    ".scn": ("leica", "Leica SCN", "it is not whole, or is something else; copy it again"),
    ".svslide": ("sakura", "Sakura", "it is not whole, or is something else; copy it again"),
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
    suffix: f"is a {name} file, which tnet does not read; {EXPORT}"
    for suffix, name in {
        ".lif": "Leica LIF",
        ".lof": "Leica LOF",
        ".nd2": "Nikon ND2",
        ".zvi": "Zeiss ZVI",
        ".oib": "Olympus OIB",
        ".oif": "Olympus OIF",
        ".oir": "Olympus OIR",
        ".flex": "Opera FLEX",
        ".ims": "Imaris",
        ".kfb": "KFBIO",
        ".sdpc": "SDPC",
        ".tmap": "TMAP",
        ".mds": "Motic",
        ".mdsx": "Motic",
        ".dsmeta": "Histec",
        ".zarr": "OME-Zarr",
    }.items()
}
"""Suffixes of formats that neither tnet nor OpenSlide reads; a picture that can be seen in such a file is a preview."""

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
    b"%PDF": "is a PDF document, not a slide",
}

PICTURE_SUFFIXES = frozenset(
    ["", ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pnm", ".jp2", ".tga"]
)


def closed_format(name: str, start: bytes, vendor: str | None) -> str | None:
    """Say why a file is not opened at all, whatever picture may be found in it; None where nothing speaks against it.

    Args:
        start: The first bytes of the file.
        vendor: As OpenSlide recognises the file.
    """
    suffix = PurePath(redacted(name)).suffix.lower()
    if suffix in OPENSLIDE_NAMES:
        expected, format_name, matter = OPENSLIDE_NAMES[suffix]
        if vendor == expected:
            return None
        return f"is named as a {format_name} slide, but OpenSlide does not recognise it as one: {matter}"
    if suffix in CLOSED_NAMES:
        return CLOSED_NAMES[suffix]
    if vendor is not None:
        return None
    for first_bytes, name_of_format in FORMAT_STARTS.items():
        if start.startswith(first_bytes):
            return (
                f"is a {name_of_format} file that OpenSlide does not know as a slide; copy it again, or {EXPORT}"
            )
    return next((said for first_bytes, said in CLOSED_STARTS.items() if start.startswith(first_bytes)), None)


def misnamed_picture(name: str, picture_format: str) -> str | None:
    """Say why a picture is not taken for the slide its name promises; None where the name is that of a picture."""
    suffix = PurePath(redacted(name)).suffix.lower()
    if suffix in PICTURE_SUFFIXES or (picture_format, suffix[:4]) == ("TIFF", ".tif"):
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
