"""What another process of a run does, on this machine or on a cluster: look at slides as one plan says."""

import logging
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib.metadata import version
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import DISTRIBUTION, RunStoppedError, TnetError, UsageError
from tnet_cli.files import temporary_file
from tnet_cli.inference.classify import EngineOptions
from tnet_cli.inference.device import choose_device
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.modelfile.modelfile import LoadedModel, load_model
from tnet_cli.results.result import SlideResult, SlideRow

Rows = Generator[tuple[int, SlideRow, Fingerprint | None], None, None]
"""Positions among the slides taken, rows, and what the slides' contents are known by, as slides end and what is made of
them is written."""

Keep = Callable[[int, SlideRow, Fingerprint | None], None]
"""Told the same as soon as it is written, perhaps in another thread."""

_LOADING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class WorkerPlan(ABC):
    """What a process needs to know to look at slides; everything here can be sent to it.

    Attributes:
        weights: The model file, or its bytes where a worker need not see this machine's disk for them.
        digest: SHA-256 of the model file, which must not have changed since the run began.
        options: How slides are read and traversed.
        engine: Batches and threads; the device is the process's own.
        device: Where its network runs, as ``--device`` has it.
        package: Version of tnet, which must be the worker's too.
        torch_threads: How many threads the network may use on a processor.
        one_by_one: Whether no slide is begun before the one before it has ended and is written.
    """

    weights: Path | bytes
    digest: str
    options: TraversalOptions
    engine: EngineOptions
    device: str
    package: str = field(default_factory=lambda: version(DISTRIBUTION))
    torch_threads: int = 1
    one_by_one: bool = False

    @abstractmethod
    def rows(
        self, model: LoadedModel, slides: Iterable[SlideInput], out: Path, progress: Progress, keep: Keep | None = None
    ) -> Rows:
        """Look at slides, write what is made of them and yield what is kept.

        Args:
            slides: Taken one by one, as there is room for them.
            out: The run's folder.
        """

    @abstractmethod
    def row_of(self, result: SlideResult, out: Path) -> SlideRow:
        """Write what is made of a slide that has failed, and return what is kept of it."""

    def __getstate__(self) -> dict[str, Any]:
        # The plan is sent from worker to worker; a model that one of them has loaded does not.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def model(self) -> LoadedModel:
        """The model, loaded once in each process that has the plan.

        Raises:
            UsageError: this process has another version of tnet.
            RunStoppedError: the file has changed since the run began.
        """
        with _LOADING:  # by one of a worker's threads, also in Pythons whose cached properties have no lock
            return self._loaded

    @cached_property
    def _loaded(self) -> LoadedModel:
        if self.package != version(DISTRIBUTION):
            raise UsageError(
                f"a worker of the cluster has tnet {version(DISTRIBUTION)}, and this is tnet {self.package}; "
                "install the same everywhere"
            )
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        torch.set_num_threads(self.torch_threads)
        if isinstance(self.weights, bytes):
            with temporary_file(self.weights, suffix=".safetensors") as path:
                model = load_model(path)
        else:
            model = load_model(self.weights)
        if model.digest != self.digest:
            raise RunStoppedError("the model file has changed since the run began; run the same command again")
        # Here and not by whichever thread classifies first: two that fold at once would fold twice.
        fold_normalisation(model.network.eval())
        return model

    @property
    def own_engine(self) -> EngineOptions:
        """How this process classifies, on its own device.

        Raises:
            UsageError: it has not the device that is asked for.
        """
        return replace(self.engine, device=choose_device(self.device))


def work_for_parent(connection: Connection, plan: WorkerPlan, out: Path) -> None:
    """Do what a process on the run's machine does: ask for slides, look at them, tell the rows.

    Args:
        out: The run's folder.
    """
    # The parent has them too, keeps what is done, and ends this process.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name, signal.SIGINT), signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, name="tnet-parent", daemon=True).start()
    try:
        _ = plan.model  # before the first slide is asked for, so that nobody takes its faults for the slide's
        handed_out = _handed_out(connection)
        for slides in ([slide] for slide in handed_out) if plan.one_by_one else [handed_out]:
            _look_and_tell(connection, plan, out, slides)
    except TnetError as exc:
        connection.send(("stopped", type(exc).__name__, str(exc)))
    except OSError as exc:
        connection.send(("full", exc.errno, exc.strerror or str(exc)))


class _ToldToParent(Progress):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def look(self, processing_level: int, patches: int) -> None:
        self._connection.send(("look", processing_level, patches))


def _handed_out(connection: Connection) -> Iterator[tuple[int, SlideInput]]:
    while True:
        connection.send(("want",))
        slide = connection.recv()
        if slide is None:
            return
        yield slide


def _look_and_tell(
    connection: Connection, plan: WorkerPlan, out: Path, slides: Iterable[tuple[int, SlideInput]]
) -> None:
    positions: list[int] = []

    def begun() -> Iterator[SlideInput]:
        for position, entry in slides:
            positions.append(position)
            yield entry

    with closing(plan.rows(plan.model, begun(), out, _ToldToParent(connection))) as rows:
        for number, row, fingerprint in rows:
            connection.send(("row", positions[number], row, fingerprint))


def _die_with_parent() -> None:
    """End this process with its parent, however that ends: nothing is written without its lock."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
