"""Where a TIFF page's pixels lie in the file, and how a stored piece of them is decoded."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import tifffile
from PIL import Image

from tnet_cli.geometry import Size
from tnet_cli.headers.directories import LARGEST_STRIP_BYTES
from tnet_cli.headers.stream_sizes import JPEG_END, SIZES, StatedSize
from tnet_cli.headers.streams import HEADER_BYTES

PLANAR_SEPARATE = 2
JPEG = frozenset({6, 7, 34892, 33007})
JPEG_2000 = frozenset({33003, 33004, 33005, 34712})
BLOCK = 8
MORE_DATA = b"\x5a\xa3\x17\xc9" * 64
"""Anything that could stand in the data of a JPEG's blocks."""

FILL_PX = 64
"""JPEG and JPEG XR are made of blocks of so many pixels at most."""

MOST_PACKED = 4
"""Times the bytes of its pixels that a tile may have in the file; some encoders make more of noise."""

BARE_PX = 1024 * 1024
"""Uncompressed images in one piece are read about this many pixels at a time."""


@dataclass(frozen=True, slots=True)
class DecodedTile:
    """A tile as it came from the file.

    Attributes:
        samples: (H, W, S) of the page's type, cut to the image; None when the file has left the tile out.
        pixels: Decoded for it, the part outside the image included.
        compressed_bytes: Read for it.
    """

    samples: np.ndarray | None
    pixels: int
    compressed_bytes: int


class ByteSource(Protocol):
    """What the tiles of a slide are read from, by many threads."""

    def read(self, count: int, offset: int, /) -> bytes:
        """Read bytes at an offset, fewer only where the file ends."""


class SharedFile:
    """A file for positional reads by many threads; it is closed when the last of those who hold it lets go.

    Its position is neither used nor moved.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.read: Callable[[int, int], bytes] = partial(os.pread, self.descriptor)

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


class TileLayout:
    """The tiles of a page. A strip is a tile as wide as the image, and bare rows can be cut into strips of any height.

    Attributes:
        tile: Size of every tile; those at the right and bottom edge reach beyond the image.
        columns: Tiles in a row.
        rows: Rows of tiles.
    """

    def __init__(self, page: tifffile.TiffPage) -> None:
        self._page = page
        if int(page.compression) in JPEG_2000:
            page.subsampling = (1, 1)  # to tifffile, which takes (2, 2) where nothing is said: it is in the data
        self._is_cut = is_bare_piece(page)
        height = page.imagelength
        if page.is_tiled:
            self.tile = Size(page.tilewidth, page.tilelength)
        elif self._is_cut:
            self.tile = Size(page.imagewidth, min(height, max(1, BARE_PX // page.imagewidth)))
        else:
            self.tile = Size(page.imagewidth, min(page.rowsperstrip or height, height))
        self.columns = -(-page.imagewidth // self.tile.width)
        self.rows = -(-height // self.tile.height)
        self._planes = page.samplesperpixel if int(page.planarconfig) == PLANAR_SEPARATE else 1
        self._size_of = SIZES.get(int(page.compression))
        self._says: Callable[[bytes], object] | None = None
        self._said: object = None

    def expect(self, says: Callable[[bytes], object], head: bytes) -> None:
        """From now on refuse tiles whose data say something else than the beginning of one of them does."""
        self._says, self._said = says, says(head)

    @property
    def pieces(self) -> int:
        """How many tiles or strips the file's directory has to list."""
        return self._planes * (1 if self._is_cut else self.columns * self.rows)

    @cached_property
    def tile_bytes(self) -> int:
        """Memory that a decoded tile takes, as samples (of 32 bits in JPEG 2000) or as RGB, whichever is more."""
        depth = 4 if int(self._page.compression) in JPEG_2000 else np.dtype(self._page.dtype).itemsize
        return self.tile.area * max(3, self._page.samplesperpixel * depth)

    def places(self, column: int, row: int) -> list[tuple[int, int]]:
        """Return offset and number of the bytes of a tile in the file, one pair for each plane that is stored.

        Raises:
            ValueError: the file's directory does not fit the image.
            IndexError: it is too short.
        """
        shown = self.shown(column, row)
        places = [self._place(plane, column, row, shown) for plane in range(self._planes)]
        return [place for place in places if place[0] > 0 and place[1] > 0]

    def stored(self) -> Iterator[tuple[int, int]]:
        """Give offset and number of the bytes of the tiles that are stored."""
        for index in range(self.columns * self.rows):
            yield from self.places(index % self.columns, index // self.columns)[:1]

    def decode(self, file: ByteSource, column: int, row: int) -> DecodedTile:
        """Read and decode a tile.

        Raises:
            ValueError: the file ends too early, or the tile is smaller than it should be.
            RuntimeError: the tile's data are damaged.
        """
        shown = self.shown(column, row)
        planes, pixels, compressed_bytes = [], 0, 0
        for plane in range(self._planes):
            offset, count = self._place(plane, column, row, shown)
            if offset == 0 or count == 0:
                return DecodedTile(None, pixels, compressed_bytes)
            if count > MOST_PACKED * self.tile_bytes + HEADER_BYTES:
                raise ValueError(f"it has {count} bytes, more than its pixels")
            data = file.read(count, offset)
            if len(data) != count:
                raise ValueError(f"the file ends {count - len(data)} bytes too early")
            samples = self._decode_bare(data) if self._is_cut else self._decode_piece(data, plane, column, row)
            pixels = max(pixels, samples.shape[0] * samples.shape[1])
            compressed_bytes += count
            samples = samples[: shown.height, : shown.width]
            if samples.shape[:2] != (shown.height, shown.width):
                raise ValueError(
                    f"it holds {samples.shape[1]} x {samples.shape[0]} pixels, not {shown.width} x {shown.height}"
                )
            planes.append(samples)
        return DecodedTile(planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2), pixels, compressed_bytes)

    def shown(self, column: int, row: int) -> Size:
        """Return the part of a tile that lies inside the image."""
        return Size(
            min(self.tile.width, self._page.imagewidth - column * self.tile.width),
            min(self.tile.height, self._page.imagelength - row * self.tile.height),
        )

    def _place(self, plane: int, column: int, row: int, shown: Size) -> tuple[int, int]:
        """Return offset and number of the bytes of a tile in the file."""
        offsets, counts = self._page.dataoffsets, self._page.databytecounts
        if not self._is_cut:
            index = (plane * self.rows + row) * self.columns + column
            return offsets[index], counts[index]
        if offsets[plane] == 0 or counts[plane] == 0:
            return 0, 0
        row_bytes = self._page.imagewidth * self._samples * np.dtype(self._page.dtype).itemsize
        first = row * self.tile.height
        if (first + shown.height) * row_bytes > counts[plane]:
            raise ValueError(f"its {counts[plane]} bytes are too few for the image")
        return offsets[plane] + first * row_bytes, shown.height * row_bytes

    @property
    def _samples(self) -> int:
        return 1 if self._planes > 1 else int(self._page.samplesperpixel)

    def _decode_bare(self, data: bytes) -> np.ndarray:
        stored = np.dtype(self._page.dtype).newbyteorder(self._page.parent.byteorder)
        return np.frombuffer(data, stored).reshape(-1, self._page.imagewidth, self._samples)

    def _decode_piece(self, data: bytes, plane: int, column: int, row: int) -> np.ndarray:
        page = self._page
        if self._size_of is not None:
            self._check_size(self._size_of(data))
        if int(page.compression) in JPEG and JPEG_END not in data:
            # Its decoder would fill what is missing with grey, and say nothing.
            raise ValueError("the JPEG data are cut off")
        if self._says is not None and self._says(data) != self._said:
            raise ValueError("its data say something else of their colours than those of the first tile")
        index = (plane * self.rows + row) * self.columns + column
        decode = partial(self._decode_data, index)
        decoded = decode(data)
        if int(page.compression) in JPEG and ends_early(data, decoded, decode):
            raise ValueError("the JPEG data end too early")
        if decoded.dtype.itemsize > np.dtype(page.dtype).itemsize:
            raise ValueError(f"its samples are {decoded.dtype}, not {page.dtype}")
        return decoded

    def _check_size(self, stated: StatedSize | None) -> None:
        """Refuse data that would become more than a tile, however much their decoder would make of them.

        The last strip may be as high as the others, and some writers fill the last blocks of JPEG.
        """
        width, height, samples = stated or (0, 0, 0)
        if stated is None or samples > max(4, self._page.samplesperpixel) + 1:
            raise ValueError("its data are damaged, or of a kind that is not read")
        if width > _filled(self.tile.width) or height > _filled(self.tile.height):
            tile = f"{self.tile.width} x {self.tile.height}"
            raise ValueError(f"its data say that they are {width} x {height} pixels, and the tile is {tile}")

    def _decode_data(self, index: int, data: bytes) -> np.ndarray:
        samples, _, _ = self._page.decode(data, index, jpegtables=self._page.jpegtables)
        decoded: np.ndarray = np.asarray(samples)[0]  # the one plane of (depth, height, width, samples)
        return decoded


class OldJpegLayout(TileLayout):
    """A page of old-style JPEG as one tile: its parts lie all over the file, and libtiff, in Pillow, gathers them."""

    def __init__(self, page: tifffile.TiffPage) -> None:
        super().__init__(page)
        self.tile, self.columns, self.rows = Size(page.imagewidth, page.imagelength), 1, 1

    def places(self, column: int, row: int) -> list[tuple[int, int]]:
        """Return nothing: what is read is the whole file."""
        del column, row
        return []

    def decode(self, file: ByteSource, column: int, row: int) -> DecodedTile:
        """Read and decode the page.

        Raises:
            OSError: it is damaged.
        """
        del column, row
        size = self._page.parent.filehandle.size
        if size > LARGEST_STRIP_BYTES:
            raise ValueError(f"all {size} bytes of the file would have to be read at once")
        data = file.read(size, 0)
        with Image.open(io.BytesIO(data)) as picture:
            picture.seek(int(self._page.index))
            samples = np.asarray(picture)
        return DecodedTile(samples if samples.ndim == 3 else samples[..., None], self.tile.area, len(data))


class ChannelLayout(TileLayout):
    """Red, green and blue from three pages with the same tiles."""

    def __init__(self, pages: Sequence[tifffile.TiffPage]) -> None:
        super().__init__(pages[0])
        self._channels = [TileLayout(page) for page in pages]

    def places(self, column: int, row: int) -> list[tuple[int, int]]:
        """Return offset and number of the bytes of a tile in the file, for each channel that is stored."""
        return [place for channel in self._channels for place in channel.places(column, row)]

    def decode(self, file: ByteSource, column: int, row: int) -> DecodedTile:
        """Read and decode a tile of each channel; left out where one of them is."""
        tiles = [channel.decode(file, column, row) for channel in self._channels]
        samples = [tile.samples for tile in tiles if tile.samples is not None]
        together = np.concatenate(samples, axis=2) if len(samples) == len(tiles) else None
        return DecodedTile(together, tiles[0].pixels, sum(tile.compressed_bytes for tile in tiles))


def _filled(side: int) -> int:
    return -(-side // FILL_PX) * FILL_PX


def ends_early(data: bytes, decoded: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Tell whether JPEG data end before their image does, for which their decoder puts grey and says nothing.

    Where the last block is grey, it is decoded again with more data before its end: an image that is whole has no use
    for them.

    Args:
        data: With the marker of their end.
        decoded: What was made of them, (H, W, S).
        decode: Makes it.
    """
    if not has_grey_corner(decoded):
        return False
    return not np.array_equal(decode(with_more_data(data)), decoded)


def with_more_data(data: bytes) -> bytes:
    """Return JPEG data with more before their end."""
    end = data.rindex(JPEG_END)
    more = b"".join(MORE_DATA + bytes((0xFF, restart)) for restart in range(0xD0, 0xD8))
    return data[:end] + MORE_DATA + more + data[end:]


def has_grey_corner(decoded: np.ndarray) -> bool:
    """Tell whether the last block of a JPEG, (H, W, S), is what decoders put where there are no data."""
    grey = 128 if decoded.dtype == np.uint8 else 2048
    return bool(decoded[-1, -1, 0] == grey and (decoded[-BLOCK:, -BLOCK:] == grey).all())


def is_bare_piece(page: tifffile.TiffPage) -> bool:
    """Tell whether a page is one uncompressed strip (one for each plane) in which any row can be found."""
    return (
        not page.is_tiled
        and (int(page.compression), int(page.predictor), int(page.fillorder)) == (1, 1, 1)
        and page.bitspersample in {8, 16, 32, 64}
        and page.rowsperstrip >= page.imagelength
        and page.imagedepth == 1
        and not page.is_subsampled
    )
