"""Where the network runs, and how the processor's cores are shared between reading and computing."""

import os
import platform
from pathlib import Path

import torch

from tnet_cli.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UsageError: the name is unknown or the machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from exc
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; try --device auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: this machine has no MPS device; try --device auto")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    return device


def choose_devices(names: str) -> list[torch.device]:
    """Resolve one device, or several with commas between: each gets a process of its own.

    Raises:
        UsageError: a name is unknown or the machine has no such device.
    """
    return [choose_device(name.strip()) for name in names.split(",")]


def describe_machine() -> dict[str, str | int]:
    """Return what a run's record says of the machine."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(),
        "cores": usable_cores(),
        "gpus": ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())) or "none",
    }


def _processor() -> str:
    """Return the processor's name; on Linux, where Python has none, that of the kernel."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def reader_threads(workers: int | None) -> int:
    """Return how many threads read and decode: what the user asked for, else one a core, at most eight."""
    return workers if workers is not None else min(8, usable_cores())
