"""The table of a run under hashed names, with the names again."""

import csv
from collections.abc import Sequence
from pathlib import Path

from tnet_cli.errors import UsageError
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.pseudonyms import Pseudonyms
from tnet_cli.results.layout import PREDICTIONS


def table_with_names(
    run: Path, inputs: Sequence[SlideInput], pseudonyms: Pseudonyms
) -> tuple[list[str], list[dict[str, str]], int]:
    """Return ``predictions.csv`` of a run with the names and paths of slides in place of their hashes.

    Args:
        run: Folder of a run with hashed names.
        inputs: The slides of that run, found as it found them.

    Returns:
        The columns, the rows, and how many rows are of other slides, or of another key, and stay as they are.

    Raises:
        UsageError: the folder has no such table.
    """
    try:
        with (run / PREDICTIONS).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            columns, rows = list(table.fieldnames or []), list(table)
    except (OSError, ValueError, csv.Error) as exc:
        raise UsageError(
            f"{run}: holds no {PREDICTIONS} that can be read; expected the --out of tnet classify"
        ) from exc
    known = {pseudonyms.hidden(entry).name: entry for entry in inputs}
    unknown = 0
    for row in rows:
        name, mark, region = str(row.get("slide")).partition("#")
        entry = known.get(name)
        if entry is None:
            unknown += 1
            continue
        hidden_path = row.get("path") or ""
        row["error"] = (row.get("error") or "").replace(hidden_path, entry.shown_path) if hidden_path else ""
        row["slide"], row["path"] = f"{entry.name}{mark}{region}", entry.shown_path
    return columns, rows, unknown
