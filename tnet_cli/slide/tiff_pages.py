"""Pages of a TIFF: which of them are the pyramid, and how they lie.

Our own, for speed: OpenSlide takes three to four times as long for a patch, tifffile's series 50 times for the pyramid.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Size
from tnet_cli.slide.mpp import AGREE_WITHIN, StatedMpp, aperio_mpp, first_stated, page_mpp
from tnet_cli.slide.ome import OmeImage, is_ome, ome_images
from tnet_cli.slide.planes import planes_of
from tnet_cli.slide.slide import Doubt

TRANSPOSED = frozenset({5, 6, 7, 8})
MIRRORED_COLUMNS = frozenset({2, 3, 7, 8})
MIRRORED_ROWS = frozenset({3, 4, 6, 7})

REDUCED, MASK = 1, 4
"""Bits of a page's kind of file."""

OLD_KIND, OLD_REDUCED = 255, 2
PLANAR, PAGE_NAME = 284, 285

COLOURS = 3
OVERVIEW = 4
"""An image whose pixels are this many times those of another is an overview."""

SHORT = 80
"""A shorter description is a name."""

ASIDE = re.compile(
    r"(?:^|[\s_:/.-])(?:label|macro|thumb(?:nail)?|overview|preview|barcode)(?:[\s_-]*(?:image|photo))?"
    r"(?:\s+\d+x\d+)?(?:[\s_\d()\[\]#]|\.(?:ome|tiff?|jpe?g|png|bmp)\b)*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored rows and columns are shown; the eight values of the TIFF tag.

    Attributes:
        value: 1 to 8; 1 shows them as they are stored.
    """

    value: int = 1

    def shown(self, stored: Size) -> Size:
        """Return the size that is shown."""
        return Size(stored.height, stored.width) if self.value in TRANSPOSED else stored

    def stored_box(self, x: int, y: int, width: int, height: int, stored: Size) -> tuple[int, int, int, int]:
        """Return the stored box that holds a shown one: x, y, width, height."""
        if self.value in TRANSPOSED:
            x, y, width, height = y, x, height, width
        if self.value in MIRRORED_COLUMNS:
            x = stored.width - x - width
        if self.value in MIRRORED_ROWS:
            y = stored.height - y - height
        return x, y, width, height

    def rows_as_shown(self, rows: range) -> range:
        """Return stored rows in the order in which they are shown: from above, or from the left."""
        return rows[::-1] if self.value in MIRRORED_ROWS else rows

    def columns_as_shown(self, columns: range) -> range:
        """Return stored columns in the order in which they are shown: from the left, or from above."""
        return columns[::-1] if self.value in MIRRORED_COLUMNS else columns

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """Turn stored pixels (H, W, C) the way they are shown."""
        if self.value in MIRRORED_COLUMNS:
            pixels = pixels[:, ::-1]
        if self.value in MIRRORED_ROWS:
            pixels = pixels[::-1]
        return pixels.transpose(1, 0, 2) if self.value in TRANSPOSED else pixels


def page_size(page: tifffile.TiffPage) -> Size:
    """Return a page's stored size."""
    return Size(page.imagewidth, page.imagelength)


def description_of(page: tifffile.TiffPage) -> str:
    """Return a page's description; bytes that are no text in it are replaced, and the rest still says what it says."""
    value = page.tags.valueof(270)
    return value.decode("cp1252", errors="replace") if isinstance(value, bytes) else str(value or "")


def is_aperio(page: tifffile.TiffPage) -> bool:
    """Tell whether a page describes itself as written by an Aperio scanner."""
    return description_of(page).startswith("Aperio")


@dataclass(frozen=True, slots=True)
class ChosenPages:
    """The pages of a TIFF that are its slide.

    Attributes:
        channels: Pages at falling resolutions, finest first; three lists where red, green and blue
            have pages of their own.
        description: Of the slide's page, or else of the file.
        image: What OME-XML says of it.
        doubts: What had to be assumed.
        others: The file's other pages.
    """

    channels: tuple[tuple[tifffile.TiffPage, ...], ...]
    description: str
    image: OmeImage | None
    doubts: tuple[Doubt, ...]
    others: tuple[tifffile.TiffPage, ...]

    def mpp(self, path: str) -> StatedMpp | None:
        """Return the scale of the slide: of Aperio's or OME's text, else of the resolution tags.

        Raises:
            MissingMppError: it is implausible, or pixels are not square.
        """
        finest, text = self.channels[0][0], self.description
        aperio = aperio_mpp(path, text, page_size(finest)) if text.startswith("Aperio") else None
        ome = None if self.image is None else self.image.mpp(path)
        return first_stated(aperio, ome, page_mpp(finest, text))


def choose_pages(path: str, tif: tifffile.TiffFile) -> ChosenPages:
    """Find the slide among the pages of a TIFF: the largest that is no reduced copy, label, macro or thumbnail.

    Its reduced copies are sub-pages of it (OME-TIFF), or pages that are marked as reduced, or, in Aperio files, other
    tiled pages.

    Raises:
        ValueError: there is no page at all.
        SlideError: several pages may be the slide: focal planes, times, scenes, or channels that are not red, green and
            blue.
    """
    if len(tif.pages) == 0:
        raise ValueError("it names no image, so the file is not whole; copy it again")
    pages = [page.aspage() for page in tif.pages]
    if not any(page_size(page).area for page in pages):
        first = page_size(pages[0])
        raise SlideError(path, f"its first image is {first.width} x {first.height} pixels; expected an image")
    below = [sub.aspage() for page in pages for sub in page.pages or ()]
    if not all(page_size(page).area for page in (*pages, *below)):
        raise SlideError(path, "one of its images has no size and may be the slide; the file is damaged, copy it again")
    images = _images_of_pages(Path(path).name, pages)
    candidates = [page for page in (*pages, *below) if not _is_aside(page, images)]
    originals = [page for page in _originals(pages) if not _is_aside(page, images)] or candidates or pages
    finest = max(originals, key=lambda page: (page_size(page).area, page.samplesperpixel >= COLOURS))
    doubts = []
    larger = [page for page in candidates if _is_copy(finest, page)]
    if larger:
        finest = max(larger, key=lambda page: page_size(page).area)
        says = f"its largest image, of {_named(finest)}, is marked as a reduced copy, yet was taken for the slide"
        doubts.append(("page_marks", says))
    of_finest = _pixel_width(finest, images)
    for page in (*pages, *below):
        # A slide may be named by a word such as barcode; of coarse pixels it is none.
        is_fine = 0 < _pixel_width(page, images) < (of_finest or math.inf)
        if page_size(page).area > page_size(finest).area and (page in candidates or (is_fine and not _is_mask(page))):
            raise _several(path, page, finest)
    image = images.get(finest.offset)
    is_of_slide = pages[0] in _pyramid(finest, pages) or _is_alike(pages[0], finest)
    is_of_file = is_ome(description_of(pages[0])) or is_of_slide
    description = description_of(finest) or (description_of(pages[0]) if is_of_file else "")
    doubts += _other_images(path, finest, originals, images)
    chosen = _channel_pages(path, description, finest, [page for page in originals if _is_alike(page, finest)], image)
    if len(chosen) > 1:
        doubts.append(("channels_combined", "red, green and blue are images of their own in it; they were combined"))
    if is_ome(description_of(pages[0])) and image is None:
        doubts.append(("ome_xml", f"its OME-XML describes no image of {_named(finest)}, and was not believed"))
    pyramids = [_pyramid(page, pages) for page in chosen]
    depth = min(len(pyramid) for pyramid in pyramids)
    channels = tuple(pyramid[:depth] for pyramid in pyramids)
    if any(page.tags.valueof(PLANAR, 1) not in (1, 2) for pyramid in channels for page in pyramid):
        raise SlideError(path, "says neither that the samples of a pixel lie together nor apart; export it anew")
    offsets = {page.offset for pyramid in channels for page in pyramid}
    return ChosenPages(
        channels,
        description,
        image,
        tuple(Doubt(name, sentence) for name, sentence in doubts),
        tuple(page for page in pages if page.offset not in offsets),
    )


def _originals(pages: list[tifffile.TiffPage]) -> Iterator[tifffile.TiffPage]:
    """Return the pages that are no reduced copies; also sub-pages, where a page is the preview of those."""
    is_any_tiled = any(page.is_tiled for page in pages)
    for page in pages:
        if is_aperio(pages[0]):
            # What is not tiled is a label, macro or thumbnail; marks of reduced copies are on none of the copies.
            if page.is_tiled or not is_any_tiled:
                yield page
        elif not _is_marked_reduced(page):
            yield page
        for sub in page.pages or ():
            if not _is_marked_reduced(sub.aspage()) and page_size(sub.aspage()).area > page_size(page).area:
                yield sub.aspage()


def _is_marked_reduced(page: tifffile.TiffPage) -> bool:
    return bool(page.subfiletype & REDUCED) or page.tags.valueof(OLD_KIND) == OLD_REDUCED


def _is_mask(page: tifffile.TiffPage) -> bool:
    return bool(page.subfiletype & MASK) or page.photometric == tifffile.PHOTOMETRIC.MASK


def _pyramid(finest: tifffile.TiffPage, pages: list[tifffile.TiffPage]) -> tuple[tifffile.TiffPage, ...]:
    candidates = [page.aspage() for page in finest.pages or ()]
    for page in pages:
        is_copy = _is_marked_reduced(page) or _is_marked_reduced(finest)
        if page.is_tiled if is_aperio(pages[0]) else is_copy and page.is_tiled == finest.is_tiled:
            candidates.append(page)
    found = [finest]
    images = [page for page in candidates if not _is_mask(page)]
    for candidate in sorted(images, key=lambda page: -page_size(page).area):
        if _is_reduction(candidate, finest) and page_size(candidate).area < page_size(found[-1]).area:
            found.append(candidate)
    return tuple(found)


def _images_of_pages(name: str, pages: list[tifffile.TiffPage]) -> dict[int, OmeImage]:
    """Return what OME-XML says of pages, by their offsets: of those it numbers, else of those of an image's size."""
    text = description_of(pages[0])
    images = ome_images(text, name) if is_ome(text) else []
    numbered = {page.index: page for page in pages}
    found = {
        numbered[number].offset: image
        for image in images
        for number in image.pages
        if number in numbered and page_size(numbered[number]) == image.size
    }
    for page in pages:
        fitting = [image for image in images if image.size == page_size(page)]
        fitting = [image for image in fitting if page.samplesperpixel in image.samples] or fitting
        if fitting and not _is_marked_reduced(page):
            differ = len({image.pixel_um for image in fitting}) > 1
            doubt = f"its OME-XML says more than one scale of images of {_named(page)}" if differ else ""
            found.setdefault(page.offset, replace(fitting[0], doubt=doubt))
    return found


def _is_aside(page: tifffile.TiffPage, images: Mapping[int, OmeImage]) -> bool:
    """Tell whether a page is a mask, or called a label, macro, thumbnail or the like."""
    image = images.get(page.offset)
    name = image.name if image is not None else _page_name(page)
    return _is_mask(page) or ASIDE.search(name[-SHORT:]) is not None


def _page_name(page: tifffile.TiffPage) -> str:
    """Return what a page is called in its own tag, or by its description: Akoya's XML, or a few words."""
    name, description = page.tags.valueof(PAGE_NAME), description_of(page)
    if is_aperio(page):
        # The first word of the second line; that of a slide is its size.
        return "".join(re.findall(r"\A[^\n]*\n\s*([a-z]+)", description, re.IGNORECASE))
    for element in ("ImageType", "Name"):
        akoya = re.search(f"<{element}>([^<]*)</", description)
        if akoya and akoya[1] != "FullResolution":
            return str(akoya[1])
    if isinstance(name, str) and name:
        return name
    return description if len(description) < SHORT and not description.startswith(("{", "ImageJ=")) else ""


def _named(page: tifffile.TiffPage) -> str:
    return f"{page.imagewidth} x {page.imagelength} pixels"


def _pixel_width(page: tifffile.TiffPage, images: Mapping[int, OmeImage]) -> float:
    image = images.get(page.offset)
    return (image.pixel_um[0] or 0) if image is not None else 0


def _several(path: str, *pages: tifffile.TiffPage) -> SlideError:
    sizes = " and ".join(dict.fromkeys(map(_named, pages)))
    return SlideError(
        path, f"holds several images, of {sizes}, and does not say which is the slide; export the slide alone"
    )


def _is_alike(page: tifffile.TiffPage, other: tifffile.TiffPage) -> bool:
    return (page_size(page), page.samplesperpixel, page.dtype) == (page_size(other), other.samplesperpixel, other.dtype)


def _other_images(
    path: str, finest: tifffile.TiffPage, originals: Sequence[tifffile.TiffPage], images: Mapping[int, OmeImage]
) -> list[tuple[str, str]]:
    """Return a doubt where there are other images, such as scenes, and refuse where one of them may be the slide."""
    of_finest = _pixel_width(finest, images)

    def is_told_copy(page: tifffile.TiffPage) -> bool:
        is_stored_so = is_aperio(page) or _is_copy(page, finest)
        is_small = 2 * page_size(page).area < page_size(finest).area
        width, shrunk = _pixel_width(page, images), of_finest * finest.imagewidth / page.imagewidth
        agrees = width <= 0 or shrunk <= 0 or abs(width / shrunk - 1) <= AGREE_WITHIN
        return is_stored_so and is_small and agrees and _is_reduction(page, finest)

    others = [page for page in originals if not (_is_alike(page, finest) or is_told_copy(page))]
    for page in others:
        is_mask = page.samplesperpixel < COLOURS <= finest.samplesperpixel
        is_large = 2 * page_size(page).area >= page_size(finest).area
        is_finer = 0 < OVERVIEW * _pixel_width(page, images) < of_finest
        if is_finer or ((is_large or page.is_tiled > finest.is_tiled) and not is_mask):
            raise _several(path, finest, page)
    told = [page for page in others if page.is_tiled or not finest.is_tiled]
    return [("other_images", f"it also holds another image, of {_named(told[0])}, which was not read")] if told else []


def _channel_pages(
    path: str, text: str, finest: tifffile.TiffPage, alike: list[tifffile.TiffPage], image: OmeImage | None
) -> list[tifffile.TiffPage]:
    """Return the slide's page, or those of red, green and blue.

    Args:
        text: The file's description.
        alike: All pages of its size and kind.

    Raises:
        SlideError: it has other planes.
    """
    planes = planes_of(finest, text, alike, [_page_name(page) for page in alike], image)
    if planes is None:
        return [finest]
    is_grey = finest.samplesperpixel == 1 and finest.dtype == np.uint8
    found = planes.red_green_blue() if is_grey else None
    if found is None:
        raise SlideError(path, f"holds {planes}; export the plane that is the slide, or a slide in colour as RGB")
    if len({(page.tile, page.rowsperstrip, page.photometric) for page in found}) > 1:
        raise SlideError(path, "stores red, green and blue in tiles of different sizes; export it as RGB")
    return found


def _is_copy(page: tifffile.TiffPage, larger: tifffile.TiffPage) -> bool:
    """Tell whether a page is a reduction of another that is stored in the same way, as no label or macro is."""
    stored, as_stored = ((one.is_tiled, one.compression, one.photometric) for one in (page, larger))
    return stored == as_stored and _is_reduction(page, larger)


def _is_reduction(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Tell whether a page shows the same, smaller: some one factor fits both of its sides to the pixel."""
    across, down = page.imagewidth / first.imagewidth, page.imagelength / first.imagelength
    return (
        min(across, down) < 1
        and abs(across - down) <= 1 / first.imagewidth + 1 / first.imagelength
        and page.samplesperpixel == first.samplesperpixel
        and (page.dtype, page.bitspersample) == (first.dtype, first.bitspersample)
    )


def snapped_downsample(finest: Size, stored: Size) -> float:
    """Return level-0 pixels for each stored pixel; whole where the stored size fits a whole factor, rounded any way."""
    downsample = (finest.width / stored.width + finest.height / stored.height) / 2
    whole = round(downsample)
    fits = abs(finest.width / whole - stored.width) <= 1 and abs(finest.height / whole - stored.height) <= 1
    return float(whole) if fits else downsample
