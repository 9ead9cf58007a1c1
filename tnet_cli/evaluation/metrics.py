"""All metrics of an evaluation, computed from what the arms found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnet_cli.evaluation.judge import ArmRun
from tnet_cli.evaluation.localisation import Localisation, summarise_localisation
from tnet_cli.evaluation.patients import PatientMetrics, patient_metrics
from tnet_cli.files import rounded
from tnet_cli.metrics.bootstrap import patient_or_slide, resample_patients
from tnet_cli.metrics.calibration import (
    ReliabilityBin,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    stated_and_true,
)
from tnet_cli.metrics.discrimination import (
    ClassMetrics,
    accuracy,
    accuracy_over_patients,
    auroc,
    average_precision,
    balanced_accuracy,
    confusion_matrix,
    per_class,
)
from tnet_cli.metrics.estimate import Estimate, wilson
from tnet_cli.metrics.patients import DEFAULT_RULE, PatientRule
from tnet_cli.metrics.predictions import Predictions
from tnet_cli.modelfile.card import ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMetrics:
    """What one arm, or one point of the curve, comes to over the slides that it judged.

    Attributes:
        accuracy: With Wilson's interval.
        auroc: With the bootstrap interval.
        average_precision: With the bootstrap interval; not estimated for a point of the curve.
        coverage: Share of the slides looked at that have an answer that counts, with Wilson's interval.
        accuracy_anyway: Over all slides looked at, with Wilson's interval.
        right_by_sureness: bool (N,): whether the most probable class is the label, for all slides looked at, the surest
            first, and those whose answer does not count last.
    """

    run: ArmRun
    predictions: Predictions
    accuracy: Estimate
    auroc: Estimate
    average_precision: Estimate
    coverage: Estimate
    accuracy_anyway: Estimate
    right_by_sureness: np.ndarray

    @property
    def arm(self) -> str:
        """One of ``arms.ARMS``."""
        return self.run.arm

    @property
    def locations(self) -> float | None:
        """Mean number of attended locations; None without slides."""
        return _mean(slide.row.values["locations"] for slide in self.run.judged)

    def record(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json``: what weights, slides and seed determine."""
        return {
            **self._counts(),
            "coverage": self.coverage.record(),
            "accuracy": self.accuracy.record(),
            "accuracy_anyway": self.accuracy_anyway.record(),
            "auroc": self.auroc.record(),
            "locations": rounded(self.locations),
        }

    def cells(self) -> dict[str, Any]:
        """Return the cells for ``arms.csv`` and ``curve.csv``."""
        return {
            **self._counts(),
            "coverage": rounded(self.coverage.value),
            **self.accuracy.cells("accuracy"),
            "accuracy_anyway": rounded(self.accuracy_anyway.value),
            **self.auroc.cells("auroc"),
            "locations": rounded(self.locations),
            **self.cost(),
        }

    def cost(self) -> dict[str, Any]:
        """Return what this run took, which another may not take again; None for a point of the curve.

        Mean share of the level-0 pixels that was decoded, and wall time over the slides, failed ones included.
        """
        run = self.run
        read = None if run.seconds is None else _mean(slide.row.values["fraction_read"] or 0.0 for slide in run.judged)
        seconds = run.seconds / len(run.slides) if run.slides and run.seconds is not None else None
        return {"fraction_read": rounded(read), "seconds_per_slide": rounded(seconds)}

    def _counts(self) -> dict[str, Any]:
        run = self.run
        by_status = {name: len(run.of_status(name)) for name in ("abstained", "failed", "no_tissue")}
        return {"arm": run.arm, "budget": run.budget, "judged": len(run.judged)} | by_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What an evaluation found; all but the arms', the curve's and the localisation is of the first arm.

    Attributes:
        arms: The first is judged in full.
        curve: One for each arm and budget of the curve.
        accuracy_of_listed: With Wilson's interval, slides without an answer counted as wrong.
        accuracy_over_patients: With the bootstrap interval; undefined where no patient is named.
        balanced_accuracy: With the bootstrap interval.
        confusion: int64 (C, C), row the label.
        reliability: Bins of the reliability diagram.
        calibration_error: Over these bins.
        localisation: By arm; empty without annotations.
        patients: Of patients in place of slides; None where no patient is named.
    """

    arms: tuple[ArmMetrics, ...]
    curve: tuple[ArmMetrics, ...]
    accuracy_of_listed: Estimate
    accuracy_over_patients: Estimate
    balanced_accuracy: Estimate
    confusion: np.ndarray
    classes: list[ClassMetrics]
    reliability: list[ReliabilityBin]
    calibration_error: Estimate
    brier: Estimate
    negative_log_likelihood: Estimate
    localisation: dict[str, Localisation]
    patients: PatientMetrics | None


def metrics_of(
    runs: Sequence[ArmRun],
    curve: Sequence[ArmRun],
    card: ModelCard,
    *,
    draws: int,
    seed: int,
    rule: PatientRule = DEFAULT_RULE,
) -> Metrics:
    """Compute everything.

    Args:
        runs: One for each arm, the first to be judged in full.
        curve: One for each arm and budget of the curve.
        card: Calibration and classes.
        draws: Of the bootstrap; 0 for none.
        seed: Names the draws.
        rule: What makes one answer of those of a patient's slides.
    """
    first, predictions = runs[0], runs[0].predictions(card)
    resampling = resample_patients(predictions.truth, predictions.patients, count=draws, seed=seed)
    bins = reliability(*stated_and_true(predictions))
    over_patients = Estimate.undefined("the manifest names no patients")
    patients: PatientMetrics | None = None
    if any(slide.entry.patient for slide in first.slides):
        patients = patient_metrics(first, predictions, card.network.class_names, rule, draws=draws, seed=seed)
        over_patients = accuracy_over_patients(predictions, resampling)
    likelihood = Estimate.undefined()
    if len(predictions):
        value = negative_log_likelihood(predictions.logits, predictions.truth, card.temperature, card.bias)
        likelihood = Estimate(value=value)
    return Metrics(
        arms=tuple(_arm_metrics(run, card, draws, seed) for run in runs),
        curve=tuple(_arm_metrics(run, card, draws, seed) for run in curve),
        accuracy_of_listed=wilson(predictions.right, len(first.slides)),
        accuracy_over_patients=over_patients,
        balanced_accuracy=balanced_accuracy(predictions, resampling),
        confusion=confusion_matrix(predictions),
        classes=per_class(predictions),
        reliability=bins,
        calibration_error=expected_calibration_error(bins),
        brier=brier_score(predictions),
        negative_log_likelihood=likelihood,
        localisation={run.arm: _localisation(run, draws, seed) for run in runs if run.lesions},
        patients=patients,
    )


def _arm_metrics(run: ArmRun, card: ModelCard, draws: int, seed: int) -> ArmMetrics:
    predictions = run.predictions(card)
    resampling = resample_patients(predictions.truth, predictions.patients, count=draws, seed=seed)
    is_point = run.budget is not None
    looked_at = run.predictions(card, anyway=True)
    is_right = looked_at.truth == looked_at.called
    # Those without an answer come after the others in these predictions, and after them they stay.
    surest_first = np.lexsort(
        (-looked_at.probabilities.max(axis=1, initial=0), np.arange(len(is_right)) >= len(predictions))
    )
    return ArmMetrics(
        run=run,
        predictions=predictions,
        accuracy=accuracy(predictions),
        auroc=auroc(predictions, resampling),
        average_precision=Estimate.undefined("") if is_point else average_precision(predictions, resampling),
        coverage=wilson(len(predictions), len(looked_at)),
        accuracy_anyway=wilson(looked_at.right, len(looked_at)),
        right_by_sureness=is_right[surest_first],
    )


def _localisation(run: ArmRun, draws: int, seed: int) -> Localisation:
    patients = [patient_or_slide(slide.entry.patient, slide.row.values["slide"]) for slide in run.lesions]
    found = [slide.found for slide in run.lesions if slide.found is not None]
    return summarise_localisation(found, patients, draws=draws, seed=seed)


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return float(np.mean(listed)) if listed else None
