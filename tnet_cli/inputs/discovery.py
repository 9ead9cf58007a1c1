"""Slides in folders and behind patterns: which files they are, each once, in an order that never changes.

Nothing here opens a slide. Links are followed, but no folder is searched twice, so loops of links end.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from natsort import natsort_keygen, ns

from tnet_cli.errors import UsageError
from tnet_cli.inputs.dicom_series import gather_series, read_dicom
from tnet_cli.inputs.formats import (
    PICTURE_SUFFIXES,
    SIDE_FOLDERS,
    is_dicom,
    is_file,
    is_folder,
    is_slide,
    mirax_slide,
    parts_of_slides,
    suffix_of,
)
from tnet_cli.inputs.names import MASK, OVERLAY, REGIONS, RESULT

NoteFunction = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is a slide, or stands for one of several files.

    Attributes:
        path: Begins as the user gave it.
        identity: The same for every way to the file: through links, or through another file of its DICOM series.
        below: Folders between the folder that was given and the file.
    """

    path: Path
    identity: str
    below: tuple[str, ...] = ()
    is_linked: bool = False


@dataclass(slots=True)
class Tally:
    """What a search left out, for one note each."""

    others: Counter[str] = field(default_factory=Counter)
    parts: int = 0
    twice: int = 0
    links: int = 0
    problems: list[str] = field(default_factory=list)

    def tell(self, where: str, on_note: NoteFunction) -> None:
        """Say what was left out, and why."""
        for problem in self.problems:
            on_note(problem)
        if self.others:
            on_note(f"{where}: ignored {counted(self.others.total(), 'file')}: no slides ({self.kinds()})")
        if self.parts:
            on_note(f"{where}: {counted(self.parts, 'file')} counted as part of another slide")
        if self.twice:
            on_note(f"{where}: {counted(self.twice, 'slide')} found again through links and counted once")
        if self.links:
            on_note(f"{where}: {counted(self.links, 'link')} not followed, to folders searched anyway or around them")

    def kinds(self) -> str:
        """Say how many files of which suffix there were."""
        common = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{count} {suffix or 'without suffix'}" for suffix, count in common[:5]]
        rest = sum(count for _, count in common[5:])
        return ", ".join([*named, f"{rest} others"] if rest else named)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_writable(text: str) -> bool:
    """Tell whether a path can be written to a table: names of files may hold bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: str) -> str:
    """Return a path that can be printed."""
    return path.encode(errors="surrogateescape").decode(errors="replace")


_NATURAL = natsort_keygen(alg=ns.IGNORECASE)


def natural_key(text: str) -> tuple[object, str]:
    """Return a key that sorts numbers inside names by value, and cases together: a2 before A10 before b1."""
    return _NATURAL(text), text  # the text itself tells apart what differs in case or in leading zeros only


def identity_of(path: Path) -> str:
    """Return what is the same for every way to a local file; for a DICOM file its folder and series."""
    real = Path(os.path.realpath(path))
    if is_file(real) and is_dicom(str(real), real.name) and (series := read_dicom(real).series):
        return _series_identity(str(real.parent), series)
    return str(real)


def slides_in(folder: Path, *, recursive: bool = True, out: Path | None = None, tally: Tally) -> list[FoundFile]:
    """Find the slides in a folder.

    Args:
        folder: As the user gave it.
        out: The run's folder of results; pictures of results in it are no slides.
        tally: Counts what is left out; folders that cannot be listed become its problems.

    Returns:
        Each slide once, in natural order of their paths.
    """
    if slide := mirax_slide(folder.absolute()):
        beside = folder.parent / slide.name if folder.name not in {"", ".."} else slide
        return [FoundFile(beside, identity_of(beside))]
    search = _Search(folder=folder, recursive=recursive, results=_slides_of(out), tally=tally)
    return _each_once(search.files(), tally)


def slides_matching(pattern: str, *, recursive: bool = True, out: Path | None = None, tally: Tally) -> list[FoundFile]:
    """Find the slides that a pattern names, and those in the folders that it names.

    Args:
        pattern: With ``*``, ``?``, ``[...]``, and ``**`` for any number of folders. Hidden files match only where it
            says so. Files that match are sifted like those of a folder, but for a suffix that it spells out.

    Returns:
        Each slide once, in natural order of their paths.

    Raises:
        UsageError: it is no pattern.
    """
    base, rest = _split_pattern(pattern)
    try:
        matches = [match for match in base.glob(rest) if _is_shown(match.relative_to(base).parts, rest)]
    except (ValueError, NotImplementedError, OSError) as exc:
        raise UsageError(f"{pattern}: cannot be followed as a pattern: {exc}") from exc
    found: list[FoundFile] = []
    chosen: dict[Path, set[str]] = {}
    for match in matches:
        if is_folder(match):
            inside = slides_in(match, recursive=recursive, out=out, tally=tally)
            above = match.relative_to(base).parts
            found.extend(FoundFile(file.path, file.identity, (*above, *file.below), file.is_linked) for file in inside)
        else:
            chosen.setdefault(match.parent, set()).add(match.name)
    last = suffix_of(rest.rpartition("/")[2])
    spelt = None if is_pattern(last) else last or None
    for folder, names in chosen.items():
        if mirax_slide(folder.absolute()):
            tally.parts += len(names)
            continue
        search = _Search(
            folder=folder, recursive=False, results=_slides_of(out), tally=tally, chosen=names, spelt_suffix=spelt
        )
        below = folder.relative_to(base).parts
        found.extend(FoundFile(file.path, file.identity, below, file.is_linked) for file in search.files())
    return _each_once(found, None)  # patterns often name a file and its folder


_MAGIC = re.compile(r"[*?[]")


def is_pattern(text: str) -> bool:
    """Tell whether a text holds ``*``, ``?`` or ``[``."""
    return _MAGIC.search(text) is not None


def _split_pattern(pattern: str) -> tuple[Path, str]:
    """Split a pattern into the folder that is spelt out and the rest."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    return Path(*parts[:first]), "/".join(parts[first:])


def _is_shown(parts: tuple[str, ...], pattern: str) -> bool:
    """Tell whether a match is meant, if it lies in a hidden folder or is hidden."""
    if any(part.casefold() in SIDE_FOLDERS for part in parts):
        return False
    return not any(part.startswith(".") for part in parts) or any(p.startswith(".") for p in pattern.split("/"))


@dataclass(slots=True)
class _Listing:
    """A folder's entries by name, and whether a link leads there."""

    files: dict[str, bool] = field(default_factory=dict)
    folders: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to search: its real path, the folders down to it, whether it is a link, and whether one leads there."""

    real: str
    below: tuple[str, ...] = ()
    is_link: bool = False
    is_linked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """One search from one folder down; with a choice of files, only of those directly in it.

    Attributes:
        results: Real path of the run's folder of slides, or None without a run.
        chosen: Names of the files that count; None for all that are not hidden.
        spelt_suffix: A suffix with which files count whatever they are.
    """

    folder: Path
    recursive: bool
    results: str | None
    tally: Tally
    chosen: set[str] | None = None
    spelt_suffix: str | None = None

    def files(self) -> Iterator[FoundFile]:
        """Yield the slides, folder by folder."""
        top = _Folder(os.path.realpath(self.folder))
        visited: set[str] = set()
        pending, links = [top], list[_Folder]()
        while pending or links:
            # Links come last, so that a folder which can be reached without one keeps its own place.
            folder = pending.pop() if pending else links.pop(0)
            if folder.real in visited or (folder is not top and _holds(folder.real, top.real)):
                self.tally.links += folder.is_link
                continue
            visited.add(folder.real)
            listing = self._list(folder)
            yield from self._slides(folder, listing)
            if not self.recursive:
                return
            for name in sorted(listing.folders, key=natural_key):
                is_link = listing.folders[name]
                real = os.path.realpath(f"{folder.real}/{name}") if is_link else f"{folder.real}/{name}"
                inner = _Folder(real, (*folder.below, name), is_link=is_link, is_linked=is_link or folder.is_linked)
                (links if is_link else pending).append(inner)

    def _list(self, folder: _Folder) -> _Listing:
        """List what is to be looked at in a folder; one that cannot be listed is a problem and empty."""
        listing = _Listing()
        try:
            with os.scandir(folder.real) as entries:
                for entry in entries:
                    if not self._is_aside(entry.name):
                        self._sort_in(entry, folder, listing)
        except OSError as exc:
            where = self.folder.joinpath(*folder.below)
            self.tally.problems.append(
                f"{where}: cannot be listed: {exc.strerror or exc}; slides in it are not among the inputs"
            )
        # The data of a .mrxs stand in a folder of its name.
        for name in [name for name in listing.files if suffix_of(name) == ".mrxs"]:
            data = name[: -len(".mrxs")]
            if data in listing.folders and is_file(f"{folder.real}/{data}/Slidedat.ini"):
                del listing.folders[data]
        return listing

    def _is_aside(self, name: str) -> bool:
        if self.chosen is not None and name in self.chosen:
            return False
        return name.startswith(".") or name.casefold() in SIDE_FOLDERS

    def _sort_in(self, entry: "os.DirEntry[str]", folder: _Folder, listing: _Listing) -> None:
        is_link = entry.is_symlink()
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        # Of broken links, those called like slides become rows, and reading them will say what is wrong.
        if not is_writable(entry.name):
            where = shown(str(self.folder.joinpath(*folder.below, entry.name)))
            self.tally.problems.append(f"{where}: left out, since its name is not UTF-8 and could not be written down")
        elif is_folder and not entry.name.lower().endswith(".zarr"):
            listing.folders[entry.name] = is_link
        elif is_file or (is_link and not is_folder):
            listing.files[entry.name] = is_link
        elif is_folder:
            self.tally.others[".zarr"] += 1

    def _slides(self, folder: _Folder, listing: _Listing) -> Iterator[FoundFile]:
        """Yield the slides among the files of one folder."""
        names = sorted(listing.files if self.chosen is None else listing.files.keys() & self.chosen, key=natural_key)
        parts = parts_of_slides(folder.real, listing.files)
        if self._is_of_results(folder.real, listing):
            names = [name for name in names if suffix_of(name) not in PICTURE_SUFFIXES]
        series = []
        for name in names:
            path = f"{folder.real}/{name}"
            if name in parts:
                self.tally.parts += 1
            elif is_dicom(path, name):
                series.append(read_dicom(Path(path)))
            elif suffix_of(name) == self.spelt_suffix or is_slide(path, name):
                is_link = listing.files[name]
                yield self._found(folder, name, os.path.realpath(path) if is_link else path, is_link=is_link)
            else:
                self.tally.others[suffix_of(name)] += 1
        if radiology := sum(not file.is_whole_slide for file in series):
            self.tally.others[".dcm of other kinds"] += radiology
        for first, group in gather_series(file for file in series if file.is_whole_slide):
            self.tally.parts += len(group) - 1
            uid = group[0].series
            identity = _series_identity(folder.real, uid) if uid else os.path.realpath(f"{folder.real}/{first.name}")
            yield self._found(folder, first.name, identity, is_link=listing.files[first.name])

    def _found(self, folder: _Folder, name: str, identity: str, *, is_link: bool) -> FoundFile:
        path = self.folder.joinpath(*folder.below, name)
        return FoundFile(path, identity, folder.below, is_linked=is_link or folder.is_linked)

    def _is_of_results(self, real: str, listing: _Listing) -> bool:
        """Tell whether a folder holds what tnet wrote of a slide: its pictures are no slides."""
        if RESULT in listing.files and {REGIONS, OVERLAY, MASK} & listing.files.keys():
            return True
        return self.results is not None and _holds(self.results, real)


def _slides_of(out: Path | None) -> str | None:
    return None if out is None else os.path.realpath(out / "slides")


def _holds(folder: str, path: str) -> bool:
    """Tell whether a path is a folder or lies in it; both are real."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _series_identity(folder: str, series: str) -> str:
    return f"DICOM series {series} in {folder}"


def _each_once(files: Iterable[FoundFile], tally: Tally | None) -> list[FoundFile]:
    """Drop files that are there again, rather those that a link leads to, and sort the rest."""
    by_identity: dict[str, FoundFile] = {}
    for file in sorted(files, key=lambda file: (file.is_linked, _place(file))):
        if by_identity.setdefault(file.identity, file) is not file and tally is not None:
            tally.twice += 1
    return sorted(by_identity.values(), key=_place)


def _place(file: FoundFile) -> tuple[object, ...]:
    return tuple(natural_key(part) for part in (*file.below, file.path.name))
