"""The slides of a run that are still to be done: looked at in this process, or in several, one for each device.

To several they are handed out one by one, to whoever has room. They write what is made of the slides; the rows go to
the parent, which alone keeps the ledger and the tables. A process that dies takes nothing with it: at the end its
slides are done again, one by one in a fresh process, and so are those that were under way when an earlier run died.
One that ends that process too has failed.
"""

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from tnet_cli.errors import RunStoppedError, SlideError, UsageError
from tnet_cli.inference.outcome import failed
from tnet_cli.inference.progress import Progress
from tnet_cli.inference.worker import WorkerPlan, work_for_parent
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideRow
from tnet_cli.results.resume import RunStore

STILLBORN = 3
"""Processes may die before they ask for a slide; after so many of them, one after the other, others would too."""

KILLED = 3
"""No decoder kills its own process as ``kill -9`` does, but a machine that is out of memory does, and so may a user: so
often must a process that reads a slide alone be killed that way until it is the slide's fault."""


@dataclass(slots=True, eq=False)
class _Worker:
    """A process as its parent sees it.

    Attributes:
        handed_out: Positions of the slides it has and has not answered for.
        has_asked: Whether it came far enough to ask for a slide.
    """

    plan: WorkerPlan
    process: BaseProcess
    connection: Connection
    handed_out: set[int] = field(default_factory=set)
    has_asked: bool = False


def rows_as_planned(
    plans: Sequence[WorkerPlan], store: RunStore, inputs: Sequence[SlideInput], model: LoadedModel, progress: Progress
) -> Generator[tuple[int, SlideRow], None, None]:
    """Look at what is still to be done, keep the rows and yield them as they come.

    A single plan is followed in this process; but once a process has died of a slide, or of something else with slides
    under way, no slide is read in this one.

    Args:
        plans: One for each device.
        store: Knows what is pending, and keeps the rows.
        inputs: All slides that the store's positions are of.
        model: That of the plans.
        progress: Told of batches, and of reductions in this process.

    Yields:
        The slide's position among the inputs and its row.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: a device or the storage answers no more, or processes die before they ask for a slide.
        OSError: the disk is full or gone.
    """
    if len(plans) == 1 and not store.suspects:
        return _rows_here(plans[0], store, inputs, model, progress)
    return _Team(plans, store, inputs, model.card, progress).rows()


def _rows_here(
    plan: WorkerPlan, store: RunStore, inputs: Sequence[SlideInput], model: LoadedModel, progress: Progress
) -> Generator[tuple[int, SlideRow], None, None]:
    torch.set_num_threads(plan.torch_threads)
    positions = store.ordinary

    def begun() -> Iterator[SlideInput]:
        for position in positions:
            store.attempt(position)
            yield inputs[position]

    def keep(number: int, row: SlideRow, fingerprint: Fingerprint | None) -> None:
        store.keep(positions[number], row, fingerprint)

    with closing(plan.rows(model, begun(), store.directory.path, progress, keep)) as rows:
        for number, row, _ in rows:
            yield positions[number], row


class _Team:
    """The processes, what each of them has, and what is still to be handed out."""

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        store: RunStore,
        inputs: Sequence[SlideInput],
        card: ModelCard,
        progress: Progress,
    ) -> None:
        self._store = store
        self._inputs = inputs
        self._card = card
        self._progress = progress
        self._pending = deque(store.ordinary)
        self._suspects = deque(sorted(store.suspects))
        self._plans = plans
        self._stillborn = 0
        self._killed = Counter[int]()
        self._workers: list[_Worker] = []

    def rows(self) -> Generator[tuple[int, SlideRow], None, None]:
        """Hand the slides out, and yield their rows; no process outlives it."""
        try:
            yield from self._rows()
        finally:
            self._dismiss()

    def _rows(self) -> Iterator[tuple[int, SlideRow]]:
        for plan in self._plans[: len(self._pending)]:
            self._start(plan)
        while self._workers or self._suspects:
            if not self._workers:
                # Last of all: should they take more with them than their own process, the others are done.
                plan = self._plans[0]
                self._start(replace(plan, engine=replace(plan.engine, slides_in_flight=1), one_by_one=True))
            ready = wait([worker.connection for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    yield from self._bury(worker)
                    continue
                row = self._hear(worker, *message)
                if row is not None:
                    yield row

    def _dismiss(self) -> None:
        """End all processes, whatever they are doing."""
        if not self._workers:
            return
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._store.directory.clear_drafts()

    def _start(self, plan: WorkerPlan) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=work_for_parent,
            args=(there, plan, self._store.directory.path),
            name=f"tnet-{plan.device}",
            daemon=True,
        )
        process.start()
        self._workers.append(_Worker(plan, process, here))
        there.close()

    def _hear(self, worker: _Worker, kind: str, *said: Any) -> tuple[int, SlideRow] | None:
        match kind:
            case "want":
                worker.has_asked = True
                self._stillborn = 0
                source = self._suspects if worker.plan.one_by_one else self._pending
                position = source.popleft() if source else None
                if position is not None:
                    self._store.attempt(position)
                    worker.handed_out.add(position)
                self._hand_out(worker, None if position is None else (position, self._inputs[position]))
            case "row":
                position, row, fingerprint = said
                worker.handed_out.discard(position)
                self._store.keep(position, row, fingerprint)
                return position, row
            case "look":
                self._progress.look(*said)
            case "full":
                raise OSError(*said)
            case "stopped":
                error = {"UsageError": UsageError}.get(said[0], RunStoppedError)
                raise error(said[1])
        return None

    def _hand_out(self, worker: _Worker, slide: tuple[int, SlideInput] | None) -> None:
        try:
            worker.connection.send(slide)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has just died, which is noticed when it is listened to

    def _bury(self, worker: _Worker) -> Iterator[tuple[int, SlideRow]]:
        """See to the slides of a process that has ended, well or not."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        code = worker.process.exitcode
        if not worker.has_asked:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                raise RunStoppedError(f"a process for {worker.plan.device} ended before its first slide: {_how(code)}")
        if worker.plan.one_by_one:
            for position in worker.handed_out:
                self._killed[position] += 1
                if code == -signal.SIGKILL and self._killed[position] < KILLED:
                    self._suspects.append(position)
                    continue
                entry = self._inputs[position]
                said = (
                    f"reading it ended the process that read it alone ({_how(code)}); the same command tries it again"
                )
                problem = SlideError(entry.shown_path, said)
                row = worker.plan.row_of(failed(entry, self._card, problem), self._store.directory.path)
                self._store.keep(position, row, None, fatal=True)
                yield position, row
            return
        self._suspects.extend(sorted(worker.handed_out))
        if self._pending:
            self._start(worker.plan)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        names = {each.value: each.name for each in signal.Signals}
        return f"killed by signal {names.get(-code, -code)}"
    return f"exit code {code}"
