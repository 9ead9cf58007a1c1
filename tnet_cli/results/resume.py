"""What a run keeps: rows as slides end, the tables made from them, and what need not be done again."""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tnet_cli.errors import InterruptedRunError, RunStoppedError, UsageError
from tnet_cli.files import write_json
from tnet_cli.inputs.fingerprint import Fingerprint, fingerprint_of
from tnet_cli.inputs.inputs import MANIFEST_COLUMNS, SlideInput
from tnet_cli.inputs.names import OVERLAY
from tnet_cli.results.layout import RunDirectory, refuse_to_lose
from tnet_cli.results.ledger import Ledger, LedgerEntry, RunIdentity
from tnet_cli.results.result import SlideRow

REFRESH_S = 3.0
"""The tables are written again at most so often while slides end; the ledger has every row at once."""

FINGERPRINT_THREADS = 8

HAS_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class RunStore:
    """The rows of a run, for one process at a time; made by ``opened_store``.

    Args:
        identity: What the results depend on.
        class_names: The model's classes.

    Attributes:
        skipped: How many slides were done before.
        pending: Positions of the slides that are to be done, in order.
    """

    def __init__(
        self,
        directory: RunDirectory,
        ledger: Ledger,
        identity: RunIdentity,
        inputs: Sequence[SlideInput],
        class_names: Sequence[str],
    ) -> None:
        self.directory = directory
        self.pending: list[int] = list(range(len(inputs)))
        self.skipped = 0
        self._ledger = ledger
        self._identity = identity
        self._inputs = inputs
        self._class_names = class_names
        self._rows: dict[int, SlideRow] = {}
        self._lock = threading.Lock()
        self._refreshed = time.monotonic()
        self._refresh_after_s = REFRESH_S

    def skip_what_is_done(self, *, with_overlays: bool) -> None:
        """Take over the rows of slides that were done under this identity, have not changed and have their files.

        Args:
            with_overlays: Whether a slide without an overlay is to be done again.
        """

        def is_done(position: int) -> bool:
            entry = self._inputs[position]
            held = self._ledger.entries.get(entry.name)
            return (
                held is not None
                and held.row.is_done
                and held.run == self._identity.digest
                and (held.row.values["path"], held.given_mpp) == (entry.shown_path, entry.mpp)
                and (OVERLAY in held.row.files or not with_overlays or held.row.status != "ok")
                and self.directory.has_files(held.row)
                and held.fingerprint is not None
                and held.fingerprint == fingerprint_of(entry.path)
            )

        # A share answers slowly, not seldom: many slides are asked for at once.
        with ThreadPoolExecutor(FINGERPRINT_THREADS) as threads:
            done = list(threads.map(is_done, self.pending))
        for position, is_over in enumerate(done):
            if is_over:
                self._rows[position] = self._ledger.entries[self._inputs[position].name].row
        self.pending = [position for position, is_over in enumerate(done) if not is_over]
        self.skipped = len(self._rows)

    def keep(self, position: int, row: SlideRow, fingerprint: Fingerprint | None) -> None:
        """Keep the row of a slide whose files are in place. May be called from several threads.

        Raises:
            OSError: the disk is full or gone.
        """
        entry = LedgerEntry(
            row=row, run=self._identity.digest, given_mpp=self._inputs[position].mpp, fingerprint=fingerprint
        )
        with self._lock:
            self._ledger.append(entry)
            self._rows[position] = row

    def rows(self) -> list[SlideRow]:
        """Return the rows there are, in input order."""
        with self._lock:
            return [self._rows[position] for position in sorted(self._rows)]

    def refresh(self, *, now: bool = False) -> None:
        """Write the tables, if that was not done just now or takes so long that it would hold up the slides.

        Raises:
            OSError: the disk is full or gone.
        """
        started = time.monotonic()
        if not now and started - self._refreshed < self._refresh_after_s:
            return
        with self._lock:
            rows = [(position, self._rows[position]) for position in sorted(self._rows)]
        self._ledger.sync()
        self.directory.write_predictions([row.values for _, row in rows], self._class_names)
        failures = [(self._inputs[position], row) for position, row in rows if row.status == "failed"]
        self.directory.write_failures([_failure(entry, row) for entry, row in failures], FAILURE_COLUMNS)
        self._refreshed = time.monotonic()
        self._refresh_after_s = max(REFRESH_S, 20 * (self._refreshed - started))


FAILURE_COLUMNS = (*(column for column in MANIFEST_COLUMNS if column != "error"), "error")


def _failure(entry: SlideInput, row: SlideRow) -> dict[str, Any]:
    """Return a failed slide's row of a manifest that can be read wherever it lies."""
    entry = entry.from_anywhere()
    values = {column: getattr(entry, column, None) for column in FAILURE_COLUMNS}
    return values | {"slide": entry.shown_path, "error": row.values["error"]}


@contextmanager
def opened_store(
    directory: RunDirectory,
    identity: RunIdentity,
    inputs: Sequence[SlideInput],
    class_names: Sequence[str],
    *,
    overwrite: bool = False,
    with_overlays: bool = False,
) -> Iterator[RunStore]:
    """Open a run's folder for writing; whatever ends the block, the tables then hold every row there is.

    Args:
        directory: The folder; made if need be.
        identity: What the results depend on.
        class_names: The model's classes.
        overwrite: Begin afresh, whatever is there.
        with_overlays: Whether slides that are done but have no overlay are done again.

    Raises:
        UsageError: another run is writing there, has results there that this one would lose, or the folder cannot
            be written.
        RunStoppedError: the disk is full or gone.
        InterruptedRunError: the user interrupted the block.
    """
    directory.refuse_a_file()
    if not directory.has_ledger and not overwrite:
        directory.refuse_if_it_holds_another_run([entry.shown_path for entry in inputs])
    try:
        directory.make()
    except OSError as exc:
        raise _unwritable(directory, exc) from exc
    with locked(directory):
        directory.clear_drafts()
        with Ledger(directory.ledger_path, afresh=overwrite) as ledger:
            _refuse_to_lose(directory.path, ledger, identity, inputs)
            store = RunStore(directory, ledger, identity, inputs, class_names)
            with _stopping_in_a_sentence(store, len(inputs)):
                ledger.begin(identity)
                store.skip_what_is_done(with_overlays=with_overlays)
                store.refresh(now=True)
                yield store


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
            raise _unwritable(directory, exc) from exc
        raise UsageError(
            f"{directory.path}: its file system has no locks, so that two runs could mix their results there; "
            "give a folder on another one with --out"
        ) from exc
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            write_json(directory.holder_path, {"process": os.getpid(), "host": socket.gethostname(), "since": since})
        except OSError as exc:
            raise _unwritable(directory, exc) from exc
        yield
    finally:
        lock.release()


def _unwritable(directory: RunDirectory, problem: OSError) -> UsageError:
    return UsageError(f"{directory.path}: cannot be written: {problem.strerror or problem}; give a folder with --out")


def _holder(directory: RunDirectory) -> str:
    try:
        held = json.loads(directory.holder_path.read_text(encoding="utf-8"))
        return f"process {held['process']} on {held['host']}, since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which"


@contextmanager
def _stopping_in_a_sentence(store: RunStore, slides: int) -> Iterator[None]:
    """Write the tables at the end; turn an interrupt, or a disk that cannot be written, into one sentence."""
    problem: OSError | KeyboardInterrupt | None = None
    try:
        yield
    except (OSError, KeyboardInterrupt) as exc:
        problem = exc
    finally:
        try:
            store.refresh(now=True)
        except OSError as exc:
            problem = problem or exc
    if problem is None:
        return
    done = f"{sum(row.is_done for row in store.rows())} of {slides} slides are done and kept"
    if isinstance(problem, KeyboardInterrupt):
        raise InterruptedRunError(problem, f"{done}; run the same command again to go on") from problem
    raise RunStoppedError(
        f"{store.directory.path}: cannot be written any more: {problem.strerror or problem}; "
        f"{done}; make room there and run the same command again to go on"
    ) from problem


def _refuse_to_lose(out: Path, ledger: Ledger, identity: RunIdentity, inputs: Sequence[SlideInput]) -> None:
    """Protect results that this run would not make again, or would make differently.

    Raises:
        UsageError: there are some.
    """
    done = [entry for entry in ledger.entries.values() if entry.row.is_done]
    others = [entry for entry in done if entry.run != identity.digest]
    if others:
        earlier, here = ledger.identities.get(others[-1].run, {}), identity.facts()
        differing = [name for name in here if earlier.get(name) != here[name]]
        what = " and ".join(_difference(name, earlier.get(name), here[name]) for name in differing) or "other options"
        raise UsageError(
            f"{out}: holds results made with {what}; "
            "give another folder with --out, or have everything there done again with --overwrite"
        )
    given = {entry.shown_path for entry in inputs}
    refuse_to_lose(out, sorted({str(entry.row.values["path"]) for entry in done} - given))


def _difference(name: str, there: object, here: object) -> str:
    if name in {"model", "format"}:
        return "another model" if name == "model" else "another version of tnet"
    return f"--{name.replace('_', '-')} {_said(there)} instead of {_said(here)}"


def _said(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return "not given" if value is None else str(value)
