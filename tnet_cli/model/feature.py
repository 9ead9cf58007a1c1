"""The feature extraction module: a patch becomes one vector, and a map of what is where in it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tnet_cli.model.backbone import build_backbone
from tnet_cli.model.config import TNetConfig


class FeatureExtraction(nn.Module):
    """One extractor, shared by all processing levels.

    Source: arXiv:2102.10212, Sec. 3, feature extraction module.

    Raises:
        ValueError: the backbone cannot be built.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: TNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.base_px, config.tap)
        self.feature_length: int = self.backbone.feature_length  # type: ignore[assignment]
        self.map_channels: int = self.backbone.map_channels  # type: ignore[assignment]
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Extract features.

        Args:
            patches: (N, 3, H, W), uint8 or float in [0, 1]; resized to ``base_px`` when it is of another size.

        Returns:
            Vectors (N, D) float32 and location features (N, C, n, n) float32.

        Raises:
            ValueError: ``location_slice`` does not give n x n cells of this backbone's map.
        """
        pixels, greatest = patches.float(), 255.0 if patches.dtype == torch.uint8 else 1.0
        base_px = self.config.base_px
        if pixels.shape[2:] != (base_px, base_px):
            # Without antialiasing, as the published weights were trained.
            pixels = functional.interpolate(
                pixels, size=(base_px, base_px), mode="bilinear", align_corners=False, antialias=False
            )
        vectors, maps = self.backbone(self._normalised(pixels, greatest))
        return vectors, self._to_grid(maps)

    def _normalised(self, pixels: Tensor, greatest: float) -> Tensor:
        """Return (pixels / greatest - mean) / std, (N, 3, H, W) in the memory format of channels last.

        Whole rows at once, since along an axis of three channels torch takes ten times as long.
        """
        rows = pixels.permute(0, 2, 3, 1).flatten(2)  # (N, H, 3 W): in channels last, as patches are read, a view
        height, width = pixels.shape[2:]
        slope = (1 / (greatest * self.pixel_std)).flatten().repeat(width)
        offset = (-self.pixel_mean / self.pixel_std).flatten().repeat(width)
        return torch.addcmul(offset, rows, slope).reshape(-1, height, width, 3).permute(0, 3, 1, 2)

    def _to_grid(self, maps: Tensor) -> Tensor:
        n = self.config.grid
        match self.config.location_pool:
            case "mean":
                return functional.adaptive_avg_pool2d(maps, n)
            case "max":
                return functional.adaptive_max_pool2d(maps, n)
            case "slice":
                first, step, *stop = self.config.location_slice or (0, 1)
                taken = slice(first, stop[0] if stop else None, step)
                cells = maps[:, :, taken, taken]
                if cells.shape[2:] != (n, n):
                    raise ValueError(f"a slice of {first}::{step} gives {tuple(cells.shape[2:])} cells, not {n} x {n}")
                return cells
