"""What the user asked to classify: slides by name, folders and patterns, and manifests that list slides."""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import unquote, urlsplit

from tnet_cli.errors import ManifestError, UsageError
from tnet_cli.inputs.discovery import (
    FoundFile,
    NoteFunction,
    Tally,
    counted,
    identity_of,
    is_pattern,
    is_writable,
    shown,
    slides_in,
    slides_matching,
)
from tnet_cli.inputs.formats import INDEX_SUFFIXES, SLIDE_SUFFIXES, is_folder, listed_in, suffix_of
from tnet_cli.inputs.names import NameSource, unique_names
from tnet_cli.urls import is_url, redacted

MANIFEST_COLUMNS = ("slide", "label", "mpp", "patient", "split", "annotation", "error")

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv"})

NOTES_OF_A_KIND = 5
"""So many slides that were given again are named, the rest counted."""


@dataclass(frozen=True, slots=True)
class SlideInput:
    """One slide to work on, with what a manifest says of it.

    Attributes:
        path: As the user gave it, or resolved against the manifest's folder.
        name: Unique among the inputs; names the slide's folder of results. Its parts, if there are several, are
            joined by ``/``.
        annotation: GeoJSON of what is drawn on it.
        split: What it is set aside for.
    """

    path: str
    name: str
    mpp: float | None = None
    label: str | None = None
    annotation: Path | None = None
    patient: str | None = None
    split: str | None = None

    @property
    def shown_path(self) -> str:
        """The path as it may be shown and written down: a URL without credentials and query."""
        return redacted(self.path)

    def from_anywhere(self) -> Self:
        """Return it with paths that hold whatever the working folder is; links in them stay, and so does a URL."""
        path = self.path if is_url(self.path) else os.path.abspath(self.path)  # noqa: PTH100  `absolute` keeps `..`
        return replace(self, path=path, annotation=self.annotation and Path(os.path.abspath(self.annotation)))  # noqa: PTH100


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A slide before it is known whether it is given twice and how it is called.

    Attributes:
        entry: With the stem for a name.
        identity: The same for every way to the slide.
        parts: Identities of files that belong to it.
    """

    entry: SlideInput
    source: NameSource
    identity: str
    parts: tuple[str, ...] = ()


def find_inputs(
    given: Sequence[str],
    *,
    recursive: bool = True,
    out: Path | None = None,
    on_note: NoteFunction = lambda _note: None,
) -> list[SlideInput]:
    """Turn the command line's inputs into slides, in the order given; folders and patterns in natural order.

    Args:
        given: Slides, folders, patterns with ``*``, ``?``, ``[...]`` or ``**``, URLs, and manifests (files ending in
            ``.csv`` or ``.tsv``), in any mix.
        out: The run's folder of results, which may lie in a folder that is searched.
        on_note: Told in a sentence what was left out: files that are no slides, slides given twice, folders that
            cannot be listed.

    Returns:
        One entry for each slide. A slide that does not exist is kept: it becomes a failed row, or an error when it is
        the only one. Files of one DICOM series, and the parts of slides in several files, are one entry.

    Raises:
        ManifestError: a manifest cannot be used.
        UsageError: an input is an empty text, a pattern matches nothing, or none of the inputs holds a slide.
    """
    candidates: list[_Candidate] = []
    empty: list[str] = []
    for text in given:
        if not text.strip():
            raise UsageError("one of the inputs is empty; expected a slide, folder, pattern, URL or manifest")
        if not is_writable(text):
            empty.append(f"{shown(text)}: left out, since its name is not UTF-8 and could not be written down")
        elif is_url(text) or os.path.lexists(text) or not is_pattern(text):
            path = Path(text)
            if not is_url(text) and is_folder(path):
                found, problem = _in_folder(path, recursive=recursive, out=out, on_note=on_note)
                candidates.extend(found)
                empty.extend([problem] if problem else [])
            elif suffix_of(urlsplit(text).path if is_url(text) else path.name) in MANIFEST_SUFFIXES:
                candidates.extend(_in_manifest(text, on_note))
            else:
                candidates.append(_given(text))
        else:
            candidates.extend(_matching(text, recursive=recursive, out=out, on_note=on_note))
    if not candidates:
        raise UsageError("; ".join(empty) or "no inputs are given")
    for problem in empty:
        on_note(problem)
    kept = _each_once(candidates, on_note)
    names = unique_names([candidate.source for candidate in kept])
    return [replace(candidate.entry, name=name) for candidate, name in zip(kept, names, strict=True)]


def _given(text: str) -> _Candidate:
    """Make a candidate of a slide that is named, whatever it is."""
    if is_url(text):
        parts = urlsplit(redacted(text))
        place = PurePosixPath(unquote(parts.path))
        folders = (parts.netloc, *(part for part in place.parent.parts if part not in {"/", "."}))
        source = NameSource(folders, place.stem or parts.netloc, place.suffix)
        return _Candidate(SlideInput(path=text, name=source.stem), source, text)
    path = Path(text)
    identity = identity_of(path)
    parts_of_it: tuple[str, ...] = ()
    if suffix_of(path.name) in INDEX_SUFFIXES:
        real = Path(os.path.realpath(path)).parent
        parts_of_it = tuple(str(real / name) for name in listed_in(path))
    return _Candidate(SlideInput(path=text, name=path.stem), _name_source(path, 0), identity, parts_of_it)


def _name_source(path: Path, depth: int) -> NameSource:
    folders = Path(os.path.abspath(path)).parent.parts[1:]  # noqa: PTH100  `absolute` keeps `..`
    return NameSource(folders, path.stem, path.suffix, depth)


def _found(file: FoundFile) -> _Candidate:
    return _Candidate(
        SlideInput(path=str(file.path), name=file.path.stem), _name_source(file.path, len(file.below)), file.identity
    )


def _in_folder(
    folder: Path, *, recursive: bool, out: Path | None, on_note: NoteFunction
) -> tuple[list[_Candidate], str | None]:
    """Return the slides in a folder, or what to say when there are none."""
    tally = Tally()
    found = slides_in(folder, recursive=recursive, out=out, tally=tally)
    if found:
        tally.tell(str(folder), on_note)
        return [_found(file) for file in found], None
    if tally.problems:
        return [], tally.problems[0]
    where = "in it or the folders below it" if recursive else "directly in it, and --no-recursive was asked for"
    seen = f"{counted(tally.others.total(), 'other file')} ({tally.kinds()})" if tally.others else "no files at all"
    return [], f"{folder}: no slides {where}; found {seen}, expected .svs, .tif, .ndpi, .mrxs, .dcm, .png or the like"


def _matching(pattern: str, *, recursive: bool, out: Path | None, on_note: NoteFunction) -> list[_Candidate]:
    tally = Tally()
    found = slides_matching(pattern, recursive=recursive, out=out, tally=tally)
    if not found:
        seen = f"only {counted(tally.others.total(), 'file')} ({tally.kinds()})" if tally.others else "nothing"
        raise UsageError(f"{pattern}: matches no slide, {seen}; check the pattern and the folder it starts from")
    tally.tell(pattern, on_note)
    candidates: list[_Candidate] = []
    for file in found:
        if suffix_of(file.path.name) in MANIFEST_SUFFIXES:
            candidates.extend(_in_manifest(str(file.path), on_note))
        else:
            candidates.append(_found(file))
    return candidates


def _in_manifest(text: str, on_note: NoteFunction) -> list[_Candidate]:
    if is_url(text):
        raise ManifestError(f"{redacted(text)}: manifests are read from this machine; download it and give the file")
    manifest = Path(text)
    candidates = []
    for entry in read_manifest(manifest, on_note=on_note):
        if is_url(entry.path):
            candidate = _given(entry.path)
        else:
            path = Path(entry.path)
            below = path.parent.parts[len(manifest.parent.parts) :] if path.is_relative_to(manifest.parent) else ()
            candidate = replace(_given(entry.path), source=_name_source(path, 0 if ".." in below else len(below)))
        candidates.append(replace(candidate, entry=entry))
    return candidates


def _each_once(candidates: list[_Candidate], on_note: NoteFunction) -> list[_Candidate]:
    """Drop what is given again, or is part of another slide that is given; what a manifest says of it is kept."""
    wholes = {part: candidate for candidate in candidates for part in candidate.parts}
    kept: dict[str, _Candidate] = {}
    again: list[str] = []
    for candidate in candidates:
        path = candidate.entry.shown_path
        if candidate.identity in wholes and wholes[candidate.identity].identity != candidate.identity:
            again.append(f"{path}: belongs to {wholes[candidate.identity].entry.shown_path} and is no row of its own")
        elif first := kept.get(candidate.identity):
            same = (
                f"{path}: given twice"
                if path == first.entry.shown_path
                else f"{path}: the same slide as {first.entry.shown_path}"
            )
            again.append(f"{same}; it counts once")
            kept[candidate.identity] = replace(first, entry=_completed(first.entry, candidate.entry))
        else:
            kept[candidate.identity] = candidate
    for sentence in again[:NOTES_OF_A_KIND]:
        on_note(sentence)
    if len(again) > NOTES_OF_A_KIND:
        on_note(f"and {counted(len(again) - NOTES_OF_A_KIND, 'other input')} given again or belonging to another slide")
    return list(kept.values())


def _completed(first: SlideInput, again: SlideInput) -> SlideInput:
    """Fill in what the first mention of a slide leaves open."""
    return replace(first, **{name: value for name, value in asdict(again).items() if getattr(first, name) is None})


def read_manifest(path: Path, *, on_note: NoteFunction = lambda _note: None) -> list[SlideInput]:
    """Read a manifest: a table with a column ``slide`` and optionally label, mpp, patient, split, annotation.

    Columns are separated by commas, semicolons or tabs, as spreadsheets of all countries write them. Relative paths
    are relative to the manifest; URLs and absolute paths stay. A folder stands for the one slide in it.

    Args:
        on_note: Told of slides that are listed twice; they count once.

    Raises:
        ManifestError: the file is missing, is not such a table, a value cannot be used, or a slide is listed twice
            with different values.
    """
    try:
        text = _text_of(path)
        table = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
        columns = tuple(column.strip() for column in next(table, []))
        _check_columns(path, columns)
        rows: dict[str, SlideInput] = {}
        for values in table:
            if not any(value.strip() for value in values):
                continue
            if len(values) > len(columns):
                raise ManifestError(
                    f"{path}, line {table.line_num}: {len(values)} values for {len(columns)} columns; "
                    "put values that hold a separator in quotes"
                )
            cells = {column: value.strip() or None for column, value in zip(columns, values, strict=False)}
            row = _manifest_row(path, table.line_num, cells)
            if (first := rows.setdefault(row.path, row)) is row:
                continue
            if first != row:
                raise ManifestError(
                    f"{path}, line {table.line_num}: {row.shown_path} is listed before with other values"
                )
            on_note(f"{path}, line {table.line_num}: {row.shown_path} is listed twice; it counts once")
    except (OSError, csv.Error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ManifestError(f"{path}: cannot be read as a CSV manifest: {reason}") from exc
    if not rows:
        raise ManifestError(f"{path}: lists no slides")
    return list(rows.values())


def _text_of(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ManifestError(
            f"{path}: cannot be read as a CSV manifest: it is not UTF-8 text; save the table as CSV UTF-8"
        )
    return text


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count) if header else ","


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    if "slide" not in columns:
        raise ManifestError(f"{path}: no column 'slide'; found {', '.join(columns) or 'nothing'}")
    for column in columns:
        if column and column not in MANIFEST_COLUMNS:
            raise ManifestError(f"{path}: unknown column {column!r}; expected some of {', '.join(MANIFEST_COLUMNS)}")
        if column and columns.count(column) > 1:
            raise ManifestError(f"{path}: the column {column!r} is there twice")


def _manifest_row(manifest: Path, line: int, cells: dict[str, str | None]) -> SlideInput:
    slide, annotation, mpp = cells.get("slide"), cells.get("annotation"), cells.get("mpp")
    if not slide:
        raise ManifestError(f"{manifest}, line {line}: the column 'slide' is empty")
    path = slide if is_url(slide) else _local_slide(manifest, line, slide)
    return SlideInput(
        path=path,
        name=_given(path).source.stem if is_url(path) else Path(path).stem,
        mpp=_mpp(manifest, line, mpp) if mpp else None,
        label=cells.get("label"),
        annotation=manifest.parent / annotation if annotation else None,
        patient=cells.get("patient"),
        split=cells.get("split"),
    )


def _local_slide(manifest: Path, line: int, slide: str) -> str:
    """Return a slide's path; of a folder, such as a DICOM series, that of the only slide in it."""
    path = manifest.parent / slide
    if suffix_of(path.name) in SLIDE_SUFFIXES or not is_folder(path):
        return str(path)
    found = slides_in(path, recursive=False, tally=Tally())
    if len(found) != 1:
        raise ManifestError(
            f"{manifest}, line {line}: {path} is a folder with {counted(len(found), 'slide')}; expected one slide"
        )
    return str(found[0].path)


def _mpp(manifest: Path, line: int, text: str) -> float:
    try:
        mpp = float(text.replace(",", "."))
    except ValueError as exc:
        raise ManifestError(f"{manifest}, line {line}: mpp {text!r} is not a number") from exc
    if not (math.isfinite(mpp) and mpp > 0):
        raise ManifestError(f"{manifest}, line {line}: mpp {text!r} is not a positive number")
    return mpp
