"""Slides judged by one arm: results beside labels, and what they sum up to."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tnet_cli.evaluation.arms import classify_by_arm
from tnet_cli.evaluation.curve import CurvePoint, classify_for_curve
from tnet_cli.evaluation.localisation import LocalisationRow, SlideLocalisation, localise
from tnet_cli.inference.classify import ClassifyOptions, Events
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.metrics.bootstrap import Resampling, patient_or_slide, resample_patients
from tnet_cli.metrics.discrimination import accuracy
from tnet_cli.metrics.estimate import Estimate, rounded
from tnet_cli.metrics.predictions import Answers, softmax
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideResult


@dataclass(frozen=True, slots=True)
class JudgedSlide:
    """One row of an evaluation.

    Attributes:
        entry: The slide, its label, patient and split.
        result: What one arm found, without the regions: those of thousands of slides would fill the memory.
        found: Where its locations lie against the annotation, or None.
    """

    entry: SlideInput
    result: SlideResult
    found: SlideLocalisation | None = None

    def decided_by(self, card: ModelCard) -> "JudgedSlide":
        """Return the same slide with the probabilities and the call that another temperature and threshold give."""
        if self.result.status != "ok":
            return self
        probabilities = [float(p) for p in softmax(np.asarray(self.result.logits), card.temperature)]
        called = card.decide(probabilities)
        result = replace(
            self.result,
            prediction=card.network.class_names[called],
            probability=probabilities[called],
            probabilities=tuple(probabilities),
        )
        return replace(self, result=result)

    def row(self) -> dict[str, Any]:
        """Return the slide's row of ``predictions.csv``: that of ``tnet classify``, and label, patient and split."""
        labels = {"label": self.entry.label, "patient": self.entry.patient, "split": self.entry.split}
        return self.result.row() | labels


@dataclass(frozen=True, slots=True)
class ArmRun:
    """What one arm found on the judged slides.

    Attributes:
        arm: One of ``arms.ARMS``.
        slides: In the order of the manifest.
        seconds: Wall time of the arm; None for a point of the curve, whose pass is shared.
        budget: Locations asked for in all, for a point of the curve; None for the model's default or the user's.
    """

    arm: str
    slides: tuple[JudgedSlide, ...]
    seconds: float | None
    budget: int | None = None

    def decided_by(self, card: ModelCard) -> "ArmRun":
        """Return the same run decided by another card's temperature and threshold."""
        return replace(self, slides=tuple(slide.decided_by(card) for slide in self.slides))

    @property
    def judged(self) -> list[JudgedSlide]:
        """The slides that were called; those that failed or hold no tissue are not."""
        return [slide for slide in self.slides if slide.result.status == "ok"]

    def of_status(self, status: str) -> list[JudgedSlide]:
        """Return the slides that ended as ``failed``, ``no_tissue`` or ``ok``."""
        return [slide for slide in self.slides if slide.result.status == status]

    def answers(self, card: ModelCard) -> Answers:
        """Return the judged slides as arrays, decided by a card's temperature and threshold."""
        judged = self.judged
        return answers_from_logits(
            np.array([slide.result.logits for slide in judged], dtype=np.float64),
            [card.network.class_names.index(str(slide.entry.label)) for slide in judged],
            [patient_or_slide(slide.entry.patient, slide.entry.path) for slide in judged],
            card,
        )

    def lesions(self) -> list[LocalisationRow]:
        """Return the judged slides whose annotation has an area."""
        return [
            LocalisationRow(
                slide=slide.result.slide,
                label=str(slide.entry.label),
                patient=slide.entry.patient,
                prediction=slide.result.prediction,
                found=slide.found,
            )
            for slide in self.judged
            if slide.found is not None
        ]


def judge(
    arm: str,
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    options: ClassifyOptions,
    *,
    seed: int,
    events: Events | None = None,
    on_slide: Callable[[int, JudgedSlide], None] | None = None,
) -> ArmRun:
    """Run one arm over slides.

    Args:
        arm: One of ``arms.ARMS``.
        inputs: Labelled slides.
        model: The weights.
        options: How to classify.
        seed: Of the random arm.
        events: Who wants to know how a slide goes.
        on_slide: Told each slide's place in ``inputs`` and what was found, as it ends.

    Raises:
        UsageError: the options do not fit the model.
        ManifestError: an annotation cannot be read.
        RunStoppedError: the device or the storage answers no more.
    """
    ended: dict[int, JudgedSlide] = {}
    started, aside = time.perf_counter(), 0.0
    with closing(classify_by_arm(arm, inputs, model, options, seed=seed, events=events)) as outcomes:
        for position, outcome in outcomes:
            left = time.perf_counter()
            entry = inputs[position]
            found = localise(outcome.result, entry)
            ended[position] = JudgedSlide(entry, replace(outcome.result, regions=()), found)
            if on_slide is not None:
                on_slide(position, ended[position])
            aside += time.perf_counter() - left
    return ArmRun(arm=arm, slides=_in_order(ended), seconds=time.perf_counter() - started - aside)


def judge_curve(
    points: Sequence[CurvePoint],
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    options: ClassifyOptions,
    *,
    seed: int,
    events: Events | None = None,
    on_slide: Callable[[int, JudgedSlide], None] | None = None,
) -> list[ArmRun]:
    """Run the points of the curve over slides, in one pass.

    Args:
        points: Arms and budgets.
        inputs: Labelled slides.
        model: The weights.
        options: How to classify; not their locations and budget.
        seed: Of the random arm.
        events: Who wants to know how a slide goes.
        on_slide: Told each slide's place in ``inputs`` and what the first point found, as it ends.

    Returns:
        One run for each point, without localisation.

    Raises:
        UsageError: a budget does not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    if not points:
        return []
    ended: list[dict[int, JudgedSlide]] = [{} for _ in points]
    with closing(classify_for_curve(points, inputs, model, options, seed=seed, events=events)) as outcomes:
        for position, each in outcomes:
            for of_point, outcome in zip(ended, each, strict=True):
                of_point[position] = JudgedSlide(inputs[position], replace(outcome.result, regions=()))
            if on_slide is not None:
                on_slide(position, ended[0][position])
    return [
        ArmRun(arm=point.arm, slides=_in_order(of_point), seconds=None, budget=point.budget)
        for point, of_point in zip(points, ended, strict=True)
    ]


def _in_order(ended: dict[int, JudgedSlide]) -> tuple[JudgedSlide, ...]:
    return tuple(ended[position] for position in sorted(ended))


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One row of ``arms.csv`` or ``curve.csv``.

    Attributes:
        arm: One of ``arms.ARMS``.
        budget: Locations asked for, or None.
        judged: Slides that were called.
        failed: Slides that could not be read.
        no_tissue: Slides without tissue.
        accuracy: Over the judged slides.
        auroc: Over the judged slides.
        locations: Mean number of attended locations.
        fraction_read: Mean share of the level-0 pixels that was decoded; None for a point of the curve, whose pass is
            shared.
        seconds_per_slide: Wall time of the arm over its slides, failed ones included; None as above.
    """

    arm: str
    budget: int | None
    judged: int
    failed: int
    no_tissue: int
    accuracy: Estimate
    auroc: Estimate
    locations: float | None
    fraction_read: float | None
    seconds_per_slide: float | None

    def cells(self) -> dict[str, Any]:
        """Return the cells for ``arms.csv`` and ``curve.csv``."""
        return {
            "arm": self.arm,
            "budget": self.budget,
            "judged": self.judged,
            "failed": self.failed,
            "no_tissue": self.no_tissue,
            **self.accuracy.cells("accuracy"),
            **self.auroc.cells("auroc"),
            "locations": rounded(self.locations),
            **self.cost(),
        }

    def document(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json``: what weights, slides and seed determine."""
        return {
            "arm": self.arm,
            "budget": self.budget,
            "judged": self.judged,
            "failed": self.failed,
            "no_tissue": self.no_tissue,
            "accuracy": self.accuracy.document(),
            "auroc": self.auroc.document(),
            "locations": rounded(self.locations),
        }

    def cost(self) -> dict[str, Any]:
        """Return what this run took, which another may not take again."""
        return {
            "fraction_read": rounded(self.fraction_read),
            "seconds_per_slide": rounded(self.seconds_per_slide),
        }


def resampling_of(answers: Answers, *, draws: int, seed: int) -> Resampling:
    """Prepare the bootstrap over the patients of judged slides."""
    return resample_patients(answers.truth, answers.patients, count=draws, seed=seed)


def summarise_arm(run: ArmRun, card: ModelCard, *, auroc: Estimate) -> ArmSummary:
    """Sum up one arm's run, decided by a card's temperature and threshold.

    Args:
        run: What the arm found.
        card: Temperature, threshold and classes.
        auroc: Of the same answers.
    """
    answers = run.answers(card)
    results = [slide.result for slide in run.judged]
    return ArmSummary(
        arm=run.arm,
        budget=run.budget,
        judged=len(results),
        failed=len(run.of_status("failed")),
        no_tissue=len(run.of_status("no_tissue")),
        accuracy=accuracy(answers),
        auroc=auroc,
        locations=_mean(result.locations for result in results),
        fraction_read=_mean(result.fraction_read or 0.0 for result in results) if run.budget is None else None,
        seconds_per_slide=run.seconds / len(run.slides) if run.slides and run.seconds is not None else None,
    )


def _mean(values: Iterator[float]) -> float | None:
    listed = list(values)
    return float(np.mean(listed)) if listed else None


def failures_of(runs: Sequence[ArmRun]) -> list[tuple[str, JudgedSlide]]:
    """Return every slide that failed, once, with the first arm in which it did."""
    failed: dict[str, tuple[str, JudgedSlide]] = {}
    for run in runs:
        for slide in run.of_status("failed"):
            failed.setdefault(slide.entry.path, (run.arm, slide))
    return list(failed.values())


def answers_from_logits(logits: np.ndarray, truth: Sequence[int], patients: Sequence[str], card: ModelCard) -> Answers:
    """Turn logits into answers by a card's temperature and decision threshold.

    Args:
        logits: float (N, C).
        truth: N indices of the labels.
        patients: N names.
        card: Its ``network.class_names``, ``temperature`` and ``threshold`` decide.
    """
    class_names = card.network.class_names
    table = np.asarray(logits, dtype=np.float64).reshape(len(truth), len(class_names))
    probabilities = softmax(table, card.temperature)
    called = [card.decide([float(p) for p in row]) for row in probabilities]
    return Answers(
        class_names=class_names,
        truth=np.asarray(truth, dtype=np.int64),
        called=np.asarray(called, dtype=np.int64),
        probabilities=probabilities,
        logits=table,
        patients=tuple(patients),
    )
