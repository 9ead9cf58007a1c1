"""Which rows of a manifest are judged and which calibrate, checked before any slide is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tnet_cli.errors import ManifestError
from tnet_cli.inputs.annotation import areas_that_count
from tnet_cli.inputs.inputs import SlideInput, read_labelled, split_name

JUDGED_BY_DEFAULT = "test"
EVERY_SPLIT = "all"
NAMED = 3
"""How many slides or patients an error names."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows an evaluation works on.

    Attributes:
        judged: The slides that are judged.
        split: Their split, ``all`` for every row, or None when the manifest has no splits.
        calibration: The slides that the calibration is fitted on.
    """

    judged: tuple[SlideInput, ...]
    split: str | None
    calibration: tuple[SlideInput, ...]


def select_rows(
    manifest: Path,
    class_names: Sequence[str],
    *,
    split: str | None,
    calibrate: str | None,
    on_note: Callable[[str], None],
) -> Selection:
    """Choose the rows and check their labels and annotations.

    Without a split asked for, the rows of ``test`` are judged, or all rows of a manifest without splits.

    Args:
        manifest: The table.
        class_names: The model's classes.
        split: The split to judge, ``all`` for every row, or None.
        calibrate: The split to calibrate on, or None.
        on_note: Told of rows that are left out, such as slides listed twice, and of what the rest cannot tell.

    Raises:
        ManifestError: the manifest cannot be used, a split is empty or shares slides or patients with the other, a
            label is missing or unknown to the model, or an annotation cannot be read.
    """
    rows = read_labelled(manifest, on_note=on_note)
    split, calibrate = split and split_name(split), calibrate and split_name(calibrate)
    if not any(row.label for row in rows):
        raise ManifestError(f"{manifest}: no row has a label; evaluate needs a column 'label'")
    has_splits = any(row.split for row in rows)
    chosen = split or (JUDGED_BY_DEFAULT if has_splits else None)
    judged = rows if chosen in {None, EVERY_SPLIT} else _rows_of(manifest, rows, str(chosen))
    calibration = _rows_of(manifest, rows, calibrate) if calibrate else []
    if calibrate and chosen in {calibrate, EVERY_SPLIT}:
        raise ManifestError(
            f"{manifest}: the split {calibrate!r} is to be judged and to calibrate; "
            "what calibrates must not be judged, so give different splits"
        )
    _check_patients(manifest, judged, calibration)
    for row in (*judged, *calibration):
        _check_label(manifest, row, class_names)
    if len({row.label for row in calibration}) == 1:
        raise ManifestError(
            f"{manifest}: every slide of the split {calibrate!r} is labelled {calibration[0].label!r}; "
            "a calibration needs slides of at least two classes"
        )
    if len({row.label for row in judged}) == 1 < len(class_names):
        on_note(
            f"{manifest}: every slide to be judged is labelled {judged[0].label!r}; balanced accuracy, AUROC and "
            "average precision need slides of at least two classes and stay undefined"
        )
    for row in judged:
        if row.annotation is not None:
            areas_that_count(row.annotation, on_note)
    return Selection(judged=tuple(judged), split=chosen, calibration=tuple(calibration))


def _rows_of(manifest: Path, rows: Sequence[SlideInput], split: str) -> list[SlideInput]:
    members = [row for row in rows if row.split == split]
    if members:
        return members
    known = sorted({row.split for row in rows if row.split})
    found = f"found {', '.join(known)}" if known else "it has no column 'split' with values"
    raise ManifestError(f"{manifest}: no row has the split {split!r}; {found}")


def _check_patients(manifest: Path, judged: Sequence[SlideInput], calibration: Sequence[SlideInput]) -> None:
    in_both = sorted({row.patient for row in judged if row.patient} & {row.patient for row in calibration})
    if in_both:
        named = ", ".join(str(patient) for patient in in_both[:NAMED])
        more = f" and {len(in_both) - NAMED} more" if len(in_both) > NAMED else ""
        raise ManifestError(
            f"{manifest}: patients with slides in both the judged and the calibration split: {named}{more}; "
            "give each patient one split"
        )


def _check_label(manifest: Path, row: SlideInput, class_names: Sequence[str]) -> None:
    if row.label is None:
        raise ManifestError(f"{manifest}: {row.shown_path} has no label")
    if row.label not in class_names:
        raise ManifestError(
            f"{manifest}: {row.shown_path} is labelled {row.label!r}, which the model does not know; "
            f"its classes are {', '.join(class_names)}"
        )
