"""All figures of an evaluation, computed from what the arms found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet_cli.evaluation.judge import ArmRun, ArmSummary, resampling_of, summarise_arm
from tnet_cli.evaluation.localisation import Localisation, LocalisationRow, summarise_localisation
from tnet_cli.metrics.calibration import (
    ReliabilityBin,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    stated_and_true,
)
from tnet_cli.metrics.discrimination import (
    ClassFigures,
    accuracy,
    accuracy_over_patients,
    auroc,
    average_precision,
    balanced_accuracy,
    confusion_matrix,
    per_class,
)
from tnet_cli.metrics.estimate import Estimate, wilson
from tnet_cli.metrics.predictions import Answers
from tnet_cli.modelfile.card import ModelCard


@dataclass(frozen=True, slots=True)
class ArmAnswers:
    """An arm's answers with the figures its curves are labelled with."""

    arm: str
    answers: Answers
    auroc: Estimate
    average_precision: Estimate

    @property
    def with_auroc(self) -> tuple[str, Answers, Estimate]:
        """Arm, answers and AUROC."""
        return self.arm, self.answers, self.auroc

    @property
    def with_average_precision(self) -> tuple[str, Answers, Estimate]:
        """Arm, answers and average precision."""
        return self.arm, self.answers, self.average_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What an evaluation found; every figure but the arms' is of the first arm.

    Attributes:
        run: The first arm's run.
        answers: Of the first arm.
        accuracy: Over the judged slides, with Wilson's interval.
        accuracy_of_listed: The same, failed slides and those without tissue counted as wrong.
        accuracy_over_patients: The accuracy with the bootstrap interval; undefined where no patient is named.
        balanced_accuracy: With the bootstrap interval, as the two below.
        auroc: Area under the ROC.
        average_precision: Area under precision against recall.
        confusion: int64 (C, C), row the label.
        classes: The per-class table.
        reliability: Bins of the reliability diagram.
        calibration_error: Over these bins.
        brier: Brier score.
        likelihood: Negative log-likelihood.
        arms: One for each arm.
        judgements: Answers of each arm.
        curve: One for each budget and arm of the curve.
        lesions: Arm -> its lesion slides; empty without annotations.
        localisation: Arm -> its localisation.
    """

    run: ArmRun
    answers: Answers
    accuracy: Estimate
    accuracy_of_listed: Estimate
    accuracy_over_patients: Estimate
    balanced_accuracy: Estimate
    auroc: Estimate
    average_precision: Estimate
    confusion: np.ndarray
    classes: list[ClassFigures]
    reliability: list[ReliabilityBin]
    calibration_error: Estimate
    brier: Estimate
    likelihood: Estimate
    arms: list[ArmSummary]
    judgements: list[ArmAnswers]
    curve: list[ArmSummary]
    lesions: dict[str, list[LocalisationRow]]
    localisation: dict[str, Localisation]


def figures_of(runs: Sequence[ArmRun], curve: Sequence[ArmRun], card: ModelCard, *, draws: int, seed: int) -> Figures:
    """Compute everything.

    Args:
        runs: One for each arm, the first to be judged in full.
        curve: One for each budget and arm of the curve.
        card: Temperature, threshold and classes.
        draws: Of the bootstrap; 0 for none.
        seed: Names the draws.
    """
    first = runs[0]
    answers = first.answers(card)
    resampling = resampling_of(answers, draws=draws, seed=seed)
    bins = reliability(*stated_and_true(answers))
    names_patients = any(slide.entry.patient for slide in first.slides)
    lesions = {run.arm: rows for run in runs if (rows := run.lesions())}
    judgements = [_arm_answers(run, card, draws=draws, seed=seed) for run in runs]
    return Figures(
        run=first,
        answers=answers,
        accuracy=accuracy(answers),
        accuracy_of_listed=wilson(answers.right, len(first.slides)),
        accuracy_over_patients=(
            accuracy_over_patients(answers, resampling)
            if names_patients
            else Estimate.undefined("the manifest names no patients")
        ),
        balanced_accuracy=balanced_accuracy(answers, resampling),
        auroc=judgements[0].auroc,
        average_precision=judgements[0].average_precision,
        confusion=confusion_matrix(answers),
        classes=per_class(answers),
        reliability=bins,
        calibration_error=expected_calibration_error(bins),
        brier=brier_score(answers),
        likelihood=_likelihood(answers, card),
        arms=[summarise_arm(run, card, auroc=each.auroc) for run, each in zip(runs, judgements, strict=True)],
        judgements=judgements,
        curve=[
            summarise_arm(run, card, auroc=auroc(of_run, resampling_of(of_run, draws=draws, seed=seed)))
            for run in curve
            for of_run in [run.answers(card)]
        ],
        lesions=lesions,
        localisation={arm: summarise_localisation(rows, draws=draws, seed=seed) for arm, rows in lesions.items()},
    )


def _arm_answers(run: ArmRun, card: ModelCard, *, draws: int, seed: int) -> ArmAnswers:
    answers = run.answers(card)
    resampling = resampling_of(answers, draws=draws, seed=seed)
    return ArmAnswers(run.arm, answers, auroc(answers, resampling), average_precision(answers, resampling))


def _likelihood(answers: Answers, card: ModelCard) -> Estimate:
    if len(answers) == 0:
        return Estimate.undefined("no slide could be judged")
    return Estimate(value=negative_log_likelihood(answers.logits, answers.truth, card.temperature))
