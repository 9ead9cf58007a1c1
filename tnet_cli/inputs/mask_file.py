"""Masks that another program made of a slide, or a person drew: pictures and GeoJSON."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tnet_cli.errors import ManifestError
from tnet_cli.geometry import Size
from tnet_cli.inputs.annotation import areas_that_count, mask_of
from tnet_cli.tissue.tissue import TissueMask

LONGEST_PX = 2048
"""Longest side of the masks that are made of outlines, and of pictures that are reduced."""

LARGEST_PX = 100_000_000
"""Pixels of a picture, which is decoded whole."""

ASPECT = 0.02
"""Share by which the aspect ratios of a picture and its slide may differ, beside a pixel of the picture."""

PNG = b"\x89PNG\r\n\x1a\n"


def read_mask(path: Path, slide_size: Size, *, origin: tuple[int, int] = (0, 0)) -> TissueMask:
    """Read where the tissue of a slide is.

    Args:
        path: A PNG over the whole of level 0, of any size, tissue where it is not black and not transparent (of a
            picture with a palette where the number is not 0); or GeoJSON as ``annotation.read_annotation`` takes it.
        slide_size: Level-0 pixels.
        origin: x and y, level-0 pixels, of the frame of GeoJSON: the corner of the slide's bounds.

    Raises:
        ManifestError: the file is missing, is neither, or has not the slide's shape.
    """
    try:
        with path.open("rb") as file:
            is_picture = file.read(len(PNG)) == PNG
        if not is_picture:
            return mask_of(areas_that_count(path, None), slide_size, origin=origin, longest_px=LONGEST_PX)
        with Image.open(path) as picture:
            _refuse_other_shape(path, Size(*picture.size), slide_size)
            return TissueMask(_pixels_of(picture), slide_size)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is damaged, or not of the kind"
        raise ManifestError(f"{path}: cannot be read as a mask, a PNG or GeoJSON: {reason}") from exc


def _refuse_other_shape(path: Path, size: Size, slide_size: Size) -> None:
    if size.area > LARGEST_PX:
        raise ManifestError(
            f"{path}: is a mask of {size.width} x {size.height} pixels, more than {LARGEST_PX // 10**6} million; "
            "make it smaller, it is stretched over the slide"
        )
    across, down = size.width * slide_size.height, size.height * slide_size.width
    if abs(across - down) > max(ASPECT * max(across, down), slide_size.height, slide_size.width):
        raise ManifestError(
            f"{path}: is a mask of {size.width} x {size.height} pixels, and the slide of {slide_size.width} x "
            f"{slide_size.height} has another shape; expected a picture of the whole slide"
        )


def _pixels_of(picture: Image.Image) -> np.ndarray:
    """Return where a picture is not black, bool (H, W), reduced to at most ``LONGEST_PX`` a side by majority."""
    mode = picture.mode
    if mode in {"LA", "PA", "RGBA"} or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"))
        shown = (rgba[..., :3].max(axis=2) > 0) & (rgba[..., 3] > 0)
    else:
        values = np.asarray(picture)
        shown = values.max(axis=2) > 0 if values.ndim == 3 else values > 0
    factor = -(-max(shown.shape) // LONGEST_PX)
    if factor == 1:
        return np.ascontiguousarray(shown)
    small = Image.fromarray(shown.astype(np.uint8) * 255).reduce(factor)
    return np.asarray(small) > 127
