"""EfficientNet-Lite0, which processors are quick with: no squeeze-and-excitation, ReLU6 in place of swish.

Layers are named as in timm's ``tf_efficientnet_lite0``, whose weights fit; and they stand in sequences, so that batch
normalisation can be folded away (``normalisation.fold_normalisation``).

Source: M. Tan and Q. Le, ICML 2019, arXiv:1905.11946, Table 1, as TensorFlow's repository ``tpu`` has it under
``efficientnet/lite``: stem and head are not scaled, and strided convolutions pad as TensorFlow does.
"""

from torch import Tensor, nn

from tnet_cli.model.tensorflow_padding import SamePaddingConv2d

STAGES = (
    # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, FEATURE_LENGTH = 32, 1280
EPSILON = 1e-3
"""Constant of TensorFlow's batch normalisation."""


class EfficientNetLite0(nn.Sequential):
    """Patches (N, 3, H, W), normalised, to vectors (N, 1280); of other classes to logits.

    Args:
        num_classes: Of a classifier at the end; 0 for none.
    """

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.add_module("conv_stem", _convolution(3, STEM_CHANNELS, 3, 2))
        self.add_module("bn1", _normalisation(STEM_CHANNELS))
        self.add_module("act1", nn.ReLU6(inplace=True))
        stages, channels = nn.Sequential(), STEM_CHANNELS
        for blocks, kernel, stride, expansion, wide in STAGES:
            stage = nn.Sequential()
            for number in range(blocks):
                stage.append(_Block(channels, wide, kernel, stride if number == 0 else 1, expansion))
                channels = wide
            stages.append(stage)
        self.add_module("blocks", stages)
        self.add_module("conv_head", _convolution(channels, FEATURE_LENGTH, 1, 1))
        self.add_module("bn2", _normalisation(FEATURE_LENGTH))
        self.add_module("act2", nn.ReLU6(inplace=True))
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        if num_classes:
            self.add_module("classifier", nn.Linear(FEATURE_LENGTH, num_classes))


class _Block(nn.Sequential):
    """An inverted residual: widened, convolved channel by channel, narrowed; or, without widening, the last two."""

    def __init__(self, channels: int, wide: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.is_residual = stride == 1 and channels == wide
        inner, last = channels * expansion, ("conv_pw", "bn2")
        if expansion > 1:
            last = ("conv_pwl", "bn3")
            self._add("conv_pw", "bn1", _convolution(channels, inner, 1, 1))
            self.add_module("act1", nn.ReLU6(inplace=True))
        normalised = "bn2" if expansion > 1 else "bn1"
        self._add("conv_dw", normalised, _convolution(inner, inner, kernel, stride, groups=inner))
        self.add_module("act_dw", nn.ReLU6(inplace=True))
        self._add(*last, _convolution(inner, wide, 1, 1))

    def _add(self, name: str, normalised: str, convolution: nn.Conv2d) -> None:
        self.add_module(name, convolution)
        self.add_module(normalised, _normalisation(convolution.out_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (N, C', H', W') of maps (N, C, H, W)."""
        changed: Tensor = super().forward(maps)  # type: ignore[no-untyped-call]
        return maps + changed if self.is_residual else changed


def _convolution(channels: int, wide: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return SamePaddingConv2d(channels, wide, kernel, stride=stride, groups=groups, bias=False)
    return nn.Conv2d(channels, wide, kernel, padding=kernel // 2, groups=groups, bias=False)


def _normalisation(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=0.01)
