"""What a TIFF does not hold: tiles that were left out, and what lies beyond the end of a file that was cut off."""

import struct

import numpy as np
import tifffile

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Size
from tnet_cli.slide.slide import Doubt
from tnet_cli.slide.tiff_pages import ChosenPages, page_size
from tnet_cli.slide.tiff_segments import PLANAR_SEPARATE, TileLayout, is_bare_piece

NO_DATA_TAGS = (42113, 33550, 34735)
"""GDAL's value of nothing, and GeoTIFF's scale and keys: there, a tile that is left out is nothing by right."""

FROM_PX, MOST_PX_A_BYTE = 800_000_000, 4096
"""Pixels of a coarsest image whose reduction takes room on the disk, and how many of them a byte of the file can hold:
one colour, as zstd packs it, takes one for two thousand."""


def stored_levels(
    path: str, tif: tifffile.TiffFile, chosen: ChosenPages
) -> tuple[list[tuple[tifffile.TiffPage, ...]], tuple[Doubt, ...]]:
    """Return the pyramid levels of which something is stored, finest first, and what is doubtful about the file.

    Returns:
        The page of each, or those of its channels; doubts.

    Raises:
        SlideError: nothing of the finest is stored, part of the slide lies beyond the end of the file, or the file
            has too few bytes for what would have to be reduced.
    """
    doubts = chosen.doubts + _directory_doubts(path, tif, chosen)
    kept: list[tuple[tifffile.TiffPage, ...]] = []
    said: list[str] = []
    may_change_answer = False
    for pages in zip(*chosen.channels, strict=True):
        page, is_finest = pages[0], not kept
        if page.compression == tifffile.COMPRESSION.OJPEG:
            kept.append(pages)  # its decoder says what is missing
            continue
        name = f"{page.imagewidth} x {page.imagelength}"
        for channel in pages:
            listed, needed = min(len(channel.dataoffsets), len(channel.databytecounts)), TileLayout(channel).pieces
            if listed < needed:
                raise SlideError(
                    path,
                    f"lists only {listed} of the {needed} tiles or strips of its image of {name} pixels: it is "
                    "damaged; copy or export it again",
                )
        surveys = [survey(channel, tif.filehandle.size) for channel in pages]
        left_out, beyond, count = (max(counts) for counts in zip(*surveys, strict=True))
        if beyond:
            raise SlideError(
                path,
                f"is cut off: {beyond} of the {count} tiles or strips of its image of {name} pixels lie beyond the "
                "end of the file; copy it again",
            )
        if left_out < count:
            kept.append(pages)
        elif is_finest:
            raise SlideError(
                path,
                f"holds none of the {count} tiles or strips of its image of {name} pixels: what wrote it did not "
                "finish; copy or export it again",
            )
        if left_out or not count:
            shown_as = "shown as background" if is_finest else "made from the next finer pyramid level"
            said.append(f"{left_out} of {count} tiles of its image of {name} pixels, {shown_as}")
            may_change_answer |= is_finest and not any(tag in page.tags for tag in NO_DATA_TAGS)
    _check_bytes(path, page_size(kept[-1][0]), tif.filehandle.size)
    if not said:
        return kept, doubts
    return kept, (*doubts, Doubt("missing_tiles", f"the file lacks {'; '.join(said)}", may_change_answer))


def _check_bytes(path: str, coarsest: Size, size: int) -> None:
    if coarsest.area > max(FROM_PX, MOST_PX_A_BYTE * size):
        raise SlideError(
            path,
            f"says that it has {coarsest.width} x {coarsest.height} pixels, and its {size} bytes cannot hold so many: "
            "it is damaged, or nearly empty; crop it, or export it with a pyramid",
        )


def _directory_doubts(path: str, tif: tifffile.TiffFile, chosen: ChosenPages) -> tuple[Doubt, ...]:
    """Return a doubt where a TIFF's chain of images goes on after the last one that can be found, or is not all there.

    Raises:
        SlideError: the chain, or that of the slide's reduced copies, goes on beyond the end of the file.
    """
    last_tag, onward = _directory_end(tif, tif.pages[-1].aspage())
    finest = chosen.channels[0][0]
    if max(onward, *(finest.subifds or (0,))) >= tif.filehandle.size:
        raise SlideError(path, "is cut off: some of its images lie beyond the end of the file; copy it again")
    if onward == 0 and last_tag > 0 and all(sub.aspage().imagewidth > 0 for sub in finest.pages or ()):
        beyond = sum(survey(page, tif.filehandle.size)[1] > 0 for page in chosen.others)
        sentence = f"is cut off: {beyond} of its other images, such as its label, are not all there; copy it again"
        return (Doubt("cut_off", sentence, may_change_answer=False),) if beyond else ()
    sentence = "its list of images breaks off, so some may be missing (pyramid levels, label); copy it again"
    return (Doubt("broken_directory", sentence),)


def survey(page: tifffile.TiffPage, end: int) -> tuple[int, int, int]:
    """Count the tiles or strips of a page: those left out, those that reach beyond the file's end, and all.

    Where each colour is stored apart, a tile is left out if one of its colours is.

    Args:
        end: Bytes of the file.
    """
    offsets, counts = np.asarray(page.dataoffsets, np.float64), np.asarray(page.databytecounts, np.float64)
    counts = counts[: len(offsets)]
    offsets = offsets[: len(counts)]
    left_out = (offsets == 0) | (counts == 0)
    if is_bare_piece(page):
        # Some writers count more bytes than the image has, and nobody reads these.
        counts = np.minimum(counts, page.nbytes / max(1, len(counts)))
    beyond = ~left_out & (offsets + counts > end)
    planes = page.samplesperpixel if int(page.planarconfig) == PLANAR_SEPARATE else 1
    tiles = len(offsets) // planes
    left_out, beyond = (pieces[: tiles * planes].reshape(planes, tiles).any(axis=0) for pieces in (left_out, beyond))
    return int(left_out.sum()), int(beyond.sum()), tiles


def _directory_end(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[int, int]:
    """Return the last tag of a page's directory, zero where there are zeros instead, and where the next is said to lie.

    After the last page that is zero, and the file's end where that is cut off.
    """
    kind, file = tif.tiff, tif.filehandle
    file.seek(page.offset)
    try:
        (tags,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
        file.seek(page.offset + kind.tagnosize + max(0, tags - 1) * kind.tagsize)
        last = file.read(kind.tagsize)[:2] if tags else bytes(2)
        (onward,) = struct.unpack(kind.offsetformat, file.read(kind.offsetsize))
    except struct.error:
        return 0, int(file.size)
    return int.from_bytes(last), int(onward)
