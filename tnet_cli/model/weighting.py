"""The feature weighting module: how much each attended location counts."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class FeatureWeighting(nn.Module):
    """Weights that sum to one over all features of a slide, from each feature and the context of all.

    Source: arXiv:2102.10212, Sec. 4.3 (fine-grained recognition): gate by context, one score a feature, softmax.
    """

    def __init__(self, feature_length: int) -> None:
        super().__init__()
        hidden = feature_length // 4
        self.squeeze = nn.Linear(feature_length, hidden)
        self.excite = nn.Linear(hidden, feature_length)
        self.score = nn.Linear(feature_length, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return weights (K,) that sum to one, from the features (K, D) of one slide."""
        context = features.mean(dim=0, keepdim=True)
        gate = torch.sigmoid(self.excite(functional.silu(self.squeeze(context))))
        return torch.softmax(self.score(features * gate).squeeze(1), dim=0)


class EqualWeighting(nn.Module):
    """The mean: every feature counts alike."""

    def forward(self, features: Tensor) -> Tensor:
        """Return weights (K,), each 1 / K, for features (K, D)."""
        return features.new_full((features.shape[0],), 1 / features.shape[0])
