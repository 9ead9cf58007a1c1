"""Slides judged by one arm: what it found beside what they are labelled."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tnet_cli.evaluation.arms import Comparison, classify_by_arm
from tnet_cli.evaluation.curve import CurvePoint, classify_for_curve
from tnet_cli.evaluation.localisation import SlideLocalisation, localise
from tnet_cli.files import rounded
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.metrics.bootstrap import patient_or_slide
from tnet_cli.metrics.predictions import Predictions, softmax
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.results.result import SlideResult

OnSlide = Callable[[int, "JudgedSlide"], None]


@dataclass(frozen=True, slots=True)
class JudgedSlide:
    """One row of an evaluation.

    Attributes:
        entry: The slide, its label, patient and split.
        result: What one arm found, without regions and evidence: those of thousands of slides would fill the memory.
        found: Where its locations lie against the annotation, or None.
        features: Processing level -> float32 (N, D), of every region looked at there; for calibration.
    """

    entry: SlideInput
    result: SlideResult
    found: SlideLocalisation | None = None
    features: Mapping[int, np.ndarray] = field(default_factory=dict)

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

    def lesion_row(self, arm: str) -> dict[str, Any]:
        """Return the row of ``localisation.csv`` of a slide whose annotation has an area."""
        found = self.found or SlideLocalisation(finest_locations=0, on_lesion=0)
        return {
            "arm": arm,
            "slide": self.result.slide,
            "label": self.entry.label,
            "patient": self.entry.patient,
            "prediction": self.result.prediction,
            "finest_locations": found.finest_locations,
            "on_lesion": found.on_lesion,
            "share_on_lesion": rounded(found.share),
            "hit": found.is_hit,
        }


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
        return self.of_status("ok")

    @property
    def lesions(self) -> list[JudgedSlide]:
        """The judged slides whose annotation has an area."""
        return [slide for slide in self.judged if slide.found is not None]

    def of_status(self, status: str) -> list[JudgedSlide]:
        """Return the slides that ended as ``failed``, ``no_tissue`` or ``ok``."""
        return [slide for slide in self.slides if slide.result.status == status]

    def predictions(self, card: ModelCard) -> Predictions:
        """Return the judged slides as arrays, decided by a card's temperature and threshold."""
        judged = self.judged
        return predictions_from_logits(
            np.array([slide.result.logits for slide in judged], dtype=np.float64),
            [card.network.class_names.index(str(slide.entry.label)) for slide in judged],
            [patient_or_slide(slide.entry.patient, slide.entry.path) for slide in judged],
            card,
        )


def run_arm(
    arm: str, comparison: Comparison, *, keep_features: bool = False, on_slide: OnSlide | None = None
) -> ArmRun:
    """Run one arm over labelled slides.

    Args:
        arm: One of ``arms.ARMS``.
        comparison: What it shares with the others.
        keep_features: Whether each slide keeps its features, to calibrate on.
        on_slide: Told each slide's place among the inputs and what was found, as it ends.

    Raises:
        UsageError: the options do not fit the model.
        ManifestError: an annotation cannot be read.
        RunStoppedError: the device or the storage answers no more.
    """
    ended: dict[int, JudgedSlide] = {}
    started, aside = time.perf_counter(), 0.0
    with closing(classify_by_arm(arm, comparison)) as results:
        for position, result in results:
            left = time.perf_counter()
            entry = comparison.inputs[position]
            features = result.evidence.features if keep_features and result.evidence is not None else {}
            ended[position] = JudgedSlide(entry, _without_regions(result), localise(result, entry), features)
            if on_slide is not None:
                on_slide(position, ended[position])
            comparison.progress.slide_done(ended[position].row())
            aside += time.perf_counter() - left
    return ArmRun(arm=arm, slides=_in_order(ended), seconds=time.perf_counter() - started - aside)


def run_curve(points: Sequence[CurvePoint], comparison: Comparison) -> list[ArmRun]:
    """Run the points of the curve over labelled slides in one pass.

    Returns:
        One run for each point, without localisation.

    Raises:
        UsageError: a budget does not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    if not points:
        return []
    ended: list[dict[int, JudgedSlide]] = [{} for _ in points]
    with closing(classify_for_curve(points, comparison)) as results:
        for position, each in results:
            for of_point, result in zip(ended, each, strict=True):
                of_point[position] = JudgedSlide(comparison.inputs[position], _without_regions(result))
            comparison.progress.slide_done(ended[0][position].row())
    return [
        ArmRun(arm=point.arm, slides=_in_order(of_point), seconds=None, budget=point.budget)
        for point, of_point in zip(points, ended, strict=True)
    ]


def _without_regions(result: SlideResult) -> SlideResult:
    return replace(result, regions=(), evidence=None)


def _in_order(ended: Mapping[int, JudgedSlide]) -> tuple[JudgedSlide, ...]:
    return tuple(ended[position] for position in sorted(ended))


def failures_of(runs: Sequence[ArmRun]) -> list[tuple[str, JudgedSlide]]:
    """Return every slide that failed, once, with the first arm in which it did."""
    failed: dict[str, tuple[str, JudgedSlide]] = {}
    for run in runs:
        for slide in run.of_status("failed"):
            failed.setdefault(slide.entry.path, (run.arm, slide))
    return list(failed.values())


def predictions_from_logits(
    logits: np.ndarray, truth: Sequence[int], patients: Sequence[str], card: ModelCard
) -> Predictions:
    """Turn logits into predictions by a card's temperature and decision threshold.

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
    return Predictions(
        class_names=class_names,
        truth=np.asarray(truth, dtype=np.int64),
        called=np.asarray(called, dtype=np.int64),
        probabilities=probabilities,
        logits=table,
        patients=tuple(patients),
    )
