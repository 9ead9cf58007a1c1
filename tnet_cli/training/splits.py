"""Which slides train and which validate: by patient, with every class in its proportion, never leaking.

A split depends on the seed and on the names of patients and slides, not on the order of the manifest's rows nor on
the machine.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet_cli.errors import ManifestError
from tnet_cli.files import table_text
from tnet_cli.training.manifest import LabelledSlide, Split, TrainingManifest

SPLIT_COLUMNS = ("slide", "label", "patient", "split", "mpp", "annotation")
FOLD_COLUMNS = ("slide", "label", "patient", "fold")


@dataclass(frozen=True, slots=True)
class DataSplit:
    """One way to divide the slides of a manifest; each part in the order of the manifest.

    Attributes:
        train: Learnt from.
        validation: Measured on while training and at its end; may be empty.
        test: Set aside by the manifest, and not looked at.
        notes: One sentence for whatever the user should know of the split.
    """

    train: tuple[LabelledSlide, ...]
    validation: tuple[LabelledSlide, ...]
    test: tuple[LabelledSlide, ...]
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[Split, tuple[LabelledSlide, ...]]:
        """The slides by what the manifest's column ``split`` calls them."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split_slides(manifest: TrainingManifest, *, validation_share: float, seed: int) -> DataSplit:
    """Divide a manifest into training and validation slides.

    What the manifest's column ``split`` says is kept. Patients it says nothing of train when it names validation
    slides; otherwise as many of them validate, stratified by class, as make the share.

    Args:
        validation_share: Share of the slides that are not for testing to validate on, in [0, 1).
        seed: The same seed gives the same split.

    Raises:
        ManifestError: a class would have no slide to train on.
    """
    said: dict[str, Split] = {slide.group: slide.split for slide in manifest.slides if slide.split is not None}
    undecided = [slide for slide in manifest.slides if slide.group not in said]
    if "validation" in said.values() or validation_share == 0:
        chosen: set[str] = set()
    else:
        candidates = [slide for slide in manifest.slides if slide.split != "test"]
        chosen = _draw_validation(candidates, validation_share, seed)
    parts: dict[str, Split] = {slide.group: "validation" if slide.group in chosen else "train" for slide in undecided}
    return _divided(manifest, parts | said)


def fold_slides(manifest: TrainingManifest, *, folds: int, seed: int) -> tuple[DataSplit, ...]:
    """Divide a manifest ``folds`` times, so that every slide validates once: stratified group K-fold.

    Slides that the manifest calls ``test`` are in no fold.

    Args:
        folds: Number of divisions, at least 2.
        seed: The same seed gives the same folds.

    Raises:
        ManifestError: the manifest has train and validation slides of its own, or a class has fewer patients than
            there are folds.
    """
    # Here and not above: a run without folds need not wait for scikit-learn.
    from sklearn.model_selection import StratifiedGroupKFold

    fixed = next((slide for slide in manifest.slides if slide.split in {"train", "validation"}), None)
    if fixed is not None:
        raise ManifestError(
            f"{manifest.path}: its column 'split' says already who trains and who validates "
            f"(such as {fixed.entry.path}); leave --folds out, or keep nothing but 'test' in that column"
        )
    slides = sorted((slide for slide in manifest.slides if slide.split is None), key=lambda slide: slide.key)
    for name in manifest.class_names:
        groups = {slide.group for slide in slides if slide.label == name}
        if len(groups) < folds:
            raise ManifestError(
                f"{manifest.path}: the class {name!r} has {len(groups)} patients, fewer than the {folds} folds; "
                f"give at most {len(groups)} folds"
                if len(groups) > 1
                else f"{manifest.path}: the class {name!r} has {len(groups)} patient, too few for folds"
            )
    labels = np.array([manifest.class_names.index(slide.label) for slide in slides])
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    divided = []
    for _, validating in splitter.split(np.zeros(len(slides)), labels, [slide.group for slide in slides]):
        chosen = {slides[index].group for index in validating}
        parts: dict[str, Split] = {slide.group: "validation" if slide.group in chosen else "train" for slide in slides}
        parts |= {slide.group: "test" for slide in manifest.slides if slide.split == "test"}
        divided.append(_divided(manifest, parts))
    return tuple(divided)


def split_table(split: DataSplit) -> str:
    """Return a split as CSV text that is itself a manifest, with absolute paths."""
    rows = [
        _row(slide) | {"split": name, "mpp": slide.entry.mpp, "annotation": slide.entry.from_anywhere().annotation}
        for name, slides in split.parts.items()
        for slide in slides
    ]
    return table_text(SPLIT_COLUMNS, rows)


def fold_table(folds: Sequence[DataSplit]) -> str:
    """Return folds as CSV text: for each slide the fold it validates in, counted from 1; empty for test slides."""
    rows = [_row(slide) | {"fold": number} for number, split in enumerate(folds, start=1) for slide in split.validation]
    rows += [_row(slide) | {"fold": None} for slide in folds[0].test]
    return table_text(FOLD_COLUMNS, rows)


def _row(slide: LabelledSlide) -> dict[str, object]:
    return {"slide": slide.entry.from_anywhere().shown_path, "label": slide.label, "patient": slide.entry.patient}


def _divided(manifest: TrainingManifest, parts: dict[str, Split]) -> DataSplit:
    """Put every slide where its group belongs, and check what came out."""
    by_part: dict[Split, list[LabelledSlide]] = {"train": [], "validation": [], "test": []}
    for slide in manifest.slides:
        by_part[parts[slide.group]].append(slide)
    notes = []
    for name, count in manifest.count(by_part["train"]).items():
        if count == 0:
            raise ManifestError(
                f"{manifest.path}: no slide of class {name!r} is left to train on; give more slides of it, "
                "or another split"
            )
    if not by_part["validation"]:
        notes.append("no slides are set aside for validation, so nothing will tell how good the model is")
    else:
        missing = [name for name, count in manifest.count(by_part["validation"]).items() if count == 0]
        notes += [f"no slide of class {name!r} is among the validation slides" for name in missing]
    train, validation, test = map(tuple, by_part.values())
    return DataSplit(train, validation, test, notes=tuple(notes))


def _draw_validation(slides: Sequence[LabelledSlide], share: float, seed: int) -> set[str]:
    """Choose whole groups until each class has its share, rare classes first; each keeps a group to train on."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for slide in slides:
        counts[slide.group][slide.label] += 1
    order = sorted(counts, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    members = {name: [g for g in order if counts[g][name]] for name in {n for c in counts.values() for n in c}}
    wanted = {name: share * sum(counts[group][name] for group in groups) for name, groups in members.items()}
    chosen: set[str] = set()
    decided = {slide.group for slide in slides if slide.split is not None}

    def spares(group: str) -> bool:
        return all(any(g != group and g not in chosen for g in members[name]) for name in counts[group])

    def has(name: str) -> int:
        return sum(counts[group][name] for group in chosen)

    for name in sorted(members, key=lambda name: (len(members[name]), name)):
        for group in members[name]:
            # A group is taken when that brings the class nearer to its share than leaving it.
            if group not in decided and has(name) + counts[group][name] / 2 <= wanted[name] and spares(group):
                chosen.add(group)
        if not has(name):
            free = (group for group in members[name] if group not in decided and spares(group))
            smallest = sorted(free, key=lambda group: counts[group].total())
            chosen.update(smallest[:1])
        decided.update(members[name])
    return chosen
