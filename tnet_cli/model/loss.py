"""The training objective, as a pure function of what the network said.

Source: arXiv:2102.10212, Sec. 3.2 (REINFORCE with a baseline) and 3.3 (per-feature regularisation).

What the REINFORCE terms estimate depends on the log-probabilities they are given:

- Those of the draws (``sampling_log_probs``): the gradient of the slide's term is an unbiased estimate of that of the
  expected reward over everything a traversal may draw, for samples without replacement too. The per-feature
  term moves each draw for the reward of the feature it gave, holding what was drawn before: an unbiased estimate of the
  sum of the gradients of each draw's expected reward given its history.
- Those of the cells in their grids, as in the authors' code: the same for one location of each grid, and a
  heuristic for more, since the gradient of a sum of them is not the score of a sample without replacement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class ObjectiveWeights:
    """Weights of the terms; the defaults are the paper's for satellite images of 448 px.

    Attributes:
        reinforce: Of both REINFORCE terms; lambda.
        slide_cross_entropy: Share of the slide's cross-entropy against that of single features; w_c.
        slide_reinforce: Share of the slide's reward against those of single features; w_r.
        baseline_momentum: Of the baseline's moving average.
    """

    reinforce: float = 0.1
    slide_cross_entropy: float = 0.2
    slide_reinforce: float = 0.2
    baseline_momentum: float = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class ObjectiveInput:
    """What the network said of S slides; lists hold one tensor for each slide.

    Attributes:
        logits: (S, C).
        labels: (S,) int64.
        feature_logits: (K, C) for each slide, coarsest processing level first, roots included.
        location_log_probs: (K - R,) for each slide: log-probability of the draw of the cell each feature but the
            roots' came from, or of that cell within its grid; in the order of ``feature_logits``.
        feature_labels: (K,) int64 for each slide: the class of each feature where it is known better than by the
            slide's label; -1 leaves a feature out of the per-feature terms. The slide's label for all when None.
        regularised: Processing levels whose features get their own cross-entropy and reward; all when None.
        processing_levels: (K,) int64 for each slide: the processing level of each feature.
    """

    logits: Tensor
    labels: Tensor
    feature_logits: Sequence[Tensor]
    location_log_probs: Sequence[Tensor]
    processing_levels: Sequence[Tensor]
    feature_labels: Sequence[Tensor] | None = None
    regularised: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """The terms, weighted scalars, and the baseline after this step."""

    cross_entropy: Tensor
    feature_cross_entropy: Tensor
    reinforce: Tensor
    feature_reinforce: Tensor
    baseline: float

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        return self.cross_entropy + self.feature_cross_entropy + self.reinforce + self.feature_reinforce


Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes that share a batch; the identity where there is one."""


def objective(
    said: ObjectiveInput, baseline: float, weights: ObjectiveWeights, total: Total = lambda tally: tally
) -> Objective:
    """Compute the objective of one step.

    The reward is one where no class is more probable than the label's, zero elsewhere. The slide's reward moves all its
    choices; a feature's own reward moves the choice that led to it. One baseline serves both, and is moved after use.

    Means run over the batch of all processes: each process's terms are its share of them, so that gradients add up.

    Args:
        baseline: Before this step.
        total: Sums over the processes; called once.
    """
    owners = torch.cat(
        [label.expand(len(each)) for label, each in zip(said.labels, said.feature_logits, strict=True)]
        if said.feature_labels is None
        else list(said.feature_labels)
    )
    logits, processing_levels = torch.cat(list(said.feature_logits)), torch.cat(list(said.processing_levels))
    counted = owners >= 0
    if said.regularised is not None:
        counted &= processing_levels < said.regularised
    moved = counted & (processing_levels > 0)
    reward, feature_reward = _is_right(said.logits, said.labels), _is_right(logits, owners)[moved]
    local = [len(reward), int(counted.sum()), int(moved.sum()), float(reward.sum()), float(feature_reward.sum())]
    tally = _tally(local, total)

    chosen = torch.stack([each.sum() for each in said.location_log_probs])
    log_probs = logits.new_zeros(len(processing_levels))
    log_probs[processing_levels > 0] = torch.cat(list(said.location_log_probs)).to(logits.dtype)
    cross_entropy = functional.cross_entropy(said.logits, said.labels, reduction="sum") / tally.slides
    feature_cross_entropy = functional.cross_entropy(logits[counted], owners[counted], reduction="sum") / tally.counted
    reinforce = -((reward - baseline) * chosen).sum() / tally.slides
    feature_reinforce = -((feature_reward - baseline) * log_probs[moved]).sum() / tally.moved
    return Objective(
        cross_entropy=weights.slide_cross_entropy * cross_entropy,
        feature_cross_entropy=(1 - weights.slide_cross_entropy) * feature_cross_entropy,
        reinforce=weights.reinforce * weights.slide_reinforce * reinforce,
        feature_reinforce=weights.reinforce * (1 - weights.slide_reinforce) * feature_reinforce,
        baseline=tally.move(baseline, weights),
    )


def objective_of_nothing(baseline: float, weights: ObjectiveWeights, total: Total) -> float:
    """Take part in a step without a slide of one's own; return the baseline after it."""
    return _tally([0, 0, 0, 0, 0], total).move(baseline, weights)


@dataclass(frozen=True, slots=True)
class _Tally:
    """Counts and rewards of all processes; counts are at least one, since they divide."""

    slides: float
    counted: float
    moved: float
    reward: float
    feature_reward: float | None

    def move(self, baseline: float, weights: ObjectiveWeights) -> float:
        mean_feature_reward = baseline if self.feature_reward is None else self.feature_reward
        seen = weights.slide_reinforce * self.reward + (1 - weights.slide_reinforce) * mean_feature_reward
        return weights.baseline_momentum * baseline + (1 - weights.baseline_momentum) * seen


def _tally(local: Sequence[float], total: Total) -> _Tally:
    slides, counted, moved, reward, feature_reward = total(torch.tensor(local, dtype=torch.float64)).tolist()
    return _Tally(
        slides=max(slides, 1),
        counted=max(counted, 1),
        moved=max(moved, 1),
        reward=reward / max(slides, 1),
        feature_reward=feature_reward / moved if moved else None,
    )


def _is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1.0 where no logit exceeds the label's, else 0.0, float (N,); where the label is -1 it means nothing."""
    own = logits.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    return (own >= logits.amax(dim=1)).to(logits.dtype)
