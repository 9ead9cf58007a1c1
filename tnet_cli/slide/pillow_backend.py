"""Ordinary pictures, PNG, JPEG and the like, through Pillow; decoded whole."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import IO

import imagecodecs
import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Size
from tnet_cli.headers.stream_sizes import JPEG_END, SCAN, StatedSize, comes_in_scans, is_torn, jpeg_size
from tnet_cli.headers.streams import HEADER_BYTES, JPEG_2000_START, JPEG_START, jpeg_2000_bits
from tnet_cli.slide.colours import SampleRange, over, range_of
from tnet_cli.slide.containers import misnamed_picture
from tnet_cli.slide.mpp import option_mpp
from tnet_cli.slide.resample import PyramidLevel
from tnet_cli.slide.slide import WHITE, ProgressFunction, Slide, SlideFacts
from tnet_cli.slide.tiff_pages import Orientation
from tnet_cli.slide.tiff_segments import ends_early, has_grey_corner, with_more_data

MOST_PICTURE_BYTES = 750_000_000
"""Of memory that a picture may take while it is decoded, so that the process stays below 1.5 GB."""

PIXEL_BYTES = {"JPEG": 7, "BMP": 8, "PPM": 9, "PNG": 11, "JPEG2000": 20, "WEBP": 20, "AVIF": 20}
OTHER_PIXEL_BYTES = 12
"""Memory that a pixel takes, in the decoder and as RGB, by the format of the picture."""

STRAIGHT_PIXEL_BYTES, SCANS_PIXEL_BYTES = 3, 6
"""The same where RGB comes straight from the decoder, and what is added where a JPEG comes in several scans. The
decoder may be told to shrink a JPEG, but what it gives are not the averages that all other slides are reduced by."""

JPEG_HEADER_BYTES = (256 * 1024, 16 * 1024 * 1024)
"""In which the header of a JPEG ends: as a rule, and at most, whatever cameras write into it."""

TOO_LARGE = "which is too large to be decoded whole; convert it to a tiled TIFF with a pyramid"

MOST_IMAGES = 64
"""Of a file, that are looked at: animations and stacks are told by the second."""

STRIP_PX = 256 * 1024
"""Pixels that are made RGB at a time: few enough to stay in the processor's cache."""

MOST_ROWS = 1000
"""Of a picture of more than eight bits are looked at to find out which samples are white."""

ORIENTATION_TAG = 0x0112

PNG_START = b"\x89PNG\r\n\x1a\n"

MOST_PACKED = {b"tEXt": 1000, b"zTXt": 1000, b"iTXt": 1000, b"iCCP": 100_000}
"""Bytes of chunks that may be left to Pillow, which refuses more than a megabyte; deflate packs at most 1032 to one."""

EXIF_TEXT = b"Raw profile type exif"
"""Begins the text in which some programs keep which way up a picture is."""

MAY_TURN_PNG = (EXIF_TEXT, b"XML:com.adobe.xmp")
"""Begin texts that may say which way up a PNG is, as its chunk ``eXIf`` does."""

LARGE_PICTURES: dict[bytes, type[ImageFile.ImageFile]] = {
    PNG_START: PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
}
"""First bytes of the formats scans are exported to; these are opened past the limit that Pillow sets a process."""


class PillowSlide(Slide):
    """A picture held in memory, for which ``mpp`` is the only scale: what such files say is meant for printers.

    Errors are those of ``open_slide``, and what it takes is explained there but for one.

    Args:
        content: The file's bytes, where they do not lie under ``path``, which then only names them.
    """

    reader = "pillow"

    def __init__(
        self,
        path: str,
        *,
        mpp: float | None = None,
        on_progress: ProgressFunction | None = None,
        content: bytes | None = None,
    ) -> None:
        self._pixels, doubt = _decode(path, content)
        self._pixels.flags.writeable = False  # since others are shown them as they are held
        height, width = self._pixels.shape[:2]
        facts = SlideFacts(
            pyramid=(PyramidLevel(Size(width, height), 1.0),),
            stated_mpp=None if mpp is None else option_mpp(path, mpp),
        )
        super().__init__(path, facts, on_progress)
        self._count(width * height, 0)
        if doubt is not None:
            self.doubt("sample_range", doubt)

    def _read_stored(self, pyramid_level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        del pyramid_level  # a picture has one
        return self._pixels[y : y + height, x : x + width]


def _decode(path: str, content: bytes | None) -> tuple[np.ndarray, str | None]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, and of metadata it cannot parse; neither concerns the pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            content = _without_long_texts(path, content)
            with _open(path, content) as picture:
                misnamed = misnamed_picture(path, picture.format or "")
                if misnamed is not None:
                    raise SlideError(path, misnamed)
                plain = _plain_png(picture, path, content)
                if plain is not None:
                    return plain, None
                straight = _straight_jpeg(picture, path, content)
                if straight is not None:
                    return Orientation(_orientation_of(picture)).turn(straight), None
                if _fits(picture, PIXEL_BYTES.get(picture.format or "", OTHER_PIXEL_BYTES)):
                    _check_other_images(path, picture)
                    pixels, doubt = _as_rgb(picture, path, content)
                    _refuse_early_end(picture, pixels, path, content)
                else:
                    pixels, doubt = _large_jpeg(picture, path, content), None
                return Orientation(_orientation_of(picture)).turn(pixels), doubt
    except UnidentifiedImageError as exc:
        raise SlideError(path, "is neither a slide nor a picture that tnet can read") from exc
    except Image.DecompressionBombError as exc:
        raise SlideError(path, f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, {TOO_LARGE}") from exc
    except MemoryError as exc:
        raise SlideError(path, "does not fit into memory; convert it to a tiled TIFF with a pyramid") from exc
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError, struct.error, zlib.error) as exc:
        raise SlideError(path, f"cannot be decoded: {' '.join(str(exc).split())}") from exc


def _fits(picture: Image.Image, pixel_bytes: int, more_bytes: int = 0) -> bool:
    return picture.width * picture.height * pixel_bytes + more_bytes <= MOST_PICTURE_BYTES


def _large_jpeg(picture: Image.Image, path: str, content: bytes | None) -> np.ndarray:
    """Decode a JPEG in colour without a copy between, uint8 (H, W, 3).

    Raises:
        SlideError: it is too large even so, or none.
        ValueError: its data are not whole.
    """
    data = b""
    if picture.format == "JPEG" and picture.mode == "RGB" and _fits(picture, STRAIGHT_PIXEL_BYTES):
        data = _bytes_of(path, content)
    pixel_bytes = STRAIGHT_PIXEL_BYTES + (SCANS_PIXEL_BYTES if comes_in_scans(data) else 0)
    if not data or not _fits(picture, pixel_bytes, len(data)):
        raise SlideError(path, f"has {picture.width} x {picture.height} pixels, {TOO_LARGE}")
    if data.rfind(JPEG_END) < data.rfind(SCAN):
        raise ValueError("its JPEG data are cut off")
    _refuse_torn_jpeg(data)
    pixels: np.ndarray = imagecodecs.jpeg8_decode(data)
    if has_grey_corner(pixels):
        # Not compared side by side: there is room for one.
        sums = zlib.crc32(pixels.data)
        del pixels
        pixels = imagecodecs.jpeg8_decode(with_more_data(data))
        if zlib.crc32(pixels.data) != sums:
            raise ValueError("its JPEG data end too early")
    return pixels


def _straight_jpeg(picture: Image.Image, path: str, content: bytes | None) -> np.ndarray | None:
    """Return a JPEG in colour of which nothing seems missing as uint8 (H, W, 3), in half of Pillow's time; else None.

    It is the same library that decodes it. Where data may be missing or damaged it is left to Pillow to say so.
    """
    if picture.format != "JPEG" or picture.mode != "RGB" or not _fits(picture, PIXEL_BYTES["JPEG"]):
        return None
    data = _bytes_of(path, content)
    if data.rfind(JPEG_END) < data.rfind(SCAN) or comes_in_scans(data):
        return None
    _refuse_torn_jpeg(data)
    try:
        pixels: np.ndarray = imagecodecs.jpeg8_decode(data)
    except (ValueError, RuntimeError):
        return None
    return pixels if pixels.shape == (picture.height, picture.width, 3) and not has_grey_corner(pixels) else None


def _refuse_torn_jpeg(data: bytes) -> None:
    if is_torn(data):
        raise ValueError("its JPEG data are damaged")


def _refuse_early_end(picture: Image.Image, pixels: np.ndarray, path: str, content: bytes | None) -> None:
    """Decode a picture again in another way where Pillow may have put grey or zeros for missing data."""
    if picture.format == "JPEG":
        data = _bytes_of(path, content)
        _refuse_torn_jpeg(data)
        if has_grey_corner(pixels):
            _refuse_cut_jpeg(data, pixels)
    if picture.format == "PNG" and (bool((pixels[-1] == pixels[-1, 0]).all()) or "interlace" in picture.info):
        imagecodecs.png_decode(_bytes_of(path, content))


def _check_other_images(path: str, picture: Image.Image) -> None:
    """Refuse a file whose first image, which would be shown, is no larger than another: an animation, a stack."""
    first = picture.size
    for number in range(1, MOST_IMAGES):
        try:
            picture.seek(number)
        except EOFError:  # asked how many there are, some formats look for all
            break
        if picture.width * picture.height >= first[0] * first[1]:
            raise SlideError(path, "holds several images, and the first need not be the slide; export the slide alone")
    if picture.tell():
        picture.seek(0)


def _open(path: str, content: bytes | None) -> Image.Image:
    with open(path, "rb") if content is None else io.BytesIO(content) as file:  # noqa: PTH123 (as Pillow opens it)
        start = file.read(8)
        if start.startswith(JPEG_START) and not any(_size_within(file, most) for most in JPEG_HEADER_BYTES):
            raise ValueError("its header is damaged, or longer than that of any picture")
    for first_bytes, opener in LARGE_PICTURES.items():
        if start.startswith(first_bytes):
            try:
                return opener(path if content is None else io.BytesIO(content))
            except SyntaxError as exc:
                raise UnidentifiedImageError(str(exc)) from exc
    return Image.open(path if content is None else io.BytesIO(content))


def _size_within(file: IO[bytes], most: int) -> StatedSize | None:
    file.seek(0)
    return jpeg_size(file.read(most))


def _bytes_of(path: str, content: bytes | None) -> bytes:
    return Path(path).read_bytes() if content is None else content


def _refuse_cut_jpeg(data: bytes, pixels: np.ndarray) -> None:
    def decode(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))

    if ends_early(data, pixels, decode):
        raise ValueError("its JPEG data end too early")


def _without_long_texts(path: str, content: bytes | None) -> bytes | None:
    """Return a PNG's bytes less what Pillow may refuse to unpack; the content as it is where there is no such thing.

    Programs leave logs of megabytes in text chunks, on which no pixel depends.
    """
    with open(path, "rb") if content is None else io.BytesIO(content) as file:  # noqa: PTH123 (as Pillow opens it)
        if file.read(8) != PNG_START:
            return content
        at, long, header = 8, [], b""
        while header[4:] != b"IEND":
            header = file.read(8)
            if len(header) < 8 or not header[4:].isalpha():
                raise ValueError("it is cut off; copy it again")
            length = int.from_bytes(header[:4], "big") + 12  # with the length itself, the kind and the check sum
            if length > MOST_PACKED.get(header[4:], length) and file.read(len(EXIF_TEXT)) != EXIF_TEXT:
                long.append(slice(at, at + length))
            at += length
            file.seek(at)
        if not long:
            return content
        file.seek(0)
        parts = []
        for chunk in long:
            parts.append(file.read(chunk.start - file.tell()))
            file.seek(chunk.stop)
        return b"".join([*parts, file.read()])


def _orientation_of(picture: Image.Image) -> int:
    value = picture.getexif().get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _plain_png(picture: Image.Image, path: str, content: bytes | None) -> np.ndarray | None:
    """Return a PNG of three opaque channels of eight bits, which nothing may turn, as uint8 (H, W, 3); else None.

    It takes half of Pillow's time. Where data are missing or damaged it is left to Pillow to say so.
    """
    raw = [tile[3] for tile in getattr(picture, "tile", ())]
    is_moving = getattr(picture, "n_frames", 1) > 1
    if picture.format != "PNG" or raw != ["RGB"] or "transparency" in picture.info or is_moving:
        return None
    if not _fits(picture, STRAIGHT_PIXEL_BYTES, Path(path).stat().st_size if content is None else len(content)):
        return None
    data = _bytes_of(path, content)
    if _may_turn(data):
        return None
    try:
        pixels: np.ndarray = imagecodecs.png_decode(data)
    except (ValueError, RuntimeError):
        return None
    return pixels if pixels.shape == (picture.height, picture.width, 3) and pixels.dtype == np.uint8 else None


def _may_turn(data: bytes) -> bool:
    """Tell whether a PNG has a chunk that may say which way up it is."""
    at = len(PNG_START)
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == b"eXIf" or data.startswith(MAY_TURN_PNG, at + 8):
            return True
        at += 12 + int.from_bytes(data[at : at + 4])  # with the length itself, the kind and the check sum
    return False


def _as_rgb(picture: Image.Image, path: str, content: bytes | None) -> tuple[np.ndarray, str | None]:
    """Return a picture as uint8 (H, W, 3), and what is doubtful about its samples.

    It is made strip by strip, so that no more than one whole copy is added.
    """
    samples, bits, stated = _deep_samples(picture, path, content)
    shown = None
    if samples is not None:
        shown = range_of(samples[:: max(1, len(samples) // MOST_ROWS)], bits or 8 * samples.dtype.itemsize, stated)
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(1, STRIP_PX // picture.width)
    for top in range(0, picture.height, rows):
        strip = slice(top, min(top + rows, picture.height))
        if samples is None or shown is None:
            # Not by crop, which before Pillow 13 refuses even a strip of a large picture.
            part = picture.resize(
                (picture.width, strip.stop - top), Image.Resampling.NEAREST, (0, top, picture.width, strip.stop)
            )
            pixels[strip] = _strip_as_rgb(part)
        else:
            values = shown.eight_bits(samples[strip])
            is_opaque = values.shape[2] in {1, 3}
            colour = np.broadcast_to(values if is_opaque else values[..., :-1], (*values.shape[:2], 3))
            pixels[strip] = colour if is_opaque else over(colour, values[..., -1:], WHITE)
    return pixels, None if shown is None else shown.doubt


def _deep_samples(
    picture: Image.Image, path: str, content: bytes | None
) -> tuple[np.ndarray | None, int, SampleRange | None]:
    """Return the samples of a picture of more than eight bits, of which Pillow would show the upper eight.

    Returns:
        (H, W, S), None where there are eight bits; bits of each, 0 for those of their type; what the file says.

    Raises:
        ValueError: it is a picture of more than eight bits of which Pillow gives no more than these.
    """
    stored = [tile[3] for tile in getattr(picture, "tile", ())]
    samples: np.ndarray
    if picture.format == "PNG" and stored and stored[0] in {"I;16B", "LA;16B", "RGB;16B", "RGBA;16B"}:
        samples = imagecodecs.png_decode(_bytes_of(path, content))
        return samples if samples.ndim == 3 else samples[..., None], 0, None
    if picture.format == "JPEG2000" and picture.mode in {"LA", "RGB", "RGBA"}:
        data = _bytes_of(path, content)
        bits = jpeg_2000_bits(data[data.find(JPEG_2000_START) :][:HEADER_BYTES])
        if bits > 8:
            return imagecodecs.jpeg2k_decode(data), bits, None
    white = stored[0][-1] if picture.format == "PPM" and picture.mode == "RGB" and isinstance(stored[0], tuple) else 0
    if white > WHITE[0]:
        decoder, _, start, _ = next(iter(getattr(picture, "tile", ())))
        if decoder != "ppm":
            raise ValueError("it holds more than eight bits as text; convert it to PNG")
        samples = np.frombuffer(_bytes_of(path, content), ">u2", picture.width * picture.height * 3, start)
        samples = samples.reshape(picture.height, picture.width, 3).astype(np.uint16)
        return samples, 0, SampleRange(float(white))
    is_cut = any(name == "SGI16" or ";16" in str(raw) for name, _, _, raw in getattr(picture, "tile", ()))
    picture.load()
    if is_cut and not picture.mode.startswith("I"):
        raise ValueError("its samples have more than eight bits, of which none but the upper eight are read")
    if not picture.mode.startswith(("I", "F")):
        return None, 0, None
    samples = np.asarray(picture)[..., None]
    is_short = picture.mode == "I" and 0 <= samples.min() <= samples.max() < 2**16
    return samples.astype(np.uint16) if is_short else samples, 0, None


def _strip_as_rgb(strip: Image.Image) -> np.ndarray:
    if strip.has_transparency_data:
        laid = Image.new("RGBA", strip.size, (*WHITE, 255))
        laid.alpha_composite(strip.convert("RGBA"))
        return np.asarray(laid.convert("RGB"))
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
