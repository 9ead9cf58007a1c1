"""The bootstrap over patients, stratified by class: how far a metric would move with other patients.

Slides of one patient are alike, so patients are drawn, not slides. Each class keeps its number of patients, so no
draw lacks a class.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tnet_cli.metrics.estimate import BOOTSTRAP, CONFIDENCE, NO_SLIDE, Estimate, UndefinedMetricError

Statistic = Callable[[np.ndarray], float]
"""Indices of slides, int64 (M,), some of them repeated -> the metric over these slides."""

FEWEST_PATIENTS = 2
"""A class needs as many patients for an interval: one alone would always be drawn again."""


def patient_or_slide(patient: str | None, slide: str) -> str:
    """Return the unit that is drawn: the patient, or a name of its own for a slide whose patient is not known."""
    # No table holds a zero character, so no patient is called so.
    return patient or f"\0{slide}"


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """Seeded draws of patients, the same ones each time they are asked for.

    Attributes:
        strata: For each set of classes that patients have: for each of these patients the indices of the slides.
        count: Number of draws.
        obstacle: Why no interval can be drawn, or None.
    """

    strata: tuple[tuple[np.ndarray, ...], ...]
    count: int
    seed: int
    obstacle: str | None

    def draws(self) -> Iterator[np.ndarray]:
        """Yield the slides of each draw, int64 (M,): as many patients of each stratum as it has, with replacement.

        Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), ch. 6 and 8; patients as the
        unit: C. A. Field and A. H. Welsh, J. R. Stat. Soc. B 69 (2007) 369-390.
        """
        rng = np.random.default_rng(self.seed)
        for _ in range(self.count):
            yield np.concatenate(
                [patients[one] for patients in self.strata for one in rng.integers(len(patients), size=len(patients))]
            )


def resample_patients(truth: np.ndarray, patients: Sequence[str], *, count: int, seed: int) -> Resampling:
    """Prepare a bootstrap.

    Args:
        truth: int (N,), index of each slide's label.
        patients: N names; slides of one name are drawn together. A patient with slides of several classes belongs to
            a stratum of patients with these classes.
        count: Number of draws; 0 for no intervals.
        seed: Names the draws.
    """
    slides_of: dict[str, list[int]] = defaultdict(list)
    for index, patient in enumerate(patients):
        slides_of[patient].append(index)
    strata: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    patients_with: dict[int, int] = defaultdict(int)
    for slides in slides_of.values():
        classes = tuple(sorted({int(truth[slide]) for slide in slides}))
        strata[classes].append(np.asarray(slides, dtype=np.int64))
        for each in classes:
            patients_with[each] += 1
    obstacle = None
    if count == 0:
        obstacle = "no bootstrap was asked for"
    elif not slides_of:
        obstacle = NO_SLIDE
    elif min(patients_with.values()) < FEWEST_PATIENTS:
        obstacle = f"an interval needs at least {FEWEST_PATIENTS} patients of each class that occurs"
    return Resampling(
        strata=tuple(tuple(strata[classes]) for classes in sorted(strata)), count=count, seed=seed, obstacle=obstacle
    )


def bootstrapped(statistic: Statistic, slides: int, resampling: Resampling) -> Estimate:
    """Estimate a metric with the percentile interval of the bootstrap.

    The interval runs from the 2.5th to the 97.5th percentile of the metric over the draws. Where every draw gives the
    same value, as for an AUROC of 1, it has no width; the estimate says so, for that is not certainty.

    Args:
        statistic: Of indices of slides; raises ``UndefinedMetricError`` where it is undefined.
        slides: How many there are; the value is the statistic of each of them once.
    """
    if slides == 0:
        return Estimate.undefined()
    try:
        value = float(statistic(np.arange(slides)))
    except UndefinedMetricError as undefined:
        return Estimate.undefined(str(undefined))
    if resampling.obstacle is not None:
        return Estimate(value=value, reason=f"no interval: {resampling.obstacle}")
    drawn = [float(statistic(draw)) for draw in resampling.draws()]
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(each) for each in np.quantile(drawn, [tail, 1 - tail]))
    reason = None if high > low else "every draw gives the same figure, so the interval does not tell how sure it is"
    return Estimate(value=value, low=low, high=high, method=BOOTSTRAP, reason=reason)
