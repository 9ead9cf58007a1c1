"""Which locations are attended: the most probable ones, or a sample without replacement."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class LocationSampler(Protocol):
    """Chooses some of the candidates."""

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose at most k candidates without replacement; return their indices, int64, ascending.

        Args:
            log_probs: (M,) float64; -inf where a candidate must not be chosen.
            k: How many, at least 1; fewer are returned when fewer may be chosen.
        """
        ...


class PerturbingSampler(LocationSampler, Protocol):
    """Chooses the candidates with the largest perturbed log-probabilities, and can say what those were."""

    def perturb(self, log_probs: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        """Perturb log-probabilities: (N, G) float64, -inf where ``log_probs`` is.

        Args:
            log_probs: (N, G) float64: the cells of N regions; -inf where a cell must not be chosen.
            parents: (N,) perturbed log-probabilities of the regions themselves; None where they were not sampled, or
                where every grid is drawn from on its own.
        """
        ...


class TopK:
    """Takes the k most probable candidates; of equals the first."""

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose as ``LocationSampler`` says."""
        return largest(log_probs, log_probs, k)


@dataclass(frozen=True, slots=True)
class GumbelTopK:
    """Samples k candidates without replacement, each time in proportion to the probabilities that remain.

    Adding independent Gumbel noise to log-probabilities and keeping the k largest is exactly that sample, and the order
    of the perturbed values is the order of the draws. Source: Kool, van Hoof and Welling, arXiv:1903.06059. In a
    traversal each processing level is such a sample among what the one before has reached. Noise is drawn anew at
    every processing level, so several locations over several processing levels are no sample without replacement of
    whole paths; ``StochasticBeam`` gives that.
    """

    rng: np.random.Generator

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose as ``LocationSampler`` says."""
        return largest(self._with_noise(log_probs), log_probs, k)

    def perturb(self, log_probs: np.ndarray, parents: np.ndarray | None) -> np.ndarray:  # noqa: ARG002 (drawn anew)
        """Perturb as ``PerturbingSampler`` says, whatever the parents' values were."""
        return self._with_noise(log_probs)

    def _with_noise(self, log_probs: np.ndarray) -> np.ndarray:
        return np.asarray(log_probs + self.rng.gumbel(size=log_probs.shape))


class StochasticBeam(GumbelTopK):
    """Stochastic beam search: Gumbel top-k over the joint probabilities of whole paths, processing level by level.

    The noise of a cell is drawn on condition that the largest perturbed value in its grid is the region's own, so that
    it is the noise which the paths below would have had if all of them had been perturbed at once. The k paths of a
    processing level are then a sample of k paths without replacement, as long as no processing level before kept
    fewer. Where grids are drawn from on their own it is ``GumbelTopK``. Source: arXiv:1903.06059, Sec. 3 and App. B.
    """

    def perturb(self, log_probs: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        """Perturb as ``PerturbingSampler`` says."""
        free = self._with_noise(log_probs)
        if parents is None:
            return free
        # exp(-value) is the time at which an exponential clock of the cell's rate rings. The earliest clock of a grid
        # rings when the region's does; clocks have no memory, so the others keep their distance to the earliest.
        top = free.max(axis=1, keepdims=True)
        gap = np.where(np.isfinite(free), free - np.where(np.isfinite(top), top, 0), -np.inf)
        with np.errstate(divide="ignore"):
            log_distance = -free + np.log(-np.expm1(gap))
        return np.asarray(-np.logaddexp(-parents[:, None], log_distance))


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """Takes k candidates at random, all alike: the baseline that any attention must beat."""

    rng: np.random.Generator

    def __call__(self, log_probs: np.ndarray, k: int) -> np.ndarray:
        """Choose as ``LocationSampler`` says."""
        return largest(self.rng.random(log_probs.shape), log_probs, k)


def largest(keys: np.ndarray, log_probs: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k largest keys among the candidates that may be chosen, ascending; ties: the first.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"at least one location must be chosen, not {k}")
    open_to_choice = np.flatnonzero(np.isfinite(log_probs))
    order = np.argsort(-keys[open_to_choice], kind="stable")
    return np.sort(open_to_choice[order[:k]])
