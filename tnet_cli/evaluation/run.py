"""A whole run of ``tnet evaluate``: labelled slides in, a folder of figures, tables and plots out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import InterruptedRunError, RunStoppedError, raise_for_failed
from tnet_cli.evaluation.calibrate import Fit, check_model_target, fit_card
from tnet_cli.evaluation.documents import asked_document, evaluation_document, run_document
from tnet_cli.evaluation.domain_fitting import LevelFeatures, features_of
from tnet_cli.evaluation.folder import METRICS, EvaluationDirectory, predictions_name
from tnet_cli.evaluation.judge import (
    ArmRun,
    ArmSummary,
    JudgedSlide,
    failures_of,
    judge,
    judge_curve,
)
from tnet_cli.evaluation.metrics import Figures, figures_of
from tnet_cli.evaluation.plots import (
    confusion_picture,
    locations_picture,
    precision_recall_picture,
    reliability_picture,
    roc_picture,
)
from tnet_cli.evaluation.request import EvaluateEvents, EvaluateRequest
from tnet_cli.evaluation.selection import Selection, select_rows
from tnet_cli.inference.classify import ClassifyOptions, Events
from tnet_cli.inference.device import choose_device, reader_threads, usable_cores
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel, copy_model, find_model, load_model


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What became of an evaluation.

    Attributes:
        document: What ``metrics.json`` holds, and under ``run`` what ``run.json`` does.
        accuracy: Of the first arm.
        auroc: Of the first arm.
        judged: Slides of the first arm that were called.
        failures: Slides that failed, with the arm in which they did.
        slides: How many slides the evaluation has, those that calibrate included.
        out: The folder.
    """

    document: dict[str, Any]
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
        """Turn failed slides into the error whose exit code says so.

        Raises:
            SlideError: the only slide failed.
            PartialFailureError: some of several slides failed.
        """
        sentences = [(slide.entry.path, slide.result.error or slide.entry.path) for _, slide in self.failures]
        raise_for_failed(sentences, self.slides, file=METRICS)


def run_evaluation(request: EvaluateRequest, events: EvaluateEvents | None = None) -> EvaluationReport:
    """Judge a model on labelled slides and write what was found.

    Raises:
        UsageError: an option cannot be followed, or the folder holds other results.
        ModelFileError: the model cannot be used.
        ManifestError: the manifest, its labels, splits or annotations cannot be used.
        RunStoppedError: the disk is full, or the device or the storage answers no more.
        InterruptedRunError: the user interrupted it.
    """
    events = events or EvaluateEvents()
    started = time.perf_counter()
    request.check()
    directory = EvaluationDirectory(request.out)
    directory.refuse_if_taken(overwrite=request.overwrite)
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
        on_note=events.on_note,
    )
    directory.make()
    torch.set_num_threads(usable_cores())
    with _stopping_in_a_sentence(request.out):
        fit, runs, curve = _Evaluation(request, events, directory, model, selection, device).run()
        card = model.card if fit is None else fit.card
        figures = figures_of(runs, curve, card, draws=request.bootstrap, seed=request.seed)
        failures = failures_of([*([fit.run] if fit else []), *runs, *curve])
        _write(directory, figures, card)
        figures_document = evaluation_document(figures, card, fit=fit, selection=selection, failures=failures)
        document = asked_document(request, model, selection) | figures_document
        if fit is not None and target is not None:
            copy_model(model.path, _evaluated_card(card, document, fit), target, domain=fit.domain)
            directory.note_model(target)
        record = run_document(request, model, device, figures.arms, time.perf_counter() - started)
        directory.write_run(record)
        document = directory.write_metrics(document)
    return EvaluationReport(
        document={"run": record} | document,
        accuracy=figures.accuracy,
        auroc=figures.auroc,
        judged=len(figures.answers),
        failures=tuple(failures),
        slides=len(selection.judged) + len(selection.calibration),
        out=request.out,
    )


@contextmanager
def _stopping_in_a_sentence(out: Path) -> Iterator[None]:
    """Say in a sentence that something cannot be written, or that the user stopped it."""
    try:
        yield
    except KeyboardInterrupt as exc:
        raise InterruptedRunError("interrupted; what was finished is kept") from exc
    except OSError as exc:
        raise RunStoppedError(f"{out}: cannot be written: {exc.strerror or exc}; what was finished is kept") from exc


class _Evaluation:
    """The slides' turn: every arm over the judged rows, after the calibration rows."""

    def __init__(
        self,
        request: EvaluateRequest,
        events: EvaluateEvents,
        directory: EvaluationDirectory,
        model: LoadedModel,
        selection: Selection,
        device: torch.device,
    ) -> None:
        self.request = request
        self.events = events
        self.directory = directory
        self.model = model
        self.selection = selection
        several = len(request.arms) > 1
        self.options = ClassifyOptions(
            locations=request.locations,
            budget=request.budget,
            stop_at=request.stop_at,
            mpp=request.mpp,
            reader=request.reader,
            device=device,
            batch_size=request.batch_size,
            readers=reader_threads(request.workers),
            # Arms whose times are compared take the slides one by one, as the exhaustive arm must.
            slides_in_flight=1 if several else 2 if device.type == "cpu" else 8,
        )

    def run(self) -> tuple[Fit | None, list[ArmRun], list[ArmRun]]:
        """Return what was fitted, the arms' runs, and those of the curve, decided by the fitted card."""
        request, judged = self.request, self.selection.judged
        if self.events.on_start is not None:
            often = len(self.selection.calibration) + len(judged) * (len(request.arms) + bool(request.curve_points))
            self.events.on_start(often, self.model.card.introduction)
        fit = self._fit()
        card = self.model.card if fit is None else fit.card
        runs = [self._judge_and_keep(arm, card) for arm in request.arms]
        curve = judge_curve(
            request.curve_points,
            judged,
            self.model,
            self.options,
            seed=request.seed,
            events=self._looks(),
            on_slide=lambda _position, slide: self._tell(slide),
        )
        return fit, runs, [run.decided_by(card) for run in curve]

    def _fit(self) -> Fit | None:
        if not self.selection.calibration:
            return None
        run = judge(
            self.request.arms[0],
            self.selection.calibration,
            self.model,
            self.options,
            seed=self.request.seed,
            events=self._looks(),
            on_slide=lambda _position, slide: self._tell(slide),
        )
        features: list[LevelFeatures] = []
        if self.model.card.network.mpp is not None:
            features = features_of(self.selection.calibration, self.model, self.options, events=self._looks())
        return fit_card(run, self.model.card, str(self.request.calibrate), features)

    def _judge_and_keep(self, arm: str, card: ModelCard) -> ArmRun:
        """Run an arm and write its table, also of the slides that ended before an interruption."""
        ended: dict[int, JudgedSlide] = {}
        try:
            return self._judge(arm, ended).decided_by(card)
        finally:
            slides = [ended[position].decided_by(card) for position in sorted(ended)]
            name = predictions_name(arm, self.request.arms[0])
            self.directory.write_predictions(name, slides, card.network.class_names)

    def _judge(self, arm: str, ended: dict[int, JudgedSlide]) -> ArmRun:
        def on_slide(position: int, slide: JudgedSlide) -> None:
            ended[position] = slide
            self._tell(slide)

        return judge(
            arm,
            self.selection.judged,
            self.model,
            self.options,
            seed=self.request.seed,
            events=self._looks(),
            on_slide=on_slide,
        )

    def _looks(self) -> Events:
        return Events(on_look=self.events.on_look, on_reduce=self.events.on_reduce)

    def _tell(self, slide: JudgedSlide) -> None:
        if self.events.on_slide is not None:
            self.events.on_slide(slide)


def _write(directory: EvaluationDirectory, figures: Figures, card: ModelCard) -> None:
    """Write the tables and plots, all but the predictions."""
    directory.write_classes(figures.classes)
    directory.write_arms(figures.arms)
    if figures.curve:
        directory.write_curve(figures.curve)
    if figures.lesions:
        directory.write_localisation([row.cells(arm) for arm, rows in figures.lesions.items() for row in rows])
    arms = figures.judgements
    directory.write_plot("roc.png", roc_picture([arm.with_auroc for arm in arms], card.threshold))
    directory.write_plot(
        "precision_recall.png", precision_recall_picture([arm.with_average_precision for arm in arms], card.threshold)
    )
    directory.write_plot("confusion_matrix.png", confusion_picture(figures.answers))
    directory.write_plot("reliability.png", reliability_picture(figures.answers, figures.reliability))
    directory.write_plot("accuracy_by_locations.png", locations_picture(figures.curve, _levels(figures)))


def _levels(figures: Figures) -> list[ArmSummary]:
    return [summary for summary in figures.arms if summary.arm not in {each.arm for each in figures.curve}]


def _evaluated_card(card: ModelCard, document: dict[str, Any], fit: Fit) -> ModelCard:
    """Return the card with what was measured, beside what it already says."""
    evaluation = {
        "manifest": document["manifest"],
        "split": document["split"],
        "slides": document["slides"]["judged"],
        "accuracy": _for_card(document["accuracy"]),
        "AUROC": _for_card(document["auroc"]),
    }
    fitted = {
        "split": fit.split,
        "slides": len(fit.run.judged),
        "temperature": fit.temperature.value,
        "threshold": fit.threshold.value,
    }
    return card.model_copy(update={"metrics": card.metrics | {"evaluation": evaluation, "calibration": fitted}})


def _for_card(estimate: dict[str, Any]) -> dict[str, Any]:
    interval = estimate["interval_95"]
    return {"value": estimate["value"]} | ({f"95 % ({estimate['method']})": interval} if interval else {})
