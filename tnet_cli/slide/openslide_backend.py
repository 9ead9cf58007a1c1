"""Slides through OpenSlide: every vendor format it knows."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import Image

from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.geometry import Region, Size
from tnet_cli.headers.claims import UNREADABLE_HEADER, check_claims
from tnet_cli.headers.directories import LARGEST_TILE_BYTES, too_large_piece
from tnet_cli.headers.streams import HEADER_BYTES, JPEG_2000_START, stream_colours
from tnet_cli.slide.colours import over
from tnet_cli.slide.mpp import StatedMpp, first_stated, option_mpp, parse_number, resolution_mpp, stated_mpp
from tnet_cli.slide.resample import PyramidLevel, read_region
from tnet_cli.slide.slide import AT_ONCE_PX, WHITE, ProgressFunction, Slide, SlideFacts, reason_of, told
from tnet_cli.slide.tiff_backend import DECODING_ERRORS, orientation_of
from tnet_cli.slide.tiff_missing import stored_levels
from tnet_cli.slide.tiff_pages import ChosenPages, choose_pages, page_size, snapped_downsample

CAUSES = {
    "Unsupported or missing image file": "is no slide that OpenSlide knows; leave out --reader",
    "Attribute (Bits|HighBit|PixelRep)": "has samples of more than 8 bits, and OpenSlide reads none; export it with 8",
    "Attribute Samples|[Pp]hotometric": "is not stored in RGB colours, and OpenSlide reads no others; export it in RGB",
    "PlanarConfiguration": "stores each colour apart, which OpenSlide does not read; export it interleaved",
    "FocalPlanes|focal plane": "has several focal planes, which OpenSlide does not read; export one of them",
    "[Cc]ompression|ransfer syntax": "is encoded in a way that OpenSlide does not read; export it with JPEG",
    "data element header": "is damaged, or encoded in a way that OpenSlide does not read (deflated, big-endian); "
    "copy it again, or export it with explicit VR in little-endian",
    "No such file|open|Slidedat|key file|filename": "lacks a file that belongs to it; lay all of its files together",
    "find any|main image|pyramid level": "holds no image of the slide, at most its label; look for its other files",
    "": "is damaged, not whole, or of a kind that OpenSlide does not read; copy it again, or export it as OME-TIFF",
}
"""What may be the matter with a slide by what OpenSlide says when it cannot open it; the first that fits counts."""

DAMAGED = "the file is damaged or not whole, so copy it again"

PLAIN_TIFFS = frozenset({"aperio", "generic-tiff"})
"""Vendors, in OpenSlide's words, of TIFF files whose pages are what they seem; those of others have quirks."""

_told = partial(told, of=openslide.OpenSlideError)


class OpenSlideSlide(Slide):
    """A slide read through OpenSlide.

    OpenSlide keeps an error: after one region could not be read, all further reads through the same handle fail. So
    the file is opened anew after an error. A handle is released when the last thread that reads through it is done.

    What it takes and raises is that of ``open_slide``.
    """

    reader = "openslide"

    def __init__(self, path: str, *, mpp: float | None = None, on_progress: ProgressFunction | None = None) -> None:
        check_claims(path)
        try:
            slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as exc:
            cause = reason_of(path, exc)
            sentence = next(said for pattern, said in CAUSES.items() if re.search(pattern, cause))
            raise SlideError(path, f"{sentence} ({cause})") from exc
        if slide.properties.get("openslide.vendor") == "dicom":
            _refuse_mislabelled_dicom(path)
        super().__init__(path, _facts_of(path, slide, mpp), on_progress)
        self._slide: openslide.OpenSlide | None = slide
        self._downsamples = slide.level_downsamples
        # Elsewhere what is transparent was not scanned, or is so by its own alpha.
        self._may_lack_tiles = self.vendor == "dicom" or any(doubt.name == "missing_tiles" for doubt in self.doubts)

    def close(self) -> None:
        """Release the file."""
        super().close()
        self._slide = None

    def _handle(self) -> openslide.OpenSlide:
        """Return a handle that works. Whoever reads keeps a reference, so that none is closed under a read.

        Raises:
            SlideError: the slide is closed.
        """
        self._check_open()
        with self._lock, _told(self.path, "OpenSlide cannot open it again"):
            if self._slide is None:
                self._slide = openslide.OpenSlide(self.path)
            return self._slide

    def _drop(self, failed: openslide.OpenSlide) -> None:
        with self._lock:
            if self._slide is failed:
                self._slide = None

    def _unit(self, pyramid_level: int) -> Size:
        tile = _tile_of(self.properties, pyramid_level)
        return super()._unit(pyramid_level) if tile is None else Size(*tile)

    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        # OpenSlide takes the corner in level-0 pixels, and divides it by its own idea of the downsample.
        own = self._downsamples[pyramid_level]
        corner = (round(x * own), round(y * own))
        slide = self._handle()
        try:
            picture = slide.read_region(corner, pyramid_level, (width, height))
        except openslide.OpenSlideError as exc:
            self._drop(slide)
            raise UnreadableRegionError(
                self.path,
                f"the region at {x}, {y} of pyramid level {pyramid_level} cannot be decoded: "
                + ("OpenSlide does not read pixels of its kind" if "can not handle" in str(exc) else DAMAGED)
                + f" ({reason_of(self.path, exc)})",
            ) from exc
        tiles, tile = self._tiles_under(pyramid_level, x, y, width, height)
        self._count(tiles * tile.area, 0, tiles)
        if self._may_lack_tiles and picture.getchannel("A").getextrema()[0] == 0:
            self._fill(picture, pyramid_level, x, y)
        return _opaque(picture, self.background)

    def _fill(self, picture: Image.Image, pyramid_level: int, x: int, y: int) -> None:
        """Put the next finer pyramid level where a picture is transparent because nothing is stored; tell of it."""
        if pyramid_level == 0:
            self.doubt("missing_tiles", "the file lacks tiles of its finest image, which are shown as background")
            return
        self.doubt(
            "missing_reduced_tiles",
            "the file lacks tiles of its reduced images, which are made from the next finer pyramid level",
            may_change_answer=False,
        )
        is_hole = picture.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0)
        left, top, right, bottom = is_hole.getbbox() or (0, 0, 1, 1)
        downsample = self.pyramid[pyramid_level].downsample
        finer = read_region(
            partial(self._read_stored, pyramid_level - 1),
            self.pyramid[pyramid_level - 1],
            Region(*(round(side * downsample) for side in (x + left, y + top, right - left, bottom - top))),
            right - left,
            bottom - top,
            background=self.background,
            unit=self._unit(pyramid_level - 1),
            most_px=AT_ONCE_PX,
        )
        picture.paste(Image.fromarray(finer).convert("RGBA"), (left, top), is_hole.crop((left, top, right, bottom)))

    def _tiles_under(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> tuple[int, Size]:
        """Return how many tiles lie under a box and their size; where OpenSlide does not say, the box as one tile."""
        if f"openslide.level[{pyramid_level}].tile-width" not in self.properties:
            return 1, Size(width, height)
        tile = self._unit(pyramid_level)
        columns = (x + width - 1) // tile.width - x // tile.width + 1
        rows = (y + height - 1) // tile.height - y // tile.height + 1
        return columns * rows, tile


def detect_vendor(path: str) -> str | None:
    """Return the vendor OpenSlide recognises a file as, or None."""
    try:
        vendor: str | None = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    return vendor


def _facts_of(path: str, slide: openslide.OpenSlide, mpp: float | None) -> SlideFacts:
    # Of names that are no text, as damaged files have, there is no value to be had.
    properties = {name: value for name in slide.properties if (value := slide.properties.get(name)) is not None}
    finest = Size(*slide.dimensions)
    if finest.width < 1 or finest.height < 1:
        raise SlideError(path, f"its image is {finest.width} x {finest.height} pixels; expected an image")
    for width, height in (_tile_of(properties, number) or (0, 0) for number in range(slide.level_count)):
        # It makes four bytes of each pixel.
        if 4 * width * height > LARGEST_TILE_BYTES:
            raise too_large_piece(path, width, height)
    pyramid = tuple(
        PyramidLevel(Size(*size), snapped_downsample(finest, Size(*size))) for size in slide.level_dimensions
    )
    with _told(path, "its associated images cannot be listed"):
        associated_images = tuple(slide.associated_images)
    vendor = properties.get("openslide.vendor")
    chosen = _chosen_pages(path, finest) if vendor in PLAIN_TIFFS else None
    if mpp is not None:
        stated: StatedMpp | None = option_mpp(path, mpp)
    else:
        stated = _mpp_of(path, properties) if chosen is None else chosen.mpp(path)
    return SlideFacts(
        pyramid=pyramid,
        stated_mpp=stated,
        vendor=vendor,
        doubts=() if chosen is None else chosen.doubts,
        bounds=_bounds(properties),
        background=_background(properties),
        properties=properties,
        associated_images=associated_images,
    )


def _tile_of(properties: Mapping[str, str], pyramid_level: int) -> tuple[int, int] | None:
    """Return width and height of the tiles of a pyramid level; None where OpenSlide does not say."""
    try:
        width, height = (
            int(properties[f"openslide.level[{pyramid_level}].tile-{side}"]) for side in ("width", "height")
        )
    except (KeyError, ValueError):
        return None
    return width, height


def _mpp_of(path: str, properties: Mapping[str, str]) -> StatedMpp | None:
    x, y = (_number(properties, f"openslide.mpp-{axis}") for axis in "xy")
    stated = stated_mpp(path, x, y, "openslide.mpp-x")
    if properties.get("openslide.vendor") != "dicom":
        return stated
    spacing = [_number(properties, f"dicom.PixelSpacing[{axis}]") for axis in (1, 0)]
    x, y = (None if millimetres is None else 1000 * millimetres for millimetres in spacing)
    per_mm = []
    for length, count in (("Width", "Columns"), ("Height", "Rows")):
        millimetres = _number(properties, f"dicom.ImagedVolume{length}")
        pixels = _number(properties, f"dicom.TotalPixelMatrix{count}")
        per_mm.append(pixels / millimetres if millimetres and pixels else None)
    # Some writers give the volume in other units, so it is believed only when it is plausible.
    volume = resolution_mpp(per_mm[0], per_mm[1], "mm", "dicom.ImagedVolumeWidth")
    return first_stated(stated, stated_mpp(path, x, y, "dicom.PixelSpacing"), volume)


def _number(properties: Mapping[str, str], key: str) -> float | None:
    return parse_number(properties.get(key, ""))


def _chosen_pages(path: str, finest: Size) -> ChosenPages:
    """Return the pages that are the slide of a TIFF whose pages are what they seem, as our own reader takes them.

    Raises:
        SlideError: OpenSlide takes others.
    """
    with told(path, "its TIFF directory is damaged", of=DECODING_ERRORS), tifffile.TiffFile(path) as tif:
        chosen = choose_pages(path, tif)
        if len(chosen.channels) > 1 or page_size(chosen.channels[0][0]) != finest:
            raise SlideError(path, "OpenSlide takes another of its images for the slide; leave out --reader")
        if orientation_of(chosen.channels[0][0]) != 1:
            raise SlideError(path, "is stored turned or mirrored, which OpenSlide does not heed; leave out --reader")
        return replace(chosen, doubts=stored_levels(path, tif, chosen)[1])


def _bounds(properties: Mapping[str, str]) -> Region | None:
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return Region(x, y, width, height) if width > 0 and height > 0 else None


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    try:
        colour = bytes.fromhex(properties["openslide.background-color"])
    except (KeyError, ValueError):
        return WHITE
    return (colour[0], colour[1], colour[2]) if len(colour) == 3 else WHITE


def _opaque(picture: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    rgba = np.asarray(picture)
    return over(rgba[..., :3], rgba[..., 3:], background)


def _refuse_mislabelled_dicom(path: str) -> None:
    """Compare what the first frame says of its colours with what the file says: OpenSlide goes by the file.

    Raises:
        SlideError: they say different things.
    """
    from pydicom.filereader import dcmread

    try:
        with Path(path).open("rb") as file:
            data = dcmread(file, stop_before_pixels=True, specific_tags=["PhotometricInterpretation"])
            # The element itself, a table of offsets, and the first frame.
            file.seek(12, os.SEEK_CUR)
            file.seek(int.from_bytes(file.read(8)[4:], "little"), os.SEEK_CUR)
            head = file.read(HEADER_BYTES)[8:]
        tag = str(data.get("PhotometricInterpretation", ""))
    except Exception as exc:  # pydicom names no common base of what damaged files make it raise
        raise SlideError(path, UNREADABLE_HEADER) from exc
    says = stream_colours(head)
    is_jpeg_2000 = JPEG_2000_START in head
    if (tag == "RGB" and says == "YCbCr") or (tag.startswith("YBR") and not is_jpeg_2000 and says == "RGB"):
        raise SlideError(
            path,
            f"its header says that its colours are {tag}, and its JPEG data that they are {says}; correct the header",
        )
    if tag in {"YBR_RCT", "YBR_ICT"} and is_jpeg_2000 and says is None:
        raise SlideError(path, f"its header says that its colours are {tag}, and its JPEG 2000 data that they are not")
