"""Files that are written whole or not at all, and whose a folder is; nothing else in the package opens a file to write.

A library that writes by itself is given a path by ``written_whole``; what it wrote is put into place once it is whole,
and on the disk: after a loss of power there is the old file or the new one.

What a command replaces or deletes in a folder is its own: ``held_by_command`` decides that for all of them. Links are
not followed anywhere inside such a folder; the folder itself may be reached by one.
"""

import csv
import errno
import glob
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from tnet_cli.errors import DISTRIBUTION, RUN_BY_SPREADSHEETS, UsageError
from tnet_cli.places import is_url, redacted

STATE = ".tnet"
"""In a folder that a command writes: for each command its claim, and what else a user need not see."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Opens neither what a link leads to nor, for ever waiting, a pipe."""

PATH_COLUMNS = frozenset({"slide", "path", "annotation", "roi", "mask"})
_NUMBER = re.compile(r"[+-]\d+(\.\d*)?(e[+-]?\d+)?|[+-]inf", re.IGNORECASE)

_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES}
"""Of folders on file systems that do not have this."""


@dataclass(frozen=True, slots=True)
class FolderKind:
    """What a command writes into the folder it is given.

    Attributes:
        command: As it is called after ``tnet``.
        names: Of all its files and folders, from the folder, with ``/`` between; that of a folder ends with ``/``, and
            ``*`` and ``[0-9]`` stand for what they do in a shell.
        wrote_unclaimed: Tells from the records in it a folder that the command wrote before there were claims.
    """

    command: str
    names: tuple[str, ...]
    wrote_unclaimed: Callable[[Path], bool] = lambda _folder: False

    @property
    def claim(self) -> str:
        """Where the folder says that it is this command's."""
        return f"{STATE}/{self.command.replace(' ', '-')}.json"


def path_given(text: str | Path, option: str = "--out") -> Path:
    """Return where a user wants something written.

    Raises:
        UsageError: it is empty, an address, or no path at all.
    """
    said = str(text)
    if not said.strip():
        raise UsageError(f"{option} is empty; give a path, or . for the folder you are in")
    if is_url(said):
        raise UsageError(f"{option} {redacted(said)}: is an address; results are written to disks, so give a path")
    if "\0" in said:
        raise UsageError(f"{option} {said!r}: holds a character that no path can have")
    return Path(text)


def held_by_command(folder: Path, kind: FolderKind) -> bool:
    """Decide whose a folder is, for every command that writes into one and before it does.

    It is the command's where the claim or the records that it left there say so in full. Else it may become the
    command's when nothing in it has a name that the command writes; files of other names are in nobody's way.

    Returns:
        Whether the command has written there before, so that what has its names is its own.

    Raises:
        UsageError: the path is no folder; something in it has a name that the command writes, and another wrote it;
            or something of such a name is a link, or no ordinary file or folder.
    """
    try:
        if not folder.is_dir():
            _refuse_no_folder(folder)
            return False
        if not os.access(folder, os.R_OK | os.X_OK):  # where it would look empty
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        found = [(name, path) for name in (f"{STATE}/", kind.claim, *kind.names) for path in _found(folder, name)]
        for name, path in found:
            if fault := _fault(path, is_folder=name.endswith("/")):
                raise UsageError(f"{path}: {fault}; remove it or give another folder")
        if _claimant(folder / kind.claim) == kind.command or kind.wrote_unclaimed(folder):
            return True
        for name, path in found:
            # Of what is not shown, an empty lock or folder is all that a process leaves that is killed at once.
            if not (name == f"{STATE}/" or (name.startswith(STATE) and _is_empty(path))):
                raise UsageError(_whose(folder, path, kind))
    except OSError as exc:
        raise UsageError(f"{folder}: cannot be used: {exc.strerror or exc}; give another folder") from exc
    return False


def claim(folder: Path, kind: FolderKind) -> bool:
    """Make a folder the command's before anything else is written there; result and errors as ``held_by_command``."""
    is_held = held_by_command(folder, kind)
    if _claimant(folder / kind.claim) != kind.command:
        from importlib.metadata import version

        since = datetime.now(UTC).isoformat(timespec="seconds")
        said = {"program": DISTRIBUTION, "version": version(DISTRIBUTION), "command": kind.command, "since": since}
        try:
            write_json(folder / kind.claim, said)
        except OSError as exc:
            raise UsageError(f"{folder}: cannot be written: {exc.strerror or exc}; give another folder") from exc
    return is_held


def _refuse_no_folder(folder: Path) -> None:
    if folder.exists():
        raise UsageError(f"{folder}: is a file; give a folder")
    if folder.is_symlink():
        raise UsageError(f"{folder}: is a link to what is not there; give a folder")


def _found(folder: Path, name: str) -> list[Path]:
    """Return what has a name, or one of a pattern; links that lead nowhere too."""
    if re.search(r"[*?\[]", name):
        return sorted(folder.glob(name.rstrip("/")))
    return [folder / name] if os.path.lexists(folder / name) else []


def _fault(path: Path, *, is_folder: bool) -> str | None:
    """Say why something cannot be the file or folder that tnet takes it for; None where it can, or is not there."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        return "is a link, and tnet follows none where it writes"
    if is_folder:
        return None if stat.S_ISDIR(mode) else "is no folder"
    return None if stat.S_ISREG(mode) else "is a folder" if stat.S_ISDIR(mode) else "is no ordinary file"


def _is_empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else path.lstat().st_size == 0


def _claimant(path: Path) -> str | None:
    """Return which command a claim is of; None for what is no claim."""
    said = read_record(path)
    is_claim = {"program", "version", "command", "since"} <= said.keys() and said["program"] == DISTRIBUTION
    return str(said["command"]) if is_claim else None


def _whose(folder: Path, path: Path, kind: FolderKind) -> str:
    name = path.relative_to(folder)
    claimants = {_claimant(file) for file in (folder / STATE).glob("*.json")} - {None, kind.command}
    if claimants:
        others = " or ".join(sorted(f"tnet {claimant}" for claimant in claimants))
        return f"{folder}: holds {name} of a run of {others}; give another folder"
    what = "folder" if path.is_dir() else "file"
    return f"{folder}: holds a {what} {name} that no run of tnet {kind.command} left there; give another folder"


def read_record(path: Path) -> dict[str, Any]:
    """Return a JSON document of ours; empty where there is none, by whatever accident or intent."""
    try:
        descriptor = os.open(path, os.O_RDONLY | NO_LINK)
        with os.fdopen(descriptor, "rb") as file:
            document = json.loads(file.read()) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def is_sha256(value: object) -> bool:
    """Tell the digest of a file or a document, as it stands in a record."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside the target, and put it in the target's place when the block ends well.

    The folder of the target is made if need be. When the block raises, the temporary file is removed and the target
    stays as it was.

    Args:
        path: The file to write or replace.

    Yields:
        A path in the same folder that the block must write and close.

    Raises:
        OSError: it cannot be written; what is there is no ordinary file, such as a link.
    """
    _refuse_fault(path, is_folder=False)
    _make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(path: Path) -> None:
    """Remove what processes that were killed have left of writing a file whole."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.\d+\.[0-9a-f]{{8}}{re.escape(path.suffix)}")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if ours.fullmatch(left.name) and not _fault(left, is_folder=False):
            left.unlink(missing_ok=True)


def write_folder_whole(
    folder: Path, contents: Mapping[str, bytes], *, drafts: Path, within: Path, names: Collection[str]
) -> None:
    """Write files into a folder; one that is new appears with all of them, in one that is there they are replaced.

    Args:
        contents: Of each file, by name.
        drafts: A folder on the same disk, where they are written first.
        within: The folder of the run, below which no link is followed.
        names: Of the files that are written, as a rule: what of them is not written now is removed. Anything else in
            the folder is left alone.

    Raises:
        OSError: they cannot be written; on the way is a link, or where a file shall be is no ordinary one.
    """
    for place in (drafts, folder):
        for part in reversed([place, *place.parents][: len(place.relative_to(within).parts)]):
            _refuse_fault(part, is_folder=True)
    for name in names:
        _refuse_fault(folder / name, is_folder=False)
    _make_folder(drafts)
    draft = drafts / f"{os.getpid()}.{secrets.token_hex(6)}"
    draft.mkdir()
    try:
        for name, content in contents.items():
            (draft / name).write_bytes(content)
        # At once, for which a disk takes a tenth of the time of one after the other.
        with ThreadPoolExecutor(len(contents) + 1) as threads:
            list(threads.map(_sync, [draft, *(draft / name for name in contents)]))
        _make_folder(folder.parent)
        if not folder.exists():
            draft.rename(folder)
            _sync(folder.parent)
            return
        for name in contents:
            (draft / name).replace(folder / name)
        for name in set(names) - contents.keys():
            (folder / name).unlink(missing_ok=True)
        _sync(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_folder_drafts(drafts: Path) -> None:
    """Remove what processes that were killed have left of writing folders whole."""
    for left in drafts.glob("*"):
        if re.fullmatch(r"\d+\.[0-9a-f]{12}", left.name) and not _fault(left, is_folder=True):
            shutil.rmtree(left, ignore_errors=True)


def _refuse_fault(path: Path, *, is_folder: bool) -> None:
    if fault := _fault(path, is_folder=is_folder):
        raise OSError(errno.EINVAL, f"{path} {fault}")


def _make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, so that they are still there after a loss of power."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """See that a file, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | NO_LINK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        if not is_folder or exc.errno not in _CANNOT_SYNC:
            raise


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write or replace a file whole."""
    with written_whole(path) as draft:
        draft.write_bytes(content)


def write_text_whole(path: Path, text: str) -> None:
    """Write or replace a UTF-8 text file whole; line ends are written as given."""
    write_bytes_whole(path, text.encode("utf-8"))


def open_for_appending(path: Path) -> int:
    """Open a file, made if need be, and return its descriptor, by which each write is put at its end at once.

    Raises:
        OSError: it cannot be opened, or is a link or no ordinary file.
    """
    _refuse_fault(path, is_folder=False)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | NO_LINK, 0o666)


@contextmanager
def scratch_file(size_bytes: int = 0, folder: Path | None = None) -> Iterator[IO[bytes]]:
    """Give an unnamed file of that size, in a folder or the system's place for such files.

    It is gone when it is closed and no memory is mapped to it any more.

    Raises:
        OSError: there is no room for it, or less than a tenth of the free room would be left.
    """
    if size_bytes > 0.9 * shutil.disk_usage(folder or tempfile.gettempdir()).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryFile(prefix="tnet-", dir=folder) as file:
        if size_bytes and hasattr(os, "posix_fallocate"):
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


class _Rows(list[str]):
    """Rows that end in a line feed, of which cells that hold either end of a line are quoted."""

    def write(self, row: str) -> None:
        self.append(row.removesuffix("\r\n") + "\n")


def table_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as CSV text: a header, no index, empty cells for None.

    A text that a spreadsheet would run gets an apostrophe before it, by which spreadsheets know text; a path gets
    ``./``, and names the same file.

    Raises:
        ValueError: a row has other columns than ``columns``.
    """
    text = _Rows()
    writer = csv.DictWriter(text, fieldnames=columns)
    writer.writeheader()
    writer.writerows({column: _cell(column, value) for column, value in row.items()} for row in rows)
    return "".join(text)


def _cell(column: str, value: object) -> object:
    if not isinstance(value, str) or not value.startswith(RUN_BY_SPREADSHEETS) or _NUMBER.fullmatch(value):
        return value
    return f"./{value}" if column in PATH_COLUMNS else f"'{value}"


def json_text(document: dict[str, Any]) -> str:
    """Return a JSON document as the text of a file, refusing numbers JSON does not have."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document whole, refusing numbers JSON does not have."""
    write_text_whole(path, json_text(document))
