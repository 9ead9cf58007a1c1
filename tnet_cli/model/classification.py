"""The classification module: dropout and one linear layer, the same for a slide's feature and for each location's."""

from torch import Tensor, nn
from torch.nn import functional


class Classification(nn.Module):
    """Class logits of feature vectors."""

    def __init__(self, feature_length: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear = nn.Linear(feature_length, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, C) of features (N, D)."""
        dropped = functional.dropout(features, self.dropout, self.training)
        logits: Tensor = self.linear(dropped)
        return logits
