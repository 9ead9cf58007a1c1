"""A mean over all cells of a slide from few of them: those attended, predictions for the others, and a random sample.

Cells that were attended because they looked promising are no sample of the rest. So they are counted as they are, a
certainty stratum; the others are predicted, and a simple random sample of them says how wrong the predictions are. This
is the difference estimator of survey sampling: Särndal, Swensson and Wretman, Model Assisted Survey Sampling (1992),
Sec. 6.3.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, t

ABOVE, BELOW = 0.04, 0.01
"""How often the mean may lie above and below the interval; it is the upper side that is uncertain where positives are
rare, while what was attended bounds it from below."""


@dataclass(frozen=True, slots=True)
class MeanOfCells:
    """An estimated mean and its 95 % interval."""

    value: float
    low: float
    high: float


def difference_estimate(
    attended: np.ndarray, predicted: np.ndarray, sample: np.ndarray, sampled: np.ndarray
) -> MeanOfCells:
    """Estimate the mean of values in [0, 1] over all cells.

    The interval holds for rare positives of which the sample may have met none: it is the wider of Student's, on the
    sampled residuals, and of Stringer's bound, which adds to them what Clopper and Pearson allow of unseen ones
    (Stringer, Proc. Am. Stat. Assoc. 1963; Bickel, Int. Stat. Rev. 60, 1992). Cells that were sampled are known.

    Args:
        attended: (A,) values of the cells that were attended, whatever made them so.
        predicted: (R,) predicted values of all others.
        sample: (n,) which of these were drawn at random, without replacement.
        sampled: (n,) their values.

    Raises:
        ValueError: there is no cell, or a value lies outside [0, 1].
    """
    everything = np.concatenate([attended, predicted, sampled])
    count = len(attended) + len(predicted)
    if count == 0 or len(sample) != len(sampled):
        raise ValueError(f"{count} cells with {len(sampled)} values for {len(sample)} drawn cannot be estimated")
    if not ((everything >= 0) & (everything <= 1)).all():
        raise ValueError("values and predictions must lie in [0, 1]")
    known = float(attended.sum() + sampled.sum())
    unseen = np.delete(predicted, sample)
    if len(unseen) == 0:
        return MeanOfCells(known / count, known / count, known / count)
    guess, left = float(unseen.sum()), len(unseen)
    if len(sample) == 0:
        return MeanOfCells((known + guess) / count, known / count, (known + left) / count)
    residuals = sampled - predicted[sample]
    centre = float(residuals.mean())
    low, high = _bounds(residuals, left, most_below=float(unseen.max()), most_above=float(1 - unseen.min()))
    # Of what was not seen nothing is below 0 or above 1.
    totals = [known + min(max(guess + left * each, 0.0), left) for each in (centre, low, high)]
    return MeanOfCells(*(total / count for total in totals))


def _bounds(residuals: np.ndarray, left: int, *, most_below: float, most_above: float) -> tuple[float, float]:
    """Bound the mean residual of the cells that were not seen.

    Args:
        residuals: (n,) of the sample.
        left: How many were not seen.
        most_below, most_above: The largest residual that is possible either way.
    """
    count, centre = len(residuals), float(residuals.mean())
    spread = float(residuals.std(ddof=1)) if count > 1 else 1.0
    error = spread * np.sqrt(1 / count + 1 / left)
    student = [float(t.ppf(1 - share, max(count - 1, 1))) * error for share in (BELOW, ABOVE)]
    above = _stringer(residuals.clip(min=0), most_above, ABOVE) - float((-residuals).clip(min=0).mean())
    below = _stringer((-residuals).clip(min=0), most_below, BELOW) - float(residuals.clip(min=0).mean())
    return min(centre - student[0], -below), max(centre + student[1], above)


def _stringer(sizes: np.ndarray, largest: float, share: float) -> float:
    """Return an upper bound of the mean of sizes in [0, largest], wrong at most in that share of samples."""
    if largest <= 0:
        return 0.0
    count = len(sizes)
    relative = np.sort(np.minimum(sizes / largest, 1.0))[::-1]
    hits = np.arange(count + 1)
    limits = np.append(beta.ppf(1 - share, hits[:-1] + 1, count - hits[:-1]), 1.0)
    return largest * float(limits[0] + (np.diff(limits) * relative).sum())


def top_mean(values: np.ndarray, k: int) -> float:
    """Return the mean of the k highest values, or of all where there are fewer.

    Raises:
        ValueError: there is none, or k is below 1.
    """
    if len(values) == 0 or k < 1:
        raise ValueError(f"the {k} highest of {len(values)} values have no mean")
    return float(np.sort(values)[::-1][:k].mean())
