"""How far colour alone goes: histograms of whole slides against their label, within a collection and across.

    python -m benchmarks.composed_colorectal.colour --slides FOLDER [--json FILE]

FOLDER holds slides that ``benchmarks.composed_colorectal`` wrote. Whatever does not beat this has learnt the stain.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.composed_colorectal.table import GROUPS, group_of, read_rows
from benchmarks.composed_colorectal.tiles import CLASS_NAMES, COLLECTIONS
from tnet_cli.geometry import Region
from tnet_cli.slide.opening import open_slide

BINS = 6
GLASS = 225
SCALE_MPP = 12.8
TASKS = {"neoplastic": CLASS_NAMES[1:], "carcinoma": CLASS_NAMES[2:]}


def histogram(pixels: np.ndarray) -> np.ndarray:
    """Return the shares of colours, ``BINS`` to the power of three, and the mean colour of pixels uint8 (N, 3)."""
    if not len(pixels):
        return np.zeros(BINS**3 + 3)
    place = (pixels.astype(np.int32) * BINS) >> 8
    counts = np.bincount(place @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3)
    return np.concatenate([np.sqrt(counts / len(pixels)), pixels.mean(axis=0) / 255])


def score(train: np.ndarray, labels: Sequence[int] | np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Fit a logistic regression to histograms and their labels of two kinds; return its score of each of ``rows``."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return np.asarray(model.fit(train, labels).decision_function(rows))


def slide_histogram(path: Path, mpp: float) -> np.ndarray:
    """Return the histogram of what is not glass on a slide of so many micrometres per pixel."""
    with open_slide(path) as slide:
        whole = Region(0, 0, slide.size.width, slide.size.height)
        width, height = (max(1, round(side * mpp / SCALE_MPP)) for side in (whole.width, whole.height))
        pixels = slide.read(whole, width, height).reshape(-1, 3)
    return histogram(pixels[pixels.min(axis=1) < GLASS])


def aurocs(designs: Sequence[Mapping[str, str]], rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the AUROC of each task by what was trained and tested on and by group of slides.

    Args:
        designs: How each slide was made.
        rows: Their histograms, (N, D).
    """
    of = {name: np.array([each[name] for each in designs]) for name in ("split", "collection", "label")}
    groups = np.array([group_of(dict(each)) for each in designs])
    found: dict[str, dict[str, float]] = {}
    for task, positive in TASKS.items():
        truth = np.isin(of["label"], positive)
        for trained in (*([name] for name in COLLECTIONS), list(COLLECTIONS)):
            train = (of["split"] == "train") & np.isin(of["collection"], trained)
            scores = score(rows[train], truth[train], rows)
            for tested in COLLECTIONS:
                name = f"{task}: {' and '.join(trained)} to {tested}"
                for group in GROUPS:
                    chosen = (of["split"] == "test") & (of["collection"] == tested) & (groups == group)
                    if len(np.unique(truth[chosen])) == 2:
                        found.setdefault(name, {})[group] = float(roc_auc_score(truth[chosen], scores[chosen]))
    return found


def main() -> None:
    """Print a table; write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    paths = [given.slides / f"{split}-{name}-design.csv" for split in ("train", "test") for name in COLLECTIONS]
    designs = [row for path in paths for row in read_rows(path)]
    rows = np.stack([slide_histogram(given.slides / each["slide"], float(each["mpp"])) for each in designs])
    found = aurocs(designs, rows)
    print(f"| AUROC of colours alone | {' | '.join(GROUPS)} |\n{'|---' * (len(GROUPS) + 1)}|")
    for name, by_group in found.items():
        print(f"| {name} | {' | '.join(f'{by_group[each]:.2f}' if each in by_group else '' for each in GROUPS)} |")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
