"""The log-probability of what a traversal has sampled, so that REINFORCE follows the sampling that was really done.

Locations are drawn one after the other without replacement. The sum of their log-probabilities in their grids is not
the log-probability of such a sample: the second draw is made among what the first has left. What is here is, and its
gradient times the slide's reward is an unbiased estimate of the gradient of the expected reward.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tnet_cli.model.traversal import ProcessingLevelRecord, Traversal

SamplingScheme = Literal["per_grid", "redrawn", "beam_search"]
"""How a traversal sampled: from every grid on its own; from all cells with fresh noise at each processing level
(``GumbelTopK``); or by stochastic beam search (``StochasticBeam``)."""


def sampling_log_probs(traversal: Traversal, scheme: SamplingScheme, *, by_response: bool = False) -> list[Tensor]:
    """Return the log-probability of each draw given all draws before it.

    Draws are ordered by processing level, and within one by their perturbed values, the largest first. For
    ``beam_search`` over more than one sampled processing level it is the log-density of the draw together with its
    perturbed value, on which the draws further down depend.

    Args:
        traversal: Its locations were chosen by a ``PerturbingSampler``; its log-probabilities are tensors.
        by_response: As of ``TraversalPlan``; not with ``beam_search``, which draws paths.

    Returns:
        One tensor (N,) for each processing level after the roots', in the order of its regions.

    Raises:
        ValueError: the locations were not sampled, or cells that stand alone as paths.
    """
    if by_response and scheme == "beam_search":
        raise ValueError("cells that are ranked each by itself make no paths to draw")
    is_race = scheme == "beam_search" and len(traversal.levels) > 2
    log_probs = []
    for above, record in zip(traversal.levels, traversal.levels[1:], strict=False):
        if record.perturbed is None:
            raise ValueError("the locations were not sampled, so no draw has a probability")
        if is_race:
            log_probs.append(_race(above, record, record.perturbed))
        elif scheme == "per_grid":
            log_probs.append(_each_grid(above, record, record.perturbed))
        else:
            among = _joint(above, by_response=by_response).flatten()
            log_probs.append(sequential_log_probs(among, _flat(above, record), record.perturbed))
    return log_probs


def sequential_log_probs(log_probs: Tensor, chosen: np.ndarray, keys: np.ndarray) -> Tensor:
    """Return the log-probability of each draw among the candidates left when it is made, (k,) in order of ``chosen``.

    Args:
        log_probs: (M,) of the candidates, -inf where one may not be drawn; need not be normalised.
        chosen: int64 (k,) indices of what was drawn.
        keys: (k,) larger for what was drawn earlier.
    """
    order = np.argsort(-keys, kind="stable")
    left = np.tile(np.isfinite(log_probs.detach().cpu().numpy()), (len(chosen), 1))  # (k, M)
    for step, index in enumerate(order):
        left[step + 1 :, chosen[index]] = False
    remaining = torch.from_numpy(left[np.argsort(order)]).to(log_probs.device)  # (k, M), in the order of chosen
    # Where nothing else is left the draw is certain, and its own entry is the whole sum: the difference is zero.
    mass = log_probs.expand(len(chosen), -1).masked_fill(~remaining, -torch.inf).logsumexp(dim=1)
    return log_probs[torch.from_numpy(chosen).to(log_probs.device)] - mass


def _each_grid(above: ProcessingLevelRecord, record: ProcessingLevelRecord, keys: np.ndarray) -> Tensor:
    assert above.cell_log_probs is not None  # noqa: S101 (there are regions below)
    parts = []
    for parent in np.unique(record.parents):  # regions are ordered by parent
        mine = record.parents == parent
        parts.append(sequential_log_probs(above.cell_log_probs[parent], record.cells[mine], keys[mine]))
    return torch.cat(parts)


def _race(above: ProcessingLevelRecord, record: ProcessingLevelRecord, keys: np.ndarray) -> Tensor:
    """Return the log-density of each draw of a stochastic beam search, given the perturbed values one step above.

    exp(-perturbed) is a time: every cell has a clock whose rate is its joint probability, a region's clocks start when
    the region's own time has come, one of them rings at once, and the first k to ring are drawn. A draw's density is
    the rate of its clock times the probability that none of the running clocks rang since the draw before.
    """
    joint = _joint(above).flatten()  # (M,)
    # Rates of a deep path are tiny; Apple's devices have no float64.
    log_rates = joint if joint.device.type == "mps" else joint.double()
    chosen = _flat(above, record)
    times = np.exp(-keys)
    order = np.argsort(times, kind="stable")
    ends = np.full(len(log_rates), times.max())
    ends[chosen] = times
    cells = len(log_rates) // len(above.regions)
    starts = np.zeros(len(log_rates))
    if above.perturbed is not None:
        starts = np.repeat(np.exp(-above.perturbed), cells)
    until = times[order]
    since = np.concatenate([[0.0], until[:-1]])
    exposure = np.minimum(ends, until[:, None]) - np.maximum(starts, since[:, None])  # (k, M)
    exposure = np.maximum(exposure, 0)[np.argsort(order)]
    open_cells = np.isfinite(log_rates.detach().cpu().numpy())
    rates = log_rates[torch.from_numpy(open_cells).to(log_rates.device)].exp()
    survived = log_rates.new_tensor(exposure[:, open_cells]) @ rates
    own = log_rates[torch.from_numpy(chosen).to(log_rates.device)]
    if above.perturbed is not None:
        # The first clock of a grid rings with the region's: which one it is has a probability, but no time.
        first = torch.from_numpy(keys == above.perturbed[record.parents]).to(own.device)
        own = torch.where(first, record.location_log_probs.to(own.dtype), own)
    return (own - survived).to(record.location_log_probs.dtype)


def _joint(above: ProcessingLevelRecord, *, by_response: bool = False) -> Tensor:
    assert above.cell_log_probs is not None  # noqa: S101 (there are regions below)
    before = 0.0 if by_response else above.path_log_probs[:, None]
    joint: Tensor = before + above.cell_log_probs
    return joint


def _flat(above: ProcessingLevelRecord, record: ProcessingLevelRecord) -> np.ndarray:
    assert above.cell_log_probs is not None  # noqa: S101 (there are regions below)
    return np.asarray(record.parents * above.cell_log_probs.shape[1] + record.cells)
