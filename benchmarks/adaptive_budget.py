"""What ending early saves: best-first traversal with a stopping rule that is calibrated on one half of the slides.

Run: python -m benchmarks.adaptive_budget --count 200 --size 20000 --seed 900000 --keep FOLDER

Half of the slides, two and two by their seeds, choose the largest threshold that keeps the accuracy of the
full budget; the other half is judged with it.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.synthetic_accuracy import classify_one
from tnet_cli.inference.classify import look_with
from tnet_cli.inference.engine import drive
from tnet_cli.inference.prepare import prepare
from tnet_cli.inference.stopping import StandsStill, probabilities_of
from tnet_cli.inference.traversal_job import traversal_job
from tnet_cli.inputs.options import DEMO_MODEL, TraversalOptions
from tnet_cli.metrics.estimate import wilson
from tnet_cli.model.choice import TopK
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.modelfile.modelfile import find_model, load_model
from tnet_cli.slide.opening import open_slide
from tnet_cli.synth.synthesis import write_synthetic_slide

THRESHOLDS = (0.1, 0.05, 0.03, 0.02, 0.01, 0.007, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0002, 0.0001, 0.0)
TOLERATED = 0.005
"""Accuracy that may be lost on the calibrating half."""


def measure_slide(task: tuple[int, int, int, Path]) -> dict[str, Any]:
    """Classify one slide with the full budget, and note the answer after every few locations of a best-first one."""
    seed, size, budget, kept = task
    torch.set_num_threads(1)
    model = load_model(find_model(DEMO_MODEL))
    path = kept / f"{seed}-{size}.tif"
    if not path.exists():
        write_synthetic_slide(path, seed=seed, side_px=size, label=("benign", "lesion")[seed % 2], workers=1)
    # What is there may have been drawn with the other label; its annotation tells.
    label = "lesion" if json.loads(path.with_suffix(".geojson").read_text())["features"] else "benign"
    full = classify_one(model, path, "tnet", seed)
    network, config = model.network.eval(), model.card.network
    fold_normalisation(network)
    steps: list[list[float]] = []
    with open_slide(str(path)) as slide:
        preparation = prepare(slide, config)
        roots = len(preparation.roots)

        class Noting:
            def update(self, features: Tensor, closest: np.ndarray) -> bool:
                steps.append(
                    [len(features) - roots, float(probabilities_of(features, closest, network, model.card)[1])]
                )
                return False

        options = TraversalOptions(budget=budget, stop_at=0)
        job = traversal_job(slide, preparation, config, options, TopK(), stopping=Noting())
        if job is None:
            raise RuntimeError(f"{path}: shows no tissue")
        ((_, traversed),) = drive([job], look_with(network, torch.device("cpu")), batch_size=16, readers=1)
        if isinstance(traversed, BaseException):
            raise traversed
        features = torch.cat([record.features for record in traversed.traversal.levels])
        closest = traversed.traversal.closest
        steps.append([len(features) - roots, float(probabilities_of(features, closest, network, model.card)[1])])
    return {
        "seed": seed,
        "label": label,
        "full": [full.locations, full.probabilities[1]],
        "by_level": [len(record.regions) for record in traversed.traversal.levels],
        "steps": steps,
    }


def stopped(steps: list[list[float]], stop_at: float) -> list[float]:
    """Return locations and probability where the rule stops."""
    rule = StandsStill(stop_at, lambda lesion, _: np.array([1 - float(lesion), float(lesion)]))
    for step in steps[:-1]:
        if rule.update(torch.tensor(step[1]), np.ones(1, bool)):
            return step
    return steps[-1]


def judged(rows: list[dict[str, Any]], ends: list[list[float]], threshold: float) -> dict[str, Any]:
    """Return accuracy, its Wilson interval and mean locations."""
    right = [(end[1] >= threshold) == (row["label"] == "lesion") for row, end in zip(rows, ends, strict=True)]
    accuracy = wilson(sum(right), len(right))
    means = {
        label: float(np.mean([end[0] for row, end in zip(rows, ends, strict=True) if row["label"] == label]))
        for label in ("benign", "lesion")
    }
    return {
        "slides": len(rows),
        "accuracy": accuracy.value,
        "interval_95": [accuracy.low, accuracy.high],
        "locations": float(np.mean([end[0] for end in ends])),
        "locations_by_label": means,
    }


def summarise(rows: list[dict[str, Any]], threshold: float) -> dict[str, Any]:
    """Calibrate on one half of the slides, and judge the other with what was found."""
    halves = [[row for row in rows if (row["seed"] // 2) % 2 == half] for half in (0, 1)]
    calibrating, others = halves
    tried = {
        stop_at: judged(calibrating, [stopped(row["steps"], stop_at) for row in calibrating], threshold)
        for stop_at in THRESHOLDS
    }
    full = judged(calibrating, [row["steps"][-1] for row in calibrating], threshold)
    stop_at = max(s for s, found in tried.items() if found["accuracy"] >= full["accuracy"] - TOLERATED or s == 0)
    return {
        "calibrating": {"full_budget": full, **{str(each): found for each, found in tried.items()}},
        "stop_at": stop_at,
        "judged": {
            "of_the_paper": judged(others, [row["full"] for row in others], threshold),
            "best_first": judged(others, [row["steps"][-1] for row in others], threshold),
            "best_first_stopping": judged(others, [stopped(row["steps"], stop_at) for row in others], threshold),
        },
    }


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=900_000)
    parser.add_argument("--budget", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, required=True, help="folder of the slides, and of those already there")
    parser.add_argument("--rows", type=Path, help="also write one JSON line for each slide here")
    given = parser.parse_args()
    tasks = [(seed, given.size, given.budget, given.keep) for seed in range(given.seed, given.seed + given.count)]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(measure_slide, tasks))
    if given.rows:
        given.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(json.dumps(summarise(rows, 0.5), indent=2))


if __name__ == "__main__":
    main()
