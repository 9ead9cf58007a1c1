"""Whether probabilities mean what they say, and the temperature and bias that make them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
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


def negative_log_likelihood(
    logits: np.ndarray, truth: np.ndarray, temperature: float, bias: Sequence[float] = ()
) -> float:
    """Mean over slides of −log softmax(z / T + b)_label.

    Args:
        logits: float (N, C), z; N at least 1.
        truth: int (N,).
        temperature: T.
        bias: b, one for each class; none for zero.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature + np.asarray(bias or 0.0, dtype=np.float64)
    return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(truth)), truth]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How logits z become probabilities: softmax(z / T + b).

    Attributes:
        temperature: T.
        bias: b, one for each class, of mean zero; none for zero.
        temperature_kept: Why the model's own temperature is kept; None where it was fitted, as for ``bias_kept``.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    temperature_kept: str | None = None
    bias_kept: str | None = None


def fit_calibration(logits: np.ndarray, truth: np.ndarray, class_names: Sequence[str], own: Calibration) -> Calibration:
    """Find the temperature T and the bias b that minimise the negative log-likelihood of softmax(z / T + b).

    The most probable class is then the one to call: what a decision threshold would do, the bias does, and the
    probabilities go with it. The likelihood is convex in 1 / T and b, so there is one optimum. T is kept where the
    slides do not fix it: it falls to 0 where some bias tells all classes apart, and grows without bound where the
    logits say nothing. The bias is kept where a class has no slide.
    Source: A. Alexandari et al., ICML 2020, arXiv:1901.06852, Sec. 3.2 (bias-corrected temperature scaling).

    Args:
        logits: float (N, C) of the calibration slides.
        truth: int (N,).
        own: The model's.
    """
    if len(truth) == 0:
        nothing = "no slide of the calibration split could be judged"
        return replace(own, temperature_kept=nothing, bias_kept=nothing)
    missing = [name for number, name in enumerate(class_names) if not np.any(truth == number)]
    bias_kept = f"no slide of the calibration split is labelled {missing[0]!r}" if missing else None
    table, start = np.asarray(logits, dtype=np.float64), own.bias or (0.0,) * len(class_names)
    inverse, bias = _most_likely(table, truth, (1 / own.temperature, start), fits_bias=not missing)
    least, greatest = (1 / bound for bound in reversed(TEMPERATURES))
    # Of fixed bias the logits alone must be right for the likelihood to grow as T falls.
    scaled = table if missing else inverse * table + np.array(bias)
    temperature_kept = None
    if inverse <= least * 1.01:
        temperature_kept = "the logits say nothing of the labels, so the likelihood grows with T without bound"
    elif inverse >= greatest / 1.01 or bool(np.all(scaled[np.arange(len(truth)), truth] >= scaled.max(axis=1))):
        temperature_kept = "the classes are told apart without error: the likelihood grows as T falls to 0"
    if temperature_kept is not None:
        inverse, bias = _most_likely(
            table, truth, (1 / own.temperature, start), fits_bias=not missing, fits_temperature=False
        )
    return Calibration(
        temperature=own.temperature if temperature_kept else 1 / inverse,
        bias=own.bias if bias_kept else bias,
        temperature_kept=temperature_kept,
        bias_kept=bias_kept,
    )


def _most_likely(
    logits: np.ndarray,
    truth: np.ndarray,
    start: tuple[float, tuple[float, ...]],
    *,
    fits_bias: bool,
    fits_temperature: bool = True,
) -> tuple[float, tuple[float, ...]]:
    """Return the 1 / T and b, of mean zero, of the greatest likelihood; what is not fitted stays as at the start."""
    labels = np.eye(logits.shape[1])[truth]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = x[0] * logits + x[1:]
        total = logsumexp(scaled, axis=1)
        surplus = np.exp(scaled - total[:, None]) - labels  # (N, C), the slope by the scaled logits
        slope = np.concatenate([[np.mean((surplus * logits).sum(axis=1))], surplus.mean(axis=0)])
        return float(np.mean(total - scaled[np.arange(len(truth)), truth])), slope

    inverse, bias = start
    free = (1 / TEMPERATURES[1], 1 / TEMPERATURES[0]) if fits_temperature else (inverse, inverse)
    bounds = [free, *((None, None) if fits_bias else (value, value) for value in bias)]
    found = minimize(
        loss, [inverse, *bias], jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
    ).x
    middle = found[1:].mean()
    return float(found[0]), tuple(float(value - middle) for value in found[1:])
