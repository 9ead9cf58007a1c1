"""One arm in a process of its own, so that its memory is its own."""

import resource
import sys
from dataclasses import replace
from pathlib import Path

from tnet_cli.benchmark.measurement import Measurement, Task
from tnet_cli.errors import TnetError


def peak_mb() -> float:
    """Return the most resident memory this process has had, in megabytes.

    On Linux not by ``getrusage``: there a new process begins with the figure of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def measure_alone(task: Task) -> Measurement | str:
    """Measure in this process, which has done nothing yet; return a sentence where the slide or the model does not go.

    A sentence and not the error, because not every error survives the way between processes.
    """
    import torch

    before = peak_mb()
    from tnet_cli.benchmark.measure import measure
    from tnet_cli.inference.device import usable_cores

    torch.set_num_threads(usable_cores())
    try:
        measured = measure(task)
    except TnetError as problem:
        return str(problem)
    peak = peak_mb()
    return replace(measured, peak_mb=peak, over_torch_mb=peak - before)
