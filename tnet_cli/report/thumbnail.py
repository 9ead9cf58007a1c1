"""The slide on an overlay at the size of a thumbnail.

It lies inside the overlay's own file, so that a page of thousands of slides is made without decoding thousands of
pictures.
"""

import base64
import binascii
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tnet_cli.report.overlay import PANEL_KEY

THUMBNAIL_KEY = "tnet-thumbnail"
"""Name of the text in an overlay's file that is its thumbnail: WebP as base64."""

THUMBNAIL_PX = 144

SMALL_KEY = "tnet-small-thumbnail"
"""Name of the text that is the smaller one, for pages of thousands of slides."""

SMALL_PX = 64

COMPRESSION = 3
"""Of an overlay: a twentieth larger than with the 6 that is usual, in half the time."""

Thumbnail = tuple[bytes, tuple[int, int]]
"""WebP, and its width and height."""


def overlay_file(overlay: Image.Image) -> bytes:
    """Return an overlay as the bytes of a PNG that carries its thumbnail."""
    data = BytesIO()
    overlay.save(data, format="PNG", compress_level=COMPRESSION, pnginfo=overlay_note(overlay))
    return data.getvalue()


def mask_file(mask: np.ndarray) -> bytes:
    """Return a mask, bool (H, W), as the bytes of a PNG, white where it is set."""
    data = BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(data, format="PNG", optimize=True)
    return data.getvalue()


def overlay_note(overlay: Image.Image) -> PngInfo:
    """Return what an overlay's file says of itself: its thumbnails."""
    note = PngInfo()
    thumbnail = _thumbnail(overlay, THUMBNAIL_PX)[0]
    with Image.open(BytesIO(thumbnail), formats=["WEBP"]) as picture:
        small = _thumbnail(picture, SMALL_PX)[0]
    for key, data in ((THUMBNAIL_KEY, thumbnail), (SMALL_KEY, small)):
        note.add_text(key, base64.b64encode(data).decode())
    return note


def thumbnail_in(page: Image.Image, side_px: int) -> Thumbnail:
    """Return the thumbnail of an overlay.

    Args:
        page: The overlay, opened from its file; its pixels are decoded only where it carries no thumbnail.
        side_px: The thumbnail is at most so wide and high.

    Raises:
        OSError: the file is damaged.
    """
    try:
        small = page.info.get(SMALL_KEY) if side_px <= SMALL_PX else None
        data = base64.b64decode(str(small or page.info[THUMBNAIL_KEY]), validate=True)
        with Image.open(BytesIO(data), formats=["WEBP"]) as picture:
            if max(picture.size) <= side_px:
                return data, picture.size
            return _thumbnail(picture, side_px)
    except (KeyError, binascii.Error, OSError):
        return _thumbnail(page, side_px)


def _thumbnail(page: Image.Image, side_px: int) -> Thumbnail:
    picture = page.crop(_panel_box(page)).convert("RGB")
    picture.thumbnail((side_px, side_px), Image.Resampling.BOX)
    data = BytesIO()
    picture.save(data, format="WEBP", quality=62, method=4)
    return data.getvalue(), picture.size


def _panel_box(page: Image.Image) -> tuple[int, int, int, int]:
    """Return where the slide with its boxes stands; what is at the top of a page that does not say."""
    box = page.info.get(PANEL_KEY)
    return box if isinstance(box, tuple) else (0, 0, page.width, min(page.height, page.width))
