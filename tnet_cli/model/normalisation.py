"""Normalisation by batch statistics, which hard attention cannot train with, frozen and folded away.

Processing levels look different and run in separate batches; running statistics would fit none of them. So statistics
are learnt while all processing levels share every batch, then frozen.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def freeze_normalisation(module: nn.Module) -> None:
    """Use running statistics from now on, in training mode too, and never change them again.

    Each batch normalisation in the module ignores later calls of ``train``.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (the common base has no public name)
            child.eval()
            child.train = _stay_in_evaluation.__get__(child)  # type: ignore[method-assign]


def _stay_in_evaluation(self: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001, FBT001, FBT002
    return self


def fold_normalisation(module: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it, in place, for evaluation only.

    Only pairs that stand next to each other in a ``nn.Sequential`` are folded.

    Raises:
        ValueError: the module is in training mode.
    """
    if module.training:
        raise ValueError("normalisation can be folded in evaluation mode only")
    for parent in list(module.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        names = list(parent._modules)  # noqa: SLF001 (the order and names of a Sequential's children)
        for first, second in pairwise(names):
            convolution, normalisation = parent.get_submodule(first), parent.get_submodule(second)
            if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
                with torch.no_grad():
                    setattr(parent, first, fuse_conv_bn_eval(convolution, normalisation))
                setattr(parent, second, nn.Identity())
