"""Mixed precision on CUDA, plain float32 elsewhere."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


class Precision:
    """How a network computes: bfloat16 where the device has it, float16 with a scaled loss where it has not.

    Args:
        device: Where the network runs.
        mixed: Whether half precision is wanted; it is used on CUDA only.
    """

    def __init__(self, device: torch.device, *, mixed: bool) -> None:
        self.dtype: torch.dtype | None = None
        if mixed and device.type == "cuda":
            self.dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the network computes."""
        return nullcontext() if self.dtype is None else torch.autocast("cuda", dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled where float16 needs it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimiser: torch.optim.Optimizer, network: torch.nn.Module, gradient_clip: float) -> float:
        """Clip the gradients and take a step, unless they are not finite.

        Returns:
            The norm of the gradient before it was clipped. Where it is not finite no step was taken; under a scaled
            loss that happens now and then, and the scale is lowered.
        """
        self.scaler.unscale_(optimiser)
        norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), gradient_clip))
        if self.scaler.is_enabled() or math.isfinite(norm):
            self.scaler.step(optimiser)
        self.scaler.update()
        return norm
