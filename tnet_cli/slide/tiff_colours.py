"""How the samples of a TIFF page become RGB."""

from collections.abc import Callable

import numpy as np
import tifffile


def can_be_decompressed(page: tifffile.TiffPage) -> bool:
    """Tell whether there is a decoder for a page's compression."""
    try:
        tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
    except KeyError:
        return False
    return True


def rgb_converter(
    page: tifffile.TiffPage, background: tuple[int, int, int]
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what turns decoded samples (H, W, S) of a page into uint8 (H, W, 3); None for kinds it does not know.

    16-bit and other deep samples are scaled by the range of their type or of their bits. Grey becomes three equal
    channels, a palette its colours, alpha is laid over the background. Of other multi-channel pages the first three
    channels are shown.
    """
    photometric, bits = int(page.photometric), page.bitspersample
    kind = tifffile.PHOTOMETRIC
    alpha = _alpha(page)
    if photometric == kind.PALETTE:
        palette = np.asarray(page.colormap)
        colours = (palette.T >> 8 if palette.dtype == np.uint16 else palette.T).astype(np.uint8)
        return lambda samples: colours[samples[..., 0].astype(np.intp)]
    if photometric not in {kind.MINISBLACK, kind.MINISWHITE, kind.RGB, kind.YCBCR} or page.dtype is None:
        return None
    if photometric == kind.YCBCR and int(page.compression) not in {6, 7, 33003, 33005}:
        return None
    if photometric in {kind.RGB, kind.YCBCR} and page.samplesperpixel - bool(alpha) < 3:
        return None
    is_grey = photometric in {kind.MINISBLACK, kind.MINISWHITE} and page.samplesperpixel - bool(alpha) < 3

    def convert(samples: np.ndarray) -> np.ndarray:
        values = _eight_bits(samples, bits)
        colour = np.repeat(values[..., :1], 3, axis=2) if is_grey else values[..., :3]
        if photometric == kind.MINISWHITE:
            colour = 255 - colour
        if not alpha:
            return np.ascontiguousarray(colour)
        return _over(colour, values[..., -1:], background, premultiplied=alpha == "associated")

    return convert


def _alpha(page: tifffile.TiffPage) -> str | None:
    extra = [int(sample) for sample in page.extrasamples or ()]
    colour = page.samplesperpixel - len(extra)
    if len(extra) != 1 or colour not in {1, 3} or extra[0] == 0:
        return None
    return "associated" if extra[0] == 1 else "unassociated"


def _eight_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    eight: np.ndarray
    if samples.dtype == np.bool_:
        eight = samples * np.uint8(255)
    elif samples.dtype == np.uint8:
        eight = samples if bits >= 8 else samples * np.uint8(255 // (2**bits - 1))
    elif samples.dtype.kind == "f":
        eight = (np.clip(np.nan_to_num(samples), 0, 1) * 255 + 0.5).astype(np.uint8)
    elif samples.dtype.kind == "i":
        eight = (np.clip(samples, 0, None).astype(np.int64) << 8 >> (bits - 1)).astype(np.uint8)
    else:
        eight = (samples >> max(0, bits - 8)).astype(np.uint8)
    return eight


def _over(
    colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int], *, premultiplied: bool
) -> np.ndarray:
    share = alpha.astype(np.float32) / 255
    shown = colour.astype(np.float32) * (1 if premultiplied else share)
    return np.clip(shown + np.asarray(background, np.float32) * (1 - share) + 0.5, 0, 255).astype(np.uint8)
