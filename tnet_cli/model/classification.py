"""The classification module: dropout and one linear layer, the same for a slide's feature and for each location's."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Classification(nn.Module):
    """Class logits of feature vectors."""

    def __init__(self, feature_length: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear = nn.Linear(feature_length, classes)

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return logits (N, C) of features (N, D).

        Args:
            kept: (N, D): what dropout keeps of each, drawn before (``draw_kept``); None to draw it here while training.
        """
        dropped = functional.dropout(features, self.dropout, self.training) if kept is None else features * kept
        logits: Tensor = self.linear(dropped)
        return logits

    def draw_kept(self, rows: int, rng: np.random.Generator) -> Tensor:
        """Draw what dropout keeps of features, float32 (rows, D): zero, or more than one so that the mean is one."""
        kept = rng.random((rows, self.linear.in_features), dtype=np.float32) >= self.dropout
        return torch.from_numpy(kept.astype(np.float32) / np.float32(1 - self.dropout))
