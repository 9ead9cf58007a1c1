"""What may happen to a slide on its way to the computer, done to a composed slide: the same tissue, other pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.composed_colorectal.artefacts import Artefacts, bubbles, folds, pen
from tnet_cli.files import written_whole
from tnet_cli.geometry import Region, Size
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide
from tnet_cli.synth.pyramid import (
    JPEG_QUALITY,
    WINDOW_PX,
    EncodedWindow,
    encode_window,
    window_places,
    write_pyramid,
)

MARGIN_PX = 16
"""Read around a window, so that its edges blur into what lies beyond."""

GLASS = (245.0, 245.0, 245.0)

Paint = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Distortion:
    """One thing that happens.

    Attributes:
        name: In tables and of folders.
        paint: Pixels uint8 (H, W, 3) to the same, for what is the same everywhere.
        befalls: Draws what befalls the slide.
        quality: Of the JPEG.
        coarser: The slide is scanned so many times coarser; below one it is finer.
    """

    name: str
    paint: Paint | None = None
    befalls: Callable[[Size, np.random.Generator], Artefacts] | None = None
    quality: int = JPEG_QUALITY
    coarser: float = 1.0


def stain(gains: tuple[float, float, float]) -> Paint:
    """Return a change of the optical density of R, G and B by factors."""
    table = np.stack([np.rint(245 * np.minimum(np.arange(256) / 245, 1) ** gain) for gain in gains], axis=1)
    lookup = table.astype(np.uint8).T.ravel().tolist()
    return lambda pixels: np.asarray(Image.fromarray(pixels).point(lookup))


def blur(radius_px: float) -> Paint:
    """Return a blur by a Gaussian of a standard deviation in pixels."""
    return lambda pixels: np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius_px)))


DISTORTIONS = (
    Distortion("written again"),
    Distortion("stain: darker, redder", paint=stain((1.05, 1.35, 1.3))),
    Distortion("stain: paler, bluer", paint=stain((0.85, 0.75, 0.6))),
    Distortion("JPEG quality 30", quality=30),
    Distortion("slight blur", paint=blur(1.2)),
    Distortion("pen marks", befalls=lambda size, rng: Artefacts(size, passed=pen(size, rng))),
    Distortion("folds", befalls=lambda size, rng: Artefacts(size, folded=folds(size, rng))),
    Distortion("bubbles", befalls=lambda size, rng: Artefacts(size, passed=bubbles(size, rng))),
    Distortion("scanned 2x coarser", coarser=2.0),
    Distortion("scanned 2x finer", coarser=0.5),
)


def distort(source: Path, target: Path, distortion: Distortion, seed: int) -> None:
    """Write a distorted copy of a slide.

    Args:
        source: A slide with mpp.
        target: The file to write.
        distortion: What happens.
        seed: Of what befalls it.
    """
    with open_slide(str(source)) as slide, written_whole(target) as draft:
        mpp = slide.mpp
        if mpp is None:
            raise ValueError(f"{source}: has no mpp")
        size = Size(round(slide.size.width / distortion.coarser), round(slide.size.height / distortion.coarser))
        write_pyramid(
            draft,
            size,
            mpp * slide.size.width / size.width,
            _windows(slide, size, distortion, seed),
            description=f"tnet composed slide, distorted: {distortion.name}",
        )


def _windows(slide: Slide, size: Size, distortion: Distortion, seed: int) -> Iterator[EncodedWindow]:
    befallen = None if distortion.befalls is None else distortion.befalls(size, np.random.default_rng([seed, 5]))
    for x, y in window_places(size):
        yield encode_window(_window(slide, x, y, distortion, befallen), quality=distortion.quality)


def _window(slide: Slide, x: int, y: int, distortion: Distortion, befallen: Artefacts | None) -> np.ndarray:
    """Return a window of the distorted slide, uint8 (1024, 1024, 3)."""
    side = WINDOW_PX + 2 * MARGIN_PX
    scale = distortion.coarser
    left, top = round((x - MARGIN_PX) * scale), round((y - MARGIN_PX) * scale)
    pixels = slide.read(Region(left, top, round(side * scale), round(side * scale)), side, side)
    if distortion.paint is not None:
        pixels = distortion.paint(pixels)
    pixels = pixels[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    pixels = np.ascontiguousarray(pixels)
    return pixels if befallen is None else befallen.applied(pixels, x, y, GLASS)
