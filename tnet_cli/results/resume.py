"""What a run keeps: rows as slides end, the tables made from them, and what need not be done again."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tnet_cli.errors import InterruptedRunError, RunStoppedError, UsageError
from tnet_cli.inputs.fingerprint import Fingerprint, fingerprint_of
from tnet_cli.inputs.inputs import MANIFEST_COLUMNS, SlideInput
from tnet_cli.inputs.roi import known_by
from tnet_cli.metrics.patients import DEFAULT_RULE, PatientRule
from tnet_cli.places import Place
from tnet_cli.results.layout import RunDirectory, refuse_to_lose
from tnet_cli.results.ledger import Ledger, LedgerEntry, RunIdentity, SlideKey
from tnet_cli.results.lock import locked, unwritable
from tnet_cli.results.patients import patient_columns, patient_rows
from tnet_cli.results.result import SlideRow

REFRESH_S = 3.0
"""The tables are written again at most so often while slides end; the ledger has every row at once."""

FINGERPRINT_THREADS = 8


WriteTables = Callable[[Sequence[tuple[int, SlideRow]]], None]
"""Writes the tables of the rows there are: position among the inputs and row, in input order."""


class RunStore:
    """The rows of a run, or of a part of it, for one process at a time; made by ``opened_run``.

    Args:
        identity: What the results depend on.
        part: Of the run, where one looks at its slides several times.
        write_tables: Writes the tables.

    Attributes:
        slides: How many there are.
        skipped: How many slides were done before.
        pending: Positions of the slides that are to be done, in order.
        suspects: Positions of those among them over which a process may have died: read each in a process of its own.
    """

    def __init__(
        self,
        directory: RunDirectory,
        ledger: Ledger,
        identity: RunIdentity,
        inputs: Sequence[SlideInput],
        write_tables: WriteTables,
        *,
        part: str = "",
    ) -> None:
        self.directory = directory
        self.pending: list[int] = list(range(len(inputs)))
        self.suspects: set[int] = set()
        self.slides = len(inputs)
        self.skipped = 0
        self._ledger = ledger
        self._identity = identity
        self._inputs = inputs
        self._part = part
        self._write_tables = write_tables
        self._rows: dict[int, SlideRow] = {}
        self._lock = threading.Lock()
        self._refreshed = time.monotonic()
        self._refresh_after_s = REFRESH_S

    def skip_what_is_done(
        self,
        is_whole: Callable[[SlideInput, SlideRow], bool],
        of_slide: Callable[[Place], Fingerprint | None] = fingerprint_of,
    ) -> None:
        """Take over the rows of slides that were done under this identity and have not changed.

        Args:
            is_whole: Whether what else was made of a slide is there.
            of_slide: What the content of a slide is known by now.
        """

        def is_done(position: int) -> bool:
            entry = self._inputs[position]
            held = self._ledger.entries.get(self._key(position))
            return (
                held is not None
                and held.row.is_done
                and held.run == self._identity.digest
                and (held.row.values["path"], held.given_mpp) == (entry.shown_path, entry.mpp)
                and is_whole(entry, held.row)
                and held.fingerprint is not None
                and held.fingerprint == known_by(entry, of_slide)
            )

        # A share answers slowly, not seldom: many slides are asked for at once.
        with ThreadPoolExecutor(FINGERPRINT_THREADS) as threads:
            done = list(threads.map(is_done, self.pending))
        for position, is_over in enumerate(done):
            if is_over:
                self._rows[position] = self._ledger.entries[self._key(position)].row
        self.pending = [position for position, is_over in enumerate(done) if not is_over]
        self.skipped = len(self._rows)
        self.find_suspects()

    def do_again(self, is_whole: Callable[[SlideInput, SlideRow], bool]) -> None:
        """Have slides that were taken over done again, where by now what is kept of them holds no more."""
        with self._lock:
            again = [each for each, row in self._rows.items() if not is_whole(self._inputs[each], row)]
            for position in again:
                del self._rows[position]
        self.pending = sorted({*self.pending, *again})
        self.skipped -= len(again)

    def find_suspects(self) -> None:
        """Take note of what is suspect by now; a slide that was in one part of the run is in all."""
        names = {name for _, name in self._ledger.suspects}
        self.suspects |= {position for position in self.pending if self._inputs[position].name in names}

    @property
    def ordinary(self) -> list[int]:
        """Positions of the slides that are still to be done and no suspects, in order."""
        with self._lock:
            return [each for each in self.pending if each not in self.suspects and each not in self._rows]

    def attempt(self, position: int) -> None:
        """Note that a slide is about to be opened: should the process die, the next run knows of which slides.

        Raises:
            OSError: the disk is full or gone.
        """
        with self._lock:
            self._ledger.attempt(self._key(position))

    def keep(self, position: int, row: SlideRow, fingerprint: Fingerprint | None, *, fatal: bool = False) -> None:
        """Keep the row of a slide whose files are in place. May be called from several threads.

        Args:
            fatal: Whether it ended the process that read it.

        Raises:
            OSError: the disk is full or gone.
        """
        entry = LedgerEntry(
            row, self._identity.digest, self._inputs[position].mpp, fingerprint, self._part, fatal=fatal
        )
        with self._lock:
            self._ledger.append(entry)
            self._rows[position] = row

    def _key(self, position: int) -> SlideKey:
        return self._part, self._inputs[position].name

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
        self._write_tables(rows)
        self._refreshed = time.monotonic()
        self._refresh_after_s = max(REFRESH_S, 20 * (self._refreshed - started))


FAILURE_COLUMNS = (*(column for column in MANIFEST_COLUMNS if column != "error"), "error")


def _failure(entry: SlideInput, row: SlideRow) -> dict[str, Any]:
    """Return a failed slide's row of a manifest that can be read wherever it lies."""
    # The files beside a slide that is hidden are named after it.
    entry = entry.from_anywhere() if entry.alias is None else replace(entry, annotation=None, roi=None, mask=None)
    values = {column: getattr(entry, column, None) for column in FAILURE_COLUMNS}
    return values | {"slide": entry.shown_path, "error": row.values["error"]}


@dataclass(slots=True)
class OpenRun:
    """A run's folder that is open for writing; made by ``opened_run``.

    Attributes:
        stores: Of its parts, each made by ``store``.
    """

    directory: RunDirectory
    ledger: Ledger
    identity: RunIdentity
    stores: list[RunStore] = field(default_factory=list)
    # A server need not be asked again for every part of the run.
    _known_by: Callable[[Place], Fingerprint | None] = field(default_factory=lambda: cache(fingerprint_of))

    def store(
        self,
        inputs: Sequence[SlideInput],
        write_tables: WriteTables,
        is_whole: Callable[[SlideInput, SlideRow], bool],
        *,
        part: str = "",
    ) -> RunStore:
        """Return what is kept, and to be done, of a part of the run; its tables hold what was done before.

        Args:
            inputs: The slides of this part.
            write_tables: Writes its tables.
            is_whole: Whether what else was made of a slide that is done is there.
            part: Its name.

        Raises:
            OSError: the disk is full or gone.
        """
        made = RunStore(self.directory, self.ledger, self.identity, inputs, write_tables, part=part)
        self.stores.append(made)
        made.skip_what_is_done(is_whole, self._known_by)
        made.refresh(now=True)
        return made


@contextmanager
def opened_store(
    directory: RunDirectory,
    identity: RunIdentity,
    inputs: Sequence[SlideInput],
    class_names: Sequence[str],
    *,
    overwrite: bool = False,
    with_pictures: Collection[str] = (),
    answer_anyway: bool = False,
    patient_rule: PatientRule = DEFAULT_RULE,
) -> Iterator[RunStore]:
    """Open the folder of a run of ``tnet classify``; see ``opened_run``.

    Args:
        class_names: The model's classes.
        with_pictures: Names of files; slides that are done and looked at but have not all of them are done again.
        answer_anyway: Whether answers that do not count are given; where that has changed such slides are done again.
        patient_rule: What makes one answer of those of a patient's slides.
    """

    def write_tables(rows: Sequence[tuple[int, SlideRow]]) -> None:
        directory.write_predictions([row.values for _, row in rows], class_names)
        failures = [_failure(inputs[position], row) for position, row in rows if row.status == "failed"]
        directory.write_failures(failures, FAILURE_COLUMNS)
        of_patients = [(inputs[position].patient, row) for position, row in rows]
        directory.write_patients(patient_rows(of_patients, class_names, patient_rule), patient_columns(class_names))

    def is_whole(_: SlideInput, row: SlideRow) -> bool:
        is_drawn = not row.was_looked_at or all(name in row.files for name in with_pictures)
        # An answer that does not count is given or kept back in every file of the slide.
        is_as_wanted = row.status != "abstained" or (row.values["prediction"] is not None) == answer_anyway
        return is_drawn and is_as_wanted and directory.has_files(row)

    with opened_run(directory, identity, inputs, overwrite=overwrite) as run:
        yield run.store(inputs, write_tables, is_whole)


@contextmanager
def opened_run(
    directory: RunDirectory,
    identity: RunIdentity,
    inputs: Sequence[SlideInput],
    *,
    overwrite: bool = False,
) -> Iterator[OpenRun]:
    """Open a run's folder for writing; whatever ends the block, the tables then hold every row there is.

    Args:
        directory: The folder; made if need be.
        identity: What the results depend on.
        inputs: All slides of the run.
        overwrite: Begin afresh, whatever is there.

    Raises:
        UsageError: another run is writing there, has results there that this one would lose, or the folder cannot
            be written.
        RunStoppedError: the disk is full or gone.
        InterruptedRunError: the user interrupted the block.
    """
    directory.check()
    if not directory.has_ledger and not overwrite:
        directory.refuse_if_it_holds_another_run([entry.shown_path for entry in inputs])
    try:
        directory.make()
    except OSError as exc:
        raise unwritable(directory, exc) from exc
    with locked(directory):
        directory.clear_drafts()
        try:
            opened = Ledger(directory.ledger_path, afresh=overwrite)
        except OSError as exc:
            raise unwritable(directory, exc) from exc
        with opened as ledger:
            _refuse_to_lose(directory.path, ledger, identity, inputs)
            run = OpenRun(directory, ledger, identity)
            with _stopping_in_a_sentence(run):
                ledger.begin(identity)
                yield run


@contextmanager
def _stopping_in_a_sentence(run: OpenRun) -> Iterator[None]:
    """Write the tables at the end; turn an interrupt, or a disk that cannot be written, into one sentence."""
    problem: OSError | KeyboardInterrupt | None = None
    try:
        yield
    except (OSError, KeyboardInterrupt) as exc:
        problem = exc
    finally:
        try:
            for store in run.stores:
                store.refresh(now=True)
            run.ledger.end_attempts()
        except OSError as exc:
            problem = problem or exc
    if problem is None:
        return
    rows = [row for store in run.stores for row in store.rows()]
    what = "slides" if len(run.stores) == 1 else "rows"
    count = sum(store.slides for store in run.stores)
    done = f"{sum(row.is_done for row in rows)} of {count} {what} are done and kept"
    if isinstance(problem, KeyboardInterrupt):
        raise InterruptedRunError(problem, f"{done}; run the same command again to go on") from problem
    raise RunStoppedError(
        f"{run.directory.path}: cannot be written any more: {problem.strerror or problem}; "
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
        differing = [name for name in {**here, **earlier} if earlier.get(name) != here.get(name)]
        what = " and ".join(_difference(name, earlier.get(name), here.get(name)) for name in differing)
        what = what or "other options"
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
    if value in (None, []):
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
