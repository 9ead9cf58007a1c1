"""What a small slide costs against its forward passes alone, and how many small fields a folder gives a second.

Run: python benchmarks/small_slides.py [--fields 200]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tnet_cli.classification.run import RunRequest, run_classify
from tnet_cli.inference.classify import EngineOptions, classify_slides, look_with
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import DEMO_MODEL, TraversalOptions
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide
from tnet_cli.synth.synthesis import write_synthetic_slide

MPP = 0.39
AT_ONCE = 8
"""Times a slide is classified in one run, so that what belongs to the run counts little."""

SIZES = ((775, 522), (800, 800), (2220, 2220))


def draw(folder: Path, seed: int, width: int, height: int, suffix: str) -> Path:
    """Cut a picture out of the middle of a synthetic slide, where it is all tissue."""
    whole = folder / f"whole-{seed}.tif"
    if not whole.exists():
        write_synthetic_slide(whole, seed=seed, side_px=6000, label="lesion", workers=1)
    with Image.open(whole) as picture:
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        cut = picture.crop((left, top, left + width, top + height)).convert("RGB")
    path = folder / f"field-{seed}-{width}x{height}{suffix}"
    cut.save(path)
    return path


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """Return the median processor time of some work, its first time left out."""
    taken = []
    for _ in range(rounds + 1):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken[1:])


def decoded(path: Path) -> np.ndarray:
    """Open a slide and read all of it once, as it is stored: what no way of classifying it can leave out."""
    with open_slide(str(path), mpp=MPP) as slide:
        return slide.thumbnail(max(slide.size.width, slide.size.height))


def price(path: Path, model: LoadedModel, rounds: int) -> dict[str, Any]:
    """Measure one slide, from its opening to its result, and alone the forward passes and the decoding it needs."""
    entries = [SlideInput(path=Place(path), name=path.stem, mpp=MPP)] * AT_ONCE

    def classified() -> Any:
        return [result for _, result in classify_slides(entries, model, engine=EngineOptions(readers=1))]

    whole = seconds(classified, rounds) / AT_ONCE
    result = classified()[0]
    look, config = look_with(model.network, torch.device("cpu")), model.card.network
    with open_slide(str(path), mpp=MPP) as slide:
        reads = [(r.processing_level, slide.read(r.region, config.base_px, config.base_px)) for r in result.regions]
    batches = []
    for at in range(config.processing_levels):
        patches = [pixels for processing_level, pixels in reads if processing_level == at]
        is_last = at == config.processing_levels - 1
        for start in range(0, len(patches), EngineOptions().batch_size):
            some = np.stack(patches[start : start + EngineOptions().batch_size])
            allowed = None if is_last else np.ones((len(some), config.grid**2), bool)
            batches.append((torch.from_numpy(some).permute(0, 3, 1, 2), np.zeros((len(some), 3), np.int64), allowed))
    forward = seconds(lambda: [look(*batch) for batch in batches], rounds)
    decode = seconds(lambda: decoded(path), rounds)
    return {
        "slide": path.name,
        "patches": len(reads),
        "slide_ms": round(1000 * whole, 1),
        "forward_ms": round(1000 * forward, 1),
        "decode_ms": round(1000 * decode, 1),
        "ratio": round(whole / forward, 2),
    }


def folder_of_fields(folder: Path, count: int, side_px: int, model: str, *, overlay: bool) -> dict[str, Any]:
    """Classify a folder of fields as the command does, in this process."""
    fields = folder / "fields"
    fields.mkdir(exist_ok=True)
    originals = [draw(folder, seed, side_px, side_px, ".png") for seed in range(5)]
    for number in range(count):
        link = fields / f"field-{number:04}.png"
        if not link.exists():
            link.hardlink_to(originals[number % len(originals)])
    out, started, used = folder / "out", time.perf_counter(), time.process_time()
    options = TraversalOptions(mpp=MPP)
    run_classify(
        RunRequest(inputs=[str(fields)], out=out, model=model, traversal=options, overlay=overlay, overwrite=True)
    )
    wall, used = time.perf_counter() - started, time.process_time() - used
    return {
        "fields": count,
        "overlay": overlay,
        "fields_per_second": round(count / wall, 2),
        "processor_ms_each": round(1000 * used / count, 1),
    }


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", default=DEMO_MODEL)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(find_model(given.model))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = [
            price(draw(folder, 0, width, height, suffix), model, given.rounds)
            for width, height in SIZES
            for suffix in (".png", ".jpg", ".tif")
        ]
        kinds = (True, False) if given.fields else ()
        runs = [folder_of_fields(folder, given.fields, 800, given.model, overlay=drawn) for drawn in kinds]
    print(json.dumps({"model": given.model, "slides": slides, "folders": runs}, indent=2))


if __name__ == "__main__":
    main()
