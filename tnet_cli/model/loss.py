"""The training objective, as a pure function of what the network said.

Source: arXiv:2102.10212, Sec. 3.2 (REINFORCE with a baseline) and 3.3 (per-feature regularisation).
"""

from collections.abc import Sequence
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
        location_log_probs: (K - R,) for each slide: log-probability within its grid of the cell each feature but the
            roots' came from, in the order of ``feature_logits``.
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
    """The terms, weighted, and what they sum to.

    Attributes:
        cross_entropy, feature_cross_entropy, reinforce, feature_reinforce: Weighted terms, scalars.
        baseline: The baseline after this step.
    """

    cross_entropy: Tensor
    feature_cross_entropy: Tensor
    reinforce: Tensor
    feature_reinforce: Tensor
    baseline: float

    @property
    def total(self) -> Tensor:
        """Return the sum of the terms."""
        return self.cross_entropy + self.feature_cross_entropy + self.reinforce + self.feature_reinforce


def objective(said: ObjectiveInput, baseline: float, weights: ObjectiveWeights) -> Objective:
    """Compute the objective of one step.

    The reward is one where no class is more probable than the label's, zero elsewhere. The slide's reward moves all its
    choices; a feature's own reward moves the choice that led to it. One baseline serves both, and is moved after use.

    Args:
        said: What the network said.
        baseline: Before this step.
        weights: Of the terms.
    """
    owners = torch.cat(
        [label.expand(len(each)) for label, each in zip(said.labels, said.feature_logits, strict=True)]
        if said.feature_labels is None
        else list(said.feature_labels)
    )
    logits, levels = torch.cat(list(said.feature_logits)), torch.cat(list(said.processing_levels))
    counted = torch.ones_like(levels, dtype=torch.bool) if said.regularised is None else levels < said.regularised
    counted &= owners >= 0
    moved = counted & (levels > 0)
    cross_entropy = functional.cross_entropy(said.logits, said.labels)
    feature_cross_entropy = (
        functional.cross_entropy(logits[counted], owners[counted]) if bool(counted.any()) else logits.new_zeros(())
    )

    reward = _is_right(said.logits, said.labels)
    feature_reward = _is_right(logits, owners)
    chosen = torch.stack([each.sum() for each in said.location_log_probs])
    reinforce = -((reward - baseline) * chosen).mean()
    log_probs = logits.new_zeros(len(levels))
    log_probs[levels > 0] = torch.cat(list(said.location_log_probs))
    has_moved = bool(moved.any())
    feature_reinforce = (
        -((feature_reward[moved] - baseline) * log_probs[moved]).mean() if has_moved else logits.new_zeros(())
    )
    mean_feature_reward = float(feature_reward[moved].mean()) if has_moved else baseline
    seen = weights.slide_reinforce * float(reward.mean()) + (1 - weights.slide_reinforce) * mean_feature_reward
    return Objective(
        cross_entropy=weights.slide_cross_entropy * cross_entropy,
        feature_cross_entropy=(1 - weights.slide_cross_entropy) * feature_cross_entropy,
        reinforce=weights.reinforce * weights.slide_reinforce * reinforce,
        feature_reinforce=weights.reinforce * (1 - weights.slide_reinforce) * feature_reinforce,
        baseline=weights.baseline_momentum * baseline + (1 - weights.baseline_momentum) * seen,
    )


def _is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1.0 where no logit exceeds the label's, else 0.0, float (N,); where the label is -1 it means nothing."""
    own = logits.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    return (own >= logits.amax(dim=1)).to(logits.dtype)
