"""What a slide can do, whatever reads it: everything that does not depend on the file format."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from typing import Self

import numpy as np

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.reduction import ReducedLevels
from tnet_cli.slide.resample import covering_box, resample

ProgressFunction = Callable[[int, int], None]

COARSE_ENOUGH = 1.02
"""A pyramid level this much coarser than wanted still serves, so that 4.0003 counts as 4."""

REDUCE_FROM = 8
"""A read that would shrink stored pixels by this much or more is served from levels reduced once."""

WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """A stored resolution.

    Attributes:
        size: In its own pixels.
        downsample: Level-0 pixels for each of its own, at least 1.
    """

    size: Size
    downsample: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFacts:
    """What a backend knows of its slide when it has opened it.

    Attributes:
        pyramid: Stored resolutions, finest first.
        mpp: Micrometres per level-0 pixel, or None when the file does not say.
        mpp_source: Where it stands in the file, or ``option``.
        vendor: Of the scanner, as OpenSlide names it.
        bounds: The scanned area, level-0 pixels.
        background: Colour of what is transparent, missing or outside.
        properties: The file's own metadata.
    """

    pyramid: tuple[PyramidLevel, ...]
    mpp: float | None = None
    mpp_source: str | None = None
    vendor: str | None = None
    bounds: Region | None = None
    background: tuple[int, int, int] = WHITE
    properties: Mapping[str, str] = field(default_factory=dict)


class Slide(ABC):
    """An open slide. A context manager; ``read`` may be called from many threads.

    Attributes:
        reader: ``openslide``, ``tifffile`` or ``pillow``.
        pixels_read: Every pixel decoded from the file so far, whole tiles included.
        bytes_read: Compressed bytes fetched so far; zero where the reader does not tell (OpenSlide).
    """

    reader: str

    def __init__(self, path: str, facts: SlideFacts, on_progress: ProgressFunction | None = None) -> None:
        self.path = path
        self._facts = facts
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._reduction_lock = threading.Lock()
        self._reduced: dict[int, ReducedLevels] = {}
        self._closed = False
        self.pixels_read = 0
        self.bytes_read = 0

    @property
    def size(self) -> Size:
        """Level-0 size, after orientation."""
        return self._facts.pyramid[0].size

    @property
    def pyramid(self) -> tuple[PyramidLevel, ...]:
        """Stored resolutions; the index is the pyramid level, 0 the finest."""
        return self._facts.pyramid

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 pixel, or None when unknown."""
        return self._facts.mpp

    @property
    def mpp_source(self) -> str | None:
        """Where the mpp came from, or None when unknown."""
        return self._facts.mpp_source

    @property
    def vendor(self) -> str | None:
        """Vendor of the scanner, or None."""
        return self._facts.vendor

    @property
    def bounds(self) -> Region:
        """The scanned area, level-0 pixels; the whole slide unless the file says otherwise."""
        return self._facts.bounds or Region(0, 0, self.size.width, self.size.height)

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour of what is transparent, missing or outside."""
        return self._facts.background

    @property
    def properties(self) -> Mapping[str, str]:
        """The file's own metadata."""
        return self._facts.properties

    @property
    def associated_images(self) -> tuple[str, ...]:
        """Names of label, macro and the like."""
        return ()

    def read_associated(self, name: str) -> np.ndarray:
        """Read an associated image, uint8 (H, W, 3).

        Raises:
            SlideError: there is none of that name.
        """
        raise SlideError(self.path, f"has no associated image {name!r}")

    def read(self, region: Region, width_px: int, height_px: int) -> np.ndarray:
        """Read a region at a chosen size.

        The coarsest pyramid level that is fine enough is read, and shrunk by area averages where it is finer.

        Args:
            region: Level-0 pixels; may reach beyond the slide.
            width_px, height_px: Size of the result.

        Returns:
            uint8 (height_px, width_px, 3); the background colour outside the slide.

        Raises:
            SlideError: the slide is closed.
            UnreadableRegionError: what is stored there cannot be decoded.
        """
        self._check_open()
        wanted = min(region.width / width_px, region.height / height_px)
        pyramid_level = self._best_level(wanted)
        stored = self.pyramid[pyramid_level]
        if wanted / stored.downsample >= REDUCE_FROM:
            return self._reduced_levels(pyramid_level).read(region, width_px, height_px, self.background)
        x, y, width, height = covering_box(region, stored.downsample)
        pixels = self._read_padded(pyramid_level, x, y, width, height)
        return resample(pixels, region, stored.downsample, (x, y), width_px, height_px)

    def thumbnail(self, max_px: int) -> np.ndarray:
        """Read the whole slide so that its longest side has at most ``max_px`` pixels, uint8 (H, W, 3)."""
        shrink = max(1.0, max(self.size.width, self.size.height) / max_px)
        whole = Region(0, 0, self.size.width, self.size.height)
        return self.read(whole, max(1, round(self.size.width / shrink)), max(1, round(self.size.height / shrink)))

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

    def _read_padded(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a box of a pyramid level's pixels; what lies outside has the background colour."""
        size = self.pyramid[pyramid_level].size
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, size.width), min(y + height, size.height)
        if (x0, y0, x1, y1) == (x, y, x + width, y + height):
            return self._read_stored(pyramid_level, x, y, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[...] = self.background
        if x0 < x1 and y0 < y1:
            pixels[y0 - y : y1 - y, x0 - x : x1 - x] = self._read_stored(pyramid_level, x0, y0, x1 - x0, y1 - y0)
        return pixels

    def _best_level(self, wanted: float) -> int:
        fitting = [i for i, stored in enumerate(self.pyramid) if stored.downsample <= wanted * COARSE_ENOUGH]
        return fitting[-1] if fitting else 0

    def _reduced_levels(self, pyramid_level: int) -> ReducedLevels:
        """Return reductions of a pyramid level, made on first use, in bands so that memory stays bounded."""
        with self._reduction_lock:
            if pyramid_level not in self._reduced:
                stored = self.pyramid[pyramid_level]

                def read_rows(y: int, height: int) -> np.ndarray:
                    return self._read_stored(pyramid_level, 0, y, stored.size.width, height)

                self._reduced[pyramid_level] = ReducedLevels(
                    read_rows, stored.size, stored.downsample, self._on_progress
                )
            return self._reduced[pyramid_level]

    def _count(self, pixels: int, compressed_bytes: int) -> None:
        with self._lock:
            self.pixels_read += pixels
            self.bytes_read += compressed_bytes

    def _check_open(self) -> None:
        if self._closed:
            raise SlideError(self.path, "is closed and cannot be read any more")
