"""Slides judged by one arm: what it found beside what they are labelled, as it is kept while the arm goes on."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tnet_cli.evaluation.arms import Comparison, classify_by_arm, remembered
from tnet_cli.evaluation.curve import CurvePoint, classify_for_curve
from tnet_cli.evaluation.localisation import SlideLocalisation, localise
from tnet_cli.files import rounded
from tnet_cli.inference.trust import slide_sharpness
from tnet_cli.inputs.fingerprint import Fingerprint, fingerprint_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.metrics.bootstrap import patient_or_slide
from tnet_cli.metrics.predictions import Predictions, softmax
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.results.result import SlideRow

KeepFeatures = Callable[[str, Mapping[int, np.ndarray]], None]
"""Keeps a slide's features, by its name, to calibrate on: processing level -> float32 (N, D), of every region looked at
there."""


@dataclass(frozen=True, slots=True)
class JudgedSlide:
    """One row of an evaluation.

    Attributes:
        entry: The slide, its label, patient and split.
        row: What one arm found; beside the row of ``predictions.csv``, what ``kept_of`` says.
    """

    entry: SlideInput
    row: SlideRow

    @property
    def status(self) -> str:
        """How the slide ended."""
        return self.row.status

    @property
    def error(self) -> str | None:
        """One sentence when the slide failed."""
        said = self.row.values["error"]
        return None if said is None else str(said)

    @property
    def logits(self) -> list[float]:
        """The network's own outputs, before calibration and softmax."""
        return list(self.row.kept["logits"])

    @property
    def found(self) -> SlideLocalisation | None:
        """Where its locations lie against the annotation, or None."""
        found = self.row.kept.get("localisation")
        return SlideLocalisation(**found) if found else None

    def cells(self) -> dict[str, Any]:
        """Return the slide's row of ``predictions.csv``: that of ``tnet classify``, and label, patient and split."""
        labels = {"label": self.entry.label, "patient": self.entry.patient, "split": self.entry.split}
        return self.row.values | labels

    def lesion_row(self, arm: str) -> dict[str, Any]:
        """Return the row of ``localisation.csv`` of a slide whose annotation has an area."""
        found = self.found or SlideLocalisation(finest_locations=0, on_lesion=0)
        return {
            "arm": arm,
            "slide": self.row.values["slide"],
            "label": self.entry.label,
            "patient": self.entry.patient,
            "prediction": self.row.values["prediction"],
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
        budget: Locations asked for in all, for a point of the curve; None for the model's default or the user's.
    """

    arm: str
    slides: tuple[JudgedSlide, ...]
    budget: int | None = None

    @property
    def seconds(self) -> float | None:
        """Wall time of the arm, all runs that it took together; None for a point of the curve, whose pass is shared."""
        if self.budget is not None:
            return None
        return sum(float(slide.row.kept.get("wall_s", 0)) for slide in self.slides)

    @property
    def judged(self) -> list[JudgedSlide]:
        """The slides that have an answer that counts."""
        return self.of_status("ok")

    @property
    def lesions(self) -> list[JudgedSlide]:
        """The judged slides whose annotation has an area."""
        return [slide for slide in self.judged if slide.found is not None]

    def of_status(self, status: str) -> list[JudgedSlide]:
        """Return the slides that ended so."""
        return [slide for slide in self.slides if slide.status == status]

    def without_old_limits(self) -> "ArmRun":
        """Return the same run as if nothing were known of domain and sharpness, which calibration fits anew."""

        def anew(slide: JudgedSlide) -> JudgedSlide:
            reasons = set(str(slide.row.values["qc"]).split(";"))
            if slide.status != "abstained" or reasons - {"out_of_domain", "unsharp"}:
                return slide
            return replace(slide, row=replace(slide.row, values=slide.row.values | {"status": "ok", "qc": None}))

        return replace(self, slides=tuple(map(anew, self.slides)))

    def predictions(self, card: ModelCard, *, anyway: bool = False) -> Predictions:
        """Return the judged slides as arrays, decided by a card's calibration.

        Args:
            anyway: Add those whose answer does not count, after the others.
        """
        judged = self.judged + (self.of_status("abstained") if anyway else [])
        return predictions_from_logits(
            np.array([slide.logits for slide in judged], dtype=np.float64),
            [card.network.class_names.index(str(slide.entry.label)) for slide in judged],
            [patient_or_slide(slide.entry.patient, slide.entry.shown_path) for slide in judged],
            card,
        )


def rows_of_arm(
    arm: str, comparison: Comparison, keep_features: KeepFeatures | None = None
) -> Generator[tuple[int, SlideRow, Fingerprint | None], None, None]:
    """Look at labelled slides by one arm, and yield what is kept of each as it ends.

    Args:
        arm: One of ``arms.ARMS``.
        comparison: What it shares with the others.
        keep_features: To calibrate on.

    Yields:
        The slide's position among the inputs, its row, and what its content is known by.

    Raises:
        UsageError: the options do not fit the model.
        ManifestError: an annotation cannot be read.
        RunStoppedError: the device or the storage answers no more.
        OSError: the disk is full or gone.
    """
    taken: list[SlideInput] = []
    inputs = remembered(comparison.inputs, taken)
    since = time.perf_counter()
    with closing(classify_by_arm(arm, replace(comparison, inputs=inputs))) as results:
        for position, result in results:
            wall_s, entry = time.perf_counter() - since, taken[position]
            if keep_features is not None and result.evidence is not None:
                keep_features(entry.name, result.evidence.features)
            sharpness = slide_sharpness(result, comparison.model.card.network) if keep_features is not None else None
            found = localise(result, entry)
            kept = {
                "logits": list(result.logits),
                "localisation": asdict(found) if found else None,
                "annotation": annotation_fingerprint(entry),
                "wall_s": wall_s,
                "sharpness": sharpness,
                "doubts": [doubt.sentence for doubt in result.doubts],
            }
            yield position, SlideRow(result.row(), result.reasons, kept=kept), result.fingerprint
            since = time.perf_counter()


def rows_of_curve(
    points: Sequence[CurvePoint], comparison: Comparison
) -> Generator[tuple[int, SlideRow, Fingerprint | None], None, None]:
    """Look at labelled slides for all points of the curve in one pass; as ``rows_of_arm``, without localisation."""
    with closing(classify_for_curve(points, comparison)) as results:
        for position, each in results:
            points_kept = [{"values": result.row(), "kept": {"logits": list(result.logits)}} for result in each]
            yield position, SlideRow(each[0].row(), each[0].reasons, kept={"points": points_kept}), each[0].fingerprint


def annotation_fingerprint(entry: SlideInput) -> Fingerprint | None:
    """Tell an annotation that was drawn anew from the one that a slide was judged by."""
    return fingerprint_of(str(entry.annotation)) if entry.annotation else None


def arm_run(arm: str, inputs: Sequence[SlideInput], rows: Sequence[SlideRow]) -> ArmRun:
    """Return what an arm found, from what is kept of every slide."""
    return ArmRun(arm, tuple(JudgedSlide(entry, row) for entry, row in zip(inputs, rows, strict=True)))


def curve_runs(points: Sequence[CurvePoint], inputs: Sequence[SlideInput], rows: Sequence[SlideRow]) -> list[ArmRun]:
    """Return what each point of the curve found, from what is kept of every slide."""

    def at(number: int, row: SlideRow) -> SlideRow:
        # A slide that ended the process that looked at it has no points.
        return SlideRow(**row.kept["points"][number]) if row.kept else row

    runs = [arm_run(point.arm, inputs, [at(number, row) for row in rows]) for number, point in enumerate(points)]
    return [replace(run, budget=point.budget) for run, point in zip(runs, points, strict=True)]


def failures_of(runs: Sequence[ArmRun]) -> list[tuple[str, JudgedSlide]]:
    """Return every slide that failed, once, with the first arm in which it did."""
    failed: dict[str, tuple[str, JudgedSlide]] = {}
    for run in runs:
        for slide in run.of_status("failed"):
            failed.setdefault(slide.entry.shown_path, (run.arm, slide))
    return list(failed.values())


def predictions_from_logits(
    logits: np.ndarray, truth: Sequence[int], patients: Sequence[str], card: ModelCard
) -> Predictions:
    """Turn logits into predictions by a card's calibration.

    Args:
        logits: float (N, C).
        truth: N indices of the labels.
        patients: N names.
        card: Its ``network.class_names``, ``temperature`` and ``bias`` decide.
    """
    class_names = card.network.class_names
    table = np.asarray(logits, dtype=np.float64).reshape(len(truth), len(class_names))
    probabilities = softmax(table, card.temperature, card.bias)
    return Predictions(
        class_names=class_names,
        truth=np.asarray(truth, dtype=np.int64),
        called=probabilities.argmax(axis=1).astype(np.int64),
        probabilities=probabilities,
        logits=table,
        patients=tuple(patients),
    )
