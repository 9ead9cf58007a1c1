"""Convolutions that pad as TensorFlow does, which the published weights of EfficientNets were trained with."""

from torch import Tensor, nn
from torch.nn import functional


class SamePaddingConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same" does: as much as its stride needs, the odd pixel at the end.

    The published weights were trained with it. torchvision pads strided convolutions alike on both sides, which shifts
    every map by half a pixel.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        pads: list[int] = []
        for side, kernel, stride in zip(
            (maps.shape[3], maps.shape[2]), self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return functional.conv2d(
            functional.pad(maps, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


def pad_like_tensorflow(module: nn.Module) -> None:
    """Replace every convolution that pads by one that pads like TensorFlow, in place, weights kept."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.kernel_size != (1, 1):
                same = SamePaddingConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    stride=child.stride,  # type: ignore[arg-type]
                    groups=child.groups,
                    bias=child.bias is not None,
                )
                same.load_state_dict(child.state_dict())
                setattr(parent, name, same)
