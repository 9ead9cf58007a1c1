"""One run at a time in a folder."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tnet_cli.errors import UsageError

HAS_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(path: Path, out: Path) -> Iterator[None]:
    """Hold a run's folder while the block runs.

    The kernel lets go of the lock when the process ends, however it ends; the file stays and says who held it last.

    Args:
        path: The lock file; its folder exists.
        out: The run's folder, named in the error.

    Raises:
        UsageError: another process holds it, or the file system has no locks.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UsageError(
                f"{out}: another run is writing there ({_holder(path)}); wait for it, or give another folder with --out"
            ) from exc
        except OSError as exc:
            if exc.errno not in HAS_NO_LOCKS:
                raise
            raise UsageError(
                f"{out}: its file system has no locks, so that two runs could mix their results there; "
                "give a folder on another one with --out"
            ) from exc
        file.truncate(0)
        json.dump(
            {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            file,
        )
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['process']} on {held['host']}, since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which"
