"""Which locations are attended: the most probable ones, or a sample without replacement."""

from typing import Protocol

import numpy as np


class Chooser(Protocol):
    """Chooses some of the candidates."""

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose at most k candidates without replacement.

        Args:
            log_probs: (M,) float64; -inf where a candidate must not be chosen.
            k: How many, at least 1; fewer are returned when fewer may be chosen.

        Returns:
            Indices int64, ascending.
        """
        ...


class TopK:
    """Takes the k most probable candidates; of equals the first."""

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose as ``Chooser`` says."""
        return _largest(log_probs, log_probs, k)


class GumbelTopK:
    """Samples k candidates without replacement, each time in proportion to the probabilities that remain.

    Adding independent Gumbel noise to log-probabilities and keeping the k largest is exactly that sample. Source: Kool,
    van Hoof and Welling, arXiv:1903.06059. In a traversal each step is such a sample among what the step before has
    reached. Noise is drawn anew at every step, so more than one location over more than one step is not a sample
    without replacement of whole paths, which that paper's beam search gives.

    Args:
        rng: Source of randomness.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose as ``Chooser`` says."""
        return _largest(log_probs + self.rng.gumbel(size=log_probs.shape), log_probs, k)


class RandomChoice:
    """Takes k candidates at random, all alike: the baseline that any attention must beat.

    Args:
        rng: Source of randomness.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose as ``Chooser`` says."""
        return _largest(self.rng.random(log_probs.shape), log_probs, k)


def _largest(keys: np.ndarray, log_probs: np.ndarray, k: int) -> np.ndarray:
    if k < 1:
        raise ValueError(f"at least one location must be chosen, not {k}")
    open_to_choice = np.flatnonzero(np.isfinite(log_probs))
    order = np.argsort(-keys[open_to_choice], kind="stable")
    return np.sort(open_to_choice[order[:k]])
