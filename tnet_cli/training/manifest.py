"""The training manifest: labelled slides, their patients, and the classes they make."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from tnet_cli.errors import ManifestError
from tnet_cli.inputs.discovery import NoteFunction
from tnet_cli.inputs.fingerprint import content_of
from tnet_cli.inputs.inputs import SlideInput, read_labelled
from tnet_cli.inputs.roi import refuse_limits
from tnet_cli.places import Place

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class LabelledSlide:
    """One row of a training manifest.

    Attributes:
        key: Names the slide whatever machine it is on: its path from the manifest's folder, or its URL.
        annotation_key: Names its annotation, likewise.
        group: What must not be torn apart by a split: the patient, or the slide itself where none is given.
        split: What the manifest says of its group, or None.
    """

    entry: SlideInput
    label: str
    key: str
    annotation_key: str | None
    group: str
    split: Split | None

    @classmethod
    def of(cls, entry: SlideInput, key: str, annotation_key: str | None, split: Split | None) -> Self:
        """Make a slide of a row."""
        group = f"patient {entry.patient}" if entry.patient else f"slide {key}"
        return cls(entry, entry.label or "", key, annotation_key, group, split)


@dataclass(frozen=True, slots=True)
class TrainingManifest:
    """Slides to learn from.

    Attributes:
        slides: In the order of the CSV.
        class_names: In the order of the logits.
        digest: SHA-256 of what the rows say, hexadecimal; the same wherever the folder is.
    """

    path: Path
    slides: tuple[LabelledSlide, ...]
    class_names: tuple[str, ...]
    digest: str

    @classmethod
    def read(
        cls,
        path: Path,
        classes: Sequence[str] | None = None,
        normal_class: str | None = None,
        on_note: NoteFunction = lambda _note: None,
    ) -> Self:
        """Read a manifest ``slide,label[,patient,split,mpp,annotation]``.

        Args:
            classes: All classes in the order of the logits; the labels, sorted, when None.
            normal_class: Class of what is not annotated; the first class when ``classes`` does not order them.
            on_note: Told of slides that are listed twice, and of labels that may mean that there is none.

        Raises:
            ManifestError: the file cannot be used, or its labels, patients, splits or slides contradict themselves.
        """
        entries = read_labelled(path, on_note=on_note)
        refuse_limits(entries, "tnet train")
        _refuse_missing_labels(path, entries)
        class_names = _order_classes(path, [entry.label or "" for entry in entries], classes, normal_class)
        unsplit = [
            LabelledSlide.of(entry, _from_folder(path, entry.path), _annotation_key(path, entry), None)
            for entry in entries
        ]
        splits = _splits_of_groups(path, unsplit)
        slides = tuple(replace(slide, split=splits[slide.group]) for slide in unsplit)
        return cls(path=path, slides=slides, class_names=class_names, digest=_digest(slides))

    def contents(self) -> dict[str, Any]:
        """Return of each slide, by what it is known by wherever it lies (``content_of``), the keys; JSON values."""
        return {
            content_of(slide.entry.path): [slide.key, slide.annotation_key, _annotation_content(slide)]
            for slide in self.slides
        }

    def named_by(self, contents: Mapping[str, Any]) -> Self:
        """Return the manifest with the keys that its slides and annotations had when they lay elsewhere."""
        slides = []
        for slide in self.slides:
            key, annotation_key = slide.key, slide.annotation_key
            match contents.get(content_of(slide.entry.path)):
                case [str(earlier), drawn, content]:
                    key = earlier
                    annotation_key = drawn if content == _annotation_content(slide) else annotation_key
            slides.append(LabelledSlide.of(slide.entry, key, annotation_key, slide.split))
        return replace(self, slides=tuple(slides), digest=_digest(slides))

    def count(self, slides: Sequence[LabelledSlide] | None = None) -> dict[str, int]:
        """Return the number of slides of each class, of all slides or of some."""
        counts = Counter(slide.label for slide in (self.slides if slides is None else slides))
        return {name: counts[name] for name in self.class_names}


def _refuse_missing_labels(path: Path, entries: Sequence[SlideInput]) -> None:
    missing = [entry for entry in entries if entry.label is None]
    if missing and len(missing) == len(entries):
        raise ManifestError(f"{path}: no slide has a label; expected a column 'label' with the class of each slide")
    if missing:
        raise ManifestError(
            f"{path}: {len(missing)} of {len(entries)} slides have no label, such as {missing[0].path}; "
            "give each its class, or leave its row out"
        )


def _order_classes(
    path: Path, labels: Sequence[str], classes: Sequence[str] | None, normal_class: str | None
) -> tuple[str, ...]:
    found = sorted(set(labels))
    if len(found) < 2 and classes is None:
        raise ManifestError(
            f"{path}: all {len(labels)} slides have the label {found[0]!r}; a model needs two classes or more"
        )
    if normal_class is not None and normal_class not in (classes or found):
        raise ManifestError(
            f"{path}: the normal class {normal_class!r} is not among the classes {', '.join(classes or found)}"
        )
    if classes is None:
        # The threshold of two classes is the last one's: what is looked for, not what is normal.
        return tuple(sorted(found, key=lambda name: (name != normal_class, name)))
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise ManifestError(
            f"{path}: the label {unknown[0]!r} ({labels.count(unknown[0])} slides) is not among the classes "
            f"{', '.join(classes)} that were asked for"
        )
    empty = [name for name in classes if name not in found]
    if empty:
        raise ManifestError(f"{path}: no slide has the label {empty[0]!r}; found {', '.join(found)}")
    return tuple(classes)


def _splits_of_groups(path: Path, slides: Sequence[LabelledSlide]) -> dict[str, Split | None]:
    said: dict[str, dict[Split, SlideInput]] = defaultdict(dict)
    for slide in slides:
        entry = slide.entry
        if entry.split is None:
            continue
        split = next((known for known in SPLITS if known == entry.split), None)
        if split is None:
            raise ManifestError(
                f"{path}: {entry.shown_path} has the split {entry.split!r}; "
                "expected train, validation (or val, tune), test, or nothing"
            )
        said[slide.group].setdefault(split, entry)
    for ways in said.values():
        if len(ways) > 1:
            (one, first), (other, second) = list(ways.items())[:2]
            raise ManifestError(
                f"{path}: patient {first.patient} is in two splits, {one} ({first.path}) and {other} ({second.path}); "
                "a patient must be in one"
            )
    return {slide.group: next(iter(said.get(slide.group, ())), None) for slide in slides}


def _from_folder(manifest: Path, path: Place | Path) -> str:
    """Return a path from the manifest's folder; a URL, as it may be shown, is the same from everywhere."""
    is_address = isinstance(path, Place) and path.is_url
    return str(path) if is_address else Path(os.path.relpath(path, manifest.parent)).as_posix()


def _annotation_key(manifest: Path, entry: SlideInput) -> str | None:
    return _from_folder(manifest, entry.annotation) if entry.annotation else None


def _annotation_content(slide: LabelledSlide) -> str | None:
    return content_of(slide.entry.annotation) if slide.entry.annotation else None


def _digest(slides: Sequence[LabelledSlide]) -> str:
    rows = [
        (slide.key, slide.label, slide.entry.patient, slide.split, slide.entry.mpp, slide.annotation_key)
        for slide in slides
    ]
    # In the order of the slides' names: rows in another order are the same manifest.
    return hashlib.sha256(repr(sorted(rows, key=lambda row: row[0])).encode(errors="surrogateescape")).hexdigest()
