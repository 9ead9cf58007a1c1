"""Exploration: a share of uniform choice mixed into the distribution that locations are drawn from."""

import math

import torch
from torch import Tensor


def mix_uniform(cell_log_probs: Tensor, allowed: Tensor, share: float) -> Tensor:
    """Mix a uniform distribution over the allowed cells into each grid's.

    What is drawn from the mixture has the mixture's log-probabilities, so that REINFORCE stays exact for it.

    Args:
        cell_log_probs: (N, G), -inf where not allowed, as is what is returned.
        share: Of the uniform distribution, in [0, 1).
    """
    if share == 0:
        return cell_log_probs
    count = allowed.sum(dim=1, keepdim=True).clamp(min=1)
    uniform = math.log(share) - count.to(cell_log_probs.dtype).log()
    own = cell_log_probs.masked_fill(~allowed, 0.0) + math.log1p(-share)
    return torch.logaddexp(own, uniform.expand_as(own)).masked_fill(~allowed, -torch.inf)


def mean_entropy(cell_log_probs: Tensor, allowed: Tensor) -> Tensor:
    """Return the mean entropy, in nats, of the distributions over the cells of those grids that leave a choice.

    Args:
        cell_log_probs: (N, G), -inf where not allowed; the mean is zero where no grid leaves a choice.
    """
    chosen_from = allowed.sum(dim=1) > 1
    finite = cell_log_probs.masked_fill(~allowed, 0.0)
    entropy = -(finite.exp() * finite).masked_fill(~allowed, 0.0).sum(dim=1)
    return (entropy * chosen_from).sum() / chosen_from.sum().clamp(min=1)
