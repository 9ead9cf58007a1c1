"""What tnet says of one slide, and the row of the table it becomes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from tnet_cli.files import rounded
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.modelfile.card import CalibrationError
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.slide.slide import Doubt
from tnet_cli.tissue.tissue import TissueMask

Status = Literal["ok", "abstained", "no_tissue", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "abstained", "no_tissue", "failed")

LOOKED_AT = frozenset({"ok", "abstained"})
"""Statuses of slides that the network has run on: they have probabilities, regions and an overlay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustCheck:
    """One reason why an answer may not count, and whether it holds.

    Attributes:
        name: ``out_of_domain``, ``too_coarse``, ``too_little_tissue``, ``unsharp`` or ``reader``.
        failed: Whether the answer does not count for this reason.
        sentence: The reason, for users, without a full stop; goes after the slide's name.
        measure: What ``value`` and ``limit`` are of.
        value: What was measured; None where there is nothing to measure.
        limit: The greatest value, or for tissue and sharpness the least, of a slide whose answer counts.
    """

    name: Literal["out_of_domain", "too_coarse", "too_little_tissue", "unsharp", "reader"]
    failed: bool
    sentence: str
    measure: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A slide's score by the rule of a distilled model.

    Attributes:
        rule: ``top:K``, ``area`` or ``mean``, as of ``modelfile.card.Verdict``.
        low, high: 95 % interval of what the teacher would say of all the tissue; None where the rule is of what was
            attended.
        cells: Finest cells with tissue, those that were not looked at among them.
        attended, sampled: How many of them were looked at, by choice and drawn at random.
    """

    rule: str
    value: float
    low: float | None
    high: float | None
    cells: int
    attended: int
    sampled: int

    def words(self) -> str:
        """Return the score as it is read: ``area 3.1 % (95 % interval 2 to 4.4 %)``, ``top:32 0.71``."""
        times, unit = (100, " %") if self.rule == "area" else (1, "")
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" (95 % interval {times * self.low:.3g} to {times * self.high:.3g}{unit})"
        return f"{self.rule} {times * self.value:.3g}{unit}{interval}"


SCORE_COLUMNS = ("score", "score_low", "score_high")
"""Of ``predictions.csv`` after the others, where a model has a rule."""

ROI_COLUMN = "roi_area_px"
"""Of ``predictions.csv`` at its end, where there are regions of interest: their area in level-0 pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideEvidence:
    """What the network saw of a slide; for its pictures and for calibration, and not kept in any table.

    Attributes:
        thumbnail: uint8 (H, W, 3), the whole slide.
        patches: uint8 (H, W, 3) for each of the result's regions; none where they were not kept.
        features: Processing level -> float32 (N, D), of every region looked at there.
        sharpness: Region -> ``inference.trust.patch_sharpness``, where that was measured and the patches not kept.
        tissue: What could be attended: where the tissue is, in the regions of interest; None of an image.
        outlined: Where its user says to look; None where nothing is said.
    """

    thumbnail: np.ndarray
    patches: tuple[np.ndarray, ...] = ()
    features: Mapping[int, np.ndarray] = field(default_factory=dict)
    sharpness: Mapping[Region, float | None] = field(default_factory=dict)
    tissue: TissueMask | None = None
    outlined: TissueMask | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideResult:
    """The outcome for one input, whatever it was.

    Attributes:
        slide: Name of the slide's folder of results: the file's name without suffix.
        path: As the user gave it.
        status: One of ``STATUSES``; ``abstained`` where the network has run and its answer does not count.
        class_names: The model's classes, in its order.
        prediction: The class that is called: the most probable one; None where there is no answer that counts.
        probability: Its probability.
        probabilities: One for each class.
        logits: The network's own outputs, before the calibration and softmax.
        score: Of a distilled model, what the logits were made of; None of any other.
        locations: Attended locations; roots are among them only where they are of the finest view.
        pixels_read: Every pixel decoded from the file, thumbnail and whole tiles included.
        fraction_read: ``pixels_read`` over the level-0 pixels; at most one.
        roi_area_px: Of the regions of interest, level-0 pixels; None without any.
        seconds: Work on this slide: reading it, and its share of the network's time.
        error: One sentence when the slide failed.
        notes: Plain sentences the user should know of.
        doubts: What the reader of the slide had to assume or could not check; their sentences are among ``notes``.
        checks: What was asked of a slide before its answer counted, failed or not.
        calibration_error: How far the model's probabilities were from what they say, where that was measured.
        regions: Every region looked at, coarsest first.
        fingerprint: What the slide's content was known by before it was read; None where nobody could tell.
        evidence: What was seen of a slide that was classified; None once it has been drawn.
    """

    slide: str
    path: str
    status: Status
    class_names: tuple[str, ...]
    prediction: str | None = None
    probability: float | None = None
    probabilities: tuple[float, ...] = ()
    logits: tuple[float, ...] = ()
    score: Score | None = None
    size: Size | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    reader: str | None = None
    roots: int = 0
    locations: int = 0
    pixels_read: int = 0
    bytes_read: int = 0
    fraction_read: float | None = None
    roi_area_px: int | None = None
    seconds: float = 0.0
    error: str | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    checks: tuple[TrustCheck, ...] = ()
    calibration_error: CalibrationError | None = None
    regions: tuple[AttendedRegion, ...] = ()
    bounds: Region | None = None
    fingerprint: Fingerprint | None = None
    evidence: SlideEvidence | None = None

    @property
    def was_looked_at(self) -> bool:
        """Whether the network has run on it."""
        return self.status in LOOKED_AT

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the answer does not count: the sentences of the checks that failed."""
        return tuple(check.sentence for check in self.checks if check.failed)

    @property
    def qc(self) -> str | None:
        """The names of the checks that failed, with semicolons; None where there is none."""
        return ";".join(check.name for check in self.checks if check.failed) or None

    def answered(self) -> "SlideResult":
        """Return the result with the class that is called and its probability, whether or not they count."""
        if not self.probabilities:
            return self
        called = max(range(len(self.probabilities)), key=self.probabilities.__getitem__)
        return replace(self, prediction=self.class_names[called], probability=self.probabilities[called])

    def row(self) -> dict[str, Any]:
        """Return the slide's row of ``predictions.csv``: column -> value, None where there is nothing to say."""
        probabilities = self.probabilities or (None,) * len(self.class_names)
        score = () if self.score is None else (self.score.value, self.score.low, self.score.high)
        return {
            "slide": self.slide,
            "path": self.path,
            "status": self.status,
            "prediction": self.prediction,
            "probability": rounded(self.probability),
            **{f"prob_{name}": rounded(p) for name, p in zip(self.class_names, probabilities, strict=True)},
            "mpp": self.mpp,
            "mpp_source": self.mpp_source,
            "reader": self.reader,
            "roots": self.roots,
            "locations": self.locations,
            "pixels_read": self.pixels_read,
            "fraction_read": rounded(self.fraction_read),
            "seconds": round(self.seconds, 3),
            "error": self.error,
            "qc": self.qc,
            **{name: rounded(each) for name, each in zip(SCORE_COLUMNS, score, strict=False)},
            **({} if self.roi_area_px is None else {ROI_COLUMN: self.roi_area_px}),
        }


@dataclass(frozen=True, slots=True)
class SlideRow:
    """What is kept of a slide while the run goes on.

    Attributes:
        values: The slide's row of ``predictions.csv``.
        reasons: Why its answer does not count, in sentences.
        files: Bytes of each file in the slide's folder, by name.
        kept: What else the run needs to know of it when it goes on: name -> JSON value.
    """

    values: dict[str, Any]
    reasons: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """One of ``STATUSES``."""
        return str(self.values["status"])

    @property
    def was_looked_at(self) -> bool:
        """Whether the network has run on it."""
        return self.status in LOOKED_AT

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to try."""
        return self.status != "failed"


def prediction_columns(class_names: Sequence[str], rows: Iterable[Mapping[str, Any]] = ()) -> list[str]:
    """Return the columns of ``predictions.csv`` for a model's classes, and those that only some of these rows have."""
    found = {column for row in rows for column in (SCORE_COLUMNS[0], ROI_COLUMN) if column in row}
    columns = SlideResult(slide="", path="", status="failed", class_names=tuple(class_names)).row()
    return [*columns, *(SCORE_COLUMNS if SCORE_COLUMNS[0] in found else ()), *({ROI_COLUMN} & found)]


def region_row(attended: AttendedRegion, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return a region's row of ``regions.csv``; boxes in level-0 pixels."""
    box = attended.region
    return {
        "minx": box.x,
        "miny": box.y,
        "width": box.width,
        "height": box.height,
        "processing_level": attended.processing_level,
        "mpp": rounded(attended.mpp),
        "location_probability": rounded(attended.location_probability),
        "path_probability": rounded(attended.path_probability),
        "weight": rounded(attended.weight),
        **{f"prob_{name}": rounded(p) for name, p in zip(class_names, attended.class_probabilities, strict=True)},
    }
