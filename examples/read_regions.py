"""Open any slide and read the same field at three scales.

Run: python examples/read_regions.py SLIDE FOLDER
"""

import sys
from pathlib import Path

from PIL import Image

from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide


def main(path: Path, folder: Path) -> None:
    """Write three views of the middle of a slide, each four times wider than the one before."""
    with open_slide(path) as slide:
        print(f"{slide.size.width} x {slide.size.height} px, {slide.mpp} µm per pixel, read by {slide.reader}")
        for zoom in (1, 4, 16):
            side = 256 * zoom
            field = Region((slide.size.width - side) // 2, (slide.size.height - side) // 2, side, side)
            Image.fromarray(slide.read(field, 256, 256)).save(folder / f"view-{zoom}.png")
        print(f"{slide.pixels_read / slide.size.area:.2%} of the slide was decoded")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
