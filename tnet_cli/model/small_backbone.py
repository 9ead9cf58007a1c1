"""A small convolutional network for processors without a GPU."""

import torch
from torch import Tensor, nn

MAP_CHANNELS = 96
TOP_CHANNELS = 160


def _convolution(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 1)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape, (N, C, H, W)."""
        return torch.relu(maps + self.second(self.first(maps)))


class SmallBackbone(nn.Module):
    """Five strided stages, 174 million multiply-adds for a patch of 256 px, 0.87 million weights.

    The feature vector joins mean and maximum of the last map, so that a few nuclei among hundreds still count.
    """

    map_channels = MAP_CHANNELS
    feature_length = 2 * TOP_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            _convolution(3, 16, 2),
            _convolution(16, 32, 2),
            _convolution(32, 48, 2),
            ResidualBlock(48),
            _convolution(48, MAP_CHANNELS, 2),
            ResidualBlock(MAP_CHANNELS),
        )
        self.coarse = nn.Sequential(_convolution(MAP_CHANNELS, TOP_CHANNELS, 2), ResidualBlock(TOP_CHANNELS))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (N, 320) and location maps (N, 96, H / 16, W / 16) of normalised patches (N, 3, H, W)."""
        maps = self.fine(patches)
        top = self.coarse(maps)
        return torch.cat([top.mean(dim=(2, 3)), top.amax(dim=(2, 3))], dim=1), maps
