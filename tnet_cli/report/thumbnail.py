"""The slide on an overlay at the size of a stamp.

It travels inside the overlay's own file, so that a page of thousands of slides is made without decoding thousands of
pictures.
"""

import base64
import binascii
from io import BytesIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tnet_cli.report.overlay import PANEL_KEY

STAMP_KEY = "tnet-thumbnail"
"""Name of the text in an overlay's file that is its stamp: WebP as base64."""

STAMP_PX = 144

Stamp = tuple[bytes, tuple[int, int]]
"""WebP, and its width and height."""


def overlay_note(overlay: Image.Image) -> PngInfo:
    """Return what an overlay's file says of itself: its stamp."""
    note = PngInfo()
    note.add_text(STAMP_KEY, base64.b64encode(_stamp(overlay, STAMP_PX)[0]).decode())
    return note


def stamp_in(page: Image.Image, side_px: int) -> Stamp:
    """Return the stamp of an overlay.

    Args:
        page: The overlay, opened from its file; its pixels are decoded only where it carries no stamp.
        side_px: The stamp is at most so wide and high.

    Raises:
        OSError: the file is damaged.
    """
    try:
        data = base64.b64decode(str(page.info[STAMP_KEY]), validate=True)
        with Image.open(BytesIO(data), formats=["WEBP"]) as picture:
            if max(picture.size) <= side_px:
                return data, picture.size
            return _stamp(picture, side_px)
    except (KeyError, binascii.Error, OSError):
        return _stamp(page, side_px)


def _stamp(page: Image.Image, side_px: int) -> Stamp:
    picture = page.crop(_panel_box(page)).convert("RGB")
    picture.thumbnail((side_px, side_px), Image.Resampling.BOX)
    data = BytesIO()
    picture.save(data, format="WEBP", quality=62, method=4)
    return data.getvalue(), picture.size


def _panel_box(page: Image.Image) -> tuple[int, int, int, int]:
    """Return where the slide with its boxes stands; what is at the top of a page that does not say."""
    box = page.info.get(PANEL_KEY)
    return box if isinstance(box, tuple) else (0, 0, page.width, min(page.height, page.width))
