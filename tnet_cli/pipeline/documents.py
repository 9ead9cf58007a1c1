"""Tables and JSON documents as text, written whole."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tnet_cli.pipeline.atomic import write_text_whole


def table_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as CSV text: a header, no index, empty cells for None.

    Raises:
        ValueError: a row has other columns than ``columns``.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document whole, refusing numbers JSON does not have."""
    write_text_whole(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
