"""The arithmetic of Deep Zoom over any slide of ours: zoom level, column and row name a box of level-0 pixels.

As OpenSlide's DeepZoomGenerator counts: the last zoom level is the slide itself, each one before it has half its width
and height, rounded up, and zoom level 0 is one pixel. The tiles do not overlap, so that with a power of two for their
side they fall on the file's own.
"""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from tnet_cli.geometry import Region, Size
from tnet_cli.slide.slide import Slide

TILE_PX = 512
JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """A slide of a level-0 size as a pyramid of square tiles."""

    size: Size
    tile_px: int = TILE_PX

    @property
    def last_zoom_level(self) -> int:
        """The zoom level whose pixels are those of level 0."""
        return (max(self.size.width, self.size.height) - 1).bit_length()

    def zoom_size(self, zoom_level: int) -> Size:
        """Return the size of the slide at a zoom level, in that zoom level's pixels."""
        step = self.level_0_px(zoom_level)
        return Size(-(-self.size.width // step), -(-self.size.height // step))

    def level_0_px(self, zoom_level: int) -> int:
        """Return how many level-0 pixels a pixel of a zoom level is wide."""
        return 1 << (self.last_zoom_level - zoom_level)

    def tile(self, zoom_level: int, column: int, row: int) -> tuple[Region, Size] | None:
        """Return the box that a tile shows and the size it is shown at.

        The last pixel of a row may reach beyond the slide by less than one pixel of the zoom level.

        Returns:
            Level-0 pixels and the tile's own pixels; None where there is no such tile.
        """
        if not 0 <= zoom_level <= self.last_zoom_level or column < 0 or row < 0:
            return None
        whole = self.zoom_size(zoom_level)
        left, top = column * self.tile_px, row * self.tile_px
        if left >= whole.width or top >= whole.height:
            return None
        shown = Size(min(self.tile_px, whole.width - left), min(self.tile_px, whole.height - top))
        step = self.level_0_px(zoom_level)
        return Region(left * step, top * step, shown.width * step, shown.height * step), shown


def tile_jpeg(slide: Slide, zoom_level: int, column: int, row: int) -> bytes | None:
    """Read a tile of an open slide as JPEG; None where there is no such tile.

    Raises:
        SlideError: what is stored there cannot be read.
    """
    found = DeepZoom(slide.size).tile(zoom_level, column, row)
    if found is None:
        return None
    region, shown = found
    data = BytesIO()
    pixels = slide.read(region, shown.width, shown.height)
    Image.fromarray(pixels).save(data, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return data.getvalue()
