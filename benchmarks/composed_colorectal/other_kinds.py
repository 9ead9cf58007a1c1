"""Does the model keep silent where it should? Fields cut from slides of another kind, and how many have no answer.

    python -m benchmarks.composed_colorectal.other_kinds SLIDE... -m MODEL --work WORK [--fields 20]

A field is half a millimetre wide and half of it at least is tissue. Slides are of another organ, stain or light; a
slide without a scale, or with no such place, is left out and named.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from tnet_cli.geometry import Region
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.metrics.estimate import wilson
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide
from tnet_cli.tissue.tissue import find_tissue

FIELD_UM = (500.0, 350.0)
TRIES = 400
THUMBNAIL_PX = 1024


def cut_fields(path: Path, folder: Path, count: int) -> list[SlideInput]:
    """Cut fields from a slide at random, at its own scale, as PNG.

    Returns:
        As many as were found among ``TRIES`` places.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, found = np.random.default_rng(0), list[SlideInput]()
    with open_slide(str(path)) as slide:
        if slide.mpp is None:
            return []
        width, height = (
            min(round(um / slide.mpp), side)
            for um, side in zip(FIELD_UM, (slide.size.width, slide.size.height), strict=True)
        )
        scale = min(1.0, THUMBNAIL_PX / max(slide.size.width, slide.size.height))
        whole = Region(0, 0, slide.size.width, slide.size.height)
        thumbnail = slide.read(whole, max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        tissue = find_tissue(thumbnail, slide.size, slide.mpp / scale)
        for _ in range(TRIES):
            x, y = int(rng.integers(slide.size.width - width + 1)), int(rng.integers(slide.size.height - height + 1))
            region = Region(x, y, width, height)
            if tissue.fractions([region])[0] < 0.5:
                continue
            target = folder / f"{path.stem}-{len(found)}.png"
            Image.fromarray(slide.read(region, width, height)).save(target)
            found.append(SlideInput(path=Place(target), name=target.name, mpp=slide.mpp))
            if len(found) == count:
                break
    return found


def silent(fields: list[SlideInput], model: LoadedModel) -> tuple[int, int, dict[str, int]]:
    """Classify fields; return how many have no answer, of how many, and how often for each reason."""
    reasons: dict[str, int] = {}
    results = [result for _, result in classify_slides(fields, model)]
    without = [result for result in results if result.status != "ok"]
    for result in without:
        failed: list[str] = [check.name for check in result.checks if check.failed]
        for reason in failed or [str(result.status)]:
            reasons[reason] = reasons.get(reason, 0) + 1
    return len(without), len(results), reasons


def main() -> None:
    """Print a line for each slide, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the fields")
    parser.add_argument("--fields", type=int, default=20, help="of each slide, at most")
    given = parser.parse_args()
    model = load_model(find_model(given.model))
    everything = [0, 0]
    print("| fields of | without an answer | why |\n|---|---|---|")
    for path in given.slides:
        fields = cut_fields(path, given.work, given.fields)
        if not fields:
            print(f"| {path.name} | left out: no scale, or no such place | |")
            continue
        without, of, reasons = silent(fields, model)
        everything = [everything[0] + without, everything[1] + of]
        print(f"| {path.name} | {without} of {of} | {', '.join(f'{k} {v}' for k, v in reasons.items())} |", flush=True)
    print(f"| all | {everything[0]} of {everything[1]}: {wilson(*everything).words()} | |")


if __name__ == "__main__":
    main()
