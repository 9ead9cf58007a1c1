"""What slides of other formats than TIFF claim of their size, where OpenSlide makes room for it before it looks."""

import re
from contextlib import suppress
from pathlib import Path

from tnet_cli.errors import SlideError
from tnet_cli.headers.directories import LARGEST_TILE_BYTES, too_large_piece

MOST_PIECES = 4_000_000
"""Tiles, frames or camera images of a slide."""

MOST_LISTED = 10_000
"""Files, layers and resolutions of a MIRAX slide."""

INI_BYTES = 1024 * 1024
"""More of an index file is not read by OpenSlide either."""

UNREADABLE_HEADER = "its DICOM header cannot be read, so that nothing is known of what it holds; copy it again"

DEFLATED = b"1.2.840.10008.1.2.1.99"
SIZES = (0x00280010, 0x00280011, 0x00280008, 0x00480007, 0x00480006)
"""Rows, Columns, NumberOfFrames, TotalPixelMatrixRows and TotalPixelMatrixColumns of DICOM; none stands further on."""


def check_claims(path: str) -> None:
    """Refuse a MIRAX slide or a DICOM file that claims more tiles, or larger ones, than a slide has.

    A file that cannot be opened, or is no DICOM after all, is left to OpenSlide.

    Raises:
        SlideError: it does.
    """
    file = Path(path)
    with suppress(OSError):
        if file.suffix.lower() == ".mrxs":
            folder = file.with_suffix("")
            if pipe := next((part for part in folder.iterdir() if part.is_fifo()), None):
                # OpenSlide would wait for whoever writes into it.
                raise SlideError(path, f"{folder.name}/{pipe.name} is no ordinary file; copy the slide again")
            with (folder / "Slidedat.ini").open("rb") as index:
                _check_mirax(path, index.read(INI_BYTES).decode("latin-1"))
            return
        with file.open("rb") as opened:
            start = opened.read(4096)
        if start[128:132] == b"DICM" and DEFLATED not in start:
            _check_dicom(path)


def _check_mirax(path: str, text: str) -> None:
    numbers = re.findall(r"^\s*(\w+)\s*=\s*(\d{1,20})\s*$", text, re.MULTILINE)
    counted = max((int(number) for name, number in numbers if name.endswith("COUNT")), default=0)
    named = {name: int(number) for name, number in numbers}
    images = named.get("IMAGENUMBER_X", 0) * named.get("IMAGENUMBER_Y", 0)
    if counted > MOST_LISTED or images > MOST_PIECES:
        raise SlideError(
            path,
            f"its Slidedat.ini counts {max(counted, images)} parts, which no slide has; it is damaged, copy it again",
        )
    _check_piece(path, named.get("DIGITIZER_WIDTH", 0), named.get("DIGITIZER_HEIGHT", 0))


def _check_dicom(path: str) -> None:
    # Here and not above: pydicom takes a third of a second to import.
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    tags = [Tag(number) for number in SIZES]
    try:
        with Path(path).open("rb") as file:
            header = read_partial(file, lambda tag, *_: tag > max(SIZES), specific_tags=list(tags))
        height, width, frames, down, across = (int(header[tag].value) if tag in header else 0 for tag in tags)
    except InvalidDicomError:
        return  # OpenSlide, which knows DICOM by the same mark, does not open it either
    except Exception as exc:  # pydicom names no common base of what damaged files make it raise
        raise SlideError(path, UNREADABLE_HEADER) from exc
    _check_piece(path, width, height)
    tiles = -(-across // max(1, width)) * -(-down // max(1, height))
    if max(frames, tiles) > MOST_PIECES:
        raise SlideError(path, f"says that it has {max(frames, tiles)} frames, which no slide has; it is damaged")


def _check_piece(path: str, width: int, height: int) -> None:
    if 4 * width * height > LARGEST_TILE_BYTES:
        raise too_large_piece(path, width, height)
