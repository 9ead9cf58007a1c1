"""The teacher's verdict on a whole slide, and the probability of it that a distilled model's score gives."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from tnet_cli.errors import UsageError

CALL_AT = {"top": 0.5, "area": 0.01, "mean": 0.05}
"""From which score a teacher calls a slide, where the user does not say."""

LEAST_OF_A_KIND = 3
"""With fewer slides that are called, or that are not, nothing can be fitted to the verdicts."""

PULL = 0.02
"""Of the logistic towards no slope: with verdicts that the score divides without fault it would be infinite."""


def rule_of(text: str) -> tuple[str, int | None]:
    """Read ``top:K``, ``area`` or ``mean``.

    Raises:
        UsageError: it is none of them.
    """
    name, colon, number = text.partition(":")
    if name == "top" and number.isascii() and number.isdigit() and int(number) >= 1:
        return name, int(number)
    if name in {"area", "mean"} and not colon:
        return name, None
    raise UsageError(f"--rule {text}: expected top:K with K at least 1, such as top:32, or area, or mean")


def fit_logistic(scores: Sequence[float], called: Sequence[bool], call_at: float) -> tuple[float, float, bool]:
    """Fit the probability that a teacher calls a slide to the slide's score: sigmoid(slope x score + intercept).

    Args:
        scores: The distilled model's, of slides.
        called: Whether the teacher, having seen all of their tissue, calls them.
        call_at: Where even odds lie when too few slides of a kind say so themselves.

    Returns:
        Slope, intercept, and whether they were fitted.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(called, dtype=np.float64)
    plain = 4 / max(min(call_at, 1 - call_at), 0.01)
    if min(y.sum(), len(y) - y.sum()) < LEAST_OF_A_KIND or x.std() == 0:
        return plain, -plain * call_at, False
    centre, spread = float(x.mean()), float(x.std())
    scaled = (x - centre) / spread

    def loss(line: np.ndarray) -> float:
        z = line[0] * scaled + line[1]
        return float(np.mean(np.logaddexp(0, z) - y * z) + PULL * line[0] ** 2 / 2)

    def gradient(line: np.ndarray) -> np.ndarray:
        off = expit(line[0] * scaled + line[1]) - y
        return np.array([np.mean(off * scaled) + PULL * line[0], np.mean(off)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=gradient, method="BFGS").x
    slope = float(found[0]) / spread
    if slope <= 0:
        return plain, -plain * call_at, False
    return slope, float(found[1]) - slope * centre, True
