"""The positional encoding module: tells a feature vector where, and at which scale, it was seen."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tnet_cli.model.config import TNetConfig

LARGEST_PERIOD = 100.0

SHORTEST_CODE = 12
"""Two sines and two cosines for each of y, x and scale."""


class Position(nn.Module):
    """Adds a projection of the sine and cosine code of y, x and scale to the feature vector, then the non-linearity.

    Source: arXiv:2102.10212, Sec. 3, positional encoding module.
    """

    def __init__(self, config: TNetConfig, feature_length: int) -> None:
        super().__init__()
        self.length = config.position_length or max(feature_length // 4, SHORTEST_CODE)
        self.axes = config.position_axes
        self.project = nn.Linear(self.length, feature_length)

    def forward(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Return features (N, D) from vectors (N, D) and positions int64 (N, 3), which are y, x and scale."""
        if self.axes == "s":
            positions = positions * positions.new_tensor([0, 0, 1])
        code = encode_position(positions, self.length).to(vectors.dtype)
        return functional.silu(vectors + self.project(code))


def encode_position(positions: Tensor, length: int) -> Tensor:
    """Encode positions as sines and cosines.

    For each of y, x and scale in turn, ``length // 6`` sines and as many cosines of frequencies that fall
    geometrically from 1 to 1 / 100; what is left of the length is zero.

    Args:
        positions: (N, 3) int64: y, x, scale; indices in the nominal grid of the processing level.
        length: Of the code, at least ``SHORTEST_CODE``.

    Returns:
        (N, length) float32.
    """
    count = length // 6
    steps = torch.arange(count, device=positions.device, dtype=torch.float32)
    frequency = torch.exp(steps * (-math.log(LARGEST_PERIOD) / (count - 1)))
    angle = positions.float().unsqueeze(2) * frequency  # (N, 3, F)
    code = torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1)  # (N, 6 F), per axis first the sines
    return functional.pad(code, (0, length - 6 * count))
