"""What a slide can do, whatever reads it: everything that does not depend on the file format."""

import struct
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import numpy as np

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.mpp import StatedMpp
from tnet_cli.slide.reduction import ReducedLevels
from tnet_cli.slide.resample import PyramidLevel, read_region

ProgressFunction = Callable[[int, int], None]

COARSE_ENOUGH = 1.02
"""A pyramid level this much coarser than wanted still serves, so that 4.0003 counts as 4."""

REDUCE_FROM = 8
"""A read that would shrink the coarsest stored pixels by this much or more is served from levels reduced once."""

AT_ONCE_PX = 16 * 1024 * 1024
"""Stored pixels that are read at a time; a larger region is put together from blocks."""

WHITE = (255, 255, 255)

NEARLY_BLACK, NEARLY_WHITE = 4, 251
"""Grey values that no camera keeps to on all of a slide."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that a reader had to assume about its slide, or could not check.

    Attributes:
        name: Of the kind of doubt, for programs: ``missing_tiles``.
        sentence: For users; goes on after the slide's name, as errors do.
        may_change_answer: Whether what was classified may not be what lay under the glass.
    """

    name: str
    sentence: str
    may_change_answer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFacts:
    """What a backend knows of its slide when it has opened it; the attributes are those of ``Slide``."""

    pyramid: tuple[PyramidLevel, ...]
    stated_mpp: StatedMpp | None = None
    vendor: str | None = None
    bounds: Region | None = None
    background: tuple[int, int, int] = WHITE
    properties: Mapping[str, str] = field(default_factory=dict)
    associated_images: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()


class Slide(ABC):
    """An open slide. A context manager; ``read`` may be called from many threads.

    Attributes:
        reader: ``openslide``, ``tifffile`` or ``pillow``.
        pyramid: Stored resolutions, after orientation; the index is the pyramid level, 0 the finest.
        size: Of level 0.
        mpp: Micrometres per level-0 pixel, or None when the file does not say.
        mpp_source: Where that stands in the file, or ``option``; None when unknown.
        vendor: Of the scanner, as OpenSlide names it.
        bounds: The scanned area, level-0 pixels; the whole slide unless the file says otherwise.
        background: Colour of what is transparent, missing or outside.
        properties: The file's own metadata.
        associated_images: Names of label, macro and the like.
        tiles_read: Tiles or strips decoded so far; one again when it is decoded again.
        pixels_read: Every pixel decoded from the file so far, whole tiles included.
        bytes_read: Compressed bytes fetched so far; zero where the reader does not tell (OpenSlide).
    """

    reader: str

    def __init__(self, path: str, facts: SlideFacts, on_progress: ProgressFunction | None = None) -> None:
        self.path = path
        self.pyramid = facts.pyramid
        self.size = facts.pyramid[0].size
        self.mpp = None if facts.stated_mpp is None else facts.stated_mpp.mpp
        self.mpp_source = None if facts.stated_mpp is None else facts.stated_mpp.source
        self.vendor = facts.vendor
        self.bounds = facts.bounds or Region(0, 0, self.size.width, self.size.height)
        self.background = facts.background
        self.properties = facts.properties
        self.associated_images = facts.associated_images
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._reduction_lock = threading.Lock()
        self._reduced: dict[int, ReducedLevels] = {}
        self._doubts = {doubt.name: doubt for doubt in facts.doubts}
        if facts.stated_mpp is not None and facts.stated_mpp.doubt:
            self._doubts["scale"] = Doubt("scale", facts.stated_mpp.doubt)
        self._closed = False
        self.tiles_read = 0
        self.pixels_read = 0
        self.bytes_read = 0

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What the reader had to assume or could not check so far; reading may add to it."""
        with self._lock:
            return tuple(self._doubts.values())

    def doubt(self, name: str, sentence: str, *, may_change_answer: bool = True) -> None:
        """Add a doubt; the first of a name stays."""
        with self._lock:
            self._doubts.setdefault(name, Doubt(name, sentence, may_change_answer))

    def read(self, region: Region, width_px: int, height_px: int) -> np.ndarray:
        """Read a region at a chosen size.

        The coarsest pyramid level that is fine enough is read, and shrunk by area averages where it is finer.

        Args:
            region: Level-0 pixels; may reach beyond the slide.
            width_px: Of the result.
            height_px: Of the result.

        Returns:
            uint8 (height_px, width_px, 3), the caller's own; the background colour outside the slide.

        Raises:
            ValueError: the result would have no pixels.
            SlideError: the slide is closed, or there is no room to reduce it.
            UnreadableRegionError: what is stored there cannot be decoded.
        """
        self._check_open()
        if width_px < 1 or height_px < 1:
            raise ValueError(f"a region is read as at least one pixel, not {width_px} x {height_px}")
        if region.intersect(Region(0, 0, self.size.width, self.size.height)) is None:
            return np.full((height_px, width_px, 3), self.background, np.uint8)
        wanted = min(region.width / width_px, region.height / height_px)
        pyramid_level = self._pyramid_level_for(wanted)
        stored = self.pyramid[pyramid_level]
        # Between two stored resolutions the region alone is read: to reduce the finer one would decode all of it.
        is_coarsest = pyramid_level == len(self.pyramid) - 1
        if is_coarsest and wanted / stored.downsample >= REDUCE_FROM:
            reduced = self._reduced_levels(pyramid_level)
            return _own(reduced.read(region, width_px, height_px, self.background))
        pixels = read_region(
            partial(self._read_stored, pyramid_level),
            stored,
            region,
            width_px,
            height_px,
            background=self.background,
            unit=self._unit(pyramid_level),
            most_px=AT_ONCE_PX,
        )
        return _own(pixels)

    def thumbnail(self, max_px: int) -> np.ndarray:
        """Read the whole slide so that its longest side has at most ``max_px`` pixels, uint8 (H, W, 3).

        A pyramid level of that size is returned as it is stored, and not copied where it is held in memory, so none may
        write to it. The file may have cut off what does not fill a whole pixel of it: less than one pixel is missing on
        the right and below.
        """
        self._check_open()
        for number, stored in enumerate(self.pyramid):
            if max(stored.size.width, stored.size.height) == max_px:
                pixels = self._read_stored(number, 0, 0, stored.size.width, stored.size.height)
                break
        else:
            shrink = max(1.0, max(self.size.width, self.size.height) / max_px)
            whole = Region(0, 0, self.size.width, self.size.height)
            pixels = self.read(whole, *(max(1, round(side / shrink)) for side in (self.size.width, self.size.height)))
        if pixels.min() >= NEARLY_WHITE or pixels.max() <= NEARLY_BLACK:
            colour = "black" if pixels.max() <= NEARLY_BLACK else "white"
            self.doubt(
                "blank",
                f"all of it is {colour}: it may be empty, but its pixels may also not have been stored, or mean "
                "something else than the file says",
            )
        return pixels

    def decoded_together(self, wanted: float) -> tuple[float, float]:
        """Return width and height, level-0 pixels, of the tiles that a read decodes; they begin at the slide's corner.

        Args:
            wanted: Level-0 pixels a pixel of what is read.
        """
        pyramid_level = self._pyramid_level_for(wanted)
        unit, shrink = self._unit(pyramid_level), self.pyramid[pyramid_level].downsample
        return unit.width * shrink, unit.height * shrink

    def close(self) -> None:
        """Release the file; further reads are errors."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a box that lies inside a pyramid level, in that level's pixels, uint8 (height, width, 3)."""

    def _unit(self, pyramid_level: int) -> Size:
        """Return the size, as shown, of what is decoded together: tiles, strips, or rows where nothing is known."""
        return Size(self.pyramid[pyramid_level].size.width, 1)

    def _pyramid_level_for(self, wanted: float) -> int:
        fitting = [i for i, stored in enumerate(self.pyramid) if stored.downsample <= wanted * COARSE_ENOUGH]
        return fitting[-1] if fitting else 0

    def _reduced_levels(self, pyramid_level: int) -> ReducedLevels:
        """Return reductions of a pyramid level, made on first use, in blocks so that memory stays bounded."""
        with self._reduction_lock:
            if pyramid_level not in self._reduced:
                stored = self.pyramid[pyramid_level]
                try:
                    self._reduced[pyramid_level] = ReducedLevels(
                        partial(self._read_stored, pyramid_level),
                        stored,
                        unit=self._unit(pyramid_level),
                        on_progress=self._on_progress,
                    )
                except OSError as exc:
                    raise SlideError(
                        self.path,
                        f"has no pyramid, and there is no room for a reduced copy in {tempfile.gettempdir()} "
                        f"({exc.strerror or exc}); set TMPDIR to a folder with more",
                    ) from exc
            return self._reduced[pyramid_level]

    def _count(self, pixels: int, compressed_bytes: int, tiles: int = 1) -> None:
        with self._lock:
            self.tiles_read += tiles
            self.pixels_read += pixels
            self.bytes_read += compressed_bytes

    def _check_open(self) -> None:
        if self._closed:
            raise SlideError(self.path, "is closed and cannot be read any more")


@contextmanager
def told(
    path: str, problem: str, error: type[SlideError] = SlideError, *, of: type[Exception] | tuple[type[Exception], ...]
) -> Iterator[None]:
    """Turn what a library raises, ``of`` these types, into a slide's error, with the library's reason in one line."""
    try:
        yield
    except SlideError:
        raise
    except of as exc:
        raise error(path, f"{problem}: {reason_of(path, exc)}") from exc


def reason_of(path: str, exc: Exception) -> str:
    """Return in one line what a library says of a slide, less the slide's name."""
    if isinstance(exc, (TypeError, LookupError, AttributeError, ArithmeticError, struct.error)):
        return "it is cut off, or what it says of itself makes no sense"  # they speak of code, and not of a file
    reason = " ".join(str(exc).split()).removeprefix(f"Reading {path}: ").replace(path, "the file")
    return reason or type(exc).__name__


def _own(pixels: np.ndarray) -> np.ndarray:
    """Return pixels that nobody else holds, in plain order, so that the caller may change them."""
    is_own = pixels.flags.owndata and pixels.flags.writeable and pixels.flags.c_contiguous
    return pixels if is_own else np.array(pixels, order="C")
