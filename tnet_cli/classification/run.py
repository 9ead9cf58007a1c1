"""A whole run of ``tnet classify``: inputs in, a folder of results out."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tnet_cli.classification.processes import ProcessPlan, rows_in_processes
from tnet_cli.classification.writing import write_outcome, written
from tnet_cli.errors import DISTRIBUTION, raise_for_failed
from tnet_cli.inference.classify import ClassifyOptions, Events, Outcome, classify_slides
from tnet_cli.inference.device import choose_devices, describe_machine, reader_threads, usable_cores
from tnet_cli.inputs.inputs import SlideInput, find_inputs
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.results.html_report import write_report
from tnet_cli.results.layout import FAILURES, RunDirectory
from tnet_cli.results.ledger import RunIdentity
from tnet_cli.results.result import SlideRow
from tnet_cli.results.resume import RunStore, opened_store


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user asked of ``tnet classify``; the fields are its options."""

    inputs: Sequence[str]
    out: Path
    model: str
    locations: tuple[int, ...] | None = None
    budget: int | None = None
    stop_at: float | None = None
    mpp: float | None = None
    reader: str | None = None
    device: str = "auto"
    batch_size: int = 16
    workers: int | None = None
    overlay: bool = True
    overwrite: bool = False
    fail_fast: bool = False
    recursive: bool = True
    slide_timeout_s: float = 600.0
    cluster: str | None = None


@dataclass(frozen=True, slots=True)
class RunEvents:
    """What a run tells while it goes; each may be called many times a second.

    Attributes:
        on_note: What is worth knowing of the inputs, in a sentence: what was ignored, or is given twice.
        on_start: The number of slides to do, and which model it is and what for.
        on_slide: A slide has ended and is written.
        on_look: Processing level and number of the patches of a batch.
        on_reduce: Rows done and to do, while a slide without a pyramid is reduced.
    """

    on_note: Callable[[str], None] | None = None
    on_start: Callable[[int, str], None] | None = None
    on_slide: Callable[[SlideRow], None] | None = None
    on_look: Callable[[int, int], None] | None = None
    on_reduce: Callable[[int, int], None] | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What became of a run.

    Attributes:
        record: What ``run.json`` holds.
        rows: One for each input that has ended, in input order.
        overlays: Where each of their overlays is, None for none.
        inputs: How many slides there were.
        skipped: How many of them had been done before.
    """

    record: dict[str, Any]
    rows: tuple[SlideRow, ...]
    overlays: tuple[Path | None, ...]
    inputs: int
    skipped: int

    def raise_for_failures(self) -> None:
        """Turn failed slides into the error whose exit code says so.

        Raises:
            SlideError: the only slide failed.
            PartialFailureError: some of several slides failed.
        """
        failed = [row.values for row in self.rows if row.status == "failed"]
        sentences = [(row["path"], row["error"] or row["path"]) for row in failed]
        raise_for_failed(sentences, self.inputs, file=FAILURES)


def run_classify(request: RunRequest, events: RunEvents | None = None) -> RunReport:
    """Classify the inputs and write the results as they come; what an earlier run has done is not done again.

    Raises:
        UsageError: an option cannot be followed, the inputs hold no slide, or the folder holds another run.
        ModelFileError: the model cannot be used.
        ManifestError: a manifest cannot be used.
        RunStoppedError: the disk is full, or the device or the storage answers no more.
    """
    events = events or RunEvents()
    started = time.perf_counter()
    inputs = find_inputs(request.inputs, recursive=request.recursive, out=request.out, on_note=events.on_note)
    devices = choose_devices(request.device) if request.cluster is None else [torch.device("cpu")]
    model = load_model(find_model(request.model))
    directory = RunDirectory(request.out)
    store_of_run = opened_store(
        directory,
        run_identity(request, model),
        inputs,
        model.card.network.class_names,
        overwrite=request.overwrite,
        with_overlays=request.overlay,
    )
    with store_of_run as store:
        directory.write_run(run_record(request, model, devices, store.rows(), None))
        if events.on_start is not None:
            events.on_start(len(store.pending), model.card.introduction)
        with closing(_rows(request, store, inputs, model, devices, events)) as rows:
            for _, row in rows:
                store.refresh()
                if events.on_slide is not None:
                    events.on_slide(row)
                if request.fail_fast and row.status == "failed":
                    break
        ended = tuple(store.rows())
        record = run_record(request, model, devices, ended, time.perf_counter() - started)
        directory.write_run(record)
        write_report(directory.path)
    return RunReport(
        record=record,
        rows=ended,
        overlays=tuple(directory.overlay_of(row) for row in ended),
        inputs=len(inputs),
        skipped=store.skipped,
    )


def run_identity(request: RunRequest, model: LoadedModel) -> RunIdentity:
    """Return what the results of a request depend on besides the slides."""
    return RunIdentity(
        model=model.digest,
        locations=request.locations or model.card.network.locations,
        budget=request.budget,
        stop_at=request.stop_at,
        mpp=request.mpp,
        reader=request.reader,
    )


def options_for(request: RunRequest, device: torch.device, *, processes: int = 1) -> ClassifyOptions:
    """Return how slides are classified on one device, when several processes share this machine."""
    readers = max(1, reader_threads(request.workers) // processes)
    return ClassifyOptions(
        locations=request.locations,
        budget=request.budget,
        stop_at=request.stop_at,
        mpp=request.mpp,
        reader=request.reader,
        device=device,
        batch_size=request.batch_size,
        readers=readers,
        slides_in_flight=min(3, readers + 1) if device.type == "cpu" else max(8, 2 * readers),
        slide_timeout_s=request.slide_timeout_s,
    )


def _rows(
    request: RunRequest,
    store: RunStore,
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    devices: Sequence[torch.device],
    events: RunEvents,
) -> Generator[tuple[int, SlideRow], None, None]:
    """Classify what is pending, write and keep it, and yield the rows."""
    if request.cluster is not None:
        return _rows_on_cluster(request, store, inputs, model, events)
    looks = Events(on_look=events.on_look, on_reduce=events.on_reduce)
    if len(devices) == 1:
        return _rows_here(request, store, inputs, model, devices[0], looks)
    plans = [
        ProcessPlan(
            model=model.path,
            digest=model.digest,
            out=request.out,
            options=options_for(request, device, processes=len(devices)),
            draw=request.overlay,
            torch_threads=max(1, usable_cores() // len(devices)),
            writers=writing_threads(device),
        )
        for device in devices
    ]
    return rows_in_processes(plans, store, inputs, model.card, looks)


def _rows_here(
    request: RunRequest,
    store: RunStore,
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    device: torch.device,
    looks: Events,
) -> Generator[tuple[int, SlideRow], None, None]:
    torch.set_num_threads(usable_cores())
    entries = [inputs[position] for position in store.pending]
    outcomes = classify_slides(entries, model, options_for(request, device), events=looks)

    def write(number: int, outcome: Outcome) -> SlideRow:
        row = write_outcome(store.directory, outcome, model.card, draw=request.overlay)
        store.keep(store.pending[number], row, outcome.fingerprint)
        return row

    with closing(outcomes):
        for number, row in written(outcomes, write, threads=writing_threads(device)):
            yield store.pending[number], row


def _rows_on_cluster(
    request: RunRequest, store: RunStore, inputs: Sequence[SlideInput], model: LoadedModel, events: RunEvents
) -> Generator[tuple[int, SlideRow], None, None]:
    # Here and not above: it takes a second to import, and most runs have no cluster.
    from tnet_cli.classification.cluster import LOCAL, rows_on_cluster
    from tnet_cli.classification.cluster_work import ClusterPlan

    is_local = request.cluster == LOCAL
    plan = ClusterPlan(
        weights=model.path.read_bytes(),
        digest=model.digest,
        card=model.card,
        options=replace(
            options_for(request, torch.device("cpu")), readers=1 if is_local else reader_threads(request.workers)
        ),
        device=request.device,
        draw=request.overlay,
        package=version(DISTRIBUTION),
    )
    return rows_on_cluster(
        request.cluster or LOCAL, plan, store, inputs, workers=request.workers, on_note=events.on_note
    )


def writing_threads(device: torch.device) -> int:
    """Return how many threads draw and write: a processor that also runs the network has none to spare."""
    return 1 if device.type == "cpu" else 4


def run_record(
    request: RunRequest,
    model: LoadedModel,
    devices: Sequence[torch.device],
    rows: Sequence[SlideRow],
    seconds: float | None,
) -> dict[str, Any]:
    """Return what ``run.json`` says: version, model, options, machine and how the slides fared.

    Args:
        request: What was asked.
        model: The model.
        devices: Where the network runs.
        rows: Those there are.
        seconds: How long the run took; None while it goes on.
    """
    statuses = [row.status for row in rows]
    return {
        "version": version(DISTRIBUTION),
        "finished": None if seconds is None else datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": model.card.name,
            "path": str(model.path),
            "sha256": model.digest,
            "card": model.card.model_dump(mode="json"),
        },
        "intended_use": model.card.intended_use,
        "options": {
            "locations": list(request.locations) if request.locations else list(model.card.network.locations),
            "budget": request.budget,
            "stop_at": request.stop_at,
            "mpp": request.mpp,
            "reader": request.reader,
            "device": ",".join(str(device) for device in devices) if request.cluster is None else request.device,
            "cluster": request.cluster,
            "batch_size": request.batch_size,
            "workers": reader_threads(request.workers),
        },
        "machine": describe_machine(),
        "slides": {status: statuses.count(status) for status in ("ok", "no_tissue", "failed")},
        "seconds": None if seconds is None else round(seconds, 3),
    }
