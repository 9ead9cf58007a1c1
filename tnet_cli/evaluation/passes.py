"""The passes of an evaluation over its slides, each with what is kept of it, so that none is made twice."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tnet_cli.evaluation.arms import Comparison
from tnet_cli.evaluation.calibrate import Fit, fit_card
from tnet_cli.evaluation.curve import CurvePoint
from tnet_cli.evaluation.folder import EvaluationFolder, predictions_name
from tnet_cli.evaluation.judge import (
    ArmRun,
    JudgedSlide,
    annotation_fingerprint,
    arm_run,
    curve_runs,
    rows_of_arm,
    rows_of_curve,
)
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.selection import Selection
from tnet_cli.inference.classify import EngineOptions
from tnet_cli.inference.device import reader_threads, usable_cores
from tnet_cli.inference.processes import rows_as_planned
from tnet_cli.inference.progress import Progress
from tnet_cli.inference.worker import Keep, Rows, WorkerPlan
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideResult, SlideRow
from tnet_cli.results.resume import OpenRun, RunStore


@dataclass(frozen=True, kw_only=True)
class PassPlan(WorkerPlan):
    """What a process needs to know to look at slides by an arm, or for all points of the curve.

    Attributes:
        arm: One of ``arms.ARMS``; None for the curve.
        points: Of the curve.
        seed: Of random locations.
        keeps_features: Whether the slides are calibrated on by their features.
        fit: Its card and domain decide in place of the model's own.
    """

    arm: str | None
    points: tuple[CurvePoint, ...] = ()
    seed: int
    keeps_features: bool = False
    fit: Fit | None = None

    def rows(
        self, model: LoadedModel, slides: Iterable[SlideInput], out: Path, progress: Progress, keep: Keep | None = None
    ) -> Rows:
        """Look at slides; raises as ``judge.rows_of_arm``."""
        fit = self.fit
        if fit is not None:
            model = replace(model, card=fit.card, domain=fit.domain or model.domain)
        comparison = Comparison(
            inputs=slides,
            model=model,
            options=self.options,
            engine=self.own_engine,
            seed=self.seed,
            progress=progress,
        )
        if self.arm is None:
            looked_at = rows_of_curve(self.points, comparison)
        else:
            keep_features = EvaluationFolder(out).keep_features if self.keeps_features else None
            looked_at = rows_of_arm(self.arm, comparison, keep_features)
        with closing(looked_at) as rows:
            for position, row, fingerprint in rows:
                if fit is not None and row.was_looked_at:
                    row = replace(row, kept={**row.kept, "decided_by": fit.digest})  # noqa: PLW2901
                if keep is not None:
                    keep(position, row, fingerprint)
                yield position, row, fingerprint

    def row_of(self, result: SlideResult, out: Path) -> SlideRow:  # noqa: ARG002 (nothing is written of a slide)
        """Return the row of a slide that has failed."""
        return SlideRow(result.row(), result.reasons)


class Passes:
    """The passes over the slides: to calibrate, of each arm, and of the curve for all its points."""

    def __init__(
        self,
        request: EvaluateRequest,
        folder: EvaluationFolder,
        model: LoadedModel,
        selection: Selection,
        run: OpenRun,
        device: torch.device,
    ) -> None:
        self._is_decided = not selection.calibration  # by which card; else that is to be fitted first
        self._request, self._folder, self._model, self._selection = request, folder, model, selection
        self._device = device
        self._told: set[str] = set()
        arms = calibrating_arms(request, model.card) if selection.calibration else ()
        self._calibrating = {
            arm: run.store(selection.calibration, _no_table, self._can_calibrate(arm), part=arm) for arm in arms
        }
        self._judging = {
            arm: run.store(selection.judged, partial(self._write_predictions, arm), _can_be_judged, part=arm)
            for arm in request.arms
        }
        self._curve = (
            [run.store(selection.judged, _no_table, self._has_points, part="curve")] if request.curve_points else []
        )

    @property
    def pending(self) -> int:
        """How often a slide is still to be looked at."""
        stores = (*self._calibrating.values(), *self._judging.values(), *self._curve)
        return sum(len(store.pending) for store in stores)

    def go(self, progress: Progress) -> tuple[Fit | None, list[ArmRun], list[ArmRun]]:
        """Return what was fitted, the arms' runs, and those of the curve, as the model with the fitted card judges.

        Raises:
            UsageError: the options do not fit the model.
            RunStoppedError: the device or the storage answers no more.
            OSError: the disk is full or gone.
        """
        fit = self._fit(progress) if self._calibrating else None
        if fit is not None:
            # An earlier run may have fitted another one, to other slides.
            is_decided = partial(_is_decided_by, fit.digest)
            for store in (*self._judging.values(), *self._curve):
                store.do_again(is_decided)
        self._is_decided = True
        judged = self._selection.judged
        runs = [
            arm_run(arm, judged, self._done(arm, store, judged, progress, fit=fit))
            for arm, store in self._judging.items()
        ]
        curve: list[ArmRun] = []
        for store in self._curve:
            curve = curve_runs(self._request.curve_points, judged, self._done(None, store, judged, progress, fit=fit))
        return fit, runs, curve

    def _done(
        self,
        arm: str | None,
        store: RunStore,
        inputs: Sequence[SlideInput],
        progress: Progress,
        *,
        keeps_features: bool = False,
        fit: Fit | None = None,
    ) -> list[SlideRow]:
        """Do what is pending of a pass, and return the rows of all its slides."""
        request = self._request
        plan = PassPlan(
            weights=self._model.path,
            digest=self._model.digest,
            options=request.traversal,
            engine=EngineOptions(
                batch_size=request.batch_size,
                readers=reader_threads(request.workers),
                # Arms whose times are compared take the slides one by one, as the exhaustive arm must.
                slides_in_flight=1 if len(request.arms) > 1 else 2 if self._device.type == "cpu" else 8,
            ),
            device=str(self._device),
            torch_threads=usable_cores(),
            arm=arm,
            points=() if arm else request.curve_points,
            seed=request.seed,
            keeps_features=keeps_features,
            fit=fit,
        )
        if store.pending:
            store.find_suspects()
            with closing(rows_as_planned([plan], store, inputs, self._model, progress)) as rows:
                for position, row in rows:
                    store.refresh()
                    progress.slide_done(JudgedSlide(inputs[position], row).cells())
                    self._tell_doubts(inputs[position], row, progress)
        # Also a table of which no row is new: only now is it known by which card they are decided.
        store.refresh(now=True)
        return store.rows()

    def _tell_doubts(self, entry: SlideInput, row: SlideRow, progress: Progress) -> None:
        """Tell what the reader of a slide has doubted, once for all passes."""
        for doubt in row.kept.get("doubts", ()):
            sentence = f"{entry.shown_path}: {doubt}"
            if sentence not in self._told:
                self._told.add(sentence)
                progress.note(sentence)

    def _fit(self, progress: Progress) -> Fit:
        slides = self._selection.calibration
        runs = {
            arm: arm_run(arm, slides, self._done(arm, store, slides, progress, keeps_features=self._fits_domain(arm)))
            for arm, store in self._calibrating.items()
        }
        runs = {arm: run.without_old_limits() for arm, run in runs.items()}
        last = list(runs)[-1]
        judged = runs[last].judged if self._fits_domain(last) else []
        features = [self._folder.features_of(slide.entry.name) or {} for slide in judged]
        sharpness = [found for slide in judged if (found := slide.row.kept.get("sharpness")) is not None]
        run, split = runs[self._request.arms[0]], str(self._request.calibrate)
        return fit_card(run, self._model.card, split, features, sharpness)

    def _fits_domain(self, arm: str) -> bool:
        return arm == "tnet" and self._model.card.network.mpp is not None

    def _can_calibrate(self, arm: str) -> Callable[[SlideInput, SlideRow], bool]:
        """Return what tells whether the features of a slide are there, where the domain is fitted to them."""
        if not self._fits_domain(arm):
            return _can_be_judged
        return lambda entry, row: (
            not row.was_looked_at or (_can_be_judged(entry, row) and self._folder.features_of(entry.name) is not None)
        )

    def _has_points(self, _: SlideInput, row: SlideRow) -> bool:
        return not row.was_looked_at or len(row.kept.get("points", ())) == len(self._request.curve_points)

    def _write_predictions(self, arm: str, rows: Sequence[tuple[int, SlideRow]]) -> None:
        """Write an arm's table, as soon as it is known by which card the slides are decided."""
        if not self._is_decided:
            return
        slides = [JudgedSlide(self._selection.judged[position], row) for position, row in rows]
        name = predictions_name(arm, self._request.arms[0])
        self._folder.write_predictions(name, slides, self._model.card.network.class_names)


def calibrating_arms(request: EvaluateRequest, card: ModelCard) -> tuple[str, ...]:
    """Return the arms that run over the calibration split: the one judged first, then that of the domain.

    A domain is of the locations that the model attends, whichever arm is judged; a model of images has none.
    """
    first = request.arms[0]
    return (first,) if first == "tnet" or card.network.mpp is None else (first, "tnet")


def _no_table(_rows: Sequence[tuple[int, SlideRow]]) -> None:
    """Write nothing of a pass that has no table of its own."""


def _is_decided_by(digest: str, _: SlideInput, row: SlideRow) -> bool:
    return not row.was_looked_at or row.kept.get("decided_by") == digest


def _can_be_judged(entry: SlideInput, row: SlideRow) -> bool:
    """Tell whether what is kept of a slide is all there, and its annotation is the one that it was compared with."""
    is_whole = "logits" in row.kept and row.kept.get("annotation") == annotation_fingerprint(entry)
    return is_whole or not row.was_looked_at
