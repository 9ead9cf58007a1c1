"""What the user asked to classify: slides by name, and manifests that list them."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tnet_cli.errors import ManifestError, SlideError

MANIFEST_COLUMNS = ("slide", "label", "mpp", "patient", "split", "annotation")


@dataclass(frozen=True, slots=True)
class SlideInput:
    """One slide to work on.

    Attributes:
        path: As the user gave it, or resolved against the manifest's folder.
        name: Unique among the inputs; names the slide's folder of results.
        mpp: From the manifest, or None.
        label: Class name from the manifest, or None.
        annotation: GeoJSON from the manifest, or None.
        patient: From the manifest, or None.
        split: From the manifest, as it is written there, or None.
    """

    path: str
    name: str
    mpp: float | None = None
    label: str | None = None
    annotation: Path | None = None
    patient: str | None = None
    split: str | None = None


def find_inputs(given: Sequence[str]) -> list[SlideInput]:
    """Turn the command line's inputs into slides, in the order given.

    Args:
        given: Slides, and manifests (files ending in ``.csv``).

    Returns:
        One entry for each slide. A slide that does not exist is kept: it becomes a failed row, or an error when it is
        the only one.

    Raises:
        ManifestError: a manifest cannot be used.
        SlideError: an input is a directory.
    """
    found: list[SlideInput] = []
    for text in given:
        path = Path(text)
        if path.suffix.lower() == ".csv":
            found.extend(read_manifest(path))
        elif path.is_dir():
            raise SlideError(text, "is a directory; give the slides in it, or a manifest with a column 'slide'")
        else:
            found.append(SlideInput(path=text, name=path.stem))
    return _with_unique_names(found)


def read_manifest(path: Path) -> list[SlideInput]:
    """Read a manifest: a CSV with a column ``slide`` and optionally label, mpp, patient, split, annotation.

    Relative paths are relative to the manifest.

    Raises:
        ManifestError: the file is missing, is not such a table, or a value cannot be used.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = tuple(table.fieldnames or ())
            if "slide" not in columns:
                raise ManifestError(f"{path}: no column 'slide'; found {', '.join(columns) or 'nothing'}")
            unknown = [column for column in columns if column not in MANIFEST_COLUMNS]
            if unknown:
                raise ManifestError(
                    f"{path}: unknown column {unknown[0]!r}; expected some of {', '.join(MANIFEST_COLUMNS)}"
                )
            rows = [_manifest_row(path, table.line_num, row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ManifestError(f"{path}: cannot be read as a CSV manifest: {reason}") from exc
    if not rows:
        raise ManifestError(f"{path}: lists no slides")
    return rows


def _manifest_row(manifest: Path, line: int, row: dict[str, str | None]) -> SlideInput:
    slide = (row.get("slide") or "").strip()
    if not slide:
        raise ManifestError(f"{manifest}, line {line}: the column 'slide' is empty")
    mpp_text = (row.get("mpp") or "").strip()
    try:
        mpp = float(mpp_text) if mpp_text else None
    except ValueError as exc:
        raise ManifestError(f"{manifest}, line {line}: mpp {mpp_text!r} is not a number") from exc
    annotation = (row.get("annotation") or "").strip()
    path = manifest.parent / slide
    return SlideInput(
        path=str(path),
        name=path.stem,
        mpp=mpp,
        label=(row.get("label") or "").strip() or None,
        annotation=manifest.parent / annotation if annotation else None,
        patient=(row.get("patient") or "").strip() or None,
        split=(row.get("split") or "").strip() or None,
    )


def _with_unique_names(inputs: list[SlideInput]) -> list[SlideInput]:
    """Tell slides of the same stem apart: by full file name, and where that is not enough by a number."""
    stems = Counter(entry.name for entry in inputs)
    taken: set[str] = set()
    named = []
    for entry in inputs:
        wanted = entry.name if stems[entry.name] == 1 else Path(entry.path).name
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}-{count}"
        taken.add(name)
        named.append(replace(entry, name=name))
    return named
