"""When a best-first traversal may end: the answer has stood still for a while."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tnet_cli.metrics.predictions import softmax
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard

AT_ONCE = 8
"""Locations between one look at the answer and the next."""

PATIENCE = 2
"""Looks in a row at which the answer must have stood still: one alone may have seen eight locations of one kind."""


class StandsStill:
    """Stopping rule of one slide: no class's probability has moved by a threshold, ``PATIENCE`` looks in a row.

    Args:
        stop_at: The threshold, in probability.
        probabilities: The answer (C,) to the features (K, D) of what was looked at, and bool (K,) which are closest.
    """

    def __init__(self, stop_at: float, probabilities: Callable[[Tensor, np.ndarray], np.ndarray]) -> None:
        self._stop_at = stop_at
        self._probabilities = probabilities
        self._last: np.ndarray | None = None
        self._still = 0

    def update(self, features: Tensor, closest: np.ndarray) -> bool:
        """Take the features (K, D) of everything looked at so far; say whether the answer has stood still.

        Args:
            closest: bool (K,), as ``Traversal.closest``.
        """
        probabilities = self._probabilities(features, closest)
        moved = np.inf if self._last is None else float(np.abs(probabilities - self._last).max())
        self._last = probabilities
        self._still = self._still + 1 if moved < self._stop_at else 0
        return self._still >= PATIENCE


def stopping_rule(stop_at: float | None, network: TNet, card: ModelCard) -> StandsStill | None:
    """Return what ends a best-first traversal of one slide; None for the traversal of the paper, which ends by itself.

    Args:
        stop_at: The threshold, in probability, or None.
        network: In evaluation mode.
        card: Its calibration makes probabilities of logits.
    """
    return None if stop_at is None else StandsStill(stop_at, partial(probabilities_of, network=network, card=card))


def probabilities_of(features: Tensor, closest: np.ndarray, network: TNet, card: ModelCard) -> np.ndarray:
    """Return the probability of each class, (C,), from the features (K, D) of what was looked at; closest as above."""
    with torch.inference_mode():
        logits = network.classify([features], closest=[closest]).logits[0].float().cpu().numpy()
    return softmax(logits, card.temperature, card.bias)
