"""A whole run of ``tnet evaluate``: labelled slides in, a folder of metrics, tables and plots out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import raise_for_failed
from tnet_cli.evaluation.arms import Comparison
from tnet_cli.evaluation.calibrate import Fit, check_model_target, fit_card
from tnet_cli.evaluation.folder import METRICS, EvaluationFolder, predictions_name
from tnet_cli.evaluation.judge import (
    ArmRun,
    JudgedSlide,
    annotation_fingerprint,
    failures_of,
    run_arm,
    run_curve,
)
from tnet_cli.evaluation.metrics import metrics_of
from tnet_cli.evaluation.record import metrics_record, options_record, run_record
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.selection import Selection, select_rows
from tnet_cli.inference.classify import EngineOptions
from tnet_cli.inference.device import choose_device, reader_threads, usable_cores
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel, copy_model, find_model, load_model
from tnet_cli.results.ledger import RunIdentity
from tnet_cli.results.result import SlideRow
from tnet_cli.results.resume import OpenRun, opened_run


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What became of an evaluation.

    Attributes:
        record: What ``metrics.json`` holds, and under ``run`` what ``run.json`` does.
        accuracy: Of the first arm, as is ``auroc``.
        judged: Slides of the first arm that were called.
        failures: Slides that failed, with the arm in which they did.
        slides: How many slides the evaluation has, those that calibrate included.
    """

    record: dict[str, Any]
    accuracy: Estimate
    auroc: Estimate
    judged: int
    failures: tuple[tuple[str, JudgedSlide], ...]
    slides: int
    out: Path

    def line(self) -> str:
        """Return the answer in one line."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"accuracy {self.accuracy.words()}, AUROC {self.auroc.words()}; "
            f"{self.judged} slides judged{failed}; results: {self.out}"
        )

    def raise_for_failures(self) -> None:
        """Turn failed slides into an error as ``errors.raise_for_failed`` does."""
        sentences = [(slide.entry.shown_path, slide.error or slide.entry.shown_path) for _, slide in self.failures]
        raise_for_failed(sentences, self.slides, file=METRICS)


def run_evaluation(request: EvaluateRequest, progress: Progress | None = None) -> EvaluationReport:
    """Judge a model on labelled slides and write what was found; what an earlier run has done is not done again.

    Raises:
        UsageError: an option cannot be followed, or the folder holds other results.
        ModelFileError: the model cannot be used.
        ManifestError: the manifest, its labels, splits or annotations cannot be used.
        RunStoppedError: the disk is full, or the device or the storage answers no more.
        InterruptedRunError: the user interrupted it.
    """
    progress = progress or Progress()
    started = time.perf_counter()
    request.check()
    folder = EvaluationFolder(request.out)
    folder.refuse_if_taken(overwrite=request.overwrite)
    device = choose_device(request.device)
    model_path = find_model(request.model)
    target = request.calibrated_model
    if target is not None:
        check_model_target(target, model_path, overwrite=request.overwrite or folder.has_written(target))
    model = load_model(model_path)
    network = model.card.network
    request.check_against(network)
    selection = select_rows(
        request.manifest,
        network.class_names,
        split=request.split,
        calibrate=request.calibrate,
        on_note=progress.note,
    )
    slides = [*selection.calibration, *selection.judged]
    identity = RunIdentity(model.digest, options_record(request, model) | {"split": selection.split})
    arms, points = _calibrating_arms(request, model.card), request.curve_points
    expected = len(selection.calibration) * len(arms) + len(selection.judged) * (len(request.arms) + len(points))
    with opened_run(folder.directory, identity, slides, overwrite=request.overwrite, expected=expected) as run:
        if request.overwrite:
            folder.remove_what_is_stale()
        folder.directory.write_run(run_record(request, model, device, None, 0))
        torch.set_num_threads(usable_cores())
        passes = _Passes(request, folder, model, selection, run)
        progress.start(passes.pending, model.card.introduction)
        fit, runs, curve = passes.go(device, progress)
        card = passes.card
        metrics = metrics_of(runs, curve, card, draws=request.bootstrap, seed=request.seed)
        failures = failures_of([*([fit.run] if fit else []), *runs, *curve])
        folder.write_tables_and_plots(metrics, card.threshold)
        record = metrics_record(request, model, selection, metrics, card, fit=fit, failures=failures)
        if fit is not None and target is not None:
            copy_model(model.path, _evaluated_card(record, fit), target, domain=fit.domain)
            folder.note_model(target)
        record_of_run = run_record(request, model, device, metrics, time.perf_counter() - started)
        record = folder.write_records(record_of_run, record)
    first = metrics.arms[0]
    return EvaluationReport(
        record={"run": record_of_run} | record,
        accuracy=first.accuracy,
        auroc=first.auroc,
        judged=len(first.predictions),
        failures=tuple(failures),
        slides=len(slides),
        out=request.out,
    )


def _calibrating_arms(request: EvaluateRequest, card: ModelCard) -> tuple[str, ...]:
    """Return the arms that run over the calibration split: the one judged first, then that of the domain.

    A domain is of the locations that the model attends, whichever arm is judged; a model of images has none.
    """
    first = request.arms[0]
    return (first,) if first == "tnet" or card.network.mpp is None else (first, "tnet")


class _Passes:
    """The passes over the slides, to calibrate, of each arm and of the curve, each with what is kept of it.

    Attributes:
        card: Decides; None until it is fitted.
    """

    def __init__(
        self, request: EvaluateRequest, folder: EvaluationFolder, model: LoadedModel, selection: Selection, run: OpenRun
    ) -> None:
        self.card: ModelCard | None = None if selection.calibration else model.card
        self._request, self._folder, self._model, self._selection = request, folder, model, selection
        arms = _calibrating_arms(request, model.card) if selection.calibration else ()
        self._calibrating = {
            arm: run.store(selection.calibration, lambda _: None, self._can_calibrate(arm), part=arm) for arm in arms
        }
        self._judging = {
            arm: run.store(selection.judged, partial(self._write_predictions, arm), _has_this_annotation, part=arm)
            for arm in request.arms
        }
        self._curve = [
            run.store(selection.judged, lambda _: None, lambda *_: True, part=f"{point.arm} at {point.budget}")
            for point in request.curve_points
        ]

    @property
    def pending(self) -> int:
        """How often a slide is still to be looked at; of the curve once for all its points."""
        of_curve = {position for store in self._curve for position in store.pending}
        return sum(len(store.pending) for store in (*self._calibrating.values(), *self._judging.values())) + len(
            of_curve
        )

    def go(self, device: torch.device, progress: Progress) -> tuple[Fit | None, list[ArmRun], list[ArmRun]]:
        """Return what was fitted, the arms' runs, and those of the curve, decided by the fitted card."""
        request = self._request
        judged = Comparison(
            inputs=self._selection.judged,
            model=self._model,
            options=request.traversal,
            engine=EngineOptions(
                device=device,
                batch_size=request.batch_size,
                readers=reader_threads(request.workers),
                # Arms whose times are compared take the slides one by one, as the exhaustive arm must.
                slides_in_flight=1 if len(request.arms) > 1 else 2 if device.type == "cpu" else 8,
            ),
            seed=request.seed,
            progress=progress,
        )
        fit = self._fit(replace(judged, inputs=self._selection.calibration)) if self._calibrating else None
        self.card = card = self._model.card if fit is None else fit.card
        runs = [run_arm(arm, judged, store).decided_by(card) for arm, store in self._judging.items()]
        return fit, runs, [run.decided_by(card) for run in run_curve(request.curve_points, judged, self._curve)]

    def _fit(self, comparison: Comparison) -> Fit:
        keep = {"tnet": self._folder.keep_features} if self._has_domain else {}
        stores = self._calibrating
        runs = {arm: run_arm(arm, comparison, store, keep_features=keep.get(arm)) for arm, store in stores.items()}
        slides = runs["tnet"].judged if self._has_domain else []
        features = [self._folder.features_of(slide.entry.name) or {} for slide in slides]
        return fit_card(runs[self._request.arms[0]], self._model.card, str(self._request.calibrate), features)

    @property
    def _has_domain(self) -> bool:
        return self._model.card.network.mpp is not None

    def _can_calibrate(self, arm: str) -> Callable[[SlideInput, SlideRow], bool]:
        """Return what tells whether the features of a slide are there, where the domain is fitted to them."""
        if arm != "tnet" or not self._has_domain:
            return lambda *_: True
        return lambda entry, row: row.status != "ok" or self._folder.features_of(entry.name) is not None

    def _write_predictions(self, arm: str, rows: Sequence[tuple[int, SlideRow]]) -> None:
        """Write an arm's table, as soon as it is known by which card the slides are decided."""
        if self.card is None:
            return
        slides = [JudgedSlide(self._selection.judged[position], row).decided_by(self.card) for position, row in rows]
        name = predictions_name(arm, self._request.arms[0])
        self._folder.write_predictions(name, slides, self.card.network.class_names)


def _has_this_annotation(entry: SlideInput, row: SlideRow) -> bool:
    return bool(row.kept.get("annotation") == annotation_fingerprint(entry))


def _evaluated_card(record: dict[str, Any], fit: Fit) -> ModelCard:
    """Return the fitted card with what was measured, beside what it already says."""
    evaluation = {
        "manifest": record["manifest"],
        "split": record["split"],
        "slides": record["slides"]["judged"],
        "accuracy": _for_card(record["accuracy"]),
        "AUROC": _for_card(record["auroc"]),
    }
    fitted = {
        "split": fit.split,
        "slides": len(fit.run.judged),
        "temperature": fit.temperature.value,
        "threshold": fit.threshold.value,
    }
    measured = fit.card.metrics | {"evaluation": evaluation, "calibration": fitted}
    return fit.card.model_copy(update={"metrics": measured})


def _for_card(estimate: dict[str, Any]) -> dict[str, Any]:
    interval = estimate["interval_95"]
    return {"value": estimate["value"]} | ({f"95 % ({estimate['method']})": interval} if interval else {})
