"""Does what a job says with damaged files, each in a fork with limits: nothing that one of them does reaches another.

A job is a line of JSON on stdin: ``kind`` and ``path``. The answer is a line of JSON: ``status`` and ``error``,
``raised`` (what reads of the slide raised), ``unforeseen`` (exceptions that are no errors for users) and ``refused``
(what an independent reader has against pixels that were classified); or ``ended``, how the fork ended without an
answer; or ``hung``.
"""

import json
import logging
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openslide
import tifffile
import torch
from PIL import Image

from tnet_cli.classification.run import RunRequest, run_classify
from tnet_cli.errors import SlideError, TnetError
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.annotation import read_annotation
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.modelfile.tensorflow.bundle import find_prefix, open_bundle
from tnet_cli.modelfile.tensorflow.names import read_variables
from tnet_cli.slide.slide import Slide

MEMORY_BYTES = 3 * 1024**3
TIME_S = 120.0
READ_BY_OTHERS_PX = 60_000_000
"""Larger pages are not decoded by an independent reader as a whole."""

Reads = list[tuple[Region, int, int]]


def classified(given: Path, model: Path, out: Path, *, drawn: bool = True) -> dict[str, Any]:
    """Classify a slide, or the slides of a manifest, as ``tnet classify`` does; tell what came of it."""
    raised: list[str] = []
    unforeseen: list[str] = []
    reads: Reads = []
    real = Slide.read

    def noting(slide: Slide, region: Region, width_px: int, height_px: int) -> Any:
        try:
            pixels = real(slide, region, width_px, height_px)
        except Exception as exc:
            raised.append(f"{type(exc).__name__}: {exc}")
            if not isinstance(exc, SlideError):
                unforeseen.append(raised[-1])
            raise
        reads.append((region, width_px, height_px))
        return pixels

    Slide.read = noting  # type: ignore[method-assign,assignment]
    request = RunRequest(
        inputs=[str(given)],
        out=out,
        model=str(model),
        traversal=TraversalOptions(mpp=0.5),
        device="cpu",
        workers=2,
        overlay=drawn,
        report=drawn,
    )
    report = run_classify(request)
    row = report.rows[0]
    told = {"status": row.status, "error": row.values["error"], "raised": raised, "unforeseen": unforeseen}
    if row.status != "failed" and given.suffix != ".csv":
        told["refused"] = refused(given, str(row.values["reader"]), reads)
    return told


def refused(slide: Path, reader: str, reads: Reads) -> str | None:
    """Read with another reader what was read of a slide; return what that one has against it, None where nothing.

    A file that the other cannot open at all says nothing about its pixels.
    """
    if reader != "openslide":
        try:
            opened = openslide.OpenSlide(slide)
        except openslide.OpenSlideError:
            opened = None
        if opened is not None:
            with opened:
                return _by_openslide(opened, reads)
    try:
        with tifffile.TiffFile(slide) as tif:
            page = tif.pages.first
            if page.size <= 3 * READ_BY_OTHERS_PX:
                try:
                    page.asarray()
                except Exception as exc:  # noqa: BLE001 (whatever it is, it refuses)
                    return f"tifffile: {type(exc).__name__}: {exc}"
            return None
    except Exception:  # noqa: BLE001, S110 (no TIFF)
        pass
    try:
        picture = Image.open(slide)
    except Exception:  # noqa: BLE001 (no picture)
        return None
    try:
        picture.load()
    except Exception as exc:  # noqa: BLE001 (whatever it is, it refuses)
        return f"pillow: {type(exc).__name__}: {exc}"
    return None


def _by_openslide(slide: openslide.OpenSlide, reads: Reads) -> str | None:
    for region, width_px, _ in reads:
        stored = slide.get_best_level_for_downsample(max(1.0, region.width / width_px))
        factor = slide.level_downsamples[stored]
        size = (min(4096, int(region.width / factor) + 1), min(4096, int(region.height / factor) + 1))
        try:
            slide.read_region((region.x, region.y), stored, size)
        except openslide.OpenSlideError as exc:
            return f"openslide: {exc}"
    return None


def annotation_read(given: Path, model: Path, out: Path) -> dict[str, Any]:
    """Read an annotation as training does."""
    read_annotation(given, Size(4000, 3000), on_note=lambda _: None)
    return {"status": "ok"}


def model_used(given: Path, model: Path, out: Path) -> dict[str, Any]:
    """Classify a sound slide with a damaged model; the slide lies beside the sound one."""
    return classified(model.with_name("slide.tif"), given, out)


def checkpoint_read(given: Path, model: Path, out: Path) -> dict[str, Any]:
    """Read everything that a checkpoint of the authors' code holds, as importing it does."""
    read_variables(open_bundle(find_prefix(given)))
    return {"status": "ok"}


JOBS: dict[str, Callable[[Path, Path, Path], dict[str, Any]]] = {
    "slide": partial(classified, drawn=False),
    "drawn slide": classified,
    "manifest": classified,
    "annotation": annotation_read,
    "model": model_used,
    "checkpoint": checkpoint_read,
}


def answer_to(job: dict[str, str], model: Path, out: Path) -> dict[str, Any]:
    """Do a job; an error for users is a failed one, any other exception is unforeseen."""
    told: dict[str, Any] = {"raised": [], "unforeseen": [], "refused": None, "error": None}
    try:
        told |= JOBS[job["kind"]](Path(job["path"]), model, out)
    except TnetError as exc:
        told |= {"status": "failed", "error": str(exc)}
    except Exception as exc:  # noqa: BLE001 (what else is let out is what is looked for)
        told |= {"status": "failed", "error": str(exc), "unforeseen": [f"{type(exc).__name__}: {exc}"]}
    return told | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def in_fork(job: dict[str, str], model: Path) -> dict[str, Any]:
    """Have a fork do a job, and wait for its answer no longer than the limit."""
    here, there = os.pipe()
    out = Path(tempfile.mkdtemp(prefix="tnet-fuzz-"))
    child = os.fork()
    if child == 0:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(there, json.dumps(answer_to(job, model, out), default=str).encode())
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
    shutil.rmtree(out, ignore_errors=True)
    if code == -signal.SIGKILL and time.monotonic() >= until:
        return {"hung": TIME_S}
    answer: dict[str, Any] = json.loads(said) if code == 0 and said else {"ended": code}
    return answer


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(in_fork(json.loads(line), Path(sys.argv[1]))) + "\n")
        sys.stdout.flush()
