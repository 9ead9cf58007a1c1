"""Formats of slides, by suffix and first bytes: which files of a folder are slides, and which only parts of one."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from tnet_cli.slide.openslide_backend import detect_vendor

TIFF_SUFFIXES = frozenset({".svs", ".tif", ".tiff", ".btf", ".tf8", ".gtiff", ".qptiff", ".ndpi", ".scn", ".bif"})
INDEX_SUFFIXES = frozenset({".vms", ".vmu", ".ndpis"})
"""Text files that name the pictures of a Hamamatsu slide."""

SLIDE_SUFFIXES = TIFF_SUFFIXES | INDEX_SUFFIXES | {".dcm", ".mrxs", ".svslide"}
"""Files with these suffixes are slides until a reader says otherwise; then they are failed rows, not left out."""

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
"""Pictures are slides too, unless their name says that they only show one."""

OTHER_SUFFIXES = frozenset({".txt", ".csv", ".xml", ".json", ".geojson", ".html", ".dat", ".ini", ".log", ".pdf"})
"""What often lies beside slides: not even looked into, as the first bytes of other files are."""

SIDE_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "system volume information", "__macosx", "lost+found"})
"""What file servers and archives put among the user's folders: copies and thumbnails."""

LARGEST_INDEX = 1024 * 1024
"""Bytes; real index files have a few thousand."""

_SHOWS_A_SLIDE = re.compile(
    r"(?P<slide>.+?)(?:\.(?:svs|tiff?|ndpi|mrxs|scn|bif))?"
    r"[-_. ]*\(?(?:thumb|thumbnail|label|macro|overview|preview|mask|overlay)\)?",
    re.IGNORECASE,
)
_TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def suffix_of(name: str) -> str:
    """Return a file name's last suffix in lower case, with its dot; empty when it has none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem and suffix else ""


def is_slide(path: str, name: str) -> bool:
    """Tell whether a file in a folder is a slide: by its suffix, and where that says nothing by its first bytes."""
    suffix = suffix_of(name)
    if suffix in SLIDE_SUFFIXES or suffix in PICTURE_SUFFIXES:
        return True
    start = b"" if suffix in OTHER_SUFFIXES else _first_bytes(path)
    is_like_one = start.startswith((*_TIFF_STARTS, b"ZISRAWFILE")) or start[128:] == b"DICM"
    return is_like_one and detect_vendor(path) is not None


def is_dicom(path: str, name: str) -> bool:
    """Tell whether a file is to be asked for its DICOM series."""
    suffix = suffix_of(name)
    return suffix == ".dcm" or (
        suffix not in SLIDE_SUFFIXES | PICTURE_SUFFIXES | OTHER_SUFFIXES and _first_bytes(path)[128:] == b"DICM"
    )


def parts_of_slides(folder: str, names: Collection[str]) -> dict[str, str]:
    """Find, among all files of a folder, those that are only parts of other slides in it, or show one.

    Returns:
        Name of the part to name of the slide: pictures that a ``.vms``, ``.vmu`` or ``.ndpis`` lists, such an index
        that lists a single slide, and pictures called like a slide with ``thumbnail``, ``label`` or the like added.
    """
    present = set(names)
    parts: dict[str, str] = {}
    for index in sorted(name for name in present if suffix_of(name) in INDEX_SUFFIXES):
        listed = [name for name in dict.fromkeys(listed_in(Path(folder, index))) if name in present and name != index]
        if suffix_of(index) == ".ndpis" and len(listed) == 1:
            parts[index] = listed[0]  # the set of one: its only image is a slide, which the index is not
        else:
            parts |= dict.fromkeys(listed, index)
    slides = {name.rpartition(".")[0].casefold(): name for name in present if suffix_of(name) in SLIDE_SUFFIXES}
    for name in present - parts.keys():
        shown = _SHOWS_A_SLIDE.fullmatch(name.rpartition(".")[0]) if suffix_of(name) in PICTURE_SUFFIXES else None
        if shown and (slide := slides.get(shown["slide"].casefold())):
            parts[name] = slide
    return parts


def listed_in(index: Path) -> list[str]:
    """Return the file names that a ``.vms``, ``.vmu`` or ``.ndpis`` may list; none when it cannot be read."""
    if not is_file(index):
        return []
    try:
        with index.open("rb") as file:
            text = file.read(LARGEST_INDEX).decode("utf-8", errors="replace")
    except OSError:
        return []
    values = (line.partition("=")[2] for line in text.splitlines())
    names = (value.strip().replace("\\", "/").rpartition("/")[2] for value in values)
    return [name for name in names if suffix_of(name)]


def mirax_slide(folder: Path) -> Path | None:
    """Return the ``.mrxs`` beside a folder that holds that slide's data, or None when it is another folder."""
    if not is_file(folder / "Slidedat.ini"):
        return None
    slide = folder.with_name(f"{folder.name}.mrxs")
    return slide if is_file(slide) else None


def is_file(path: str | Path) -> bool:
    """Tell whether there is such a file; other than that of ``Path``, this never raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Tell whether there is such a folder; other than that of ``Path``, this never raises."""
    return os.path.isdir(path)  # noqa: PTH112


def _first_bytes(path: str) -> bytes:
    if not is_file(path):
        return b""
    try:
        with Path(path).open("rb") as file:
            return file.read(132)
    except OSError:
        return b""
