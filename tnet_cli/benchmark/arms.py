"""What is asked and measured of one arm on one slide, and how it gets a process of its own.

Nothing heavy is imported here before the memory of the process is looked at.
"""

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from tnet_cli.errors import SlideError, TnetError
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.places import Place

ArmKind = Literal["tnet", "early", "random", "every-tile", "decode", "forward"]

ARMS: dict[ArmKind, str] = {
    "tnet": "the attended locations",
    "early": "best-first, until the answer stands still",
    "random": "as many at random",
    "every-tile": "every tissue tile at the finest resolution",
    "decode": "floor: decoding what was attended",
    "forward": "floor: the forward passes of what was attended",
}
"""Kind -> what it is, in words."""

FLOOR: tuple[ArmKind, ...] = ("decode", "forward")
"""What a traversal cannot do without; the slower of the two is the least it could take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRequest:
    """One arm on one slide; everything here can be sent to another process.

    Attributes:
        arm: One of ``ARMS``.
        slide: Path or address.
        traversal: Its budget is None for the model's default, and for every cell; ``stop_at`` is of ``early`` alone.
        readers: Threads that read and decode.
        rounds: How often it is done; the run of the median wall time is the one told of.
    """

    arm: ArmKind
    slide: Place
    model: Path
    traversal: TraversalOptions
    device: str
    batch_size: int
    readers: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one arm took on one slide; the process, torch and the weights were there before.

    Attributes:
        arm: One of ``ARMS``.
        budget: As asked.
        side_px: Square root of the slide's level-0 area.
        seconds: Wall time from opening the slide to the answer; for the floor that of its one thing.
        traversal_seconds: Of it, from the first region wanted to the answer.
        cpu_seconds: Processor time of all threads in ``seconds``.
        locations: Attended locations; for every cell, the cells.
        forward_passes: Patches that went through the network.
        tiles_decoded: Tiles or strips of the file.
        pixels_read: Pixels decoded, whole tiles.
        fraction_read: These as a share of the level-0 pixels.
        bytes_read: Compressed bytes fetched; 0 where the reader does not tell.
        traversal_over: For the floor: how many times its wall time a traversal took that was done just before it, in
            the same process; the median of the rounds.
        peak_mb: Most resident memory of the process; 0 where it was not the arm's own.
        over_torch_mb: Of it, what came after importing torch.
        prediction: The class called; for every cell by the mean of the cells' probabilities.
        probability: Of that class.
    """

    arm: ArmKind
    budget: int | None
    side_px: float
    seconds: float
    traversal_seconds: float | None
    cpu_seconds: float
    locations: int
    forward_passes: int
    tiles_decoded: int
    pixels_read: int
    fraction_read: float
    bytes_read: int
    traversal_over: float | None = None
    peak_mb: float = 0.0
    over_torch_mb: float = 0.0
    prediction: str | None = None
    probability: float | None = None


def measure_alone(request: ArmRequest) -> Measurement:
    """Measure in a fresh process, which sees a slide that is in the page cache: another has read it before.

    Raises:
        SlideError: the slide or the model does not go.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(_measured_here, request).result()
    if isinstance(found, str):
        raise SlideError.saying(request.slide, found)
    return found


def _measured_here(request: ArmRequest) -> Measurement | str:
    """Measure in this process, which has done nothing yet; return a sentence where the slide or the model does not go.

    A sentence and not the error, because not every error survives the way between processes.
    """
    import torch

    before = peak_mb()
    from tnet_cli.benchmark.measure import measure
    from tnet_cli.inference.device import usable_cores

    torch.set_num_threads(usable_cores())
    try:
        measured = measure(request)
    except TnetError as problem:
        return str(problem)
    peak = peak_mb()
    return replace(measured, peak_mb=peak, over_torch_mb=peak - before)


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
