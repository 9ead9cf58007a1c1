"""Do the fast paths change an answer? Each slide twice: as `tnet classify` does it, and the plain way.

Run: python benchmarks/same_answers.py SLIDE... [-m MODEL]

The plain way reads through OpenSlide, one region after another, in one thread; looks at one patch at a time; and leaves
the normalisation as it was trained. What must be the same: the prediction and every attended location.
"""

import argparse
import json
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tnet_cli.geometry import Region
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.prepare import prepare
from tnet_cli.inference.traversal_job import traversal_job
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import DEMO_MODEL, TraversalOptions
from tnet_cli.model.choice import TopK
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal, Wanted
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide


@dataclass(frozen=True, slots=True)
class Answer:
    """One slide, one way.

    Attributes:
        probabilities: Of the classes.
        attended: Every region looked at.
    """

    probabilities: tuple[float, ...]
    attended: frozenset[Region]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One slide, both ways.

    Attributes:
        slide: Its file.
        is_same_class: Whether the most probable class is the same.
        difference: Greatest difference of a probability.
        only_plain: Regions that the plain way alone looked at.
        regions: That it looked at.
    """

    slide: str
    is_same_class: bool
    difference: float
    only_plain: int
    regions: int


def fast(path: Path, model: LoadedModel) -> Answer:
    """Classify a slide as the command does."""
    entry = SlideInput(path=Place(path), name=path.stem)
    ((_, result),) = classify_slides([entry], model)
    if not result.was_looked_at:
        raise RuntimeError(result.error)
    return Answer(result.probabilities, frozenset(region.region for region in result.regions))


@torch.inference_mode()
def plain(path: Path, network: TNet, card: ModelCard) -> Answer:
    """Classify a slide with nothing done to be fast."""
    config = network.config
    with open_slide(str(path), reader="openslide") as slide:
        preparation = prepare(slide, config)
        job = traversal_job(slide, preparation, config, TraversalOptions(), TopK())
        if job is None:
            raise RuntimeError(f"{path}: shows no tissue")
        traversal = _traversed(job.traversal, slide, network)
    logits = network.classify(
        [torch.cat([record.features for record in traversal.levels])], closest=[traversal.closest]
    ).logits[0]
    bias = torch.tensor(card.bias or (0.0,), dtype=torch.float64)
    probabilities = torch.softmax(logits.double() / card.temperature + bias, dim=0)
    regions = frozenset(region for record in traversal.levels for region in record.regions)
    return Answer(tuple(probabilities.tolist()), regions)


def _traversed(steps: Generator[Wanted, Look, Traversal], slide: Slide, network: TNet) -> Traversal:
    """Drive a traversal by hand, one patch at a time."""
    base_px = network.config.base_px
    wanted = next(steps)
    while True:
        looks = []
        for row, region in enumerate(wanted.regions):
            pixels = np.ascontiguousarray(slide.read(region, base_px, base_px))
            looks.append(
                network.look(
                    torch.from_numpy(pixels).permute(2, 0, 1)[None],
                    torch.from_numpy(wanted.positions[row : row + 1]),
                    None if wanted.allowed is None else torch.from_numpy(wanted.allowed[row : row + 1]),
                )
            )
        cells = [look.cell_log_probs for look in looks if look.cell_log_probs is not None]
        log_probs = torch.cat(cells) if cells else None
        try:
            wanted = steps.send(Look(torch.cat([look.features for look in looks]), log_probs))
        except StopIteration as ended:
            traversal: Traversal = ended.value
            return traversal


def compare(path: Path, model: LoadedModel, untouched: LoadedModel) -> Comparison:
    """Classify a slide both ways."""
    one, other = fast(path, model), plain(path, untouched.network, untouched.card)
    return Comparison(
        slide=path.name,
        is_same_class=bool(np.argmax(one.probabilities) == np.argmax(other.probabilities)),
        difference=float(np.abs(np.subtract(one.probabilities, other.probabilities)).max()),
        only_plain=len(other.attended - one.attended),
        regions=len(other.attended),
    )


def main() -> None:
    """Print a line for each slide that differs, and the sum of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("-m", "--model", default=DEMO_MODEL)
    given = parser.parse_args()
    # Classifying folds the normalisation of the one; the other stays as it was trained.
    model, untouched = (load_model(find_model(given.model)) for _ in range(2))
    untouched.network.eval()
    rows = []
    for path in given.slides:
        rows.append(compare(path, model, untouched))
        if not rows[-1].is_same_class or rows[-1].only_plain:
            print(json.dumps(asdict(rows[-1])), flush=True)
    print(
        json.dumps(
            {
                "slides": len(rows),
                "same class": sum(row.is_same_class for row in rows),
                "same attended regions": sum(row.only_plain == 0 for row in rows),
                "regions": sum(row.regions for row in rows),
                "regions of the plain way alone": sum(row.only_plain for row in rows),
                "greatest difference of a probability": max(row.difference for row in rows),
            }
        )
    )


if __name__ == "__main__":
    main()
