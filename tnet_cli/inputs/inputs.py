"""What the user asked to classify: slides by name, folders and patterns, and manifests that list slides."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Self

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
from tnet_cli.inputs.table import Cells, read_table
from tnet_cli.model.config import problem_of_class_name
from tnet_cli.places import Place, is_url

MANIFEST_COLUMNS = ("slide", "label", "mpp", "patient", "split", "annotation", "roi", "mask", "error")

NO_LABELS = frozenset({"na", "n/a", "nan", "null", "none", "?", "unknown"})
"""What tables have in cells where nothing is known."""

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "tune", "tuning"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv"})

NOTES_OF_A_KIND = 5
"""So many slides that were given again are named, the rest counted."""


@dataclass(frozen=True, slots=True)
class SlideInput:
    """One slide to work on, with what a manifest says of it.

    Attributes:
        path: As the user gave it, or resolved against the manifest's folder; as text it holds no secret.
        name: Unique among the inputs; names the slide's folder of results. Its parts, if there are several, are
            joined by ``/``.
        annotation: GeoJSON of what is drawn on it.
        split: What it is set aside for.
        roi: GeoJSON of the only places on it that count.
        mask: PNG or GeoJSON of where its tissue is.
        roi_class: Only annotations of this class are regions of interest; None for all of them.
        roi_number: Only this one of them is, from 0; None for all of them.
        alias: What is shown and written in place of the path, where names are hidden.
    """

    path: Place
    name: str
    mpp: float | None = None
    label: str | None = None
    annotation: Path | None = None
    patient: str | None = None
    split: str | None = None
    roi: Path | None = None
    mask: Path | None = None
    roi_class: str | None = None
    roi_number: int | None = None
    alias: str | None = None

    @property
    def shown_path(self) -> str:
        """The path as it may be shown and written down: the text of ``path``, or its alias."""
        return self.alias or str(self.path)

    def from_anywhere(self) -> Self:
        """Return it with paths that hold whatever the working folder is; links in them stay, and so does a URL."""
        path = self.path if self.path.is_url else Place(os.path.abspath(self.path))  # noqa: PTH100  `absolute` keeps `..`
        beside = (self.annotation, self.roi, self.mask)
        annotation, roi, mask = (each and Path(os.path.abspath(each)) for each in beside)  # noqa: PTH100
        return replace(self, path=path, annotation=annotation, roi=roi, mask=mask)


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
    given: Sequence[str | Place],
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
    for place in map(Place, given):
        text = place.opened_whole()
        if not text.strip():
            raise UsageError("one of the inputs is empty; expected a slide, folder, pattern, URL or manifest")
        if not is_writable(text):
            empty.append(f"{shown(str(place))}: left out, since its name is not UTF-8 and could not be written down")
        elif place.is_url or os.path.lexists(text) or not is_pattern(text):
            if not place.is_url and is_folder(text):
                found, problem = _in_folder(Path(place), recursive=recursive, out=out, on_note=on_note)
                candidates.extend(found)
                empty.extend([problem] if problem else [])
            elif place.suffix in MANIFEST_SUFFIXES:
                candidates.extend(_in_manifest(place, on_note))
            else:
                candidates.append(_given(place))
        else:
            candidates.extend(_matching(text, recursive=recursive, out=out, on_note=on_note))
    if not candidates:
        raise UsageError("; ".join(empty) or "no inputs are given")
    for problem in empty:
        on_note(problem)
    return _named(_each_once(candidates, on_note))


def _named(candidates: Sequence[_Candidate]) -> list[SlideInput]:
    names = unique_names([candidate.source for candidate in candidates])
    return [replace(candidate.entry, name=name) for candidate, name in zip(candidates, names, strict=True)]


def _given(place: Place) -> _Candidate:
    """Make a candidate of a slide that is named, whatever it is."""
    if place.is_url:
        *folders, name = place.parts
        file = PurePosixPath(name)
        # What tells its address from others is in its name, so that no later run takes one for the other.
        stem = "-".join(filter(None, (file.stem, place.query)))
        return _Candidate(SlideInput(place, stem), NameSource(tuple(folders), stem, file.suffix), str(place))
    path = Path(place)
    identity = identity_of(path)
    parts_of_it: tuple[str, ...] = ()
    if suffix_of(path.name) in INDEX_SUFFIXES:
        real = Path(os.path.realpath(path)).parent
        parts_of_it = tuple(str(real / name) for name in listed_in(path))
    return _Candidate(SlideInput(place, path.stem), _name_source(path, 0), identity, parts_of_it)


def _name_source(path: Path, depth: int) -> NameSource:
    folders = Path(os.path.abspath(path)).parent.parts[1:]  # noqa: PTH100  `absolute` keeps `..`
    return NameSource(folders, path.stem, path.suffix, depth)


def _found(file: FoundFile) -> _Candidate:
    return _Candidate(
        SlideInput(Place(file.path), file.path.stem), _name_source(file.path, len(file.below)), file.identity
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
            candidates.extend(_in_manifest(Place(file.path), on_note))
        else:
            candidates.append(_found(file))
    return candidates


def _in_manifest(place: Place, on_note: NoteFunction) -> list[_Candidate]:
    if place.is_url:
        raise ManifestError(f"{place}: manifests are read from this machine; download it and give the file")
    manifest = Path(place)
    candidates = []
    for entry in read_manifest(manifest, on_note=on_note):
        if entry.path.is_url:
            candidate = _given(entry.path)
        else:
            path = Path(entry.path)
            below = path.parent.parts[len(manifest.parent.parts) :] if path.is_relative_to(manifest.parent) else ()
            candidate = replace(_given(entry.path), source=_name_source(path, 0 if ".." in below else len(below)))
        candidates.append(replace(candidate, entry=entry))
    return candidates


def _each_once(
    candidates: list[_Candidate], on_note: NoteFunction, same_manifest: Path | None = None
) -> list[_Candidate]:
    """Drop what is given again, or is part of another slide that is given; what a manifest says of it is kept.

    Args:
        same_manifest: Lists all of them, and must not say different things of one.
    """
    wholes = {part: candidate for candidate in candidates for part in candidate.parts}
    kept: dict[str, _Candidate] = {}
    again: list[str] = []
    for candidate in candidates:
        path = candidate.entry.shown_path
        if candidate.identity in wholes and wholes[candidate.identity].identity != candidate.identity:
            again.append(f"{path}: belongs to {wholes[candidate.identity].entry.shown_path} and is no row of its own")
        elif first := kept.get(candidate.identity):
            again.append(f"{path}: {_how_again(first.entry.path, candidate.entry.path)}; it counts once")
            kept[candidate.identity] = replace(first, entry=_completed(first.entry, candidate.entry))
            if same_manifest is not None:
                _refuse_contradiction(same_manifest, first.entry, candidate.entry)
        else:
            kept[candidate.identity] = candidate
    for sentence in again[:NOTES_OF_A_KIND]:
        on_note(sentence)
    if len(again) > NOTES_OF_A_KIND:
        on_note(f"and {counted(len(again) - NOTES_OF_A_KIND, 'other input')} given again or belonging to another slide")
    return list(kept.values())


def _how_again(first: Place, again: Place) -> str:
    if first != again:
        return f"the same slide as {first}"
    if first.opened_whole() != again.opened_whole():
        return "given twice, with another signature, token or password"
    return "given twice"


def _completed(first: SlideInput, again: SlideInput) -> SlideInput:
    """Fill in what the first mention of a slide leaves open."""
    missing = [field.name for field in fields(first) if getattr(first, field.name) is None]
    known = {name: value for name in missing if (value := getattr(again, name)) is not None}
    return replace(first, **known) if known else first


def _refuse_contradiction(manifest: Path, first: SlideInput, again: SlideInput) -> None:
    for name in ("label", "patient", "split", "mpp", "annotation", "roi", "mask"):
        one, other = getattr(first, name), getattr(again, name)
        if one != other:
            how = "twice" if first.path == again.path else f"as {first.shown_path} too"
            raise ManifestError(
                f"{manifest}: {again.shown_path} is listed {how}, with the {name} {_shown(one)} and {_shown(other)}; "
                "leave one of the rows out"
            )


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value if isinstance(value, float) else str(value))


def read_manifest(path: Path, *, on_note: NoteFunction = lambda _note: None) -> list[SlideInput]:
    """Read a manifest: a table with a column ``slide`` and optionally others of ``MANIFEST_COLUMNS``.

    Relative paths are relative to the manifest; URLs and absolute paths stay. A folder stands for the one slide in it.

    Args:
        on_note: Told of slides that are listed twice; they count once.

    Raises:
        ManifestError: the file is missing, is not such a table, a value cannot be used, or a slide is listed twice
            with different values.
    """
    rows: dict[Place, SlideInput] = {}
    for line, cells in read_table(path, MANIFEST_COLUMNS):
        row = _manifest_row(path, line, cells)
        if (first := rows.setdefault(row.path, row)) is row:
            continue
        if first != row:
            raise ManifestError(f"{path}, line {line}: {row.shown_path} is listed before with other values")
        on_note(f"{path}, line {line}: {row.shown_path} is listed twice; it counts once")
    if not rows:
        raise ManifestError(f"{path}: lists no slides")
    return list(rows.values())


def read_labelled(path: Path, *, on_note: NoteFunction = lambda _note: None) -> list[SlideInput]:
    """Read a manifest of slides to learn from or to be judged on, each once and by a name of its own.

    Args:
        on_note: Told of slides that are listed twice, which count once, and of labels that may mean that there is none.

    Raises:
        ManifestError: as ``read_manifest``; also where it is a slide itself, a slide is listed twice by different
            ways to it, or a label is no name for a class.
    """
    if suffix_of(path.name) in SLIDE_SUFFIXES:
        raise ManifestError(f"{path}: is a slide by its name; give a table of slides, with columns slide and label")
    entries = _named(_each_once(_in_manifest(Place(path), on_note), on_note, same_manifest=path))
    labels = Counter(entry.label for entry in entries if entry.label is not None)
    for label, count in labels.items():
        if (problem := problem_of_class_name(label)) is not None:
            raise ManifestError(f"{path}: the label {label!r} of {counted(count, 'slide')} {problem}")
        if label.casefold() in NO_LABELS:
            on_note(
                f"{path}: the label {label!r} of {counted(count, 'slide')} is taken for the name of a class; "
                "leave the cell empty if it means that the class is not known"
            )
    return entries


def split_name(text: str) -> str:
    """Return what a split is called here, however it is spelled; one of no known meaning keeps its name."""
    return SPLIT_WORDS.get(text.strip().casefold(), text)


def _manifest_row(manifest: Path, line: int, cells: Cells) -> SlideInput:
    slide, mpp = cells.get("slide"), cells.get("mpp")
    beside = {name: manifest.parent / file for name in ("annotation", "roi", "mask") if (file := cells.get(name))}
    if not slide:
        raise ManifestError(f"{manifest}, line {line}: the column 'slide' is empty")
    path = Place(slide if is_url(slide) else _local_slide(manifest, line, slide))
    return SlideInput(
        path=path,
        name=_given(path).source.stem if path.is_url else Path(path).stem,
        mpp=_mpp(manifest, line, mpp) if mpp else None,
        label=cells.get("label"),
        patient=cells.get("patient"),
        split=split_name(cells.get("split") or "") or None,
        annotation=beside.get("annotation"),
        roi=beside.get("roi"),
        mask=beside.get("mask"),
    )


def _local_slide(manifest: Path, line: int, slide: str) -> Path:
    """Return a slide's path; of a folder, such as a DICOM series, that of the only slide in it."""
    path = manifest.parent / slide
    if suffix_of(path.name) in SLIDE_SUFFIXES or not is_folder(path):
        return path
    found = slides_in(path, recursive=False, tally=Tally())
    if len(found) != 1:
        raise ManifestError(
            f"{manifest}, line {line}: {path} is a folder with {counted(len(found), 'slide')}; expected one slide"
        )
    return found[0].path


def _mpp(manifest: Path, line: int, text: str) -> float:
    try:
        mpp = float(text.replace(",", "."))
    except ValueError as exc:
        raise ManifestError(f"{manifest}, line {line}: mpp {text!r} is not a number") from exc
    if not (math.isfinite(mpp) and mpp > 0):
        raise ManifestError(f"{manifest}, line {line}: mpp {text!r} is not a positive number")
    return mpp
