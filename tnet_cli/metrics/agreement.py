"""How well a distilled model agrees with its teacher, which has seen all of the tissue of the same slides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tnet_cli.files import rounded
from tnet_cli.metrics.bootstrap import bootstrapped, resample_patients
from tnet_cli.metrics.estimate import Estimate, UndefinedMetricError, wilson

FEWEST_RANKED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideAgreement:
    """One slide, as both see it.

    Attributes:
        patient: Whose slide it is, or the slide itself where nobody says.
        teacher_score, score: By the model's rule; the teacher's of all cells that were scored.
        low, high: 95 % interval of the model's; None where the rule has none.
        teacher_calls, calls: Whether each calls the slide positive.
        top_attended: Share of the teacher's highest cells that the model has looked at.
        cells, looked_at: Finest cells with tissue, and how many of them the model has looked at.
        pixels, teacher_pixels: Decoded from the file for each.
        seconds, teacher_seconds: Of work for each.
    """

    slide: str
    patient: str
    teacher_score: float
    score: float
    low: float | None
    high: float | None
    teacher_calls: bool
    calls: bool
    top_attended: float
    cells: int
    looked_at: int
    pixels: int
    teacher_pixels: int
    seconds: float
    teacher_seconds: float

    @property
    def is_covered(self) -> bool | None:
        """Whether the interval holds the teacher's score; None without one."""
        if self.low is None or self.high is None:
            return None
        return self.low - 1e-9 <= self.teacher_score <= self.high + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well both agree over slides.

    Attributes:
        kappa: Cohen's, of the verdicts; with a bootstrap over patients.
        spearman: Rank correlation of the scores, among the slides that the teacher calls.
        top_attended: Mean share of the teacher's highest cells that were looked at, among these.
        coverage: Share of the slides whose interval holds the teacher's score.
        width: Median width of the intervals; None without.
        share_of_cells: Of all finest cells with tissue, how many the model has looked at.
        share_of_pixels: Pixels decoded for the model over those for the teacher.
        times_faster: Seconds of work for the teacher over those for the model.
    """

    slides: int
    kappa: Estimate
    spearman: Estimate
    top_attended: float | None
    coverage: Estimate
    width: float | None
    share_of_cells: float
    share_of_pixels: float
    times_faster: float

    def record(self) -> dict[str, Any]:
        """Return what ``agreement.json`` holds."""
        return {
            "slides": self.slides,
            "kappa": self.kappa.record(),
            "spearman_among_called": self.spearman.record(),
            "top_cells_attended_among_called": rounded(self.top_attended),
            "interval_coverage": self.coverage.record(),
            "interval_median_width": rounded(self.width),
            "share_of_finest_cells": rounded(self.share_of_cells),
            "share_of_pixels": rounded(self.share_of_pixels),
            "times_faster": rounded(self.times_faster),
        }

    def words(self, teacher: str) -> str:
        """Return it as a sentence."""
        slides = f"{self.slides} slide{'' if self.slides == 1 else 's'}"
        return (
            f"agrees with {teacher} on every tile of {slides}: kappa {self.kappa.words()}, "
            f"{100 * self.share_of_cells:.2g} % of the finest cells looked at, "
            f"{100 / self.times_faster:.2g} % of the work"
        )


def agreement_of(slides: Sequence[SlideAgreement], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """Measure agreement over slides.

    Args:
        draws: Of the bootstrap over patients.

    Raises:
        ValueError: there is no slide.
    """
    if not slides:
        raise ValueError("agreement needs at least one slide")
    teacher = np.array([each.teacher_calls for each in slides])
    model = np.array([each.calls for each in slides])
    resampling = resample_patients(teacher.astype(int), [each.patient for each in slides], count=draws, seed=seed)
    called = [each for each in slides if each.teacher_calls]
    covered = [each.is_covered for each in slides if each.is_covered is not None]
    widths = [each.high - each.low for each in slides if each.low is not None and each.high is not None]
    return Agreement(
        slides=len(slides),
        kappa=bootstrapped(lambda chosen: cohens_kappa(teacher[chosen], model[chosen]), len(slides), resampling),
        spearman=_ranked_alike(called),
        top_attended=float(np.mean([each.top_attended for each in called])) if called else None,
        coverage=wilson(sum(covered), len(covered), nothing="the rule has no interval"),
        width=float(np.median(widths)) if widths else None,
        share_of_cells=sum(each.looked_at for each in slides) / max(1, sum(each.cells for each in slides)),
        share_of_pixels=sum(each.pixels for each in slides) / max(1, sum(each.teacher_pixels for each in slides)),
        times_faster=max(1e-9, sum(row.teacher_seconds for row in slides))
        / max(1e-9, sum(each.seconds for each in slides)),
    )


def cohens_kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Return Cohen's kappa of two raters' calls, bool (N,): agreement beyond that of chance.

    Source: J. Cohen, Educ. Psychol. Meas. 20 (1960) 37-46. Where both call all slides alike, chance explains all of
    their agreement: it is 1 where they agree on everything all the same.

    Raises:
        UndefinedMetricError: there is no slide.
    """
    if len(one) == 0:
        raise UndefinedMetricError("no slide could be compared")
    agreed = float((one == other).mean())
    by_chance = float(one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean()))
    if by_chance >= 1:
        return 1.0
    return (agreed - by_chance) / (1 - by_chance)


def _ranked_alike(slides: Sequence[SlideAgreement]) -> Estimate:
    if len(slides) < FEWEST_RANKED:
        return Estimate.undefined(f"the teacher calls fewer than {FEWEST_RANKED} slides")
    teacher, model = ([each.teacher_score for each in slides], [each.score for each in slides])
    if len(set(teacher)) == 1 or len(set(model)) == 1:
        return Estimate.undefined("all slides that the teacher calls have the same score")
    return Estimate(value=float(spearmanr(teacher, model).statistic), reason="no interval was asked for")


def top_attended(boxes: np.ndarray, responses: np.ndarray, looked_at: set[tuple[int, int]], k: int) -> float:
    """Return the share of the k highest cells, or of all where there are fewer, that were looked at.

    Args:
        boxes: int64 (N, 3): x, y and side of each cell.
        responses: (N,) of the teacher.
        looked_at: x and y of the cells that were.
    """
    best = np.argsort(-responses, kind="stable")[: max(1, k)]
    return float(np.mean([(x, y) in looked_at for x, y, _ in boxes[best].tolist()]))
