"""Slides through OpenSlide: every vendor format it knows."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import openslide

from tnet_cli.errors import SlideError, UnreadableRegionError
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.mpp import StatedMpp, checked_mpp, option_mpp, resolution_mpp
from tnet_cli.slide.resample import PyramidLevel
from tnet_cli.slide.slide import WHITE, ProgressFunction, Slide, SlideFacts, told
from tnet_cli.slide.tiff_pages import snapped_downsample

_told = partial(told, of=openslide.OpenSlideError)


class OpenSlideSlide(Slide):
    """A slide read through OpenSlide.

    OpenSlide keeps an error: after one region could not be read, all further reads through the same handle fail. So
    the file is opened anew after an error. A handle is released when the last thread that reads through it is done.

    What it takes and raises is that of ``open_slide``.
    """

    reader = "openslide"

    def __init__(self, path: str, *, mpp: float | None = None, on_progress: ProgressFunction | None = None) -> None:
        with _told(path, "OpenSlide cannot open it"):
            slide = openslide.OpenSlide(path)
        super().__init__(path, _facts_of(path, slide, mpp), on_progress)
        self._slide: openslide.OpenSlide | None = slide
        self._downsamples = slide.level_downsamples

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

    def _read_associated(self, name: str) -> np.ndarray:
        with _told(self.path, f"its image {name!r} cannot be decoded"):
            return _opaque(np.asarray(self._handle().associated_images[name]), self.background)

    def _unit(self, pyramid_level: int) -> Size:
        properties = self.properties
        try:
            width = int(properties[f"openslide.level[{pyramid_level}].tile-width"])
            height = int(properties[f"openslide.level[{pyramid_level}].tile-height"])
        except (KeyError, ValueError):
            return super()._unit(pyramid_level)
        return Size(width, height)

    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        # OpenSlide takes the corner in level-0 pixels, and divides it by its own idea of the downsample.
        own = self._downsamples[pyramid_level]
        corner = (round(x * own), round(y * own))
        slide = self._handle()
        with _told(
            self.path,
            f"the region at {x}, {y} of pyramid level {pyramid_level} cannot be decoded",
            UnreadableRegionError,
        ):
            try:
                picture = slide.read_region(corner, pyramid_level, (width, height))
            except openslide.OpenSlideError:
                self._drop(slide)
                raise
        tiles, tile = self._tiles_under(pyramid_level, x, y, width, height)
        self._count(tiles * tile.area, 0, tiles)
        return _opaque(np.asarray(picture), self.background)

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
    properties = dict(slide.properties)
    finest = Size(*slide.dimensions)
    if finest.width < 1 or finest.height < 1:
        raise SlideError(path, f"its image is {finest.width} x {finest.height} pixels; expected an image")
    pyramid = tuple(
        PyramidLevel(Size(*size), snapped_downsample(finest, Size(*size))) for size in slide.level_dimensions
    )
    with _told(path, "its associated images cannot be listed"):
        associated_images = tuple(slide.associated_images)
    return SlideFacts(
        pyramid=pyramid,
        stated_mpp=option_mpp(path, mpp) if mpp is not None else _mpp_of(path, properties),
        vendor=properties.get("openslide.vendor"),
        bounds=_bounds(properties),
        background=_background(properties),
        properties=properties,
        associated_images=associated_images,
    )


def _mpp_of(path: str, properties: Mapping[str, str]) -> StatedMpp | None:
    vendor = properties.get("openslide.vendor")
    if vendor == "generic-tiff":
        unit = {"centimeter": "cm", "inch": "inch"}.get(properties.get("tiff.ResolutionUnit", ""), "")
        try:
            x, y = float(properties["tiff.XResolution"]), float(properties["tiff.YResolution"])
        except (KeyError, ValueError):
            return None
        return resolution_mpp(x, y, unit)
    try:
        x, y = float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        return None
    return checked_mpp(path, x, y, "aperio.MPP" if vendor == "aperio" else "openslide.mpp-x")


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


def _opaque(rgba: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Lay RGBA (H, W, 4) over the background; opaque pixels stay exactly what they are."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    share = alpha.astype(np.float32) / 255
    laid = colour * share + np.asarray(background, np.float32) * (1 - share)
    return np.where(alpha == 255, colour, (laid + 0.5).astype(np.uint8))
