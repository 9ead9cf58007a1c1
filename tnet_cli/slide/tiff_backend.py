"""TIFF-family slides through tifffile's page index: exactly the tiles that are needed, decoded by imagecodecs."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from tnet_cli.errors import SlideError, UnreadableRegionError

from tnet_cli.slide.scale import Scale, aperio_scale, ome_scale, option_scale, resolution_scale
from tnet_cli.slide.slide import WHITE, ProgressFunction, PyramidLevel, Slide, SlideFacts
from tnet_cli.slide.tile_cache import TileCache
from tnet_cli.slide.tiff_pages import (
    Orientation,
    is_aperio,
    page_size,
    pyramid_pages,
    rgb_converter,
    snapped_downsample,
)

CACHE_BYTES = 32 * 1024 * 1024
PLANAR_SEPARATE = 2
LARGEST_TILE_PX = 1 << 28

DECODING_ERRORS = (
    ValueError,
    RuntimeError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    OSError,
    struct.error,
)
"""What tifffile and imagecodecs raise on damaged files; imagecodecs' own errors derive from RuntimeError."""


@contextmanager
def _named(path: str, problem: str, error: type[SlideError] = SlideError) -> Iterator[None]:
    try:
        yield
    except SlideError:
        raise
    except DECODING_ERRORS as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise error(path, f"{problem}: {reason}") from exc


class TiffSlide(Slide):
    """A slide read through tifffile and imagecodecs.

    Args:
        path: The file.
        mpp: Overrides the file's scale.
        on_progress: Told how far a reduction is.

    Raises:
        SlideError: the file is not a TIFF, is damaged, or holds pixels of a kind this reader does not know.
        MissingMppError: the scale is implausible.
    """

    reader = "tifffile"

    def __init__(self, path: str, *, mpp: float | None = None, on_progress: ProgressFunction | None = None) -> None:
        with _named(path, "cannot be read as a TIFF"):
            self._tif = tifffile.TiffFile(path)
        try:
            with _named(path, "its TIFF directory is damaged"):
                self._pages = pyramid_pages(self._tif)
                facts = self._facts_of(path, mpp)
                self._convert = [self._converter(path, page) for page in self._pages]
                self._associated = _associated_pages(self._tif, self._pages)
            self._descriptor = os.open(path, os.O_RDONLY)
        except BaseException:
            self._tif.close()
            raise
        self._cache = TileCache(CACHE_BYTES)
        super().__init__(path, facts, on_progress)

    def _facts_of(self, path: str, mpp: float | None) -> SlideFacts:
        first = self._pages[0]
        stored = page_size(first)
        if stored.width < 1 or stored.height < 1 or first.dtype is None:
            raise SlideError(path, f"its first image is {stored.width} x {stored.height} pixels; expected an image")
        self._orientation = Orientation(_orientation_of(first))
        pyramid = []
        for page in self._pages:
            size = page_size(page)
            pyramid.append(PyramidLevel(self._orientation.shown(size), snapped_downsample(stored, size)))
        scale = option_scale(path, mpp) if mpp is not None else _scale_of(path, self._tif, first)
        return SlideFacts(
            pyramid=tuple(pyramid),
            mpp=None if scale is None else scale.mpp,
            mpp_source=None if scale is None else scale.source,
            vendor=_vendor_of(first, self._tif),
            background=WHITE,
            properties={"tiff.ImageDescription": str(first.description)} if first.description else {},
        )

    def _converter(self, path: str, page: tifffile.TiffPage) -> Callable[[np.ndarray], np.ndarray]:
        convert = rgb_converter(page, WHITE)
        if convert is None:
            raise SlideError(
                path,
                f"its pixels are {_name(page.photometric)}, compressed as {_name(page.compression)}, which is not supported; "
                "convert it to an RGB TIFF",
            )
        tile_pixels = page.tilewidth * page.tilelength if page.is_tiled else page.imagewidth * (page.rowsperstrip or 1)
        if not page.is_tiled and page.rowsperstrip >= page.imagelength:
            tile_pixels = page.imagewidth * page.imagelength
        if tile_pixels > LARGEST_TILE_PX:
            raise SlideError(
                path,
                f"stores {tile_pixels} pixels in one piece, which must be decoded at once; convert it to a tiled TIFF",
            )
        return convert

    def close(self) -> None:
        """Release the file."""
        if not self._closed:
            super().close()
            self._cache.clear()
            self._tif.close()
            os.close(self._descriptor)

    @property
    def associated_images(self) -> tuple[str, ...]:
        """Names of label, macro, thumbnail and other pages."""
        return tuple(self._associated)

    def read_associated(self, name: str) -> np.ndarray:
        """Read an associated image, uint8 (H, W, 3).

        Raises:
            SlideError: there is none of that name, or it cannot be decoded.
        """
        if name not in self._associated:
            return super().read_associated(name)
        page = self._associated[name]
        convert = rgb_converter(page, WHITE)
        if convert is None:
            raise SlideError(self.path, f"its image {name!r} is of a kind that is not supported")
        with _named(self.path, f"its image {name!r} cannot be decoded"), self._lock:
            samples = page.asarray()
        return convert(samples if samples.ndim == 3 else samples[..., None])

    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        page = self._pages[pyramid_level]
        box = self._orientation.stored_box(x, y, width, height, page_size(page))
        return self._orientation.turn(self._read_box(pyramid_level, *box))

    def _read_box(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        page = self._pages[pyramid_level]
        tile_width, tile_height = _tile_size(page)
        columns = range(x // tile_width, (x + width - 1) // tile_width + 1)
        rows = range(y // tile_height, (y + height - 1) // tile_height + 1)
        if len(columns) == len(rows) == 1 and (x % tile_width, y % tile_height) == (0, 0):
            tile = self._tile(pyramid_level, columns[0], rows[0])
            if tile.shape[:2] == (height, width):
                return tile
        pixels = np.empty((height, width, 3), np.uint8)
        for row in rows:
            for column in columns:
                tile = self._tile(pyramid_level, column, row)
                left, top = column * tile_width, row * tile_height
                x0, y0 = max(x, left), max(y, top)
                x1, y1 = min(x + width, left + tile.shape[1]), min(y + height, top + tile.shape[0])
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return pixels

    def _tile(self, pyramid_level: int, column: int, row: int) -> np.ndarray:
        """Return a tile, cut to the image, uint8 (h, w, 3)."""
        return self._cache.get((pyramid_level, column, row), lambda: self._decode_tile(pyramid_level, column, row))

    def _decode_tile(self, pyramid_level: int, column: int, row: int) -> np.ndarray:
        page = self._pages[pyramid_level]
        tile_width, tile_height = _tile_size(page)
        width = min(tile_width, page.imagewidth - column * tile_width)
        height = min(tile_height, page.imagelength - row * tile_height)
        a_row, in_a_column = -(-page.imagewidth // tile_width), -(-page.imagelength // tile_height)
        index = row * a_row + column
        with _named(
            self.path,
            f"the tile at column {column}, row {row} of pyramid level {pyramid_level} cannot be decoded",
            UnreadableRegionError,
        ):
            planes = page.samplesperpixel if int(page.planarconfig) == PLANAR_SEPARATE else 1
            parts = [self._decode_segment(page, index + plane * a_row * in_a_column) for plane in range(planes)]
            if any(part is None for part in parts):
                missing = np.empty((height, width, 3), np.uint8)
                missing[...] = self.background
                return missing
            samples = np.concatenate([part for part in parts if part is not None], axis=2)[:height, :width]
            if samples.shape[:2] != (height, width):
                raise ValueError(f"it decodes to {samples.shape[1]} x {samples.shape[0]} of {width} x {height} pixels")
            return self._convert[pyramid_level](samples)

    def _decode_segment(self, page: tifffile.TiffPage, index: int) -> np.ndarray | None:
        """Return samples (h, w, S) of a tile or strip, or None when the file has left it out."""
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        data = os.pread(self._descriptor, count, offset)
        if len(data) != count:
            raise ValueError(f"the file ends {count - len(data)} bytes too early")
        samples, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        if samples is None:
            return None
        tile_width, tile_height = _tile_size(page)
        self._count(tile_width * min(tile_height, page.imagelength), count)
        return np.asarray(samples).reshape(-1, *np.shape(samples)[-2:])[: shape[1]] if np.ndim(samples) > 3 else samples


def _tile_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return width and height of a page's tiles; a strip is a tile as wide as the image."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip or page.imagelength, page.imagelength)


def _orientation_of(page: tifffile.TiffPage) -> int:
    tag = page.tags.get("Orientation")
    value = int(tag.value) if tag is not None else 1
    return value if 1 <= value <= 8 else 1


def _scale_of(path: str, tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Scale | None:
    if is_aperio(page):
        return aperio_scale(path, str(page.description))
    if tif.is_ome and tif.ome_metadata:
        return ome_scale(path, tif.ome_metadata)
    unit = {3: "cm", 2: "inch"}.get(int(page.resolutionunit), "")
    x, y = page.resolution
    return resolution_scale(float(x), float(y), unit)


def _vendor_of(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> str | None:
    if is_aperio(page):
        return "aperio"
    if tif.is_ome:
        return "ome"
    return "generic-tiff" if page.is_tiled else None


def _associated_pages(tif: tifffile.TiffFile, pyramid: list[tifffile.TiffPage]) -> dict[str, tifffile.TiffPage]:
    offsets = {page.offset for page in pyramid}
    if not is_aperio(pyramid[0]):
        return {}
    found: dict[str, tifffile.TiffPage] = {}
    for number, lazy in enumerate(tif.pages):
        page = lazy.aspage()
        if page.offset in offsets or page.is_tiled:
            continue
        lines = str(page.description).splitlines()
        word = lines[1].split()[0].lower() if len(lines) > 1 and lines[1].split() else ""
        found["thumbnail" if number == 1 else word or f"image {number}"] = page
    return found


def _name(tag: object) -> str:
    return str(getattr(tag, "name", tag))


def looks_like_tiff(path: Path) -> bool:
    """Tell by its first bytes whether a file is a TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in {b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"}
