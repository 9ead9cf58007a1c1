"""Opening a slide: which reader, by what the file contains."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tnet_cli.errors import MissingMppError, SlideError, UnsupportedSlideError, UsageError
from tnet_cli.headers.directories import check_directories
from tnet_cli.places import Place
from tnet_cli.slide.containers import closed_format
from tnet_cli.slide.openslide_backend import PLAIN_TIFFS, OpenSlideSlide, detect_vendor
from tnet_cli.slide.pillow_backend import PillowSlide
from tnet_cli.slide.slide import ProgressFunction, Slide
from tnet_cli.slide.tiff_backend import TIFF_STARTS, TiffSlide

READERS: dict[str, Callable[..., Slide]] = {
    "openslide": OpenSlideSlide,
    "tifffile": TiffSlide,
    "pillow": PillowSlide,
}


def open_slide(
    path: str | Path | Place,
    *,
    reader: str | None = None,
    mpp: float | None = None,
    on_progress: ProgressFunction | None = None,
) -> Slide:
    """Open a slide with the reader that fits its content.

    TIFF files go to tifffile, those of vendors with quirks and everything else OpenSlide knows to OpenSlide, and
    ordinary pictures to Pillow. A file whose name belongs to OpenSlide is read by OpenSlide or not at all. Behind a
    URL, TIFF files are read by ranges and pictures whole.

    Args:
        path: The file, or its URL: ``https://``, ``http://``, ``s3://`` or ``gs://``.
        reader: ``openslide``, ``tifffile`` or ``pillow`` to force one.
        mpp: Overrides the file's micrometres per pixel.
        on_progress: Told rows done and rows in all, while a slide without a pyramid is reduced.

    Raises:
        SlideError: there is no such file, or no reader can open it.
        MissingMppError: the scale is implausible; a missing one is no error here.
        UsageError: there is no such reader.
    """
    place = Place(path)
    if reader is not None and reader not in READERS:
        raise UsageError(f"--reader {reader}: expected one of {', '.join(READERS)}")
    if place.is_url:
        from tnet_cli.slide.remote_slide import open_remote_slide

        return open_remote_slide(place, reader=reader, mpp=mpp, on_progress=on_progress)
    text = place.opened_whole()
    start = _checked_start(text)
    vendor = detect_vendor(text)
    closed = closed_format(text, start, vendor)
    if closed is not None:
        raise SlideError(text, closed)
    if reader is not None:
        return READERS[reader](text, mpp=mpp, on_progress=on_progress)
    if start[:4] not in TIFF_STARTS or (vendor is not None and vendor not in PLAIN_TIFFS):
        chosen = PillowSlide if vendor is None else OpenSlideSlide
        return chosen(text, mpp=mpp, on_progress=on_progress)
    try:
        return TiffSlide(text, mpp=mpp, on_progress=on_progress, is_any_vendor=False)
    except UnsupportedSlideError as unsupported:
        if vendor is None:
            raise
        try:
            return OpenSlideSlide(text, mpp=mpp, on_progress=on_progress)
        except MissingMppError:
            raise
        except SlideError as error:
            raise unsupported from error


def _checked_start(path: str) -> bytes:
    file = Path(path)
    try:
        if file.is_dir():
            raise SlideError(path, "is a directory; expected a slide")
        if not file.exists():
            raise SlideError(path, "no such file")
        if not file.is_file():
            raise SlideError(path, "is no ordinary file; expected a slide")
        if file.stat().st_size == 0:
            raise SlideError(path, "is empty; expected a slide")
        with file.open("rb") as opened:
            start = opened.read(256)
            if start[:4] in TIFF_STARTS and start[128:132] != b"DICM":
                # Before OpenSlide is asked what it is, which reads all directories for that.
                check_directories(path, partial(os.pread, opened.fileno()), file.stat().st_size)
            return start
    except OSError as exc:
        raise SlideError(path, f"cannot be opened: {exc.strerror or exc}") from exc
