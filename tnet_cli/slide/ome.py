"""OME-XML: which images a file holds, which of its pages they are, and at what scale."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tnet_cli.geometry import Size
from tnet_cli.slide.mpp import StatedMpp, micrometres, parse_number, stated_mpp

NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

MOST_PLANES, MOST_IMAGES = 1000, 1000
"""Images of slides have a few; what a damaged file may claim is not counted further."""

LONGEST_XML = 4 * 1024 * 1024
"""Characters; longer XML of slides is not known, and would take seconds to parse."""


@dataclass(frozen=True, slots=True)
class OmeImage:
    """An image of OME-XML.

    Attributes:
        name: As its writer called it, perhaps ``macro image``.
        size: Of level 0.
        depths: Focal planes.
        times: Points in time.
        channels: Names of the channels that are planes of their own, empty where they have none; one where the samples
            of a pixel lie together.
        colours: Of those channels, as 32-bit RGBA; None where the writer did not say.
        is_fluorescence: Whether a channel tells of the light that excites it or that it emits.
        pages: Numbers of the pages of its planes, in the order channels, depths, times; empty where the XML says none.
        pixel_um: Width and height of a pixel, as far as they are stated.
        samples: How many a pixel may have in a page: those of a channel, or all, where the writer counts each as one.
        doubt: Why its scale is not believed, for users.
    """

    name: str
    size: Size
    depths: int
    times: int
    channels: tuple[str, ...]
    colours: tuple[int | None, ...]
    is_fluorescence: bool
    pages: tuple[int, ...]
    pixel_um: tuple[float | None, float | None]
    samples: tuple[int, int]
    doubt: str = ""

    def mpp(self, path: str) -> StatedMpp | None:
        """Read PhysicalSizeX and PhysicalSizeY, or return None when it has none.

        Raises:
            MissingMppError: they are implausible.
        """
        return StatedMpp(None, None, self.doubt) if self.doubt else stated_mpp(path, *self.pixel_um, "ome-xml")


def is_ome(description: str) -> bool:
    """Tell whether a TIFF's description is OME-XML."""
    return re.search(r"<(\w+:)?OME[\s>]", description[:4096]) is not None


def ome_images(xml: str, file: str = "") -> list[OmeImage]:
    """Read the images of OME-XML; none where it cannot be parsed, is too long, or only names the file that holds it.

    Args:
        file: Name of the file it stands in.
    """
    if len(xml) > LONGEST_XML:
        return []
    try:
        root = ET.fromstring(NOT_IN_XML.sub(" ", xml))  # noqa: S314 (expat expands no external entities, and nested ones are bounded)
    except ET.ParseError:
        return []
    uuid = root.get("UUID")
    found = []
    for image in islice(_inside(root, "Image"), MOST_IMAGES):
        for pixels in _inside(image, "Pixels"):
            channels = list(_inside(pixels, "Channel"))
            samples = max([1, *(_count(channel, "SamplesPerPixel") for channel in channels)])
            planes = min(MOST_PLANES, -(-_count(pixels, "SizeC") // samples))
            named = channels[:planes] + [ET.Element("Channel")] * (planes - len(channels))
            light = {"Fluor", "EmissionWavelength", "ExcitationWavelength"}
            found.append(
                OmeImage(
                    name=image.get("Name", ""),
                    size=Size(_count(pixels, "SizeX"), _count(pixels, "SizeY")),
                    depths=_count(pixels, "SizeZ"),
                    times=_count(pixels, "SizeT"),
                    channels=tuple(channel.get("Name", "") for channel in named),
                    colours=tuple(_number(channel.get("Color")) for channel in named),
                    is_fluorescence=any(light & channel.attrib.keys() for channel in channels),
                    pages=tuple(islice(_pages(pixels, uuid, file), MOST_PLANES)),
                    pixel_um=(_side(pixels, "X"), _side(pixels, "Y")),
                    samples=(samples, _count(pixels, "SizeC")),
                )
            )
    return found


def _pages(pixels: ET.Element, uuid: str | None, file: str) -> Iterator[int]:
    """Return the pages of this file that hold an image's planes, ordered as the planes are."""
    blocks = []
    for data in _inside(pixels, "TiffData"):
        owner = next(_inside(data, "UUID"), None)
        # A file without an identity of its own is told by its name.
        mine = owner is None or (owner.text == uuid if uuid else owner.get("FileName", file) == file)
        ifd = _number(data.get("IFD"))
        if ifd is not None and mine:
            place = tuple(_number(data.get(f"First{axis}")) or 0 for axis in "TZC")
            blocks.append((place, ifd, _number(data.get("PlaneCount")) or 1))
    for _, ifd, count in sorted(blocks):
        yield from range(ifd, ifd + count)


def _side(pixels: ET.Element, axis: str) -> float | None:
    value = parse_number(pixels.get(f"PhysicalSize{axis}", ""))
    factor = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "um"))
    return None if value is None or factor is None else value * factor


def _inside(element: ET.Element, tag: str) -> Iterator[ET.Element]:
    """Return the children of a tag, whatever its namespace."""
    return (child for child in element if child.tag.rpartition("}")[2] == tag)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*-?\d{1,12}\s*", text) else None


def _count(element: ET.Element, attribute: str) -> int:
    return max(1, _number(element.get(attribute)) or 1)
