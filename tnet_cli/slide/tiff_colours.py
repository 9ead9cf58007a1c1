"""How the samples of a TIFF page become RGB."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import tifffile

from tnet_cli.headers.streams import becomes_rgb, stream_colours
from tnet_cli.slide.colours import SampleRange, over, range_of, rgb_of_ycbcr
from tnet_cli.slide.tiff_segments import JPEG_2000

KIND = tifffile.PHOTOMETRIC
GREY = frozenset({KIND.MINISBLACK, KIND.MINISWHITE})

OLD_JPEG, NEW_JPEG = 6, 7
LERC = 34887

APERIO_YCBCR = 33003
"""JPEG 2000 of YCbCr in Aperio's files, whatever their tags say; others write RGB so."""

ALPHA = {1: True, 2: False}
"""Extra samples that are opacity, and whether the colours are multiplied by it already."""

Ranges = tuple[SampleRange, SampleRange]
"""Of a page's colours, and of its opacity."""


def is_deep(page: tifffile.TiffPage) -> bool:
    """Tell whether it takes a look at a page's samples to know which of them is white."""
    is_number = page.dtype is not None and page.photometric != KIND.PALETTE
    return is_number and (np.dtype(page.dtype).kind in "fi" or page.bitspersample in {16, 32, 64})


def is_known_to_libtiff(page: tifffile.TiffPage) -> bool:
    """Tell whether OpenSlide, which asks libtiff, shows the right colours of a page that is not supported here."""
    compression = int(page.compression)
    is_picture = compression in tifffile.TIFF.IMAGE_COMPRESSIONS or compression in {OLD_JPEG, NEW_JPEG}
    is_known = page.photometric in {KIND.SEPARATED, KIND.CIELAB} and not is_picture
    is_known &= page.tags.valueof("InkSet", 1) == 1  # cyan, magenta, yellow and black
    return page.bitspersample == 8 and (is_known or bool(page.photometric == KIND.YCBCR))


def ranges_of(page: tifffile.TiffPage, samples: np.ndarray | None, ome: str | None) -> Ranges:
    """Find out which samples are black and white.

    Args:
        samples: Some of the page's, (N, S); needed where it is deep.
        ome: The file's OME-XML.

    Raises:
        ValueError: nothing says it.
    """
    if not _is_plain(page):
        return SampleRange(255), SampleRange(255)
    if samples is None:
        samples = np.zeros((1, page.samplesperpixel), page.dtype)
    at, _ = _alpha(page)
    colour = range_of(
        samples[:, : _colours(page)], page.bitspersample, _stated_range(page, ome) if is_deep(page) else None
    )
    return colour, colour if at is None else range_of(samples[:, at], page.bitspersample)


def _stated_range(page: tifffile.TiffPage, ome: str | None) -> SampleRange | None:
    ends = {"Min": 0.0, "Max": 0.0}
    for name in (f"{sign}{end}SampleValue" for sign in ("", "S") for end in ends):
        with suppress(TypeError, ValueError):  # absent, or no number
            ends[name[-14:-11]] = float(np.max(page.tags.valueof(name)))
    if np.isfinite(ends["Max"]) and ends["Max"] > 0:
        # A least value above zero is that of the picture, and no black.
        return SampleRange(ends["Max"], min(0.0, ends["Min"]))
    bits = set(re.findall(r'\bSignificantBits\s*=\s*["\']([1-9]\d?)["\']', ome or ""))
    return SampleRange(2.0 ** int(bits.pop()) - 1) if len(bits) == 1 and np.dtype(page.dtype).kind in "ui" else None


def photometric_of(page: tifffile.TiffPage) -> int:
    """Return what a page's samples are; where that is not said, RGB if it has three, else black is zero."""
    if "PhotometricInterpretation" in page.tags:
        return int(page.photometric)
    return int(KIND.RGB if _colours(page) >= 3 else KIND.MINISBLACK)


def leaves_colours_to_the_data(page: tifffile.TiffPage) -> bool:
    """Tell whether compressed data may say otherwise than a page's tags, and have to be asked."""
    if int(page.compression) in JPEG_2000:
        return bool(page.photometric == KIND.YCBCR or page.compression == APERIO_YCBCR)
    is_colour = page.photometric == KIND.RGB and page.samplesperpixel == 3 and page.planarconfig == 1
    return bool(page.compression == NEW_JPEG and is_colour)


def colours_said(page: tifffile.TiffPage, data: bytes) -> tuple[str | None, bool]:
    """Return what a tile's data say of their colours, and whether its decoder goes by that, in JPEG 2000."""
    if int(page.compression) in JPEG_2000:
        return stream_colours(data), becomes_rgb(data)
    return stream_colours(page.jpegtables or b"", data), False


def doubts_of(page: tifffile.TiffPage, ranges: Ranges, head: bytes) -> Iterator[tuple[str, str]]:
    """Give names and sentences of what is doubtful about a page's colours.

    Where its tag says RGB and its JPEG data YCbCr, they are read as YCbCr from now on; where the tag says YCbCr, their
    decoder goes by what they say itself.

    Args:
        head: As for ``rgb_converter``.
    """
    if ranges[0].doubt:
        yield "sample_range", ranges[0].doubt
    if photometric_of(page) in GREY and _colours(page) >= 3:
        yield "channels", "its first three channels are shown as red, green and blue, which the file does not say"
    if head and int(page.compression) == NEW_JPEG:
        says, _ = colours_said(page, head)
        page.is_jfif = says is not None  # to tifffile: go by the data and not by the tag
        if says == "YCbCr":
            yield "stream_colours", "its tag says RGB and its JPEG data YCbCr; they are read as YCbCr"


def rgb_converter(
    page: tifffile.TiffPage,
    ranges: Ranges,
    background: tuple[int, int, int],
    *,
    is_aperio: bool = False,
    head: bytes = b"",
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what turns decoded samples (H, W, S) of a page into uint8 (H, W, 3); None for kinds it does not know.

    Grey becomes three equal channels, a palette its colours, opacity is laid over the background. Of further samples
    nothing is shown; three samples that are called grey are shown as red, green and blue. Colour profiles are not
    applied.

    Args:
        is_aperio: Whether an Aperio scanner wrote it.
        head: The beginning of one of its tiles' data, where ``leaves_colours_to_the_data``.
    """
    photometric = photometric_of(page)
    is_ycbcr = _holds_ycbcr(page, is_aperio=is_aperio, head=head)
    to_colour = _colour_of(page, photometric, ranges[0]) if _is_plain(page) else None
    if to_colour is None or is_ycbcr is None:
        return None
    at, is_premultiplied = _alpha(page)

    def convert(samples: np.ndarray) -> np.ndarray:
        colour = to_colour(samples)
        if is_ycbcr:
            colour = rgb_of_ycbcr(colour)
        if photometric == KIND.MINISWHITE:
            colour = 255 - colour
        if at is None:
            return np.ascontiguousarray(colour)
        alpha = ranges[1].eight_bits(samples[..., at : at + 1])
        return over(colour, alpha, background, is_premultiplied=is_premultiplied)

    return convert


def _is_plain(page: tifffile.TiffPage) -> bool:
    """Tell whether a page's samples are numbers of one depth, in one plane of the picture, that can be decompressed."""
    compression = int(page.compression)
    if page.dtype is None or page.dtype.kind not in "buif" or not isinstance(page.bitspersample, int):
        return False
    # Readers do not agree on whether the order of a file's bytes counts within LERC.
    is_lerc_swapped = compression == LERC and page.parent.byteorder == ">" and page.bitspersample != 8
    return page.imagedepth == 1 and compression in tifffile.TIFF.DECOMPRESSORS and not is_lerc_swapped


def _colour_of(
    page: tifffile.TiffPage, photometric: int, shown: SampleRange
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what takes the colours of decoded samples to uint8 (H, W, 3), as YCbCr where they are that."""
    colours = _colours(page)
    if photometric == KIND.PALETTE and page.colormap is not None and np.dtype(page.dtype).kind == "u":
        return _palette(page)
    if photometric in GREY and colours < 3:
        return lambda samples: np.repeat(shown.eight_bits(samples[..., :1]), 3, axis=2)
    if photometric in {*GREY, KIND.RGB, KIND.YCBCR} and colours >= 3:
        return lambda samples: shown.eight_bits(samples[..., :3])
    return None


def _holds_ycbcr(page: tifffile.TiffPage, *, is_aperio: bool, head: bytes) -> bool | None:
    """Tell whether YCbCr comes out of a page's decoder; None where it is of a kind that is not known here."""
    compression = int(page.compression)
    if page.samplesperpixel < 3:
        return False
    if is_aperio and compression in JPEG_2000:
        return compression == APERIO_YCBCR and not becomes_rgb(head)
    if photometric_of(page) != KIND.YCBCR or (compression in {OLD_JPEG, NEW_JPEG} and page.planarconfig == 1):
        return False
    return stream_colours(head) != "RGB" and not becomes_rgb(head) if compression in JPEG_2000 else None


def _palette(page: tifffile.TiffPage) -> Callable[[np.ndarray], np.ndarray]:
    palette = np.asarray(page.colormap).T
    # Some writers leave eight bits as they are, where the format has sixteen.
    colours = (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8)

    def colour_of(samples: np.ndarray) -> np.ndarray:
        try:
            return colours[samples[..., 0].astype(np.intp)]
        except IndexError as exc:
            raise ValueError(f"its palette has only {len(colours)} colours, and its samples name others") from exc

    return colour_of


def _alpha(page: tifffile.TiffPage) -> tuple[int | None, bool]:
    """Return which sample is opacity, if one is, and whether the colours are multiplied by it already."""
    extra = [int(sample) for sample in page.extrasamples or ()]
    for i, meaning in enumerate(extra):
        if meaning in ALPHA:
            return page.samplesperpixel - len(extra) + i, ALPHA[meaning]
    return None, False


def _colours(page: tifffile.TiffPage) -> int:
    """Return how many samples are colours, or channels that may be shown as such."""
    is_grey = page.photometric in GREY and "PhotometricInterpretation" in page.tags
    others = [sample for sample in page.extrasamples or () if not is_grey or int(sample) in ALPHA]
    return int(page.samplesperpixel - len(others))
