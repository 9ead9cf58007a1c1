"""Do the answers stand when a slide is stained, stored or scanned in another way?

    python -m benchmarks.composed_colorectal.robustness --slides FOLDER -m MODEL --work WORK [--json FILE]

Takes whole test slides of both collections, writes a distorted copy of each, classifies both and counts the calls,
neoplastic or not, that differ although the answer still counts.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from benchmarks.composed_colorectal.distortion import DISTORTIONS, Distortion, distort
from benchmarks.composed_colorectal.table import read_rows
from benchmarks.composed_colorectal.tiles import CLASS_NAMES, COLLECTIONS
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.places import Place
from tnet_cli.results.result import SlideResult

NORMAL = CLASS_NAMES[0]
LONGEST_PX = 30_000


@dataclass(frozen=True, slots=True)
class Row:
    """One distortion.

    Attributes:
        slides: Classified.
        right: Calls, neoplastic or not, that are the label, whether they count or not.
        flips: Answers that count and are not those of the slides as they were.
        abstained: Slides without an answer.
        auroc: Of neoplastic or not, over all of them.
    """

    name: str
    slides: int
    right: int
    flips: int
    abstained: int
    auroc: float


def chosen_slides(folder: Path, count: int) -> list[tuple[SlideInput, str]]:
    """Return whole test slides with their labels, as many of each collection."""
    chosen = []
    for name in COLLECTIONS:
        rows = [
            row
            for row in read_rows(folder / f"test-{name}-design.csv")
            if row["kind"] == "slide" and max(int(row["width"]), int(row["height"])) <= LONGEST_PX
        ]
        chosen += [
            (SlideInput(path=Place(folder / row["slide"]), name=row["slide"]), row["label"])
            for row in rows[: count // len(COLLECTIONS)]
        ]
    return chosen


def classify(paths: Sequence[Path], model: LoadedModel) -> list[SlideResult]:
    """Classify slides."""
    inputs = [SlideInput(path=Place(path), name=path.name) for path in paths]
    ended = dict(classify_slides(inputs, model))
    return [ended[number] for number in range(len(inputs))]


def row_of(name: str, results: Sequence[SlideResult], before: Sequence[SlideResult], labels: Sequence[str]) -> Row:
    """Compare the answers for distorted slides with labels and the answers before."""
    calls, earlier = ([result.answered().prediction != NORMAL for result in some] for some in (results, before))
    counts = [result.status == "ok" for result in results]
    truth = [label != NORMAL for label in labels]
    return Row(
        name=name,
        slides=len(results),
        right=sum(call == wanted for call, wanted in zip(calls, truth, strict=True)),
        flips=sum(one != other and ok for one, other, ok in zip(calls, earlier, counts, strict=True)),
        abstained=len(counts) - sum(counts),
        auroc=float(roc_auc_score(truth, [1 - result.probabilities[0] for result in results])),
    )


def distorted(
    distortion: Distortion, entries: Sequence[SlideInput], model: LoadedModel, work: Path
) -> list[SlideResult]:
    """Write a copy of each slide, unless it is there, and classify it."""
    work.mkdir(parents=True, exist_ok=True)
    results = []
    for number, entry in enumerate(entries):
        copy = work / f"{distortion.name.replace(' ', '-')}-{Path(entry.path).stem}.tif"
        if not copy.exists():
            distort(Path(entry.path), copy, distortion, seed=number)
        results += classify([copy], model)
    return results


def main() -> None:
    """Print a table; write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True, help="folder that benchmarks.composed_colorectal wrote")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the copies, some 100 MB a slide, which stay"
    )
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(find_model(given.model))
    chosen = chosen_slides(given.slides, given.count)
    entries, labels = [entry for entry, _ in chosen], [label for _, label in chosen]
    before = classify([Path(entry.path) for entry in entries], model)
    rows = [row_of("as composed", before, before, labels)]
    for distortion in DISTORTIONS:
        rows.append(row_of(distortion.name, distorted(distortion, entries, model, given.work), before, labels))
        print(rows[-1], flush=True)
    print("| slides | right | calls that differ and count | abstained | AUROC |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.right} of {row.slides} | {row.flips} | {row.abstained} | {row.auroc:.3f} |")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
