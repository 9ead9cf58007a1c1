"""Several processes that train one model: each computes its share of every batch, and gradients are added up.

Every process draws the same batches, takes every n-th item of them, and divides its sums by the counts of the whole
batch. So the added gradients are those of one process with the whole batch, the baseline's among them.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

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

    def synchronise(self, network: nn.Module) -> None:
        """Give all processes the weights of the first, and the mean of all batch statistics."""
        if self.size == 1:
            return
        for parameter in network.parameters():
            dist.broadcast(parameter.data, 0)
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer.data)
                buffer.data /= self.size


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
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """Return this process's device: under torchrun each has the CUDA device of its local rank."""
    if str(device) == "cuda" and "LOCAL_RANK" in os.environ:
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        return own
    return device
