"""Several processes that train one model: each computes its share of every batch, and gradients are added up.

Every process draws the same batches, takes every n-th item of them, and divides its sums by the counts of the whole
batch; each item has its own source of randomness, dropout's and that of its locations among it, and batch statistics
are those of all processes' items. So losses, added gradients and weights are those of one process with the whole
batch, to the rounding of sums in another order. One thing is not: what a backbone drops by itself while training, as
the EfficientNets do with whole blocks, is drawn by each process for its own items, by seeds of its own.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes that share each batch.

    Attributes:
        rank: This process's number; process 0 writes and speaks.
        size: How many there are.
        device: Where tensors must be for the processes to exchange them.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's items of a batch."""
        return items[self.rank :: self.size]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on the tensor's own device."""
        if self.size == 1:
            return values
        summed = values.detach().to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def total_by_name(self, metrics: dict[str, float]) -> dict[str, float]:
        """Add up the metrics of all processes; a process without an item of its own may lack some."""
        if self.size == 1:
            return metrics
        every: list[dict[str, float]] = [{} for _ in range(self.size)]
        dist.all_gather_object(every, metrics)
        names = dict.fromkeys(name for each in every for name in each)
        return {name: sum(each.get(name, 0.0) for each in every) for name in names}

    def agreed(self, number: int) -> int:
        """Return the largest of all processes' numbers."""
        if self.size == 1:
            return number
        largest = torch.tensor([number], device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def add_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by the sum over all processes; what no process has a gradient for keeps none."""
        if self.size == 1:
            return
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        has = self.total(torch.tensor([float(p.grad is not None) for p in parameters]))
        present = [parameter for parameter, count in zip(parameters, has.tolist(), strict=True) if count]
        if not present:
            return
        flat = self.total(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in present]))
        for parameter, values in zip(present, torch.split(flat, [p.numel() for p in present]), strict=True):
            parameter.grad = values.view_as(parameter).clone(memory_format=torch.preserve_format)

    def joined_statistics(self) -> AbstractContextManager[object]:
        """Return a context in which batch normalisation takes the statistics of all processes' items together.

        All processes must compute the same layers in it, a process without items too.
        """
        return nullcontext() if self.size == 1 else _JoinedStatistics(self)

    def synchronise(self, network: nn.Module) -> None:
        """Give all processes the weights and statistics of the first."""
        if self.size > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.data, 0)


class _JoinedStatistics(TorchFunctionMode):
    """Replaces ``batch_norm``, whichever module calls it, where it would use the statistics of its batch."""

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__()
        self.group = group

    def __torch_function__(
        self, func: Callable[..., Any], _types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            given = _BATCH_NORM.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            if given.arguments["training"]:
                return self._normalised(**given.arguments)
        return func(*args, **(kwargs or {}))

    def _normalised(
        self,
        input: Tensor,  # noqa: A002 (torch's name)
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,  # noqa: ARG002, FBT001
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Normalise (N, C, ...) by the mean and variance over the N of all processes."""
        values = input.float()
        others = [axis for axis in range(values.ndim) if axis != 1]
        shape = [1, -1, *[1] * (values.ndim - 2)]
        own = values.numel() // values.shape[1]
        count = float(self.group.total(torch.tensor([own], dtype=torch.float64)))
        mean = _summed(values.sum(dim=others), self.group) / count
        centred = values - mean.view(shape)
        # Around the mean, and not as a difference of two large sums, in which small variances drown.
        variance = _summed(centred.square().sum(dim=others), self.group) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * count / max(count - 1, 1)).to(running_var.dtype), momentum)
        normalised = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None and bias is not None:
            normalised = normalised * weight.view(shape) + bias.view(shape)
        return normalised.to(input.dtype)


_BATCH_NORM = inspect.signature(functional.batch_norm)


def _summed(values: Tensor, group: ProcessGroup) -> Tensor:
    """Return a sum over all processes through which gradients flow: each gets those of all."""
    summed: Tensor = _Sum.apply(values, group)
    return summed


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return group.total(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.total(gradients[0].contiguous()), None


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Give the group that this process belongs to: torchrun's, one that stands already, or itself alone.

    The device on which the network runs decides how processes talk.
    """
    if dist.is_available() and dist.is_initialized():
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield ProcessGroup()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
        # Nobody leaves while another still waits for it; after an error nobody waits for the others.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """Return this process's device: under torchrun each has the CUDA device of its local rank."""
    if str(device) == "cuda" and "LOCAL_RANK" in os.environ:
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        return own
    return device
