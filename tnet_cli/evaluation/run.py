"""A whole run of ``tnet evaluate``: labelled slides in, a folder of metrics, tables and plots out."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import InterruptedRunError, RunStoppedError, raise_for_failed
from tnet_cli.evaluation.arms import Comparison
from tnet_cli.evaluation.calibrate import Fit, check_model_target, fit_card
from tnet_cli.evaluation.folder import METRICS, EvaluationFolder, predictions_name
from tnet_cli.evaluation.judge import ArmRun, JudgedSlide, failures_of, run_arm, run_curve
from tnet_cli.evaluation.metrics import metrics_of
from tnet_cli.evaluation.record import metrics_record, run_record
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.selection import Selection, select_rows
from tnet_cli.inference.classify import EngineOptions
from tnet_cli.inference.device import choose_device, reader_threads, usable_cores
from tnet_cli.inference.progress import Progress
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel, copy_model, find_model, load_model


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
        sentences = [(slide.entry.shown_path, slide.result.error or slide.entry.shown_path) for _, slide in self.failures]
        raise_for_failed(sentences, self.slides, file=METRICS)


def run_evaluation(request: EvaluateRequest, progress: Progress | None = None) -> EvaluationReport:
    """Judge a model on labelled slides and write what was found.

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
        check_model_target(target, model_path, overwrite=request.overwrite)
    model = load_model(model_path)
    request.check_against(model.card.network)
    selection = select_rows(
        request.manifest,
        model.card.network.class_names,
        split=request.split,
        calibrate=request.calibrate,
        on_note=progress.note,
    )
    folder.make()
    torch.set_num_threads(usable_cores())
    with _keeping_what_is_finished(request.out):
        fit, runs, curve = _run_arms(request, folder, model, selection, device, progress)
        card = model.card if fit is None else fit.card
        metrics = metrics_of(runs, curve, card, draws=request.bootstrap, seed=request.seed)
        failures = failures_of([*([fit.run] if fit else []), *runs, *curve])
        folder.write_tables_and_plots(metrics, card.threshold)
        record = metrics_record(request, model, selection, metrics, card, fit=fit, failures=failures)
        if fit is not None and target is not None:
            copy_model(model.path, _evaluated_card(record, fit), target, domain=fit.domain)
            folder.note_model(target)
        run = run_record(request, model, device, metrics, time.perf_counter() - started)
        folder.write_run(run)
        record = folder.write_metrics(record)
    first = metrics.arms[0]
    return EvaluationReport(
        record={"run": run} | record,
        accuracy=first.accuracy,
        auroc=first.auroc,
        judged=len(first.predictions),
        failures=tuple(failures),
        slides=len(selection.judged) + len(selection.calibration),
        out=request.out,
    )


@contextmanager
def _keeping_what_is_finished(out: Path) -> Iterator[None]:
    """Say in a sentence that something cannot be written, or that the user stopped it."""
    try:
        yield
    except KeyboardInterrupt as exc:
        raise InterruptedRunError(exc, "what was finished is kept") from exc
    except OSError as exc:
        raise RunStoppedError(f"{out}: cannot be written: {exc.strerror or exc}; what was finished is kept") from exc


def _run_arms(
    request: EvaluateRequest,
    folder: EvaluationFolder,
    model: LoadedModel,
    selection: Selection,
    device: torch.device,
    progress: Progress,
) -> tuple[Fit | None, list[ArmRun], list[ArmRun]]:
    """Return what was fitted, the arms' runs, and those of the curve, decided by the fitted card."""
    engine = EngineOptions(
        device=device,
        batch_size=request.batch_size,
        readers=reader_threads(request.workers),
        # Arms whose times are compared take the slides one by one, as the exhaustive arm must.
        slides_in_flight=1 if len(request.arms) > 1 else 2 if device.type == "cpu" else 8,
    )
    judged = Comparison(
        inputs=selection.judged,
        model=model,
        options=request.traversal,
        engine=engine,
        seed=request.seed,
        progress=progress,
    )
    calibrating_arms = _calibrating_arms(request, model.card)
    passes = len(request.arms) + bool(request.curve_points)
    often = len(selection.calibration) * len(calibrating_arms) + len(selection.judged) * passes
    progress.start(often, model.card.introduction)
    fit = None
    if selection.calibration:
        fit = _fit(calibrating_arms, replace(judged, inputs=selection.calibration), str(request.calibrate))
    card = model.card if fit is None else fit.card
    names = {arm: predictions_name(arm, request.arms[0]) for arm in request.arms}
    runs = [_run_and_keep(arm, judged, card, folder, name) for arm, name in names.items()]
    return fit, runs, [run.decided_by(card) for run in run_curve(request.curve_points, judged)]


def _calibrating_arms(request: EvaluateRequest, card: ModelCard) -> tuple[str, ...]:
    """Return the arms that run over the calibration split: the one judged first, then that of the domain.

    A domain is of the locations that the model attends, whichever arm is judged; a model of images has none.
    """
    first = request.arms[0]
    return (first,) if first == "tnet" or card.network.mpp is None else (first, "tnet")


def _fit(arms: Sequence[str], comparison: Comparison, split: str) -> Fit:
    runs = [run_arm(arm, comparison, keep_features=arm == "tnet") for arm in arms]
    card = comparison.model.card
    features = [] if card.network.mpp is None else [slide.features for slide in runs[-1].judged]
    return fit_card(runs[0], card, split, features)


def _run_and_keep(arm: str, comparison: Comparison, card: ModelCard, folder: EvaluationFolder, name: str) -> ArmRun:
    """Run an arm and write its table, also of the slides that ended before an interruption."""
    ended: dict[int, JudgedSlide] = {}
    try:
        return run_arm(arm, comparison, on_slide=ended.__setitem__).decided_by(card)
    finally:
        slides = [ended[position].decided_by(card) for position in sorted(ended)]
        folder.write_predictions(name, slides, card.network.class_names)


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
