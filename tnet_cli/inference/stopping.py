"""When a best-first traversal may end: the answer has stood still for a while."""

import numpy as np
import torch
from torch import Tensor

from tnet_cli.metrics.predictions import softmax
from tnet_cli.model.best_first import Settled
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard

AT_ONCE = 8
"""Locations between one look at the answer and the next."""

PATIENCE = 2
"""Looks in a row at which the answer must have stood still: one alone may have seen eight locations of one kind."""


class StoppingRule:
    """Says stop when no class's probability has moved by as much as a threshold, for ``PATIENCE`` looks in a row.

    Args:
        stop_at: The threshold, in probability.
    """

    def __init__(self, stop_at: float) -> None:
        self.stop_at = stop_at
        self._last: np.ndarray | None = None
        self._still = 0

    def says_stop(self, probabilities: np.ndarray) -> bool:
        """Take the next look at the answer.

        Args:
            probabilities: (C,), of everything looked at so far.
        """
        moved = np.inf if self._last is None else float(np.abs(probabilities - self._last).max())
        self._last = probabilities
        self._still = self._still + 1 if moved < self.stop_at else 0
        return self._still >= PATIENCE


def settled_when(network: TNet, card: ModelCard, stop_at: float) -> Settled:
    """Return what tells a best-first traversal of one slide whether its answer is settled.

    Args:
        network: In evaluation mode.
        card: Gives the temperature.
        stop_at: Of the rule.
    """
    rule = StoppingRule(stop_at)

    def settled(features: Tensor) -> bool:
        return rule.says_stop(probabilities_of(features, network, card))

    return settled


def probabilities_of(features: Tensor, network: TNet, card: ModelCard) -> np.ndarray:
    """Return the probability of each class, (C,), from the features (K, D) of what was looked at."""
    with torch.inference_mode():
        logits = network.classify([features]).logits[0].float().cpu().numpy()
    return softmax(logits, card.temperature)
