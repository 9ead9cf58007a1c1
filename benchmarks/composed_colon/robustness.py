"""Do the answers stand when a slide is stained, stored or scanned in another way?

Run: python -m benchmarks.composed_colon.robustness --slides FOLDER -m MODEL --work WORK [--json FILE]

Takes test slides of 20 000 px, writes a distorted copy of each, classifies both and counts the calls that differ.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from benchmarks.composed_colon.compose import KINDS, TEST_PX, VALIDATION_PX, difficulty_of
from benchmarks.composed_colorectal.distortion import DISTORTIONS, Distortion, distort
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.places import Place
from tnet_cli.results.result import SlideResult


@dataclass(frozen=True, slots=True)
class Row:
    """One distortion.

    Attributes:
        name: Of it.
        slides: Classified.
        right: Calls that are the label.
        flips: Calls that differ from those of the slides as they were.
        auroc: Over all of them.
        warned: Slides said to be out of domain.
    """

    name: str
    slides: int
    right: int
    flips: int
    auroc: float
    warned: int


def chosen_slides(manifest: Path, count: int) -> list[SlideInput]:
    """Return test slides of 20 000 px, as many of each kind."""
    test = [entry for entry in read_manifest(manifest) if entry.split == "test"]
    sides = [TEST_PX[number // len(KINDS) % len(TEST_PX)] for number in range(len(test))]
    return [entry for entry, side in zip(test, sides, strict=True) if side == VALIDATION_PX][:count]


def classify(paths: list[Path], entries: list[SlideInput], model: LoadedModel) -> list[SlideResult]:
    """Classify copies of slides."""
    inputs = [SlideInput(path=Place(path), name=entry.name) for path, entry in zip(paths, entries, strict=True)]
    ended = dict(classify_slides(inputs, model))
    return [ended[number] for number in range(len(inputs))]


def row_of(name: str, results: list[SlideResult], before: list[SlideResult], entries: list[SlideInput]) -> Row:
    """Compare the answers for distorted slides, whether they count or not, with labels and the answers before."""
    warned = sum(result.qc is not None for result in results)
    results, before = ([result.answered() for result in some] for some in (results, before))
    truth = [entry.label == results[0].class_names[1] for entry in entries]
    return Row(
        name=name,
        slides=len(results),
        right=sum(result.prediction == entry.label for result, entry in zip(results, entries, strict=True)),
        flips=sum(one.prediction != other.prediction for one, other in zip(results, before, strict=True)),
        auroc=float(roc_auc_score(truth, [result.probabilities[1] for result in results])),
        warned=warned,
    )


def main() -> None:
    """Print a JSON document and a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composed_colon.robustness", description=__doc__)
    parser.add_argument("--slides", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("-m", "--model", default="colon-adenocarcinoma-composed")
    parser.add_argument("--work", type=Path, required=True, help="folder for the copies, which are removed again")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows are written too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(find_model(given.model))
    entries = chosen_slides(given.slides / "labels.csv", given.count)
    before = classify([Path(entry.path) for entry in entries], entries, model)
    rows = [row_of("as composed", before, before, entries)]
    for distortion in DISTORTIONS:
        rows.append(row_of(distortion.name, distorted(distortion, entries, model, given.work), before, entries))
        print(rows[-1], flush=True)
    kinds = [difficulty_of(entry.shown_path) for entry in entries]
    print(json.dumps({"kinds": {kind or "benign": kinds.count(kind) for kind in sorted(set(kinds))}}))
    print("| slides | right | calls that differ | AUROC | said to be out of domain |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.right} of {row.slides} | {row.flips} | {row.auroc:.3f} | {row.warned} |")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def distorted(distortion: Distortion, entries: list[SlideInput], model: LoadedModel, work: Path) -> list[SlideResult]:
    """Write a copy of each slide, classify it, and remove it."""
    work.mkdir(parents=True, exist_ok=True)
    results = []
    for number, entry in enumerate(entries):
        copy = work / f"{distortion.name.replace(' ', '-')}-{number}.tif"
        distort(Path(entry.path), copy, distortion, seed=number)
        results += classify([copy], [entry], model)
        copy.unlink()
    return results


if __name__ == "__main__":
    main()
