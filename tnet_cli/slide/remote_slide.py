"""Slides behind URLs: TIFF files tile by tile, pictures whole; every other format has to be downloaded first."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, cast

import numpy as np
import tifffile

from tnet_cli.errors import SlideError
from tnet_cli.headers.directories import check_directories
from tnet_cli.places import Place
from tnet_cli.remote.ranges import BlockStream, ByteRange, RemoteFile
from tnet_cli.slide.containers import FORMAT_STARTS, OPENSLIDE_NAMES, closed_format, foreign_content
from tnet_cli.slide.pillow_backend import PillowSlide
from tnet_cli.slide.slide import ProgressFunction, Slide
from tnet_cli.slide.tiff_backend import TIFF_STARTS, TiffSlide

LARGEST_PICTURE_BYTES = 128 * 1024 * 1024
"""A larger PNG or JPEG, which can only be fetched whole, is to be downloaded or converted first."""

AT_ONCE_BYTES = 16 * 1024 * 1024
"""Compressed tiles that are held at a time for one box."""

DOWNLOAD = "which tnet reads only from a disk; download it first"

PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def open_remote_slide(
    place: Place, *, reader: str | None = None, mpp: float | None = None, on_progress: ProgressFunction | None = None
) -> Slide:
    """Open a slide behind a URL, as ``open_slide`` does; the reader is chosen by its first bytes.

    Raises:
        SlideError: it cannot be reached, or its format is not one that is read from a URL.
    """
    if reader == "openslide":
        raise SlideError(place, "OpenSlide reads no URLs; download the slide first, or leave out --reader")
    file = RemoteFile(place)
    try:
        if (reader or _reader_for(file)) == "pillow":
            return _open_picture(file, mpp, on_progress)
        return RemoteTiffSlide(file, mpp=mpp, on_progress=on_progress, is_any_vendor=reader is not None)
    except BaseException:
        file.close()
        raise


def _reader_for(file: RemoteFile) -> str:
    _, by_name, _ = OPENSLIDE_NAMES.get(file.place.suffix, (None, None, None))
    if by_name is None and file.head[128:132] == b"DICM":
        by_name = "DICOM"
    foreign = None if by_name == "DICOM" else foreign_content(file.head)
    if foreign is not None:
        raise SlideError(file.path, foreign)
    for start, name in FORMAT_STARTS.items():
        if file.head.startswith(start):
            by_name = name
    if by_name is not None:
        raise SlideError(file.path, f"is a slide of the format {by_name}, {DOWNLOAD}")
    closed = closed_format(file.path, file.head, None)
    if closed is not None:
        raise SlideError(file.path, closed)
    if file.head[:4] in TIFF_STARTS:
        return "tifffile"
    if file.head.startswith(PICTURE_STARTS):
        return "pillow"
    raise SlideError(
        file.path, "is neither a TIFF slide nor a PNG or JPEG picture; other formats cannot be read by URL"
    )


def _open_picture(file: RemoteFile, mpp: float | None, on_progress: ProgressFunction | None) -> Slide:
    if file.size > LARGEST_PICTURE_BYTES:
        raise SlideError(
            file.path,
            f"is a picture of {file.size} bytes, and only up to {LARGEST_PICTURE_BYTES} are fetched whole; "
            "download it first, or convert it to a tiled TIFF with a pyramid",
        )
    rest = file.read(file.size - len(file.head), len(file.head))
    file.close()
    slide = PillowSlide(file.path, mpp=mpp, on_progress=on_progress, content=file.head + rest)
    slide.bytes_read = file.bytes_moved
    return slide


@dataclass(slots=True)
class _Piece:
    """A tile's compressed bytes, under way or in use.

    Attributes:
        data: The bytes, or why they cannot be had.
        users: Threads that hold it.
    """

    data: "Future[bytes]" = field(default_factory=Future)
    users: int = 0


class TilePieces:
    """The compressed bytes of tiles while they are wanted. Threads that want the same tile move its bytes once."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._pieces: dict[ByteRange, _Piece] = {}
        self._lock = threading.Lock()

    def read(self, count: int, offset: int) -> bytes:
        """Read bytes at an offset: those that are held, or else from the file."""
        with self._lock:
            piece = self._pieces.get(ByteRange(offset, count))
        return self._file.read(count, offset) if piece is None else piece.data.result()

    @contextmanager
    def held(self, wanted: Callable[[], Iterable[ByteRange]]) -> Iterator[None]:
        """Fetch ranges, unless another thread is at it, and hold them for as long as the context lasts.

        Args:
            wanted: Tells what is not decoded yet; asked in such a way that none is missed that another thread has just
                let go of.

        Raises:
            SlideError: they cannot be had.
        """
        mine: list[ByteRange] = []
        held: list[ByteRange] = []
        with self._lock:
            for place in wanted():
                if place not in self._pieces:
                    self._pieces[place] = _Piece()
                    mine.append(place)
                self._pieces[place].users += 1
                held.append(place)
        try:
            self._fetch(mine)
            yield
        finally:
            with self._lock:
                for place in held:
                    self._pieces[place].users -= 1
                    if not self._pieces[place].users:
                        del self._pieces[place]

    def _fetch(self, places: list[ByteRange]) -> None:
        if not places:
            return
        try:
            found = self._file.read_ranges(places)
        except BaseException as exc:
            for place in places:
                self._pieces[place].data.set_exception(exc)
            raise
        for place, data in zip(places, found, strict=True):
            self._pieces[place].data.set_result(data)


class RemoteTiffSlide(TiffSlide):
    """A TIFF-family slide behind a URL: its directory block by block, and of its tiles exactly those that are wanted.

    The tiles of a region are fetched at the same time, and decoded when all are there.

    Args:
        file: Closed with the slide.
        is_any_vendor: As for ``TiffSlide``.

    Raises:
        SlideError: as for ``TiffSlide``; the file cannot be read further; or it is of a vendor with quirks.
    """

    belongs_to_openslide = DOWNLOAD

    def __init__(
        self,
        file: RemoteFile,
        *,
        mpp: float | None = None,
        on_progress: ProgressFunction | None = None,
        is_any_vendor: bool = True,
    ) -> None:
        self._remote = file
        try:
            super().__init__(file.path, mpp=mpp, on_progress=on_progress, is_any_vendor=is_any_vendor)
        finally:
            # What tifffile makes of an error under way says less than the error, if it says anything.
            file.raise_failure()
        self._count(0, 0, 0)

    def close(self) -> None:
        """Release the file."""
        super().close()
        self._remote.close()

    def _open_index(self, path: str) -> tifffile.TiffFile:
        stream = BlockStream(self._remote)

        def read(count: int, offset: int) -> bytes:
            stream.seek(offset)
            return stream.read(count) or b""

        check_directories(path, read, self._remote.size)
        stream.seek(0)
        return tifffile.TiffFile(cast("IO[bytes]", stream))

    def _open_tiles(self, path: str) -> TilePieces:
        del path
        self._pieces = TilePieces(self._remote)
        return self._pieces

    def _count(self, pixels: int, compressed_bytes: int, tiles: int = 1) -> None:
        del compressed_bytes  # more was moved than the tiles: the directory, and what lies between neighbours
        super()._count(pixels, 0, tiles)
        self.bytes_read = self._remote.bytes_moved

    def _read_box(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        bands = self._bands(pyramid_level, x, y, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        for index in self._orientation.rows_as_shown(range(len(bands))):
            rows = bands[index]
            side = self._layouts[pyramid_level].tile.height
            top, bottom = max(y, rows.start * side), min(y + height, rows.stop * side)
            columns = self._columns(pyramid_level, x, width)
            tiles = [(column, row) for row in rows for column in columns]
            with self._pieces.held(partial(self._missing, pyramid_level, tiles)):
                part = super()._read_box(pyramid_level, x, top, width, bottom - top)
            if len(bands) == 1:
                return part
            pixels[top - y : bottom - y] = part
        return pixels

    def _columns(self, pyramid_level: int, x: int, width: int) -> range:
        side = self._layouts[pyramid_level].tile.width
        return range(x // side, (x + width - 1) // side + 1)

    def _bands(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> list[range]:
        """Return the rows of tiles under a box, in groups of so many bytes as are held at a time."""
        side = self._layouts[pyramid_level].tile.height
        columns = self._columns(pyramid_level, x, width)
        bands: list[range] = []
        held = 0
        for row in range(y // side, (y + height - 1) // side + 1):
            count = sum(place.count for column in columns for place in self._places(pyramid_level, column, row))
            if bands and held + count <= AT_ONCE_BYTES:
                bands[-1] = range(bands[-1].start, row + 1)
                held += count
            else:
                bands.append(range(row, row + 1))
                held = count
        return bands

    def _missing(self, pyramid_level: int, tiles: list[tuple[int, int]]) -> list[ByteRange]:
        return [
            place
            for column, row in tiles
            if (pyramid_level, column, row) not in self._tiles
            for place in self._places(pyramid_level, column, row)
        ]

    def _places(self, pyramid_level: int, column: int, row: int) -> list[ByteRange]:
        try:
            places = self._layouts[pyramid_level].places(column, row)
        except (ValueError, IndexError):
            return []  # said with the tile's name when it is decoded
        return [ByteRange(offset, count) for offset, count in places]
