"""TIFF-family slides through tifffile's page index: exactly the tiles that are needed, decoded by imagecodecs."""

import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from cachetools import LRUCache, cached

from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.geometry import Size
from tnet_cli.slide.mpp import StatedMpp, aperio_mpp, ome_mpp, option_mpp, resolution_mpp
from tnet_cli.slide.resample import PyramidLevel
from tnet_cli.slide.slide import WHITE, ProgressFunction, Slide, SlideFacts, told
from tnet_cli.slide.tiff_colours import can_be_decompressed, rgb_converter
from tnet_cli.slide.tiff_pages import (
    Orientation,
    is_aperio,
    page_size,
    pyramid_pages,
    snapped_downsample,
)
from tnet_cli.slide.tiff_segments import ByteSource, SharedFile, TileLayout

CACHE_BYTES = 32 * 1024 * 1024
MOST_CACHE_BYTES = 192 * 1024 * 1024
"""Kept of files whose strips are so large that three of them need more: two that a block cuts, and the one before."""

LARGEST_TILE_BYTES = 400_000_000
"""A larger tile or strip, which must be decoded at once, would not leave memory bounded."""

MOST_SIDE_PX = 2**31 - 1
"""Damaged BigTIFFs state sizes whose bytes no integer of the system can count."""

TIFF_STARTS = frozenset({b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"})

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

_told = partial(told, of=DECODING_ERRORS)


class TiffSlide(Slide):
    """A slide read through tifffile and imagecodecs; what it takes and raises is that of ``open_slide``."""

    reader = "tifffile"

    def __init__(self, path: str, *, mpp: float | None = None, on_progress: ProgressFunction | None = None) -> None:
        with _told(path, "cannot be read as a TIFF"):
            self._tif = self._open_index(path)
        try:
            with _told(path, "its TIFF directory is damaged"):
                self._pages = pyramid_pages(self._tif)
                self._associated = _associated_pages(self._tif, self._pages)
                facts = self._facts_of(path, mpp)
                self._convert = [_converter(path, page) for page in self._pages]
                self._layouts = [_layout(path, page) for page in self._pages]
            with _told(path, "cannot be opened"):
                self._file: ByteSource | None = self._open_tiles(path)
        except BaseException:
            self._tif.close()
            raise
        three_tiles = 3 * max(layout.tile_bytes for layout in self._layouts)
        capacity = max(CACHE_BYTES, min(three_tiles, MOST_CACHE_BYTES))
        # A tile larger than that counts as all of it, and is kept until the next one comes.
        self._tiles: LRUCache[tuple[int, ...], np.ndarray] = LRUCache(
            capacity, getsizeof=lambda tile: min(tile.nbytes, capacity)
        )
        # A tile that several threads want at once is decoded by one of them, and the others wait for it.
        self._tiles_lock = threading.Condition()
        self._tile = cached(self._tiles, key=lambda *place: place, condition=self._tiles_lock)(self._decode_tile)
        super().__init__(path, facts, on_progress)

    def _open_index(self, path: str) -> tifffile.TiffFile:
        """Open the file to read its directory."""
        return tifffile.TiffFile(path)

    def _open_tiles(self, path: str) -> ByteSource:
        """Open the file to read its tiles, from many threads."""
        return SharedFile(path)

    def _facts_of(self, path: str, mpp: float | None) -> SlideFacts:
        first = self._pages[0]
        stored = page_size(first)
        if stored.width < 1 or stored.height < 1 or first.dtype is None:
            raise SlideError(path, f"its first image is {stored.width} x {stored.height} pixels; expected an image")
        if max(stored.width, stored.height) > MOST_SIDE_PX:
            raise SlideError(
                path, f"says that it is {stored.width} x {stored.height} pixels, which no slide is; it is damaged"
            )
        self._orientation = Orientation(_orientation_of(first))
        pyramid = []
        for page in self._pages:
            size = page_size(page)
            pyramid.append(PyramidLevel(self._orientation.shown(size), snapped_downsample(stored, size)))
        return SlideFacts(
            pyramid=tuple(pyramid),
            stated_mpp=option_mpp(path, mpp) if mpp is not None else _mpp_of(path, self._tif, first),
            vendor=_vendor_of(first, self._tif),
            properties=_properties_of(first),
            associated_images=tuple(self._associated),
        )

    def close(self) -> None:
        """Release the file."""
        if not self._closed:
            super().close()
            with self._tiles_lock:
                self._tiles.clear()
            self._tif.close()
            self._file = None

    def _read_associated(self, name: str) -> np.ndarray:
        page = self._associated[name]
        convert = rgb_converter(page, WHITE)
        if convert is None:
            raise SlideError(self.path, f"its image {name!r} is of a kind that is not supported")
        with _told(self.path, f"its image {name!r} cannot be decoded"):
            with self._lock:
                samples = page.asarray()
            return convert(samples if samples.ndim == 3 else samples[..., None])

    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        page = self._pages[pyramid_level]
        box = self._orientation.stored_box(x, y, width, height, page_size(page))
        return self._orientation.turn(self._read_box(pyramid_level, *box))

    def _unit(self, pyramid_level: int) -> Size:
        return self._orientation.shown(self._layouts[pyramid_level].tile)

    def _read_box(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        tile_size = self._layouts[pyramid_level].tile
        columns = range(x // tile_size.width, (x + width - 1) // tile_size.width + 1)
        rows = range(y // tile_size.height, (y + height - 1) // tile_size.height + 1)
        if len(columns) == len(rows) == 1 and (x % tile_size.width, y % tile_size.height) == (0, 0):
            tile = self._tile(pyramid_level, columns[0], rows[0])
            if tile.shape[:2] == (height, width):
                return tile
        pixels = np.empty((height, width, 3), np.uint8)
        # The tile nearest the block that is shown next comes last, so that it is still held, however large, by then.
        for row in self._orientation.rows_as_shown(rows):
            for column in self._orientation.columns_as_shown(columns):
                tile = self._tile(pyramid_level, column, row)
                left, top = column * tile_size.width, row * tile_size.height
                x0, y0 = max(x, left), max(y, top)
                x1, y1 = min(x + width, left + tile.shape[1]), min(y + height, top + tile.shape[0])
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return pixels

    def _decode_tile(self, pyramid_level: int, column: int, row: int) -> np.ndarray:
        """Return a tile, cut to the image, uint8 (h, w, 3), read-only because others may hold the same pixels."""
        with _told(
            self.path,
            f"the tile at column {column}, row {row} of pyramid level {pyramid_level} cannot be decoded",
            UnreadableRegionError,
        ):
            file = self._file  # held while it is read, so that its number does not pass to another file
            if file is None:
                raise SlideError(self.path, "is closed and cannot be read any more")
            decoded = self._layouts[pyramid_level].decode(file, column, row)
            self._count(decoded.pixels, decoded.compressed_bytes)
            if decoded.samples is None:
                shown = self._layouts[pyramid_level].shown(column, row)
                tile = np.full((shown.height, shown.width, 3), self.background, np.uint8)
            else:
                tile = self._convert[pyramid_level](decoded.samples)
        tile.flags.writeable = False
        return tile


def _converter(path: str, page: tifffile.TiffPage) -> Callable[[np.ndarray], np.ndarray]:
    convert = rgb_converter(page, WHITE)
    if convert is None or not can_be_decompressed(page):
        raise SlideError(
            path,
            f"its pixels are {_name(page.photometric)}, compressed as {_name(page.compression)}, which is not "
            "supported; convert it to an RGB TIFF",
        )
    return convert


def _layout(path: str, page: tifffile.TiffPage) -> TileLayout:
    layout = TileLayout(page)
    if layout.tile_bytes > LARGEST_TILE_BYTES:
        raise SlideError(
            path,
            f"stores {layout.tile.width} x {layout.tile.height} pixels in one piece, which must be decoded at once; "
            "convert it to a tiled TIFF",
        )
    return layout


def _orientation_of(page: tifffile.TiffPage) -> int:
    tag = page.tags.get("Orientation")
    value = int(tag.value) if tag is not None else 1
    return value if 1 <= value <= 8 else 1


def _mpp_of(path: str, tif: tifffile.TiffFile, page: tifffile.TiffPage) -> StatedMpp | None:
    if is_aperio(page):
        return aperio_mpp(path, str(page.description))
    if tif.is_ome and tif.ome_metadata:
        stated = ome_mpp(path, tif.ome_metadata)
        if stated is not None:
            return stated
    unit = {3: "cm", 2: "inch"}.get(int(page.resolutionunit), "")
    x, y = page.resolution
    return resolution_mpp(float(x), float(y), unit)


def _vendor_of(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> str | None:
    if is_aperio(page):
        return "aperio"
    if tif.is_ome:
        return "ome"
    return "generic-tiff" if page.is_tiled else None


def _properties_of(page: tifffile.TiffPage) -> dict[str, str]:
    """Return a page's description and, as OpenSlide names them, what an Aperio scanner says in it."""
    description = str(page.description)
    if not description:
        return {}
    properties = {"tiff.ImageDescription": description}
    if is_aperio(page):
        for item in description.split("|")[1:]:
            key, found, value = item.partition("=")
            if found:
                properties[f"aperio.{key.strip()}"] = value.strip()
    return properties


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
        return file.read(4) in TIFF_STARTS
