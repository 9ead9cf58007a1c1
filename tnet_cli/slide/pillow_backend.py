"""Ordinary pictures, PNG, JPEG and the like, through Pillow; decoded whole."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Size
from tnet_cli.slide.containers import misnamed_picture
from tnet_cli.slide.mpp import option_mpp
from tnet_cli.slide.resample import PyramidLevel
from tnet_cli.slide.slide import WHITE, ProgressFunction, Slide, SlideFacts
from tnet_cli.slide.tiff_pages import Orientation

LARGEST_PX = 1_000_000_000
"""A larger picture would take more than 7 GB while it is decoded."""

STRIP_PX = 16 * 1024 * 1024
"""Pixels that are made RGB at a time."""

ORIENTATION_TAG = 0x0112

LARGE_PICTURES: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
}
"""First bytes of the formats scans are exported to; these are opened past the limit that Pillow sets a process."""


class PillowSlide(Slide):
    """A picture held in memory, for which ``mpp`` is the only scale: what such files say is meant for printers.

    Errors are those of ``open_slide``, and what it takes is explained there but for one.

    Args:
        content: The file's bytes, where they do not lie under ``path``, which then only names them.
    """

    reader = "pillow"

    def __init__(
        self,
        path: str,
        *,
        mpp: float | None = None,
        on_progress: ProgressFunction | None = None,
        content: bytes | None = None,
    ) -> None:
        self._pixels = _decode(path, content)
        height, width = self._pixels.shape[:2]
        facts = SlideFacts(
            pyramid=(PyramidLevel(Size(width, height), 1.0),),
            stated_mpp=None if mpp is None else option_mpp(path, mpp),
        )
        super().__init__(path, facts, on_progress)
        self._count(width * height, 0)

    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        del pyramid_level  # a picture has one
        return self._pixels[y : y + height, x : x + width]


def _decode(path: str, content: bytes | None) -> np.ndarray:
    too_large = "which is too large to be decoded whole; convert it to a tiled TIFF with a pyramid"
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, and of metadata it cannot parse; neither concerns the pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            with _open(path, content) as picture:
                misnamed = misnamed_picture(path, picture.format or "")
                if misnamed is not None:
                    raise SlideError(path, misnamed)
                if picture.width * picture.height > LARGEST_PX:
                    raise SlideError(path, f"has {picture.width} x {picture.height} pixels, {too_large}")
                turned = Orientation(_orientation_of(picture))
                return turned.turn(_as_rgb(picture))
    except UnidentifiedImageError as exc:
        raise SlideError(path, "is neither a slide nor a picture that tnet can read") from exc
    except Image.DecompressionBombError as exc:
        raise SlideError(path, f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, {too_large}") from exc
    except MemoryError as exc:
        raise SlideError(path, "does not fit into memory; convert it to a tiled TIFF with a pyramid") from exc
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as exc:
        raise SlideError(path, f"cannot be decoded: {' '.join(str(exc).split())}") from exc


def _open(path: str, content: bytes | None) -> Image.Image:
    with open(path, "rb") if content is None else io.BytesIO(content) as file:  # noqa: PTH123 (as Pillow opens it)
        start = file.read(8)
    for first_bytes, opener in LARGE_PICTURES.items():
        if start.startswith(first_bytes):
            try:
                return opener(path if content is None else io.BytesIO(content))
            except SyntaxError as exc:
                raise UnidentifiedImageError(str(exc)) from exc
    return Image.open(path if content is None else io.BytesIO(content))


def _orientation_of(picture: Image.Image) -> int:
    value = picture.getexif().get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _as_rgb(picture: Image.Image) -> np.ndarray:
    """Return a picture as uint8 (H, W, 3), made strip by strip so that no more than one whole copy is added."""
    picture.load()
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(1, STRIP_PX // picture.width)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        pixels[top:bottom] = _strip_as_rgb(picture.crop((0, top, picture.width, bottom)))
    return pixels


def _strip_as_rgb(strip: Image.Image) -> np.ndarray:
    if strip.mode.startswith("I;16") or strip.mode == "I":
        grey = (np.asarray(strip).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if strip.has_transparency_data:
        laid = Image.new("RGBA", strip.size, (*WHITE, 255))
        laid.alpha_composite(strip.convert("RGBA"))
        return np.asarray(laid.convert("RGB"))
    return np.asarray(strip.convert("RGB"))
