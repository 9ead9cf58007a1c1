"""Pages of one size in a TIFF: focal planes, points in time, or channels, and which of them are red, green and blue."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import tifffile

from tnet_cli.slide.ome import OmeImage

RED_GREEN_BLUE = (0xFF000000, 0x00FF0000, 0x0000FF00)
"""Of 32-bit RGBA, without its opacity."""

NO_NAME = re.compile(r"((channel|ch|c)?[\s_:#.-]*\d*([:_.-]\d+)*)?", re.IGNORECASE)
METAMORPH_PLANES = 33628
IMAGEJ_METADATA = 50839


@dataclass(frozen=True, slots=True)
class Planes:
    """Images of the same size, of which at most one is the slide, unless they are its colours.

    Attributes:
        names: Of the channels; of all images where it is not known what they are.
        colours: In which a writer shows the channels, as 32-bit RGBA.
        pages: Of the channels; empty where each is not a page of its own.
        may_be_colours: Whether channels without names or colours are red, green and blue.
        called: What the channels are, for users.
    """

    depths: int = 1
    times: int = 1
    names: tuple[str, ...] = ("",)
    colours: tuple[int | None, ...] = (None,)
    pages: tuple[tifffile.TiffPage, ...] = ()
    may_be_colours: bool = False
    called: str = "channels"

    def __str__(self) -> str:
        """Return what there is, for a sentence."""
        names = ["".join(filter(str.isprintable, name))[:40] for name in self.names[:8] if name]
        listed = f" ({', '.join(names)})" if names else ""
        parts = [
            (self.depths, "focal planes"),
            (self.times, "points in time"),
            (len(self.names), f"{self.called}{listed}"),
        ]
        return ", ".join(f"{count} {what}" for count, what in parts if count > 1)

    def red_green_blue(self) -> list[tifffile.TiffPage] | None:
        """Return the pages of red, green and blue, or None where they are something else."""
        if (self.depths, self.times, len(self.names), len(self.pages)) != (1, 1, 3, 3):
            return None
        named = [re.sub(r"[\s_-]*(channel|ch)$", "", name.strip().lower())[:5] for name in self.names]
        for words in (["red", "green", "blue"], ["r", "g", "b"]):
            if sorted(named) == sorted(words):
                return [self.pages[named.index(word)] for word in words]
        shown = [None if colour is None else colour & 0xFFFFFF00 for colour in self.colours]
        if not all(NO_NAME.fullmatch(name.strip()) for name in self.names) or not self.may_be_colours:
            return None
        if sorted(colour or 0 for colour in shown) == sorted(RED_GREEN_BLUE):
            return [self.pages[shown.index(colour)] for colour in RED_GREEN_BLUE]
        return list(self.pages) if len(set(shown)) == 1 else None


def planes_of(
    finest: tifffile.TiffPage,
    description: str,
    alike: Sequence[tifffile.TiffPage],
    names: Sequence[str],
    image: OmeImage | None,
) -> Planes | None:
    """Return the planes of which a page is the first, or None where it stands alone.

    Args:
        description: Of the file.
        alike: All pages of that page's size and kind.
        names: What those are called.
        image: What OME-XML says of the page.
    """
    within = max(finest.imagedepth, getattr(finest.tags.get(METAMORPH_PLANES), "count", 1))
    shape = re.match(r'\{"shape": \[([\d, ]{1,60})\], .*"truncated": true', description)
    if shape:
        # Written so by tifffile: all planes in one page.
        within = math.prod(map(int, shape[1].split(","))) // (
            finest.imagewidth * finest.imagelength * finest.samplesperpixel
        )
    if within > 1:
        return Planes(depths=within)
    imagej = _imagej_planes(finest, description, tuple(alike)) if description.startswith("ImageJ=") else None
    if imagej is not None:
        return imagej
    if image is not None:
        each = finest.samplesperpixel if image.samples[0] == 1 else 1
        channels = -(-len(image.channels) // each)
        if image.depths * image.times * channels > 1:
            ordered = {page.index: page for page in alike}
            pages = tuple(ordered[number] for number in image.pages if number in ordered)
            return Planes(
                image.depths,
                image.times,
                image.channels[:channels],
                image.colours,
                pages if len(pages) == channels else tuple(alike),
                may_be_colours=not image.is_fluorescence,
            )
    return Planes(names=tuple(names), pages=tuple(alike), called="images of one size") if len(alike) > 1 else None


def _imagej_planes(finest: tifffile.TiffPage, description: str, alike: tuple[tifffile.TiffPage, ...]) -> Planes | None:
    counts = dict(re.findall(r"^(images|channels|slices|frames)=(\d{1,9})\s*$", description, re.MULTILINE))
    images = int(counts.get("images", 1))
    if images < 2:
        return None
    metadata = finest.tags.valueof(IMAGEJ_METADATA)
    known = metadata if isinstance(metadata, dict) else {}
    labels = tuple(str(label) for label in known.get("Labels", ()))
    named = Planes(names=labels, pages=alike)
    if images == len(labels) and named.red_green_blue():
        return named
    channels, times = (max(1, int(counts.get(key, 1))) for key in ("channels", "frames"))
    tables = known.get("LUTs", ())
    colours = tuple(int(r) << 24 | int(g) << 16 | int(b) << 8 for r, g, b in (table[:, -1] for table in tables))
    is_composite = re.search(r"^mode=(composite|color)\s*$", description, re.MULTILINE) is not None
    names = labels if images == len(labels) == channels else ("",) * channels
    depths = max(1, images // (channels * times))
    return Planes(depths, times, names, colours or (None,), alike, may_be_colours=is_composite)
