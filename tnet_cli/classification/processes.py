"""Several processes of one run, one for each device: slides are handed out one by one, to whoever has room.

The processes classify and write the slides' folders; the rows go to the parent, which alone keeps the ledger and the
tables. A process that dies takes nothing with it: its slides are done again, each alone in a fresh process, and the
one that ends that process too has failed.
"""

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tnet_cli.classification.writing import write_outcome, written
from tnet_cli.errors import RunStoppedError, SlideError, TnetError, UsageError
from tnet_cli.inference.classify import ClassifyOptions, Events, Outcome, classify_slides
from tnet_cli.inference.outcome import failed
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.results.layout import RunDirectory
from tnet_cli.results.result import SlideRow
from tnet_cli.results.resume import RunStore

GOODBYE_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """What a process needs to know; everything here can be sent to it.

    Attributes:
        model: The model file.
        digest: Of the model file, which must not have changed since the run began.
        out: The run's folder.
        options: How to classify, the device among it.
        draw: Whether overlays are drawn.
        torch_threads: How many threads the network may use on the processor.
        writers: How many threads write.
    """

    model: Path
    digest: str
    out: Path
    options: ClassifyOptions
    draw: bool
    torch_threads: int
    writers: int


@dataclass(slots=True, eq=False)
class _Worker:
    """A process as its parent sees it.

    Attributes:
        plan: What it was told.
        alone: Whether it does one slide whose first process died.
        handed_out: Positions of the slides it has and has not answered for.
        has_asked: Whether it came far enough to ask for a slide.
    """

    plan: ProcessPlan
    process: BaseProcess
    connection: Connection
    alone: bool
    handed_out: set[int]
    has_asked: bool = False


def rows_in_processes(
    plans: Sequence[ProcessPlan], store: RunStore, inputs: Sequence[SlideInput], card: ModelCard, events: Events
) -> Generator[tuple[int, SlideRow], None, None]:
    """Classify what is pending in one process for each plan, keep the rows and yield them as they come.

    Args:
        plans: One for each process.
        store: Knows what is pending, and keeps the rows.
        inputs: All inputs of the run.
        card: The model's.
        events: Told of batches; reductions are not told.

    Yields:
        The slide's position among the inputs and its row.

    Raises:
        UsageError: the options do not fit the model.
        RunStoppedError: a device or the storage answers no more, or processes die before they ask for a slide.
        OSError: the disk is full or gone.
    """
    team = _Team(plans, store, inputs, card, events)
    try:
        yield from team.rows()
    finally:
        team.dismiss()


class _Team:
    """The processes, what each of them has, and what is still to be handed out."""

    def __init__(
        self,
        plans: Sequence[ProcessPlan],
        store: RunStore,
        inputs: Sequence[SlideInput],
        card: ModelCard,
        events: Events,
    ) -> None:
        self._store = store
        self._inputs = inputs
        self._card = card
        self._events = events
        self._pending = deque(store.pending)
        self._again: deque[int] = deque()
        self._workers: list[_Worker] = []
        for plan in plans[: len(self._pending)]:
            self._start(plan)

    def rows(self) -> Iterator[tuple[int, SlideRow]]:
        while self._workers:
            ready = wait([worker.connection for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    yield from self._bury(worker)
                    continue
                row = self._hear(worker, *message)
                if row is not None:
                    yield row

    def dismiss(self) -> None:
        """End all processes, whatever they are doing."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(GOODBYE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()

    def _start(self, plan: ProcessPlan, alone: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=work_for_parent, args=(there, plan), name=f"tnet-{plan.options.device}")
        process.start()
        there.close()
        worker = _Worker(plan, process, here, alone is not None, set())
        if alone is not None:
            self._again.append(alone)
        self._workers.append(worker)

    def _hear(self, worker: _Worker, kind: str, *said: Any) -> tuple[int, SlideRow] | None:
        match kind:
            case "want":
                worker.has_asked = True
                source = self._again if worker.alone else self._pending
                position = source.popleft() if source and not (worker.alone and worker.handed_out) else None
                if position is not None:
                    worker.handed_out.add(position)
                self._answer(worker, None if position is None else (position, self._inputs[position]))
            case "row":
                position, row, fingerprint = said
                worker.handed_out.discard(position)
                self._store.keep(position, row, fingerprint)
                return position, row
            case "look":
                if self._events.on_look is not None:
                    self._events.on_look(*said)
            case "full":
                raise OSError(*said)
            case "stopped":
                error = {"UsageError": UsageError}.get(said[0], RunStoppedError)
                raise error(said[1])
        return None

    def _answer(self, worker: _Worker, answer: tuple[int, SlideInput] | None) -> None:
        try:
            worker.connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has just died, which is noticed when it is listened to

    def _bury(self, worker: _Worker) -> Iterator[tuple[int, SlideRow]]:
        """See to the slides of a process that has ended, well or not."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        code = worker.process.exitcode
        if code == 0 and not worker.handed_out:
            return
        if not worker.has_asked:
            raise RunStoppedError(
                f"a process for {worker.plan.options.device} ended before its first slide: {_how(code)}"
            )
        if worker.alone:
            for position in worker.handed_out:
                entry = self._inputs[position]
                problem = SlideError(entry.shown_path, f"ended the process that classified it: {_how(code)}")
                row = self._store.directory.write_slide(failed(entry, self._card, None, problem), None)
                self._store.keep(position, row, None)
                yield position, row
            return
        for position in sorted(worker.handed_out):
            one = replace(worker.plan, options=replace(worker.plan.options, slides_in_flight=1))
            self._start(one, alone=position)
        if self._pending:
            self._start(worker.plan)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def work_for_parent(connection: Connection, plan: ProcessPlan) -> None:
    """Do what a process of a run does: ask for slides, classify and write them, tell the rows.

    Args:
        connection: To the parent.
        plan: What to do.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    threading.Thread(target=_die_with_parent, name="tnet-parent", daemon=True).start()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    torch.set_num_threads(plan.torch_threads)
    try:
        _classify_for_parent(connection, plan)
    except TnetError as exc:
        connection.send(("stopped", type(exc).__name__, str(exc)))
    except OSError as exc:
        traceback.print_exc()
        connection.send(("full", exc.errno, exc.strerror or str(exc)))


def _classify_for_parent(connection: Connection, plan: ProcessPlan) -> None:
    model = load_model(plan.model)
    if model.digest != plan.digest:
        raise RunStoppedError(f"{plan.model}: has changed since the run began; run the same command again")
    directory = RunDirectory(plan.out)
    positions: list[int] = []

    def handed_out() -> Iterator[SlideInput]:
        while True:
            connection.send(("want",))
            answer = connection.recv()
            if answer is None:
                return
            positions.append(answer[0])
            yield answer[1]

    def write(_number: int, outcome: Outcome) -> tuple[SlideRow, Fingerprint | None]:
        return write_outcome(directory, outcome, model.card, draw=plan.draw), outcome.fingerprint

    events = Events(on_look=lambda level, patches: connection.send(("look", level, patches)))
    with closing(classify_slides(handed_out(), model, plan.options, events=events)) as outcomes:
        for number, (row, fingerprint) in written(outcomes, write, threads=plan.writers):
            connection.send(("row", positions[number], row, fingerprint))


def _die_with_parent() -> None:
    """End this process with its parent, however that ends: nothing is written without its lock."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
