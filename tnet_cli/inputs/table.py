"""Tables that people write of their slides, as the spreadsheets of all countries save them."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tnet_cli.errors import ManifestError

Cells = dict[str, str | None]
"""Of one row: the text in each column, without spaces around it; None where there is none."""

_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?\r?(?:\n|$)', re.IGNORECASE)


def read_table(path: Path, known: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    """Read the rows of a CSV table with their lines, counted from 1; empty rows are left out.

    Columns are separated by commas, semicolons or tabs, or by what a first line ``sep=;`` names, and may be written in
    capitals. The text is UTF-8, or UTF-16 with the mark of its byte order.

    Args:
        known: Names of the columns that there may be; the first must be there.

    Raises:
        ManifestError: the file is missing or no such table.
    """
    try:
        text = _text_of(path)
        named = _SEPARATOR_LINE.match(text)
        body = text[named.end() :] if named else text
        before = 1 if named else 0
        table = csv.reader(
            io.StringIO(body, newline=""), delimiter=named[1] if named else _delimiter(body), strict=True
        )
        columns = tuple(column.strip().casefold() for column in next(table, []))
        _check_columns(path, columns, known)
        for values in table:
            line = before + table.line_num
            if not any(value.strip() for value in values):
                continue
            if len(values) > len(columns):
                raise ManifestError(
                    f"{path}, line {line}: {len(values)} values for {len(columns)} columns; "
                    "put values that hold a separator in quotes"
                )
            yield line, {column: value.strip() or None for column, value in zip(columns, values, strict=False)}
    except (OSError, csv.Error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ManifestError(f"{path}: cannot be read as a CSV manifest: {reason}") from exc


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            raise ManifestError(f"{path}: is a workbook and no CSV; save its table as CSV UTF-8 and give that file")
        encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        # A slide given in the place of its list is not read whole.
        is_binary = encoding != "utf-16" and b"\0" in head
        content = b"\0" if is_binary else head + file.read()
    try:
        text = content.decode(encoding)
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


def _check_columns(path: Path, columns: Sequence[str], known: Sequence[str]) -> None:
    if known[0] not in columns:
        raise ManifestError(f"{path}: no column {known[0]!r}; found {', '.join(columns) or 'nothing'}")
    for column in columns:
        if column and column not in known:
            raise ManifestError(f"{path}: unknown column {column!r}; expected some of {', '.join(known)}")
        if column and columns.count(column) > 1:
            raise ManifestError(f"{path}: the column {column!r} is there twice")
