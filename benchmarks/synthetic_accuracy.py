"""Accuracy on fresh synthetic slides: attended, random and all locations, with the same weights.

Run: python benchmarks/synthetic_accuracy.py --count 200 --size 20000 --seed 900000
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from tnet_cli.evaluation.arms import EVERYTHING
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import DEMO_MODEL, TraversalOptions
from tnet_cli.metrics.estimate import wilson
from tnet_cli.model.choice import LocationSampler, RandomChoice, TopK
from tnet_cli.modelfile.modelfile import LoadedModel, find_model, load_model
from tnet_cli.places import Place
from tnet_cli.results.result import SlideResult
from tnet_cli.synth.synthesis import write_synthetic_slide

ARMS = ("tnet", "random", "exhaustive")


def classify_one(model: LoadedModel, path: Path, arm: str, seed: int) -> SlideResult:
    """Classify one slide the way of one arm; every arm traverses the same grids with the same weights."""
    steps = len(model.card.network.locations)
    sampler: LocationSampler = RandomChoice(np.random.default_rng(seed)) if arm == "random" else TopK()
    options = TraversalOptions(locations=(EVERYTHING,) * steps if arm == "exhaustive" else None)
    engine = EngineOptions(slides_in_flight=1, readers=1)
    entry = SlideInput(path=Place(path), name=path.stem)
    ((_, result),) = classify_slides([entry], model, options, engine, sampler_of=lambda _: sampler)
    return result


def measure_slide(task: tuple[int, int, str, str, tuple[str, ...], Path | None]) -> list[dict[str, Any]]:
    """Render one slide, classify it with every arm, and delete it unless it is to be kept."""
    seed, size, label, model_name, arms, kept = task
    torch.set_num_threads(1)
    model = load_model(find_model(model_name))
    with tempfile.TemporaryDirectory() as folder:
        path = (kept or Path(folder)) / f"{seed}-{size}.tif"
        if not path.exists():
            write_synthetic_slide(path, seed=seed, side_px=size, label=label, workers=1)
        rows = []
        for arm in arms:
            started = time.perf_counter()
            result = classify_one(model, path, arm, seed)
            if result.status != "ok":
                raise RuntimeError(f"{path}: {result.error}")
            rows.append(
                {
                    "seed": seed,
                    "arm": arm,
                    "label": label,
                    "prediction": result.prediction,
                    "probability": result.probabilities[-1],
                    "locations": result.locations,
                    "fraction_read": result.fraction_read,
                    "seconds": time.perf_counter() - started,
                }
            )
    return rows


def summarise(rows: list[dict[str, Any]], arms: tuple[str, ...]) -> dict[str, Any]:
    """Return accuracy with its Wilson interval, and means, for each arm."""
    summary: dict[str, Any] = {}
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        right = sum(row["prediction"] == row["label"] for row in mine)
        accuracy = wilson(right, len(mine))
        summary[arm] = {
            "slides": len(mine),
            "accuracy": accuracy.value,
            "auroc": roc_auc_score([row["label"] == "lesion" for row in mine], [row["probability"] for row in mine]),
            "interval_95": [accuracy.low, accuracy.high],
            "locations": float(np.mean([row["locations"] for row in mine])),
            "fraction_read_mean": float(np.mean([row["fraction_read"] for row in mine])),
            "fraction_read_max": float(np.max([row["fraction_read"] for row in mine])),
            "seconds": float(np.mean([row["seconds"] for row in mine])),
        }
    return summary


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=900_000, help="seeds are SEED .. SEED + COUNT - 1")
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep the slides in this folder, and use those already there")
    parser.add_argument("--rows", type=Path, help="also write one JSON line for each slide and arm here")
    given = parser.parse_args()
    arms = tuple(given.arms.split(","))
    labels = ("benign", "lesion")
    tasks = [
        # By the seed, so that a slide that was kept has the label it was drawn with, whichever seeds are asked for.
        (seed, given.size, labels[seed % 2], given.model, arms, given.keep)
        for seed in range(given.seed, given.seed + given.count)
    ]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for slide_rows in pool.map(measure_slide, tasks):
            rows.extend(slide_rows)
            if given.rows:
                with given.rows.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in slide_rows)
    print(json.dumps({"size": given.size, "seed": given.seed, **summarise(rows, arms)}, indent=2))


if __name__ == "__main__":
    main()
