"""Small TIFFs of every kind that are crossed with one another: each is read right, or refused in one sentence.

``python -m tests.slide.test_matrix`` prints the table that stands in ``docs/formats.md``.
"""

import itertools
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from skimage import color

from tests.slide.tiff_writer import RawPage, cut, pack_bits, plain_tags, write_raw_tiff
from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide

T = TypeVar("T")

BYTE_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")

WIDTH, HEIGHT = 80, 64
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
ASSOCIATED, UNASSOCIATED = 1, 2
FLOAT = 3


@dataclass(frozen=True)
class Kind:
    """A way to store a picture.

    Attributes:
        store: From the picture (H, W, 3), uint8, to samples (H, W, S).
        show: From samples to the picture that they are, as docs/formats.md states it.
    """

    name: str
    photometric: int
    bits: int
    store: Callable[..., Any]
    show: Callable[..., Any]
    tags: tuple[tuple[int, int | tuple[int, ...]], ...] = ()
    ome_bits: int | None = None
    is_refused: bool = False
    tolerance: float = 2


def grey(picture: np.ndarray) -> Any:
    return picture[..., 1:2]


def three(values: np.ndarray) -> Any:
    return np.repeat(values.astype(np.uint8), 3, axis=2) if values.shape[2] == 1 else values.astype(np.uint8)


def deepened(picture: np.ndarray, bits: int, dtype: str) -> Any:
    """The same picture in more bits, of which the lower ones are not zero."""
    noise = np.random.default_rng(bits).integers(0, 2 ** (bits - 8), picture.shape, dtype=np.uint64)
    return ((picture.astype(np.uint64) << (bits - 8)) + noise).astype(dtype)


def upper(bits: int) -> Callable[..., Any]:
    return lambda samples: three(samples.astype(np.uint64) >> (bits - 8))


def over_white(depth: int, *, is_premultiplied: bool) -> Callable[..., Any]:
    def show(samples: np.ndarray) -> Any:
        values = (samples >> (depth - 8)).astype(float)
        colour, share = values[..., :-1], values[..., -1:] / 255
        return three(np.clip((colour if is_premultiplied else colour * share) + 255 * (1 - share), 0, 255) + 0.5)

    return show


def with_alpha(picture: np.ndarray, *, is_premultiplied: bool = False) -> Any:
    alpha = np.broadcast_to(np.linspace(0, 255, picture.shape[1]).astype(np.uint8)[None, :, None], picture.shape)
    colour = (picture * (alpha / 255)).astype(np.uint8) if is_premultiplied else picture
    return np.concatenate([colour, alpha[..., :1]], axis=2)


def ycbcr(picture: np.ndarray) -> Any:
    return np.asarray(Image.fromarray(picture).convert("YCbCr"))


def from_ycbcr(samples: np.ndarray) -> Any:
    return np.asarray(Image.fromarray(samples, "YCbCr").convert("RGB"))


def to_cmyk(picture: np.ndarray) -> Any:
    return np.asarray(Image.fromarray(picture).convert("CMYK"))


def from_cmyk(samples: np.ndarray) -> Any:
    return np.asarray(Image.fromarray(samples, "CMYK").convert("RGB"))


def to_cielab(picture: np.ndarray) -> Any:
    lab = color.rgb2lab(picture, illuminant="D50") * (2.55, 1, 1)
    return np.rint(lab).astype(np.int16).astype(np.uint8)


def from_cielab(samples: np.ndarray) -> Any:
    lab = np.concatenate([samples[..., :1] / 2.55, samples[..., 1:].view(np.int8)], axis=2)
    return np.rint(color.lab2rgb(lab, illuminant="D50") * 255).astype(np.uint8)


COLOURS = np.random.default_rng(7).integers(0, 256, (3, 256))


def palette(bits: int, scale: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    return ((320, tuple((COLOURS[:, : 2**bits] * scale).ravel().tolist())),)


def through_palette(samples: np.ndarray) -> Any:
    return COLOURS.T[samples[..., 0]].astype(np.uint8)


def kinds() -> Iterator[Kind]:
    """Every kind, by name."""
    yield Kind("grey 1", BLACK_IS_ZERO, 1, lambda p: grey(p) >> 7, lambda s: three(s * 255))
    yield Kind("white is zero 1", WHITE_IS_ZERO, 1, lambda p: grey(p) >> 7, lambda s: three(255 - s * 255))
    yield Kind("grey 4", BLACK_IS_ZERO, 4, lambda p: grey(p) >> 4, lambda s: three(s * 17))
    yield Kind("white is zero 4", WHITE_IS_ZERO, 4, lambda p: grey(p) >> 4, lambda s: three(255 - s * 17))
    yield Kind("grey 8", BLACK_IS_ZERO, 8, grey, three)
    yield Kind("white is zero 8", WHITE_IS_ZERO, 8, grey, lambda s: three(255 - s))
    yield Kind("grey 12", BLACK_IS_ZERO, 12, lambda p: deepened(grey(p), 12, "u2"), upper(12))
    yield Kind("grey 16", BLACK_IS_ZERO, 16, lambda p: deepened(grey(p), 16, "u2"), upper(16))
    yield Kind("grey 8 in 16", BLACK_IS_ZERO, 16, lambda p: grey(p).astype("u2"), upper(8))
    yield Kind("grey 12 in 16", BLACK_IS_ZERO, 16, lambda p: deepened(grey(p), 12, "u2"), upper(12), ome_bits=12)
    stated = ((281, (4095,)),)
    yield Kind("grey 12 of 16, stated", BLACK_IS_ZERO, 16, lambda p: deepened(grey(p), 12, "u2"), upper(12), stated)
    yield Kind(
        "white is zero 16", WHITE_IS_ZERO, 16, lambda p: deepened(grey(p), 16, "u2"), lambda s: 255 - upper(16)(s)
    )
    yield Kind("grey 32", BLACK_IS_ZERO, 32, lambda p: deepened(grey(p), 32, "u4"), upper(32))
    yield Kind("grey 8 in 32", BLACK_IS_ZERO, 32, lambda p: grey(p).astype("u4"), upper(8))
    for bits in (16, 32):
        dtype = f"f{bits // 8}"
        for name, store, white in (
            (f"grey float{bits}", grey, 1),
            (f"grey float{bits} to 255", grey, 255),
            (f"rgb float{bits}", np.copy, 1),
        ):
            yield Kind(
                name,
                RGB if name.startswith("rgb") else BLACK_IS_ZERO,
                bits,
                lambda p, store=store, white=white, dtype=dtype: (store(p) / 255 * white).astype(dtype),
                lambda s, white=white: three(np.rint(s.astype(float) * (255 / white))),
                ((339, FLOAT),),
            )
    yield Kind("rgb 8", RGB, 8, np.copy, three)
    yield Kind("rgb 12", RGB, 12, lambda p: deepened(p, 12, "u2"), upper(12))
    yield Kind("rgb 16", RGB, 16, lambda p: deepened(p, 16, "u2"), upper(16))
    yield Kind("rgb 8 in 16", RGB, 16, lambda p: p.astype("u2"), upper(8))
    yield Kind("rgb 32", RGB, 32, lambda p: deepened(p, 32, "u4"), upper(32))
    yield Kind("palette 8", PALETTE, 8, grey, through_palette, palette(8, 257))
    yield Kind("palette 4", PALETTE, 4, lambda p: grey(p) >> 4, through_palette, palette(4, 257))
    yield Kind("palette 8, of 8 bits", PALETTE, 8, grey, through_palette, palette(8, 1))
    yield Kind("ycbcr 8", YCBCR, 8, ycbcr, from_ycbcr, ((530, (1, 1)),))
    yield Kind("cmyk 8", CMYK, 8, to_cmyk, from_cmyk, is_refused=True)
    yield Kind("cielab 8", CIELAB, 8, to_cielab, from_cielab, is_refused=True, tolerance=5)
    yield Kind("rgb 8, one more", RGB, 8, with_alpha, lambda s: three(s[..., :3]), ((338, 0),))
    for depth in (8, 16):
        for extra, is_premultiplied in ((ASSOCIATED, True), (UNASSOCIATED, False)):
            for colour, photometric, few in (("rgb", RGB, np.copy), ("grey", BLACK_IS_ZERO, grey)):
                yield Kind(
                    f"{colour} {depth}, alpha {extra}",
                    photometric,
                    depth,
                    lambda p, few=few, multiply=is_premultiplied, depth=depth: (
                        np.concatenate(
                            [few(with_alpha(p, is_premultiplied=multiply)[..., :3]), with_alpha(p)[..., 3:]], axis=2
                        ).astype(f"u{depth // 8}")
                        * (257 if depth == 16 else 1)
                    ),
                    over_white(depth, is_premultiplied=is_premultiplied),
                    ((338, extra),),
                )


KINDS = {kind.name: kind for kind in kinds()}

Encoder = Callable[[np.ndarray], bytes]
Encode = Callable[..., Any]


def jpeg(colours: str, subsampling: str = "444") -> Encoder:
    def encode(piece: np.ndarray) -> bytes:
        if piece.shape[2] == 1:
            return bytes(imagecodecs.jpeg_encode(piece[..., 0], level=98))
        return bytes(
            imagecodecs.jpeg_encode(piece, level=98, colorspace="rgb", outcolorspace=colours, subsampling=subsampling)
        )

    return encode


def squeezed(encode: Encode) -> Encoder:
    """An encoder of pictures, which takes grey ones without a third axis."""
    return lambda piece: bytes(encode(piece[..., 0] if piece.shape[2] == 1 else piece))


ANY_BYTES: dict[str, tuple[int, Encode]] = {
    "none": (1, bytes),
    "lzw": (5, imagecodecs.lzw_encode),
    "deflate": (8, imagecodecs.zlib_encode),
    "old deflate": (32946, imagecodecs.zlib_encode),
    "packbits": (32773, imagecodecs.packbits_encode),
    "zstd": (50000, imagecodecs.zstd_encode),
    "lzma": (34925, lambda data: imagecodecs.lzma_encode(data, level=0)),
}
"""Compressions of bytes, whatever they mean."""

PICTURES: dict[str, tuple[int, Encoder, tuple[str, ...]]] = {
    "jpeg": (7, jpeg("rgb"), ("grey 8", "white is zero 8", "rgb 8")),
    "jpeg ycbcr": (7, jpeg("ycbcr"), ("ycbcr 8",)),
    "jpeg ycbcr 420": (7, jpeg("ycbcr", "420"), ("ycbcr 8",)),
    "jpeg 2000": (
        34712,
        squeezed(lambda piece: imagecodecs.jpeg2k_encode(piece, level=0)),
        ("grey 8", "grey 16", "rgb 8", "rgb 16", "white is zero 8", "rgb 8 in 16"),
    ),
    "jpeg 2000, 33003": (33003, squeezed(lambda p: imagecodecs.jpeg2k_encode(p, level=0)), ("rgb 8", "grey 8")),
    "jpeg 2000, 33005": (33005, squeezed(lambda p: imagecodecs.jpeg2k_encode(p, level=0)), ("rgb 8", "grey 8")),
    "webp": (
        50001,
        squeezed(lambda piece: imagecodecs.webp_encode(piece, lossless=True)),
        ("rgb 8", "rgb 8, alpha 2", "ycbcr 8"),
    ),
    "jpeg xl": (
        50002,
        squeezed(lambda piece: imagecodecs.jpegxl_encode(piece, lossless=True, effort=3)),
        ("grey 8", "grey 16", "rgb 8", "rgb 16", "grey float32", "rgb float32", "rgb 8 in 16"),
    ),
    "png": (
        34933,
        squeezed(imagecodecs.png_encode),
        ("grey 8", "grey 16", "rgb 8", "rgb 16", "rgb 8, alpha 2", "palette 8", "white is zero 8"),
    ),
    "lerc": (
        34887,
        squeezed(imagecodecs.lerc_encode),
        ("grey 8", "grey 16", "grey float32", "rgb 8", "rgb 16", "white is zero 8", "grey 8 in 32", "palette 8"),
    ),
    "jpeg xr": (
        22610,
        squeezed(lambda piece: imagecodecs.jpegxr_encode(piece, level=1.0)),
        ("grey 8", "grey 16", "rgb 8", "rgb 16"),
    ),
}
"""Compressions of pictures, and the kinds they know."""

CCITT = {"ccitt rle": "tiff_ccitt", "ccitt fax 3": "group3", "ccitt fax 4": "group4"}
COMPRESSIONS = [*ANY_BYTES, *PICTURES, *CCITT]
INEXACT = frozenset({YCBCR, CMYK, CIELAB})
LOSSY = frozenset({"jpeg", "jpeg ycbcr", "jpeg ycbcr 420", "jpeg xr"})


@dataclass(frozen=True)
class Layout:
    name: str
    width: int
    height: int
    is_tiled: bool
    is_separate: bool = False


LAYOUTS = (
    Layout("tiles", 16, 16, is_tiled=True),
    Layout("wide tiles", 32, 16, is_tiled=True),
    Layout("strips", 0, 16, is_tiled=False),
    Layout("one strip", 0, HEIGHT, is_tiled=False),
    Layout("planes of tiles", 16, 16, is_tiled=True, is_separate=True),
    Layout("planes of strips", 0, 24, is_tiled=False, is_separate=True),
)


@dataclass(frozen=True)
class Variant:
    """What else a file is."""

    byteorder: Literal["<", ">"]
    is_big: bool
    predictor: int
    is_filled_backwards: bool
    pyramid: str
    description: str


@dataclass(frozen=True)
class Sample:
    """A file that was written.

    Attributes:
        levels: What it shows, finest first.
        show: Makes that of its samples; None where a decoder makes other samples of them.
        tolerance: Mean difference; zero where every pixel must be the same.
        is_refused: Whether it may be refused.
    """

    path: Path
    name: str
    levels: list[np.ndarray]
    is_pyramid: bool
    show: Callable[..., Any] | None
    tolerance: float = 0
    is_refused: bool = False


def picture_at(level: int) -> Any:
    """Waves of pale colours, over most of the range and nowhere near black."""
    y, x = np.mgrid[: HEIGHT >> level, : WIDTH >> level] * 2.0**level
    waves = [np.sin(x / 13) + np.cos(y / 17), np.sin((x + y) / 19), np.cos((x - 2 * y) / 29)]
    return np.clip(np.stack(waves, axis=2) * 50 + 150, 12, 250).astype(np.uint8)


def predictors(compression: str, kind: Kind) -> list[int]:
    if compression in {"none", "packbits"} or compression in PICTURES or kind.photometric == PALETTE:
        return [1]
    if (339, FLOAT) in kind.tags:
        return [1, 3]
    return [1, 2] if kind.bits in {8, 16, 32} else [1]


def encoded(samples: np.ndarray, compression: str, kind: Kind, variant: Variant) -> bytes:
    """A tile or strip as it stands in the file."""
    if compression in PICTURES:
        if kind.photometric == YCBCR:
            samples = from_ycbcr(samples)  # the encoder makes YCbCr itself
        return PICTURES[compression][1](samples)
    if variant.predictor == 2:
        samples = np.concatenate([samples[:, :1], np.diff(samples, axis=1)], axis=1)
    if kind.bits in {1, 4, 12}:
        data = pack_bits(samples, kind.bits)
    elif variant.predictor == FLOAT:
        data = imagecodecs.floatpred_encode(samples, axis=1, dist=1).tobytes()
    else:
        data = samples.astype(samples.dtype.newbyteorder(variant.byteorder)).tobytes()
    data = bytes(ANY_BYTES[compression][1](data))
    return bytes(imagecodecs.bitorder_encode(data)) if variant.is_filled_backwards else data


def page_of(samples: np.ndarray, compression: str, kind: Kind, layout: Layout, variant: Variant) -> RawPage:
    height, width, channels = samples.shape
    number = (ANY_BYTES.get(compression) or PICTURES[compression])[0]
    tags: dict[int, int | tuple[int, ...] | str] = {
        256: width,
        257: height,
        258: (kind.bits,) * channels,
        259: number,
        262: kind.photometric,
        277: channels,
        284: 2 if layout.is_separate else 1,
        **dict(kind.tags),
    }
    if kind.photometric == YCBCR and compression == "jpeg ycbcr 420":
        tags[530] = (2, 2)
    if (339, FLOAT) in kind.tags:
        tags[339] = (FLOAT,) * channels
    if variant.predictor > 1:
        tags[317] = variant.predictor
    if variant.is_filled_backwards:
        tags[266] = 2
    tags |= {322: layout.width, 323: layout.height} if layout.is_tiled else {278: min(layout.height, height)}
    planes = [samples[..., i : i + 1] for i in range(channels)] if layout.is_separate else [samples]
    pieces = itertools.chain.from_iterable(
        cut(plane, layout.width or width, layout.height, is_tiled=layout.is_tiled) for plane in planes
    )
    segments = [encoded(piece, compression, kind, variant) for piece in pieces]
    return RawPage(plain_tags(tags), segments, layout.is_tiled)


def description_of(variant: Variant, kind: Kind, channels: int) -> str:
    if variant.description == "imagej":
        return "ImageJ=1.54f\nimages=1\n"
    if variant.description == "aperio":
        return f"Aperio Image Library v12.0.15 \r\n{WIDTH}x{HEIGHT} (16x16)|AppMag = 20|MPP = 0.5"
    if variant.description == "ome":
        number = "float" if (339, FLOAT) in kind.tags else f"uint{max(8, kind.bits)}"
        significant = f'SignificantBits="{kind.ome_bits}" ' if kind.ome_bits else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{number}" {significant}'
            f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="{channels}" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" '
            f'PhysicalSizeY="0.5"><Channel ID="Channel:0:0" SamplesPerPixel="{channels}"/>'
            '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
        )
    return ""


def write_sample(
    folder: Path, number: int, compression: str, kind: Kind, layout: Layout, variant: Variant
) -> Sample | None:
    """Write a file; None where the parts do not go together."""
    levels = [kind.store(picture_at(level)) for level in range(1 if variant.pyramid == "none" else 2)]
    channels = levels[0].shape[2]
    if layout.is_separate and (channels == 1 or compression in {"webp", "jpeg ycbcr", "jpeg ycbcr 420"}):
        return None
    shown = [kind.show(level) for level in levels]
    is_aperio_ycbcr = variant.description == "aperio" and compression == "jpeg 2000, 33003" and channels == 3
    stored = [ycbcr(level) for level in levels] if is_aperio_ycbcr else levels
    pages = [page_of(level, compression, kind, layout, variant) for level in stored]
    text = description_of(variant, kind, channels)
    if text:
        pages[0].tags |= plain_tags({270: text})
    if len(pages) > 1 and variant.description == "aperio":
        pages[1].tags |= plain_tags({270: text})
    elif len(pages) > 1:
        pages[1].tags |= plain_tags({254: 1})
    if variant.pyramid == "subifds":
        pages[0].below = [pages.pop()]
    name = " / ".join([compression, kind.name, layout.name, *map(str, vars(variant).values())])
    # OpenSlide may read what is otherwise refused, and knows no pyramids in SubIFDs. LERC has an order of bytes of its
    # own, and readers do not agree on whether the file's counts as well.
    may_be_refused = (
        kind.is_refused
        or (kind.photometric == YCBCR and "jpeg" not in compression)
        or (compression == "lerc" and kind.bits > 8 and variant.byteorder == ">")
    )
    return Sample(
        write_raw_tiff(folder / f"{number}.tif", pages, variant.byteorder, is_big=variant.is_big),
        name,
        shown,
        is_pyramid=len(levels) > 1 and (variant.description != "aperio" or layout.is_tiled) and not may_be_refused,
        show=None if is_aperio_ycbcr or "ycbcr" in compression else kind.show,
        tolerance=kind.tolerance if is_aperio_ycbcr or compression in LOSSY or kind.photometric in INEXACT else 0,
        is_refused=may_be_refused,
    )


def drawn(rng: np.random.Generator, choice: Sequence[T]) -> T:
    return choice[int(rng.integers(len(choice)))]


def samples_of(compression: str, folder: Path) -> Iterator[Sample]:
    """Write every kind in every layout; all else is drawn by lot, the same at every run."""
    if compression in CCITT:
        yield from ccitt_samples(compression, folder)
        return
    rng = np.random.default_rng([*compression.encode()])
    number = 0
    known = KINDS if compression in ANY_BYTES else PICTURES[compression][2]
    for kind, layout in itertools.product((KINDS[name] for name in known), LAYOUTS):
        ways = predictors(compression, kind)
        for _ in range(2 if compression in PICTURES else 1):
            variant = Variant(
                byteorder=drawn(rng, BYTE_ORDERS),
                is_big=drawn(rng, [False, True]),
                predictor=drawn(rng, ways),
                is_filled_backwards=compression in ANY_BYTES and drawn(rng, [False, False, True]),
                pyramid=drawn(rng, ["none", "pages", "subifds"]),
                description=drawn(rng, ["", "ome", "imagej", "aperio"]),
            )
            sample = write_sample(folder, number, compression, kind, layout, variant)
            number += 1
            if sample is not None:
                yield sample


def ccitt_samples(compression: str, folder: Path) -> Iterator[Sample]:
    """Bilevel pictures by Pillow, which has encoders for them."""
    for photometric, rows in itertools.product((WHITE_IS_ZERO, BLACK_IS_ZERO), (8, 16, HEIGHT)):
        path = folder / f"{photometric}-{rows}.tif"
        bits = Image.fromarray(picture_at(0)[..., 1] > 128)
        bits.save(path, compression=CCITT[compression], tiffinfo={262: photometric, 278: rows})
        with Image.open(path) as stored:
            shown = three(np.asarray(stored.convert("L"))[..., None])
        yield Sample(path, f"{compression} / {photometric} / {rows} rows", [shown], is_pyramid=False, show=None)


def differs(found: np.ndarray, expected: np.ndarray, tolerance: float) -> str | None:
    if found.shape != expected.shape:
        return f"is {found.shape}, not {expected.shape}"
    difference = np.abs(found.astype(int) - expected)
    if (tolerance and difference.mean() <= tolerance) or not difference.any():
        return None
    return f"differs by up to {difference.max()}, {difference.mean():.2f} on average"


def look(sample: Sample) -> tuple[str, str | None]:
    """Read a file: what became of it, and what is wrong about that."""
    try:
        with open_slide(sample.path) as slide:
            width, height = slide.size.width, slide.size.height
            whole = Region(0, 0, width, height)
            wrong = differs(slide.read(whole, width, height), sample.levels[0], sample.tolerance)
            if wrong is None and sample.is_pyramid:
                if len(slide.pyramid) != 2:
                    return "equal", f"has {len(slide.pyramid)} pyramid levels"
                found = slide.read(whole, width // 2, height // 2)
                wrong = differs(found, sample.levels[1], sample.tolerance)
            return "equal", wrong
    except SlideError as error:
        text = str(error)
        is_sentence = text.startswith(f"{sample.path}: ") and "\n" not in text and "Error" not in text
        expected = sample.is_refused and is_sentence
        return "refused", None if expected else text


def others(sample: Sample) -> Iterator[tuple[str, np.ndarray]]:
    """What other readers make of level 0, as far as they read its kind in the same way."""
    with tifffile.TiffFile(sample.path) as tif:
        page = tif.pages.first
        if sample.show is not None and not sample.is_refused:
            samples = page.asarray()
            samples = samples.transpose(1, 2, 0) if page.planarconfig == 2 else samples.reshape(*samples.shape[:2], -1)
            yield "tifffile", sample.show(samples)
        is_plain = page.photometric in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR, PALETTE} and page.bitspersample <= 8
        # Pillow goes by neither a palette of eight bits nor the order of the bits where nothing is compressed.
        is_odd = page.colormap is not None and page.colormap.max() < 256
        is_odd |= page.fillorder == 2 and page.compression == 1
    if not is_plain or page.extrasamples or is_odd:
        return
    try:
        # Pillow warns of tags that have nothing to do with the pixels.
        with warnings.catch_warnings(action="ignore", category=UserWarning), Image.open(sample.path) as picture:
            if picture.mode in {"1", "L", "P", "RGB", "YCbCr"}:
                yield "Pillow", np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, TypeError):
        pass
    if openslide.OpenSlide.detect_format(sample.path):
        try:
            with openslide.OpenSlide(sample.path) as slide:
                yield "OpenSlide", np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
        except openslide.OpenSlideError:
            pass


def tally(compression: str, folder: Path) -> tuple[Counter[str], list[str]]:
    """Write and read all files of a compression: counts, and what went wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    for sample in samples_of(compression, folder):
        outcome, problem = look(sample)
        counts["written"] += 1
        counts[outcome if problem is None else "wrong"] += 1
        if problem is not None:
            wrong.append(f"{sample.name}: {problem}")
        elif outcome == "equal":
            for name, pixels in others(sample):
                counts[name] += 1
                if (difference := differs(pixels, sample.levels[0], sample.tolerance)) is not None:
                    wrong.append(f"{sample.name}: {name} {difference}")
        sample.path.unlink()
    return counts, wrong


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_file_is_right_or_refused(compression, tmp_path):
    counts, wrong = tally(compression, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert counts["equal"] + counts["refused"] == counts["written"] > 0


def main() -> None:
    columns = ("written", "equal", "refused", "tifffile", "Pillow", "OpenSlide")
    print("| compression | " + " | ".join(columns) + " |")  # noqa: T201
    print("|---" * (len(columns) + 1) + "|")  # noqa: T201
    total: Counter[str] = Counter()
    for compression in COMPRESSIONS:
        with tempfile.TemporaryDirectory() as folder:
            counts, wrong = tally(compression, Path(folder))
        total += counts
        print(f"| {compression} | " + " | ".join(str(counts[name]) for name in columns) + " |")  # noqa: T201
        for problem in wrong:
            print(f"wrong: {problem}")  # noqa: T201
    print("| all | " + " | ".join(str(total[name]) for name in columns) + " |")  # noqa: T201


if __name__ == "__main__":
    main()
