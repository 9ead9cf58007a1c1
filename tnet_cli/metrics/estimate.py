"""A metric with its interval, or the reason why there is none."""

from dataclasses import dataclass
from typing import Any, Self

from scipy.stats import binomtest

from tnet_cli.files import rounded

CONFIDENCE = 0.95
WILSON = "Wilson"
BOOTSTRAP = "bootstrap over patients"
NO_SLIDE = "no slide could be judged"


class UndefinedMetricError(ValueError):
    """A metric that these slides cannot give; the message is the reason, in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A metric with its 95 % interval.

    Attributes:
        value: None when it is undefined.
        method: How the interval was made: ``Wilson`` or ``bootstrap over patients``; None without one.
        reason: Why the value or the interval is missing, or what to mind when reading it; None when nothing is amiss.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    reason: str | None = None

    @classmethod
    def undefined(cls, reason: str = NO_SLIDE) -> Self:
        """Return the estimate of a metric that these slides cannot give."""
        return cls(value=None, reason=reason)

    def record(self) -> dict[str, Any]:
        """Return the estimate as it stands in ``metrics.json``; numbers with six significant figures."""
        has_interval = self.low is not None and self.high is not None
        return {
            "value": rounded(self.value),
            "interval_95": [rounded(self.low), rounded(self.high)] if has_interval else None,
            "method": self.method,
            "reason": self.reason,
        }

    def cells(self, name: str) -> dict[str, float | None]:
        """Return the estimate as three cells of a table: ``name``, ``name_low`` and ``name_high``."""
        return {name: rounded(self.value), f"{name}_low": rounded(self.low), f"{name}_high": rounded(self.high)}

    def words(self) -> str:
        """Return the estimate as it is read: ``0.925 (0.874 to 0.957)``; an interval without width is left out."""
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None or self.low == self.high:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def wilson(successes: int, trials: int, *, nothing: str = NO_SLIDE) -> Estimate:
    """Estimate a proportion with Wilson's score interval at 95 %.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), with p = successes / n, n = trials and z = 1.96. It stays
    within [0, 1] and has a width even where p is 0 or 1. It takes the trials for independent.
    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212; computed by scipy.

    Args:
        successes: In [0, trials].
        trials: Slides, patients or whatever is counted.
        nothing: The reason to give when there are no trials.
    """
    if trials == 0:
        return Estimate.undefined(nothing)
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=successes / trials, low=float(interval.low), high=float(interval.high), method=WILSON)
