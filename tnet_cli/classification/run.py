"""A whole run of ``tnet classify``: inputs in, a folder of results out."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tnet_cli.classification.worker import ClassificationPlan
from tnet_cli.errors import DISTRIBUTION, UsageError, raise_for_failed
from tnet_cli.inference.classify import EngineOptions
from tnet_cli.inference.device import choose_devices, describe_machine, reader_threads, usable_cores
from tnet_cli.inference.processes import rows_as_planned
from tnet_cli.inference.progress import Progress
from tnet_cli.inference.traversal_job import refuse_unfit
from tnet_cli.inputs.inputs import SlideInput, find_inputs
from tnet_cli.inputs.names import MASK, OVERLAY
from tnet_cli.inputs.options import TraversalOptions, at_least
from tnet_cli.inputs.pseudonyms import Pseudonyms
from tnet_cli.inputs.roi import WhereToLook
from tnet_cli.metrics.patients import patient_rule
from tnet_cli.modelfile.card import calibration_words
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.places import Place, redacted
from tnet_cli.results.html_report import write_report
from tnet_cli.results.layout import FAILURES, REPORT, RunDirectory
from tnet_cli.results.ledger import RunIdentity
from tnet_cli.results.result import STATUSES, SlideRow
from tnet_cli.results.resume import RunStore, opened_store

Rows = Generator[tuple[int, SlideRow], None, None]
"""Positions among the inputs and rows, as slides end and what is kept of them is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user asked of ``tnet classify``; the fields are its options."""

    inputs: Sequence[str | Place]
    out: Path
    model: str
    traversal: TraversalOptions = field(default_factory=TraversalOptions)
    where: WhereToLook = field(default_factory=WhereToLook)
    device: str = "auto"
    batch_size: int = 16
    workers: int | None = None
    overlay: bool = True
    save_mask: bool = False
    answer_anyway: bool = False
    patient_rule: str | None = None
    hash_names: Path | None = None
    report: bool = True
    overwrite: bool = False
    fail_fast: bool = False
    recursive: bool = True
    slide_timeout_s: float = 600.0
    cluster: str | None = None

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, workers=self.workers)
        at_least(0, slide_timeout=self.slide_timeout_s)
        patient_rule(self.patient_rule)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What became of a run.

    Attributes:
        record: What ``run.json`` holds.
        rows: One for each input that has ended, in input order.
        overlays: Where each of their overlays is, None for none.
        page: Where the page of the run is, or None where none was wanted.
        inputs: How many slides there were.
        skipped: How many of them had been done before.
        calibration: How far its probabilities can be relied on, in a few words.
    """

    record: dict[str, Any]
    rows: tuple[SlideRow, ...]
    overlays: tuple[Path | None, ...]
    page: Path | None
    inputs: int
    skipped: int
    calibration: str

    @property
    def abstained(self) -> int:
        """How many slides have no answer that counts."""
        return sum(row.status == "abstained" for row in self.rows)

    def raise_for_failures(self) -> None:
        """Turn failed slides into the error whose exit code says so.

        Raises:
            SlideError: the only slide failed.
            PartialFailureError: some of several slides failed.
        """
        failed = [row.values for row in self.rows if row.status == "failed"]
        sentences = [(row["path"], row["error"] or row["path"]) for row in failed]
        raise_for_failed(sentences, self.inputs, file=FAILURES)


def run_classify(request: RunRequest, progress: Progress | None = None) -> RunReport:
    """Classify the inputs and write the results as they come; what an earlier run has done is not done again.

    Raises:
        UsageError: an option cannot be followed, the inputs hold no slide, or the folder holds another run.
        ModelFileError: the model cannot be used.
        ManifestError: a manifest cannot be used.
        RunStoppedError: the disk is full, or the device or the storage answers no more.
        InterruptedRunError: the user interrupted it.
    """
    progress = progress or Progress()
    started = time.perf_counter()
    directory = RunDirectory(request.out)
    directory.check()
    found = find_inputs(request.inputs, recursive=request.recursive, out=request.out, on_note=progress.note)
    if request.hash_names is not None:
        pseudonyms = Pseudonyms.read(request.hash_names)
        found = [pseudonyms.hidden(entry) for entry in found]
    inputs = request.where.applied(found)
    if request.patient_rule is not None and not any(entry.patient for entry in inputs):
        raise UsageError("--patient-rule: no slide has a patient; give a manifest with a column 'patient'")
    devices = choose_devices(request.device) if request.cluster is None else [torch.device("cpu")]
    model = load_model(find_model(request.model))
    refuse_unfit(request.traversal, model.card.network)
    store_of_run = opened_store(
        directory,
        RunIdentity(model.digest, _options(request, model)),
        inputs,
        model.card.network.class_names,
        overwrite=request.overwrite,
        with_pictures=[OVERLAY] * request.overlay + [MASK] * request.save_mask,
        answer_anyway=request.answer_anyway,
        patient_rule=patient_rule(request.patient_rule),
    )
    with store_of_run as store:
        directory.write_run(run_record(request, model, devices, store.rows(), None))
        (directory.path / REPORT).unlink(missing_ok=True)  # an earlier run's would tell of other rows
        calibration = calibration_words(model.card.calibration_error)
        progress.start(len(store.pending), model.card.introduction)
        for row in store.rows():
            progress.answer(row, calibration, directory.overlay_of(row))
        try:
            with closing(_rows(request, store, inputs, model, devices, progress)) as rows:
                for _, row in rows:
                    store.refresh()
                    progress.answer(row, calibration, directory.overlay_of(row))
                    progress.slide_done(row.values)
                    if request.fail_fast and row.status == "failed":
                        break
        finally:
            # Also of a run that was interrupted there is a page, of the rows there are.
            store.refresh(now=True)
            ended = tuple(store.rows())
            seconds = time.perf_counter() - started if len(ended) == len(inputs) else None
            record = run_record(request, model, devices, ended, seconds)
            directory.write_run(record)
            page = write_report(directory.path) if request.report else None
    return RunReport(
        record=record,
        rows=ended,
        overlays=tuple(directory.overlay_of(row) for row in ended),
        page=page,
        inputs=len(inputs),
        skipped=store.skipped,
        calibration=calibration,
    )


def _rows(
    request: RunRequest,
    store: RunStore,
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    devices: Sequence[torch.device],
    progress: Progress,
) -> Rows:
    """Classify what is pending, write and keep it, and yield the rows."""
    plans = [
        replace(
            _plan(request, model, model.path, engine_options(request, device, processes=len(devices))),
            device=str(device),
            torch_threads=max(1, usable_cores() // len(devices)),
            writers=writing_threads(device),
        )
        for device in devices
    ]
    if request.cluster is not None:
        return _rows_on_cluster(request, plans, store, inputs, model, progress)
    return rows_as_planned(plans, store, inputs, model, progress)


def _rows_on_cluster(
    request: RunRequest,
    plans: Sequence[ClassificationPlan],
    store: RunStore,
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    progress: Progress,
) -> Rows:
    # Here and not above: it takes a second to import, and most runs have no cluster.
    from tnet_cli.classification.cluster import LOCAL, rows_on_cluster

    engine = engine_options(request, torch.device("cpu"))
    readers = 1 if request.cluster == LOCAL else reader_threads(request.workers)
    plan = _plan(request, model, model.path.read_bytes(), replace(engine, readers=readers, slides_in_flight=1))
    address = request.cluster or LOCAL
    yield from rows_on_cluster(
        address, plan, store, inputs, card=model.card, workers=request.workers, progress=progress
    )
    # Here, and one by one, those during which workers died.
    yield from rows_as_planned(plans, store, inputs, model, progress)


def _plan(request: RunRequest, model: LoadedModel, weights: Path | bytes, engine: EngineOptions) -> ClassificationPlan:
    return ClassificationPlan(
        weights=weights,
        digest=model.digest,
        options=request.traversal,
        engine=engine,
        device=request.device,
        overlay=request.overlay,
        save_mask=request.save_mask,
        answer_anyway=request.answer_anyway,
    )


def _options(request: RunRequest, model: LoadedModel) -> dict[str, Any]:
    """Return the options that a result depends on."""
    return request.traversal.record(model.card.network.locations) | request.where.record()


def _files(request: RunRequest) -> dict[str, Any]:
    """Return the files that options name, where there are such and names are not hidden."""
    if request.hash_names is not None:
        return {"hash_names": True}
    return {name: str(file) for name in ("roi", "mask") if (file := getattr(request.where, name)) is not None}


def engine_options(request: RunRequest, device: torch.device, *, processes: int = 1) -> EngineOptions:
    """Return how slides are classified on one device, when several processes share this machine."""
    readers = max(1, reader_threads(request.workers) // processes)
    return EngineOptions(
        device=device,
        batch_size=request.batch_size,
        readers=readers,
        slides_in_flight=min(3, readers + 1) if device.type == "cpu" else max(8, 2 * readers),
        slide_timeout_s=request.slide_timeout_s,
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
        seconds: How long the run took; None while it has not come to its end.
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
        "options": _options(request, model)
        | {
            "device": ",".join(str(device) for device in devices) if request.cluster is None else request.device,
            "cluster": request.cluster and redacted(request.cluster),
            "batch_size": request.batch_size,
            "workers": reader_threads(request.workers),
            "answer_anyway": request.answer_anyway,
        }
        | _files(request),
        "machine": describe_machine(),
        "slides": {status: statuses.count(status) for status in STATUSES},
        "seconds": None if seconds is None else round(seconds, 3),
    }
