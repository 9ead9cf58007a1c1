"""A run on a Dask cluster: one task a slide; workers classify and draw, this process writes what comes back.

A worker that is lost takes nothing with it: the scheduler gives its slides to others. Those of more lost workers than
it allows (``distributed.scheduler.allowed-failures``) may be why, and are left as suspects. Slides are handed out a few
at a time, so that ten thousand of them weigh nothing on the scheduler.
"""

import contextlib
import logging
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tnet_cli.classification.worker import ClassificationPlan, classify_on_worker
from tnet_cli.classification.writing import Pictures, write_drawn
from tnet_cli.errors import RunStoppedError, TnetError, UsageError, install_hint
from tnet_cli.inference.device import usable_cores
from tnet_cli.inference.outcome import failed
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.results.result import SlideResult, SlideRow
from tnet_cli.results.resume import RunStore

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"
"""Instead of an address: workers on this machine."""

CONNECT_S = 15
AHEAD = 2
"""Slides handed out for each thread of the cluster: one at work and one waiting, so that none is idle."""

NEWS_S = 5.0
"""How long workers may stay away before the user is told."""

STARTS = 3
"""How often a cluster on this machine is started that does not come up."""

GPU = "GPU"
"""Resource of workers that have one, as in ``dask worker --resources GPU=1``."""


def rows_on_cluster(
    address: str,
    plan: ClassificationPlan,
    store: RunStore,
    inputs: Sequence[SlideInput],
    *,
    card: ModelCard,
    workers: int | None = None,
    progress: Progress,
) -> Generator[tuple[int, SlideRow], None, None]:
    """Classify what is still to be done on a cluster, write and keep it, and yield the rows as they come.

    Slides that may have ended workers are left to the store's suspects, for processes of their own.

    Args:
        address: Of the scheduler, or ``local`` for workers on this machine.
        plan: What workers need to know.
        store: Knows what is to be done, and keeps the rows.
        card: The model's.
        inputs: All inputs of the run. Workers find them under the same absolute paths.
        workers: Worker processes on this machine, one a core when None; only for ``local``.
        progress: Told in a sentence what a user should know.

    Yields:
        The slide's position among the inputs and its row.

    Raises:
        UsageError: the package is missing, nobody answers at the address, or the workers have another tnet.
        RunStoppedError: the cluster is gone.
        OSError: the disk is full or gone.
    """
    with connected(address, workers) as client:
        with _asking(address):
            _wait_for_workers(client, progress)
        yield from _SlideQueue(client, address, plan, store, inputs, card).rows()


@contextmanager
def connected(address: str, workers: int | None) -> Iterator["Client"]:
    """Connect to a cluster, or start one on this machine for as long as the block lasts.

    Raises:
        UsageError: the package is missing, or nobody answers at the address.
        RunStoppedError: workers on this machine do not start.
    """
    missing = f"--cluster needs more packages; install them with: {install_hint('cluster')}"
    try:
        import dask
        from distributed import Client
    except ImportError as exc:
        raise UsageError(missing) from exc
    settings = {
        "distributed.comm.timeouts.connect": f"{CONNECT_S}s",
        # These two are of a cluster that is started here. A slide that ends a worker ends no second one, ...
        "distributed.scheduler.allowed-failures": 0,
        # ... and what others on this machine could ask of it without its certificate is nothing.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.worker.preload": [__name__],
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        stack.enter_context(_quiet())
        stack.enter_context(warnings.catch_warnings())
        # A model of some megabytes goes with the first tasks, which is meant.
        warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
        try:
            if address == LOCAL:
                client = Client(stack.enter_context(_started(workers or usable_cores())), timeout=CONNECT_S)
            else:
                client = Client(address, timeout=CONNECT_S)
        except ImportError as exc:
            raise UsageError(missing) from exc
        except (OSError, ValueError, TypeError) as exc:
            raise UsageError(
                f"--cluster {address}: no Dask scheduler answers there ({type(exc).__name__}); "
                "expected an address such as tcp://host:8786, or local"
            ) from exc
        stack.enter_context(client)
        yield client


def _started(workers: int, starts: int = STARTS) -> Any:
    """Return workers on this machine; should one of them be killed before it works, all are started again."""
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            # Only who has the certificate, made for this run and kept in memory, can talk to it.
            security=True,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs="CRITICAL",
        )
    except RuntimeError as exc:
        if starts == 1:
            raise RunStoppedError(f"--cluster {LOCAL}: its workers do not start: {exc.__cause__ or exc}") from exc
        return _started(workers, starts - 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave to us what there is to say of a scheduler, or of a run, that is killed."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado", "asyncio")]
    said_from = [logger.level for logger in loggers]
    options = list(sys.warnoptions)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # Of the process that multiprocessing starts to clean up after this one, which is started with these options.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        yield
    finally:
        sys.warnoptions[:] = options
        for logger, least in zip(loggers, said_from, strict=True):
            logger.setLevel(least)


def dask_setup(_worker: object) -> None:
    """Called by Dask in each worker that is started here; Ctrl-C reaches them too, and is the run's to see to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _wait_for_workers(client: "Client", progress: Progress) -> None:
    started, told = time.monotonic(), False
    while not client.nthreads():
        if not told and time.monotonic() - started > NEWS_S:
            progress.note("the cluster has no workers yet; waiting for the first")
            told = True
        time.sleep(0.1)


class _SlideQueue:
    """What is handed out to the cluster and what comes back."""

    def __init__(
        self,
        client: "Client",
        address: str,
        plan: ClassificationPlan,
        store: RunStore,
        inputs: Sequence[SlideInput],
        card: ModelCard,
    ) -> None:
        self._client = client
        self._address = address
        self._plan = plan
        self._store = store
        self._inputs = inputs
        self._card = card
        self._pending = deque(store.ordinary)
        self._positions: dict[Future, int] = {}
        with _asking(address):
            self._sent_plan = self._send_plan()
            self._needs = self._resources()

    def rows(self) -> Iterator[tuple[int, SlideRow]]:
        from distributed import as_completed

        coming = as_completed()
        try:
            self._hand_out(coming)
            while self._positions:
                with _asking(self._address):
                    future = next(coming)
                position = self._positions.pop(future)
                ended = self._result(future, position)
                future.release()
                self._hand_out(coming)
                if ended is not None:
                    result, pictures = ended
                    row = write_drawn(self._store.directory, result, pictures)
                    self._store.keep(position, row, result.fingerprint)
                    yield position, row
        finally:
            for future in self._positions:
                future.release()

    def _send_plan(self) -> "Future":
        # A task and no scattered data, so that what a lost worker had is made again; and the same key for the same
        # weights: workers that have them are not sent them again.
        return self._client.submit(_as_it_is, self._plan, key=f"tnet-plan-{self._plan.key}", pure=True)

    def _hand_out(self, coming: Any) -> None:
        with _asking(self._address):
            room = AHEAD * max(1, sum(self._client.nthreads().values())) - len(self._positions)
        while self._pending and room > 0:
            position = self._pending.popleft()
            entry = self._inputs[position].from_anywhere()
            with _asking(self._address):
                future = self._client.submit(classify_on_worker, self._sent_plan, entry, pure=False, **self._needs)
            self._positions[future] = position
            coming.add(future)
            room -= 1

    def _result(self, future: "Future", position: int) -> tuple[SlideResult, Pictures] | None:
        """Return what a worker says of a slide; None of one that was with workers which were lost, now a suspect."""
        from distributed import KilledWorker

        entry = self._inputs[position]
        try:
            result, pictures = future.result()
        except KilledWorker:
            self._store.suspects.add(position)
            if self._sent_plan.status == "error":
                self._sent_plan.release()
                self._sent_plan = self._send_plan()
            return None
        except CancelledError as exc:
            raise _gone(self._address) from exc
        except TnetError:
            raise
        except ImportError as exc:
            raise UsageError(
                f"--cluster {self._address}: a worker cannot import {exc.name or 'tnet'}; install the same version of "
                "tnet on all of them"
            ) from exc
        except Exception as exc:  # noqa: BLE001 (whatever a worker raised over one slide is that slide's row)
            return failed(entry, self._card, exc), {}
        return _as_given(result, entry), pictures

    def _resources(self) -> dict[str, Any]:
        """Ask for workers with a GPU where there are some, unless the user wants the processor."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        has_gpu = any(GPU in (worker.get("resources") or {}) for worker in workers)
        if self._plan.device == "cpu" or not has_gpu:
            return {}
        return {"resources": {GPU: 1}}


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """Take no error of talking to the scheduler for one of the disk."""
    try:
        yield
    except (OSError, RuntimeError, CancelledError) as exc:
        raise _gone(address) from exc


def _gone(address: str) -> RunStoppedError:
    return RunStoppedError(
        f"--cluster {address}: the cluster is gone; what is done is kept; run the same command again"
    )


def _as_it_is(plan: ClassificationPlan) -> ClassificationPlan:
    return plan


def _as_given(result: SlideResult, entry: SlideInput) -> SlideResult:
    """Put the path as the user gave it into a result that was made under the absolute one."""
    absolute = entry.from_anywhere().shown_path
    error = None if result.error is None else result.error.replace(absolute, entry.shown_path)
    return replace(result, path=entry.shown_path, error=error)
