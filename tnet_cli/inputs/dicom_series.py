"""DICOM files of one series: OpenSlide reads them as one slide, whichever of them it is given.

Source: openslide.org/formats/dicom: the folder of the file, without those below it, is searched for files with the
same Series Instance UID.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHOLE_SLIDE_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of whole-slide microscopy; OpenSlide opens no other."""

_LAST_TAG_NEEDED = 0x00480007  # Total Pixel Matrix Rows


@dataclass(frozen=True, slots=True)
class DicomFile:
    """What a DICOM file says of its place in a slide.

    Attributes:
        series: Series Instance UID, or None when the file cannot be read so far.
        is_whole_slide: Whether it is of whole-slide microscopy; True when that is unknown.
        area_px: Pixels of its image if it is a resolution of the slide, zero for label, overview and thumbnail.
    """

    name: str
    series: str | None = None
    is_whole_slide: bool = True
    area_px: int = 0


def read_dicom(path: Path) -> DicomFile:
    """Read what tells a file's series; never raises for what is in the file."""
    # Here and not above: most folders hold no DICOM, and pydicom takes a third of a second to import.
    from pydicom.filereader import read_partial

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of values that break the standard, whose file is read all the same
            data = read_partial(file, stop_when=lambda tag, _vr, _length: tag > _LAST_TAG_NEEDED)
            return _facts(path.name, data)
    except Exception:  # noqa: BLE001  pydicom names no common base of what damaged files make it raise
        return DicomFile(path.name)


def _facts(name: str, data: Any) -> DicomFile:
    series = str(data.get("SeriesInstanceUID") or "") or None
    storage = str(data.file_meta.get("MediaStorageSOPClassUID") or data.get("SOPClassUID") or WHOLE_SLIDE_STORAGE)
    kind: Any = data.get("ImageType") or ()
    is_resolution = len(kind) > 2 and kind[2] == "VOLUME"
    width, height = (int(data.get(f"TotalPixelMatrix{side}") or 0) for side in ("Columns", "Rows"))
    return DicomFile(name, series, storage == WHOLE_SLIDE_STORAGE, width * height if is_resolution else 0)


def gather_series(files: Iterable[DicomFile]) -> list[tuple[DicomFile, list[DicomFile]]]:
    """Gather the files of one folder to slides.

    Returns:
        For each slide the file that stands for it, its finest resolution or the first of several, and all files of
        its series. A file whose series is unknown stands for itself: opening it will say what is wrong.
    """
    by_series: dict[str, list[DicomFile]] = {}
    for file in files:
        by_series.setdefault(file.series or f"file {file.name}", []).append(file)
    return [(max(group, key=lambda file: file.area_px), group) for group in by_series.values()]
