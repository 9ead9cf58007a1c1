"""Whether probabilities mean what they say, the temperature that makes them, and the decision threshold."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from tnet_cli.metrics.estimate import Estimate, wilson
from tnet_cli.metrics.predictions import Predictions

BINS = 10
"""Bins of the reliability diagram and of the ECE, of equal width over [0, 1]."""

TEMPERATURES = (0.05, 20.0)
"""Temperatures are looked for between these; an optimum at either end means that the slides do not fix one."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The slides whose probability falls into one bin.

    Attributes:
        low: Lower edge; included in the first bin only.
        high: Upper edge, included.
        count: Slides in it.
        mean_probability: Of these slides; None for an empty bin.
        observed: Share of them for which the event is true, with Wilson's interval.
    """

    low: float
    high: float
    count: int
    mean_probability: float | None
    observed: Estimate


def stated_and_true(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities that calibration is about, float64 (N,), and whether each came true, bool (N,).

    Of two classes: the probability of the last, and whether it is the label. Of more: the greatest probability (the
    confidence), and whether the label is its class.
    """
    probabilities = predictions.probabilities
    if predictions.is_binary:
        return probabilities[:, 1], predictions.truth == 1
    return probabilities.max(axis=1, initial=0.0), probabilities.argmax(axis=1) == predictions.truth


def reliability(probabilities: np.ndarray, came_true: np.ndarray) -> list[ReliabilityBin]:
    """Sort slides into ``BINS`` of equal width by probability: (0, 1/B], ..., ((B − 1)/B, 1]; 0 counts to the first.

    Args:
        probabilities: float (N,) in [0, 1].
        came_true: bool (N,).

    Returns:
        All bins, empty ones too.
    """
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, probabilities, side="left") - 1, 0, BINS - 1)
    found = []
    for index in range(BINS):
        members = place == index
        count = int(members.sum())
        found.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                count=count,
                mean_probability=float(probabilities[members].mean()) if count else None,
                observed=wilson(int(came_true[members].sum()), count, nothing="no slide in this bin"),
            )
        )
    return found


def expected_calibration_error(bins: list[ReliabilityBin]) -> Estimate:
    """Σ_b (n_b / N) |o_b − p̄_b|: mean distance between what is stated, p̄_b, and what is observed, o_b, over the bins.

    0 is perfect. With few slides in a bin chance alone makes it greater than 0.
    Source: M. P. Naeini et al., AAAI 2015, 2901-2907 (two classes); C. Guo et al., ICML 2017, arXiv:1706.04599, eq. 3
    (more classes, by confidence).
    """
    slides = sum(each.count for each in bins)
    if slides == 0:
        return Estimate.undefined()
    distances = [
        each.count * abs(each.observed.value - each.mean_probability)
        for each in bins
        if each.observed.value is not None and each.mean_probability is not None
    ]
    return Estimate(value=sum(distances) / slides)


def brier_score(predictions: Predictions) -> Estimate:
    """Mean over slides of Σ_c (p_c − [label is c])²; 0 is perfect, 2 the worst.

    Source: G. W. Brier, Mon. Weather Rev. 78 (1950) 1-3, in its original form, over all classes.
    """
    if len(predictions) == 0:
        return Estimate.undefined()
    wanted = np.eye(len(predictions.class_names))[predictions.truth]
    return Estimate(value=float(np.mean(((predictions.probabilities - wanted) ** 2).sum(axis=1))))


def negative_log_likelihood(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """Mean over slides of −log softmax(z / T)_label.

    Args:
        logits: float (N, C), z; N at least 1.
        truth: int (N,).
        temperature: T.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(truth)), truth]))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A number fitted on the calibration split, or the reason why the model's own is kept.

    Attributes:
        value: What is to stand in the card.
        reason: Why nothing was fitted; None when it was.
    """

    value: float
    reason: str | None = None


def fit_temperature(logits: np.ndarray, truth: np.ndarray, *, otherwise: float) -> Fitted:
    """Find the temperature T that minimises the negative log-likelihood of softmax(z / T).

    One number for all classes, so the order of the probabilities and with it the greatest stays. The likelihood is
    convex in 1 / T, so a bounded search over log T finds the one optimum.
    Source: C. Guo et al., ICML 2017, arXiv:1706.04599, Sec. 4.2 (temperature scaling).

    Args:
        logits: float (N, C) of the calibration slides.
        truth: int (N,).
        otherwise: Kept where the slides do not fix a temperature: none were judged, or the likelihood grows towards
            either end, as it does when every slide is right (T to 0) or the logits say nothing (T without bound).
    """
    if len(truth) == 0:
        return Fitted(otherwise, "no slide of the calibration split could be judged")
    table = np.asarray(logits, dtype=np.float64)
    of_label = table[np.arange(len(truth)), truth]
    if bool(np.all(of_label >= table.max(axis=1))):
        return Fitted(
            otherwise, "every slide is right: the likelihood grows as T falls to 0, and no temperature is best"
        )
    # The slope of the likelihood at 1 / T = 0; where it is not positive, nothing but T without bound is best.
    if float(np.mean(of_label - table.mean(axis=1))) <= 0:
        return Fitted(otherwise, "the logits say nothing of the labels, so the likelihood grows with T without bound")
    least, greatest = (math.log(bound) for bound in TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, truth, math.exp(log_t)),
        bounds=(least, greatest),
        method="bounded",
        options={"xatol": 1e-6},
    )
    if found.x - least < 0.01:
        return Fitted(otherwise, f"the likelihood grows down to T = {TEMPERATURES[0]:g}: the slides fix no temperature")
    if greatest - found.x < 0.01:
        return Fitted(otherwise, f"the likelihood grows up to T = {TEMPERATURES[1]:g}: the slides fix no temperature")
    return Fitted(math.exp(float(found.x)))


def choose_threshold(probabilities: np.ndarray, truth: np.ndarray, *, otherwise: float) -> Fitted:
    """Choose the decision threshold t with the greatest Youden index J(t) = sensitivity(t) + specificity(t) − 1.

    The balanced accuracy is (J + 1) / 2, so it is greatest at the same place. Thresholds stand midway between
    neighbouring probabilities; of several equally good ones the nearest to 0.5 is taken.
    Source: W. J. Youden, Cancer 3 (1950) 32-35.

    Args:
        probabilities: float (N, 2) of the calibration slides, or (N, C), which has no threshold.
        truth: int (N,).
        otherwise: Kept where no threshold can be chosen.
    """
    if probabilities.shape[1] != 2:
        return Fitted(otherwise, "only a model of two classes has a decision threshold")
    positive = truth == 1
    if positive.all() or not positive.any():
        return Fitted(otherwise, "the judged slides of the calibration split are all of one class")
    stated = np.unique(probabilities[:, 1])
    if len(stated) < 2:
        return Fitted(otherwise, "every slide of the calibration split has the same probability")
    # A cut must lie above its lower neighbour to leave it out, and inside (0, 1), also where the two nearly touch.
    middles = (stated[:-1] + stated[1:]) / 2
    cuts = np.clip(np.where(middles > stated[:-1], middles, stated[1:]), np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0))
    called = probabilities[:, 1] >= cuts[:, None]  # (thresholds, N)
    youden = called[:, positive].mean(axis=1) - called[:, ~positive].mean(axis=1)
    if youden.max() <= 0:
        return Fitted(otherwise, "no threshold tells the classes of the calibration split apart")
    best = np.flatnonzero(youden >= youden.max() - 1e-12)
    return Fitted(float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]]))
