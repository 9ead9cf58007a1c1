"""Files that are written whole or not at all, as text, tables or JSON."""

import csv
import io
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside the target, and put it in the target's place when the block ends well.

    The folder of the target is made if need be. When the block raises, the temporary file is removed and the target
    stays as it was.

    Args:
        path: The file to write or replace.

    Yields:
        A path in the same folder that the block must write and close.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """Write or replace a UTF-8 text file whole; line ends are written as given."""
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


@contextmanager
def temporary_file(content: bytes, *, suffix: str) -> Iterator[Path]:
    """Give a file of that content for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="tnet-") as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        yield path


def rounded(value: float | None) -> float | None:
    """Keep six significant figures: what a float32 network can stand for, the same text on every machine."""
    return None if value is None else float(f"{value:.6g}")


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
