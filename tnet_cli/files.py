"""Files that are written whole or not at all; nothing else in the package opens a file to write.

A library that writes by itself is given a path by ``written_whole``; what it wrote is put into place once it is whole.
"""

import csv
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


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


@contextmanager
def folder_written_whole(folder: Path, *, drafts: Path, names: Collection[str]) -> Iterator[Path]:
    """Give a temporary folder, and put its files into the target when the block ends well.

    A target that is new appears with all of them; in one that is there they are replaced, and what else it has of the
    names is removed.

    Args:
        drafts: A folder on the same disk, where the temporary one is made.
        names: Of the files that are written, as a rule; anything else in the target is left alone.
    """
    draft = drafts / f"{os.getpid()}.{secrets.token_hex(6)}"
    draft.mkdir(parents=True)
    try:
        yield draft
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            draft.rename(folder)
            return
        written = [path.name for path in draft.iterdir()]
        for name in written:
            (draft / name).replace(folder / name)
        for name in set(names) - set(written):
            (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write or replace a file whole."""
    with written_whole(path) as draft:
        draft.write_bytes(content)


def write_text_whole(path: Path, text: str) -> None:
    """Write or replace a UTF-8 text file whole; line ends are written as given."""
    write_bytes_whole(path, text.encode("utf-8"))


def open_for_appending(path: Path) -> int:
    """Open a file, made if need be, and return its descriptor, by which each write is put at its end at once."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


@contextmanager
def scratch_file(size_bytes: int) -> Iterator[IO[bytes]]:
    """Give an unnamed file of that size, which is gone when it is closed and no memory is mapped to it any more.

    Raises:
        OSError: there is no room for it.
    """
    with tempfile.TemporaryFile(prefix="tnet-") as file:
        if hasattr(os, "posix_fallocate"):
            # Claimed now, a full disk is an error; found full while a map of it is written, it would end the process.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        yield file


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
