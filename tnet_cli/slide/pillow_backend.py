"""Ordinary pictures, PNG, JPEG and the like, through Pillow; decoded whole."""

import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Size
from tnet_cli.slide.scale import option_scale
from tnet_cli.slide.slide import WHITE, ProgressFunction, PyramidLevel, Slide, SlideFacts


class PillowSlide(Slide):
    """A picture held in memory. It has no scale of its own: what such files say is meant for printers.

    Args:
        path: The file.
        mpp: Micrometres per pixel.
        on_progress: Told how far a reduction is.

    Raises:
        SlideError: the file is no picture, is damaged, or is too large to be decoded whole.
        MissingMppError: ``mpp`` is implausible.
    """

    reader = "pillow"

    def __init__(self, path: str, *, mpp: float | None = None, on_progress: ProgressFunction | None = None) -> None:
        self._pixels = _decode(path)
        height, width = self._pixels.shape[:2]
        facts = SlideFacts(
            pyramid=(PyramidLevel(Size(width, height), 1.0),),
            mpp=None if mpp is None else option_scale(path, mpp).mpp,
            mpp_source=None if mpp is None else "option",
            background=WHITE,
        )
        super().__init__(path, facts, on_progress)
        self._count(width * height, 0)

    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._pixels[y : y + height, x : x + width]


def _decode(path: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of what it refuses; a large scan is no attack.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture)
                return _as_rgb(upright)
    except UnidentifiedImageError as exc:
        raise SlideError(path, "is neither a slide nor a picture that tnet can read") from exc
    except Image.DecompressionBombError as exc:
        raise SlideError(path, "is too large to be decoded whole; convert it to a tiled TIFF with a pyramid") from exc
    except (OSError, ValueError, SyntaxError, EOFError) as exc:
        raise SlideError(path, f"cannot be decoded: {' '.join(str(exc).split())}") from exc


def _as_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.has_transparency_data:
        laid = Image.new("RGBA", picture.size, (*WHITE, 255))
        laid.alpha_composite(picture.convert("RGBA"))
        return np.asarray(laid.convert("RGB"))
    return np.asarray(picture.convert("RGB"))
