"""The published model of birds once more, straight from the authors' variables: slow, and obvious.

The extractor is written from the tables of its description with torch's bare functions; the rest are the oracles. It
shares no code with the package.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tests.model import oracles
from tests.model.oracles import Array, Weights

FIRST_STRIDES = {2: 1, 3: 2, 4: 2, 5: 2, 6: 1, 7: 2, 8: 1}
TAPS = {16: ("part5_block1", [2, 4, 6, 8, 10])}
OTHER_TAP = ("part4_block2", [5, 9, 13, 17, 21])


class Extractor:
    """EfficientNet from variables as TensorFlow has them: kernels (H, W, in, out), "same" padding, epsilon 0.001."""

    def __init__(self, variables: Mapping[str, Array]) -> None:
        self.variables = variables
        names = [re.match(r"feature_extraction/(part\d_block\d+)/", name) for name in variables]
        self.blocks = sorted(
            {found[1] for found in names if found}, key=lambda b: [int(x) for x in re.findall(r"\d+", b)]
        )

    def value(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.variables[f"feature_extraction/{name}"]))

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self._convolve(x, self.value(f"{name}/kernel").permute(3, 2, 0, 1), stride, 1)

    def depthwise(self, x: Tensor, name: str, stride: int) -> Tensor:
        kernel = self.value(f"{name}/depthwise_kernel").permute(2, 3, 0, 1)
        return self._convolve(x, kernel, stride, x.shape[1])

    def _convolve(self, x: Tensor, kernel: Tensor, stride: int, groups: int) -> Tensor:
        side, size = x.shape[2], kernel.shape[2]
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        before, after = total // 2, total - total // 2
        return functional.conv2d(
            functional.pad(x, (before, after, before, after)), kernel, stride=stride, groups=groups
        )

    def norm(self, x: Tensor, name: str) -> Tensor:
        gamma, beta, mean, variance = (
            self.value(f"{name}/batch_norm/{kind}").view(1, -1, 1, 1)
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / torch.sqrt(variance + 1e-3) * gamma + beta

    def block(self, x: Tensor, name: str) -> Tensor:
        stride = FIRST_STRIDES[int(name[4])] if name.endswith("_block1") else 1
        inner = x
        if f"feature_extraction/{name}/expand/conv2d/kernel" in self.variables:
            inner = functional.silu(self.norm(self.conv(inner, f"{name}/expand/conv2d"), f"{name}/expand"))
        inner = self.depthwise(inner, f"{name}/depthwise/conv2d", stride)
        inner = functional.silu(self.norm(inner, f"{name}/depthwise"))
        context = inner.mean(dim=(2, 3), keepdim=True)
        for layer, activation in (("conv2d_1", functional.silu), ("conv2d_2", torch.sigmoid)):
            bias = self.value(f"{name}/se/{layer}/bias").view(1, -1, 1, 1)
            context = activation(self.conv(context, f"{name}/se/{layer}") + bias)
        out = self.norm(self.conv(inner * context, f"{name}/bottleneck/conv2d"), f"{name}/bottleneck")
        return out + x if stride == 1 and x.shape == out.shape else out

    def __call__(self, patch: Array, tap: str) -> tuple[Array, Array]:
        """Return the vector and the map (h, w, C) at the tap, of one patch (H, W, 3) in [-1, 1]."""
        x = torch.from_numpy(patch.astype(np.float32)).permute(2, 0, 1)[None]
        x = functional.silu(self.norm(self.conv(x, "stem/conv2d", 2), "stem"))
        maps = {}
        for name in self.blocks:
            x = maps[name] = self.block(x, name)
        x = functional.silu(self.norm(self.conv(x, "top/conv2d"), "top"))
        return x.mean(dim=(2, 3))[0].double().numpy(), maps[tap][0].permute(1, 2, 0).double().numpy()


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model must say: logits, share of each feature, the probabilities of all cells, those attended."""

    logits: Array
    weights: Array
    probabilities: Array
    cells: list[int]


def birds_forward(variables: Mapping[str, Array], state: Weights, image: Array) -> Expected:
    """Classify an image, uint8 (H, W, 3), with three locations.

    Args:
        variables: The extractor's, as the authors' code has them.
        state: Of the other modules, float64, named as TNet's.
        image: Of any size.
    """
    extractor = Extractor(variables)
    tap, taken = TAPS.get(len(extractor.blocks), OTHER_TAP)
    pixels = (oracles.resize(image / 255, 448) - 0.5) * 2
    vector, maps = extractor(oracles.resize(pixels, 224), tap)
    features = [oracles.positioned(state, vector, (0, 0, 0), "yxs")]
    cells = maps[np.ix_(taken, taken)]
    probabilities = oracles.location_probs(state, cells, np.ones(25, bool), "l2")
    attended = sorted(np.argsort(-probabilities)[:3].tolist())
    for cell in attended:
        row, column = divmod(cell, 5)
        # Offsets of the specification's worked example; what lies outside is zero.
        y, x = -1 + 73 * row, -1 + 73 * column
        crop = oracles.crop(pixels, x, y, 157, 157)
        vector, _ = extractor(oracles.resize(crop, 224), tap)
        features.append(oracles.positioned(state, vector, (row, column, 1), "yxs"))
    weights = oracles.feature_weights(state, np.stack(features))
    combined = (weights[:, None] * np.stack(features)).sum(axis=0)
    logits = state["classification.linear.weight"] @ combined + state["classification.linear.bias"]
    return Expected(logits, weights, probabilities, attended)
