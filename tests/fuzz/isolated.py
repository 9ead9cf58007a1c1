"""Classifies damaged slides, each in a fork with a limit of memory, so that nothing one of them does reaches another.

A job is a line of JSON on stdin: ``path`` and ``companions``. The answer is a line of JSON: the row's status and error,
``raised`` (what reads raised), and ``unforeseen`` (exceptions that are no errors of slides); or ``ended``, how the
fork ended without an answer; or ``hung``.
"""

import json
import logging
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.modelfile import LoadedModel, load_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

MEMORY_BYTES = 3 * 1024**3
TIME_S = 120.0


def classify_one(path: Path, model: LoadedModel) -> dict[str, Any]:
    """Classify a slide and read some of it plainly; tell what came of it."""
    raised: list[str] = []
    unforeseen: list[str] = []
    real = Slide.read

    def noting(slide: Slide, region: Region, width_px: int, height_px: int) -> Any:
        try:
            return real(slide, region, width_px, height_px)
        except Exception as exc:
            raised.append(f"{type(exc).__name__}: {exc}")
            if not isinstance(exc, SlideError):
                unforeseen.append(raised[-1])
            raise

    Slide.read = noting  # type: ignore[method-assign,assignment]
    engine = EngineOptions(readers=2, slides_in_flight=1, slide_timeout_s=0)
    ((_, result),) = classify_slides([SlideInput(path=Place(path), name="mutant", mpp=0.5)], model, engine=engine)
    while_classified = list(raised)
    try:
        with open_slide(path, mpp=0.5) as slide:
            for x, y in ((0, 0), (slide.size.width // 2, slide.size.height // 2), (slide.size.width - 300, 0)):
                slide.read(Region(x, y, 256, 256), 256, 256)
    except SlideError:
        pass
    except Exception as exc:  # noqa: BLE001 (what else a reader lets out is what is looked for)
        unforeseen.append(f"{type(exc).__name__}: {exc}")
    return {
        "status": result.status,
        "error": result.error,
        "raised": while_classified,
        "unforeseen": unforeseen,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def in_fork(path: Path, model: LoadedModel) -> dict[str, Any]:
    """Have a fork classify a slide, and wait for its answer no longer than the limit."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(there, json.dumps(classify_one(path, model)).encode())
        os._exit(0)
    os.close(there)
    said, until = b"", time.monotonic() + TIME_S
    while select.select([here], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(here, 65536)
        if not part:
            break
        said += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(here)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGKILL and time.monotonic() >= until:
        return {"hung": TIME_S}
    answer: dict[str, Any] = json.loads(said) if code == 0 and said else {"ended": code}
    return answer


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    loaded = load_model(Path(sys.argv[1]))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(in_fork(Path(line.strip()), loaded)) + "\n")
        sys.stdout.flush()
