"""A whole run of ``tnet evaluate``: labelled slides in, a folder of metrics, tables and plots out."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError, printable, raise_for_failed
from tnet_cli.evaluation.calibrate import Fit, check_model_target
from tnet_cli.evaluation.folder import METRICS, EvaluationFolder
from tnet_cli.evaluation.judge import JudgedSlide, failures_of
from tnet_cli.evaluation.metrics import metrics_of
from tnet_cli.evaluation.passes import Passes
from tnet_cli.evaluation.record import metrics_record, options_record, run_record
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.selection import select_rows
from tnet_cli.inference.device import choose_device
from tnet_cli.inference.progress import Progress
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.metrics.patients import patient_rule
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import copy_model, find_model, load_model
from tnet_cli.results.ledger import RunIdentity
from tnet_cli.results.resume import opened_run


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What became of an evaluation.

    Attributes:
        record: What ``metrics.json`` holds, and under ``run`` what ``run.json`` does.
        accuracy: Of the first arm, as is ``auroc``.
        judged: Slides of the first arm that have an answer.
        abstained: Slides of the first arm whose answer does not count.
        failures: Slides that failed, with the arm in which they did.
        slides: How many slides the evaluation has, those that calibrate included.
    """

    record: dict[str, Any]
    accuracy: Estimate
    auroc: Estimate
    judged: int
    abstained: int
    failures: tuple[tuple[str, JudgedSlide], ...]
    slides: int
    out: Path

    def line(self) -> str:
        """Return the answer in one line."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        without = f", {self.abstained} without an answer that counts" if self.abstained else ""
        return (
            f"accuracy {self.accuracy.words()}, AUROC {self.auroc.words()}; "
            f"{self.judged} slides judged{without}{failed}; results: {self.out}"
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
    if request.patient_rule is not None and not any(entry.patient for entry in selection.judged):
        raise UsageError("--patient-rule: no slide to be judged has a patient; give the manifest a column 'patient'")
    slides = [*selection.calibration, *selection.judged]
    identity = RunIdentity(model.digest, options_record(request, model) | {"split": selection.split})
    with opened_run(folder.directory, identity, slides, overwrite=request.overwrite) as run:
        if request.overwrite:
            folder.remove_what_is_stale()
        folder.directory.write_run(run_record(request, model, device, None, 0))
        passes = Passes(request, folder, model, selection, run, device)
        progress.start(passes.pending, model.card.introduction)
        fit, runs, curve = passes.go(progress)
        card = model.card if fit is None else fit.card
        rule = patient_rule(request.patient_rule)
        metrics = metrics_of(runs, curve, card, draws=request.bootstrap, seed=request.seed, rule=rule)
        failures = failures_of([*([fit.run] if fit else []), *runs, *curve])
        folder.write_tables_and_plots(metrics)
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
        abstained=len(first.run.of_status("abstained")),
        failures=tuple(failures),
        slides=len(slides),
        out=request.out,
    )


def _evaluated_card(record: dict[str, Any], fit: Fit) -> ModelCard:
    """Return the fitted card with what was measured, beside what it already says."""
    evaluation = {
        "manifest": printable(record["manifest"]),
        "split": printable(record["split"]),
        "slides": record["slides"]["judged"],
        "abstained": record["slides"]["abstained"],
        "expected calibration error": record["calibration"]["expected_calibration_error"]["value"],
        "accuracy": _for_card(record["accuracy"]),
        "AUROC": _for_card(record["auroc"]),
    }
    fitted = {
        "split": printable(fit.split),
        "slides": len(fit.run.judged),
        "temperature": fit.calibration.temperature,
        "bias": list(fit.calibration.bias),
    }
    measured = fit.card.metrics | {"evaluation": evaluation, "calibration": fitted}
    return fit.card.model_copy(update={"metrics": measured})


def _for_card(estimate: dict[str, Any]) -> dict[str, Any]:
    interval = estimate["interval_95"]
    return {"value": estimate["value"]} | ({f"95 % ({estimate['method']})": interval} if interval else {})
