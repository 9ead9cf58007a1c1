"""Names of slides: unique among the inputs, and fit to be the path of a folder on any file system."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tnet_cli.errors import RUN_BY_SPREADSHEETS

LONGEST_PART = 100
"""Bytes of UTF-8 in one part of a name; file systems allow 255, and drafts of files add to theirs."""

LONGEST_NAME = 180
"""Bytes of UTF-8 in a whole name: Windows allows 260 characters for the folder of results, the name and its files."""

RESULT = "result.json"
REGIONS = "regions.csv"
GEOJSON = "regions.geojson"
OVERLAY = "overlay.png"
MASK = "mask.png"
SLIDE_FILES = (RESULT, REGIONS, GEOJSON, OVERLAY, MASK)
"""What a run writes of a slide into the folder of its name; a part of a name may become a folder beside them."""

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\ud800-\udfff\u2028\u2029]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NameSource:
    """What the name of one slide is made from.

    Attributes:
        folders: Folders above the file, outermost first, as far as they are known.
        suffix: With its dot; tells slides apart that differ in nothing else.
        depth: How many of the last folders belong to the name in any case.
    """

    folders: tuple[str, ...]
    stem: str
    suffix: str = ""
    depth: int = 0

    def parts(self, depth: int, *, with_suffix: bool) -> tuple[str, ...]:
        """Return the name's parts before they are made safe."""
        folders = self.folders[len(self.folders) - min(depth, len(self.folders)) :]
        return (*folders, self.stem + self.suffix if with_suffix else self.stem)


def unique_names(sources: Sequence[NameSource]) -> list[str]:
    """Name slides so that no two share a folder, on file systems that tell cases apart and on those that do not.

    A slide keeps its name unless another has the same; then folders above them go before it, the suffix after it,
    and where all that is alike a number.

    Returns:
        Names of one or more parts with ``/`` between, in the order of the sources: relative, without ``.`` and
        ``..``, at most ``LONGEST_NAME`` bytes long.
    """
    depths = [source.depth for source in sources]
    suffixed = [False] * len(sources)

    def name(index: int) -> str:
        return safe_name(sources[index].parts(depths[index], with_suffix=suffixed[index]))

    names = [name(index) for index in range(len(sources))]
    alike: dict[str, list[int]] = defaultdict(list)
    for index, each in enumerate(names):
        alike[each.casefold()].append(index)
    touched = list(alike)
    while touched:
        groups = [alike.pop(key) for key in touched if len(alike[key]) > 1]
        lengthened = [index for group in groups for index in _lengthen(sources, group, depths, suffixed)]
        for index in lengthened:
            names[index] = name(index)
        for index in (index for group in groups for index in group):
            alike[names[index].casefold()].append(index)
        touched = list(dict.fromkeys(names[index].casefold() for index in lengthened))
    return numbered(names)


def _lengthen(sources: Sequence[NameSource], group: list[int], depths: list[int], suffixed: list[bool]) -> list[int]:
    """Lengthen what the names of a group are made of, all of them alike; return whose changed."""
    folders = {sources[index].folders for index in group}
    if len(folders) == 1:
        changed = [index for index in group if not suffixed[index] and sources[index].suffix]
        for index in changed:
            suffixed[index] = True
        return changed
    # Folders that all have, the last ones first, tell none of them apart.
    shared = next(number for number, parts in enumerate(zip_longest(*map(reversed, folders))) if len(set(parts)) > 1)
    changed = [index for index in group if depths[index] < len(sources[index].folders)]
    for index in changed:
        depths[index] = max(depths[index], shared) + 1
    return changed


def numbered(names: Sequence[str]) -> list[str]:
    """Return names with a number after those that were there before, whatever their case."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    numbered = []
    for wanted in names:
        name, alike = wanted, wanted.casefold()
        while name.casefold() in taken:
            counts[alike] = counts.get(alike, 1) + 1
            name = f"{wanted}-{counts[alike]}"
        taken.add(name.casefold())
        numbered.append(name)
    return numbered


def region_name(slide: str, region: str) -> str:
    """Return the name of a region of a slide: the slide's, ``#`` and what the region is called, fit for a folder."""
    *folders, last = slide.split("/")
    return "/".join([*folders, _safe_part(f"{last}#{region}")])


def safe_name(parts: Sequence[str]) -> str:
    """Join parts, outermost first and of any text, to a relative path that every file system takes.

    Returns:
        The safe parts with ``/`` between, at most ``LONGEST_NAME`` bytes of UTF-8; what is cut off is replaced by a
        digest of it, so that names which differ only there still differ.
    """
    name = "/".join(_safe_part(part) for part in parts)
    if len(name.encode()) <= LONGEST_NAME:
        return name
    last = _safe_part(parts[-1])
    return f"{_digest('/'.join(parts))}/{last}"


def _safe_part(part: str) -> str:
    text = unicodedata.normalize("NFC", _FORBIDDEN.sub("_", part)).strip(" ").rstrip(". ")
    if text.startswith("."):
        text = f"_{text[1:]}"  # hidden results would look lost
    if text.startswith(RUN_BY_SPREADSHEETS):
        text = f"_{text}"
    if not text:
        return "_"
    if _DEVICE.fullmatch(text) or text.casefold() in SLIDE_FILES:
        text = f"{text}_" if "." not in text else f"_{text}"
    encoded = text.encode()
    if len(encoded) <= LONGEST_PART:
        return text
    kept = encoded[: LONGEST_PART - 9].decode(errors="ignore").rstrip(". ")
    return f"{kept}-{_digest(part)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
