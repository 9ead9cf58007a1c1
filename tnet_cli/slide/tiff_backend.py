"""TIFF-family slides through tifffile's page index: exactly the tiles that are needed, decoded by imagecodecs."""

import struct
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial

import numpy as np
import tifffile
from cachetools import LRUCache, cached

from tnet_cli.errors import SlideError, UnreadableRegionError, UnsupportedSlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.headers.directories import LARGEST_STRIP_BYTES, LARGEST_TILE_BYTES, too_large_piece
from tnet_cli.headers.streams import HEADER_BYTES
from tnet_cli.slide.containers import vendor_with_quirks
from tnet_cli.slide.mpp import option_mpp
from tnet_cli.slide.ome import is_ome
from tnet_cli.slide.resample import PyramidLevel, read_region
from tnet_cli.slide.slide import AT_ONCE_PX, WHITE, ProgressFunction, Slide, SlideFacts, told
from tnet_cli.slide.tiff_colours import (
    Ranges,
    colours_said,
    doubts_of,
    is_deep,
    is_known_to_libtiff,
    leaves_colours_to_the_data,
    ranges_of,
    rgb_converter,
)
from tnet_cli.slide.tiff_missing import stored_levels
from tnet_cli.slide.tiff_pages import (
    Orientation,
    choose_pages,
    description_of,
    is_aperio,
    page_size,
    snapped_downsample,
)
from tnet_cli.slide.tiff_segments import ByteSource, ChannelLayout, OldJpegLayout, SharedFile, TileLayout

CACHE_BYTES = 32 * 1024 * 1024
MOST_CACHE_BYTES = 192 * 1024 * 1024
"""Kept of files whose strips are so large that three of them need more: two that a block cuts, and the one before. Of
tiles half as much, since a tiled slide is promised to be read in little memory."""

LARGE_BYTES = 16 * 1024 * 1024
"""Tiles of more are decoded one at a time."""

BAND_PX = 1024 * 1024
"""Pixels of a tile that become RGB at a time."""

LOOKED_AT = 32
LOOKED_AT_PX = 128 * 1024
"""Tiles that are decoded to find out which samples are white, and pixels that are taken of each, row by row."""

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
    """A slide read through tifffile and imagecodecs; what it takes and raises is that of ``open_slide``.

    Args:
        is_any_vendor: Whether the pages are taken for what they seem, also where OpenSlide would know better.
    """

    reader = "tifffile"
    belongs_to_openslide = "but OpenSlide does not know it as one: it is not whole, or damaged; copy it again"

    def __init__(
        self,
        path: str,
        *,
        mpp: float | None = None,
        on_progress: ProgressFunction | None = None,
        is_any_vendor: bool = True,
    ) -> None:
        with _told(path, "cannot be read as a TIFF"):
            self._tif = self._open_index(path)
        try:
            with _told(path, "its TIFF directory is damaged"):
                if not is_any_vendor and len(self._tif.pages) > 0:
                    self._check_vendor(path, self._tif.pages[0].aspage())
                self._chosen = choose_pages(path, self._tif)
                _check_size(path, self._chosen.channels[0][0])
                stored, doubts = stored_levels(path, self._tif, self._chosen)
                self._pages = [page for page, *_ in stored]
                facts = replace(self._facts_of(path, mpp), doubts=doubts)
                self._layouts = [_layout(path, channels) for channels in stored]
            with _told(path, "cannot be opened"):
                self._file: ByteSource | None = self._open_tiles(path)
        except BaseException:
            self._tif.close()
            raise
        three_tiles = 3 * max(layout.tile_bytes for layout in self._layouts)
        most = MOST_CACHE_BYTES // 3 if self._pages[0].is_tiled else MOST_CACHE_BYTES
        capacity = max(CACHE_BYTES, min(three_tiles, most))
        # A tile larger than that counts as all of it, and is kept until the next one comes.
        self._tiles: LRUCache[tuple[int, ...], np.ndarray] = LRUCache(
            capacity, getsizeof=lambda tile: min(tile.nbytes, capacity)
        )
        self._one_large = threading.Lock()
        # A tile that several threads want at once is decoded by one of them, and the others wait for it.
        self._tiles_lock = threading.Condition()
        self._tile = cached(self._tiles, key=lambda *place: place, condition=self._tiles_lock)(self._decode_tile)
        super().__init__(path, facts, on_progress)
        try:
            with _told(path, "what its samples mean is not known"):
                self._convert = self._converters()
        except BaseException:
            self.close()
            raise

    def _open_index(self, path: str) -> tifffile.TiffFile:
        """Open the file to read its directory."""
        return tifffile.TiffFile(path)

    def _check_vendor(self, path: str, first: tifffile.TiffPage) -> None:
        vendor = vendor_with_quirks(first)
        if vendor is not None:
            raise SlideError(path, f"is a slide of the format {vendor}, {self.belongs_to_openslide}")

    def _open_tiles(self, path: str) -> ByteSource:
        """Open the file to read its tiles, from many threads."""
        return SharedFile(path)

    def _facts_of(self, path: str, mpp: float | None) -> SlideFacts:
        first = self._pages[0]
        stored = page_size(first)
        self._orientation = Orientation(orientation_of(first))
        pyramid = []
        for page in self._pages:
            size = page_size(page)
            pyramid.append(PyramidLevel(self._orientation.shown(size), snapped_downsample(stored, size)))
        return SlideFacts(
            pyramid=tuple(pyramid),
            stated_mpp=option_mpp(path, mpp) if mpp is not None else self._chosen.mpp(path),
            vendor=_vendor_of(first, self._chosen.description),
            properties=_properties_of(self._chosen.description),
            associated_images=_associated_images(self._tif, self._pages),
        )

    def _converters(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """Return what makes RGB of each page's samples, once it was looked up what the tags leave open."""
        ranges: dict[tuple[object, ...], Ranges] = {}
        converters: list[Callable[[np.ndarray], np.ndarray]] = []
        by_aperio = is_aperio(self._pages[0])
        # The coarsest of a depth first, in whose range the finer ones of that depth are shown too.
        for page, layout in zip(reversed(self._pages), reversed(self._layouts), strict=True):
            depth = (page.bitspersample, page.dtype, page.samplesperpixel)
            if depth not in ranges:
                samples = self._some_samples(page, layout) if is_deep(page) else None
                ranges[depth] = ranges_of(page, samples, self._tif.ome_metadata)
            head = b""
            if leaves_colours_to_the_data(page):
                offset, count = next(layout.stored(), (0, 0))
                head = self._open_file().read(min(count, HEADER_BYTES), offset)
                layout.expect(partial(colours_said, page), head)
            for name, sentence in doubts_of(page, ranges[depth], head):
                # What JPEG data say of their own colours every decoder goes by.
                self.doubt(name, sentence, may_change_answer=name != "stream_colours")
            converters.insert(0, _converter(self.path, page, ranges[depth], is_aperio=by_aperio, head=head))
        if len(self._chosen.channels) == 1:
            return converters
        return [partial(_each_channel, convert) for convert in converters]

    def _some_samples(self, page: tifffile.TiffPage, layout: TileLayout) -> np.ndarray:
        """Return samples from all over a page, (N, S), less those of damaged tiles."""
        found = []
        tiles = layout.columns * layout.rows
        for index in range(0, tiles, -(-tiles // LOOKED_AT)):
            with suppress(*DECODING_ERRORS):
                decoded = layout.decode(self._open_file(), index % layout.columns, index // layout.columns)
                self._count(decoded.pixels, decoded.compressed_bytes)
                if decoded.samples is not None:
                    step = -(-decoded.samples[..., 0].size // LOOKED_AT_PX)
                    found.append(decoded.samples[::step].reshape(-1, decoded.samples.shape[2]))
        return np.concatenate(found) if found else np.zeros((1, page.samplesperpixel), page.dtype)

    def _open_file(self) -> ByteSource:
        file = self._file
        if file is None:
            raise SlideError(self.path, "is closed and cannot be read any more")
        return file

    def close(self) -> None:
        """Release the file."""
        if not self._closed:
            super().close()
            with self._tiles_lock:
                self._tiles.clear()
            self._tif.close()
            self._file = None

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
            file = self._open_file()  # held while it is read, so that its number does not pass to another file
            layout = self._layouts[pyramid_level]
            with self._one_large if layout.tile_bytes > LARGE_BYTES else nullcontext():
                decoded = layout.decode(file, column, row)
                self._count(decoded.pixels, decoded.compressed_bytes)
                samples = decoded.samples
                tile = None if samples is None else _in_bands(self._convert[pyramid_level], samples)
            if tile is None:
                tile = self._stand_in(pyramid_level, column, row)
        tile.flags.writeable = False
        return tile

    def _stand_in(self, pyramid_level: int, column: int, row: int) -> np.ndarray:
        """Return what is shown for a tile that was left out: the next finer pyramid level, under the finest nothing."""
        layout, shown = self._layouts[pyramid_level], self._layouts[pyramid_level].shown(column, row)
        if pyramid_level == 0:
            return np.full((shown.height, shown.width, 3), self.background, np.uint8)
        finer = page_size(self._pages[pyramid_level - 1])
        factor = snapped_downsample(finer, page_size(self._pages[pyramid_level]))
        x, y = round(column * layout.tile.width * factor), round(row * layout.tile.height * factor)
        width = min(round(shown.width * factor), finer.width - x)
        height = min(round(shown.height * factor), finer.height - y)
        pixels = read_region(
            partial(self._read_box, pyramid_level - 1),
            PyramidLevel(finer, 1.0),
            Region(x, y, width, height),
            shown.width,
            shown.height,
            background=self.background,
            unit=self._layouts[pyramid_level - 1].tile,
            most_px=AT_ONCE_PX,
        )
        return pixels.copy()


def _converter(
    path: str, page: tifffile.TiffPage, ranges: Ranges, *, is_aperio: bool, head: bytes
) -> Callable[[np.ndarray], np.ndarray]:
    convert = rgb_converter(page, ranges, WHITE, is_aperio=is_aperio, head=head)
    if convert is None:
        raise (UnsupportedSlideError if is_known_to_libtiff(page) else SlideError)(
            path,
            f"its pixels are {_name(page.photometric)}, compressed as {_name(page.compression)}, which is not "
            "supported; convert it to an RGB TIFF",
        )
    return convert


def _in_bands(convert: Callable[[np.ndarray], np.ndarray], samples: np.ndarray) -> np.ndarray:
    """Make RGB of samples (H, W, S), of many a part at a time, because what is made on the way takes more than they."""
    rows = max(1, BAND_PX // samples.shape[1])
    band = convert(samples[:rows])
    if rows >= len(samples) or np.may_share_memory(band, samples):
        return convert(samples) if rows < len(samples) else band
    pixels = np.empty((*samples.shape[:2], 3), np.uint8)
    for top in range(0, len(samples), rows):
        pixels[top : top + rows] = convert(samples[top : top + rows])
    return pixels


def _each_channel(convert: Callable[[np.ndarray], np.ndarray], samples: np.ndarray) -> np.ndarray:
    """Make RGB of samples (H, W, 3) that are three grey images."""
    return np.dstack([convert(samples[..., channel : channel + 1])[..., 0] for channel in range(samples.shape[2])])


def _check_size(path: str, page: tifffile.TiffPage) -> None:
    stored = page_size(page)
    if stored.width < 1 or stored.height < 1:
        raise SlideError(path, f"its first image is {stored.width} x {stored.height} pixels; expected an image")
    if page.dtype is None:
        raise SlideError(
            path,
            f"its samples are of {page.bitspersample} bits (format {page.sampleformat}), which is not read; "
            "convert it to an RGB TIFF of 8 bits",
        )
    if max(stored.width, stored.height) > MOST_SIDE_PX:
        raise SlideError(
            path, f"says that it is {stored.width} x {stored.height} pixels, which no slide is; it is damaged"
        )


def _layout(path: str, pages: tuple[tifffile.TiffPage, ...]) -> TileLayout:
    is_old_jpeg = pages[0].compression == tifffile.COMPRESSION.OJPEG
    one_page = OldJpegLayout(pages[0]) if is_old_jpeg else TileLayout(pages[0])
    layout = one_page if len(pages) == 1 else ChannelLayout(pages)
    if layout.tile_bytes > (LARGEST_TILE_BYTES if pages[0].is_tiled else LARGEST_STRIP_BYTES):
        raise too_large_piece(path, layout.tile.width, layout.tile.height)
    return layout


def orientation_of(page: tifffile.TiffPage) -> int:
    """Return which way up a page is shown, by its tag; 1, as it is stored, where that makes no sense."""
    tag = page.tags.get("Orientation")
    value = int(tag.value) if tag is not None else 1
    return value if 1 <= value <= 8 else 1


def _vendor_of(page: tifffile.TiffPage, description: str) -> str | None:
    if description.startswith("Aperio"):
        return "aperio"
    if is_ome(description):
        return "ome"
    return "generic-tiff" if page.is_tiled else None


def _properties_of(description: str) -> dict[str, str]:
    """Return a description and, as OpenSlide names them, what an Aperio scanner says in it."""
    if not description:
        return {}
    properties = {"tiff.ImageDescription": description}
    if description.startswith("Aperio"):
        for item in description.split("|")[1:]:
            key, found, value = item.partition("=")
            if found:
                properties[f"aperio.{key.strip()}"] = value.strip()
    return properties


def _associated_images(tif: tifffile.TiffFile, pyramid: list[tifffile.TiffPage]) -> tuple[str, ...]:
    offsets = {page.offset for page in pyramid}
    if not is_aperio(pyramid[0]):
        return ()
    found = []
    for number, lazy in enumerate(tif.pages):
        page = lazy.aspage()
        if page.offset in offsets or page.is_tiled:
            continue
        lines = description_of(page).splitlines()
        word = lines[1].split()[0].lower() if len(lines) > 1 and lines[1].split() else ""
        found.append("thumbnail" if number == 1 else word or f"image {number}")
    return tuple(dict.fromkeys(found))


def _name(tag: object) -> str:
    return str(getattr(tag, "name", tag))
