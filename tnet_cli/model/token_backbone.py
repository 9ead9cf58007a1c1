"""Transformers as backbones: their patch tokens, laid back on their grid, are a map."""

import math

import torch
from torch import Tensor, nn


class TokenBackbone(nn.Module):
    """A transformer whose patch tokens, laid back on their grid, are the map.

    Args:
        network: With ``forward_features`` that gives tokens (N, T, D), as timm's, or of ``transformers``.
        pooling: As of ``EncoderConfig``; ``map`` is the mean of the patch tokens.
        first_token: The first patch token, where the network does not say how many come before.

    Raises:
        ValueError: the network cannot take such patches, or its tokens make no square grid.
    """

    def __init__(self, network: nn.Module, name: str, base_px: int, pooling: str, first_token: int) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.first_token = int(getattr(network, "num_prefix_tokens", first_token))
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad():
                vectors, maps = self(torch.zeros(1, 3, base_px, base_px))
        except (RuntimeError, AssertionError, ValueError) as exc:
            raise ValueError(f"backbone {name} cannot take patches of {base_px} px: {exc}") from exc
        finally:
            network.train(was_training)
        self.feature_length, self.map_channels = vectors.shape[1], maps.shape[1]

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (N, D) and maps (N, D, h, w) of patches (N, 3, H, W)."""
        if hasattr(self.network, "forward_features"):
            tokens: Tensor = self.network.forward_features(patches)  # type: ignore[operator]
        else:
            tokens = self.network(pixel_values=patches).last_hidden_state
        patch_tokens = tokens[:, self.first_token :]
        side = math.isqrt(patch_tokens.shape[1])
        if side == 0 or side**2 != patch_tokens.shape[1]:
            raise ValueError(f"{patch_tokens.shape[1]} patch tokens make no square grid; say which is the first")
        maps = patch_tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)  # (N, D, h, w)
        match self.pooling:
            case "cls":
                vectors = tokens[:, 0]
            case "cls+mean":
                vectors = torch.cat([tokens[:, 0], patch_tokens.mean(dim=1)], dim=1)
            case "own" if hasattr(self.network, "forward_head"):
                vectors = self.network.forward_head(tokens)  # type: ignore[operator]
            case _:
                vectors = patch_tokens.mean(dim=1)
        return vectors, maps


def has_tokens(network: nn.Module) -> bool:
    """Tell a transformer of timm, or of ``transformers``, which has a configuration and no features of its own."""
    if hasattr(network, "forward_features"):
        return hasattr(network, "num_prefix_tokens")
    return hasattr(network, "config")
