"""A run's folder belongs to one process at a time."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from filelock import FileLock, Timeout

from tnet_cli.errors import UsageError
from tnet_cli.files import write_json
from tnet_cli.results.layout import RunDirectory

HAS_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(directory: RunDirectory) -> Iterator[None]:
    """Hold a run's folder while the block runs.

    The kernel lets go of the lock when the process ends, however it ends; beside it stands who held it last.

    Raises:
        UsageError: another process holds it, or the file system has no locks.
    """
    lock = FileLock(directory.lock_path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as exc:
        raise UsageError(
            f"{directory.path}: another run is writing there ({_holder(directory)}); wait for it, or give another "
            "folder with --out"
        ) from exc
    except (OSError, NotImplementedError) as exc:
        if isinstance(exc, OSError) and exc.errno not in HAS_NO_LOCKS:
            raise unwritable(directory, exc) from exc
        raise UsageError(
            f"{directory.path}: its file system has no locks, so that two runs could mix their results there; "
            "give a folder on another one with --out"
        ) from exc
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            write_json(directory.holder_path, {"process": os.getpid(), "host": socket.gethostname(), "since": since})
        except OSError as exc:
            raise unwritable(directory, exc) from exc
        yield
    finally:
        lock.release()


def unwritable(directory: RunDirectory, problem: OSError) -> UsageError:
    """Return the error of a folder that cannot be written."""
    return UsageError(f"{directory.path}: cannot be written: {problem.strerror or problem}; give a folder with --out")


def _holder(directory: RunDirectory) -> str:
    try:
        held = json.loads(directory.holder_path.read_text(encoding="utf-8"))
        return f"process {held['process']} on {held['host']}, since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which"
