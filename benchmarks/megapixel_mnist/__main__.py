"""Train the arms, measure them, and print one JSON document and a table.

Run: python -m benchmarks.megapixel_mnist --mnist mnist.npz --work runs/mnist --side 896

What is trained or classified is kept in the folder of ``--work``, and is not done again by the next call.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.megapixel_mnist.canvas import load_digits
from benchmarks.megapixel_mnist.measure import (
    Arm,
    all_arms,
    classifier,
    compared_accuracy,
    judge,
    multiply_adds,
    prepare,
    probe_memory,
    test_canvas,
    times,
)
from benchmarks.megapixel_mnist.recipe import Recipe, make_network
from benchmarks.megapixel_mnist.table import table
from tnet_cli.benchmark.arms import peak_mb
from tnet_cli.model.tnet import TNet


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.megapixel_mnist", description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="all", choices=("all", "train", "accuracy", "cost", "table", "probe")
    )
    parser.add_argument("--mnist", type=Path, required=True, help="npz with train_images, train_labels, test_...")
    parser.add_argument("--work", type=Path, default=Path("megapixel-mnist"), help="folder of checkpoints and results")
    parser.add_argument("--side", type=int, default=896)
    parser.add_argument("--networks", default="tnet,shrunk,full", help="which to train and measure the accuracy of")
    parser.add_argument("--budgets", default="1,2,4,8", help="locations at the finest processing level")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--rounds", type=int, default=21, help="images that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--effort", type=float, default=1.0, help="share of the recipe's steps")
    parser.add_argument("--teach-locations", action="store_true", help="tell the location module where digits are")
    parser.add_argument("--arm", help="of a probe")
    parser.add_argument("--finest", type=int, default=0, help="of a probe")
    return parser.parse_args()


def main() -> None:
    """Do what the command line says."""
    given = parse()
    torch.set_num_threads(given.threads)
    if given.what == "probe":
        print(json.dumps({"peak_mb": probe(given)}))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    arms = all_arms([int(budget) for budget in given.budgets.split(",")])
    recipe = Recipe(given.work, load_digits(given.mnist, "train"), given.side, given.effort, given.teach_locations)
    networks = given.networks.split(",") if given.networks else []
    if given.what in ("all", "train"):
        for name in networks:
            recipe.train(name)
    if given.what in ("all", "accuracy"):
        measure_accuracy(given, recipe, [arm for arm in arms if arm.network in networks])
    if given.what in ("all", "cost"):
        measure_cost(given, arms)
    if given.what != "train":
        document = summarise(given, arms)
        (given.work / f"results-{given.side}.json").write_text(json.dumps(document, indent=2) + "\n")
        print(json.dumps(document, indent=2))
        print(table(document))


def measure_accuracy(given: argparse.Namespace, recipe: Recipe, arms: list[Arm]) -> None:
    """Classify the test images with every arm, and keep which were right."""
    digits = load_digits(given.mnist, "test")
    for arm in arms:
        path = judged_path(given, arm)
        if path.exists() and len(json.loads(path.read_text())["right"]) >= given.images:
            continue
        network, cpu_seconds = recipe.load(arm.network)
        prepare(network)
        found = judge(arm, network, digits, given.side, given.images)
        path.write_text(json.dumps(asdict(found) | {"training_cpu_seconds": cpu_seconds}))
        print(f"{arm.name}: {sum(found.right)} of {len(found.right)}", file=sys.stderr, flush=True)


def measure_cost(given: argparse.Namespace, arms: list[Arm]) -> None:
    """Measure multiply-adds, time and memory; they do not depend on what was learnt, so the weights are random."""
    digits = load_digits(given.mnist, "test")
    networks = {name: fresh(name, given.side) for name in ("full", "shrunk", "tnet")}
    classifiers = {arm.name: classifier(arm, networks[arm.network], given.side) for arm in arms}
    canvases = [test_canvas(digits, given.side, number) for number in range(given.rounds)]
    costs: dict[str, dict[str, float]] = {
        name: {"multiply_adds": multiply_adds(classify, canvases[0])} for name, classify in classifiers.items()
    }
    for name, seconds in times(classifiers, canvases).items():
        costs[name] |= seconds
    # Random locations take the memory that attended ones take.
    for arm in (arm for arm in arms if arm.kind != "random"):
        costs[arm.name]["peak_mb"] = probe_memory(arm, given.side, given.mnist, given.threads)
    costs["nothing"] = {"peak_mb": probe_memory(None, given.side, given.mnist, given.threads)}
    (given.work / f"costs-{given.side}.json").write_text(json.dumps(costs, indent=2))


def fresh(name: str, side_px: int) -> TNet:
    """Return a network with seeded random weights, ready to be measured."""
    torch.manual_seed(0)
    return prepare(make_network(name, side_px))


def probe(given: argparse.Namespace) -> float:
    """Classify three images in this process and return its peak memory."""
    digits = load_digits(given.mnist, "test")
    canvases = [test_canvas(digits, given.side, number) for number in range(3)]
    if given.arm is not None:
        arm = Arm(given.arm, given.finest)
        classify = classifier(arm, fresh(arm.network, given.side), given.side)
        with torch.inference_mode():
            for canvas in canvases:
                classify([canvas])
    return peak_mb()


def summarise(given: argparse.Namespace, arms: list[Arm]) -> dict[str, Any]:
    """Gather what is known of each arm."""
    kept = {arm.name: json.loads(path.read_text()) for arm in arms if (path := judged_path(given, arm)).exists()}
    costs_path = given.work / f"costs-{given.side}.json"
    costs = json.loads(costs_path.read_text()) if costs_path.exists() else {}
    rows: dict[str, Any] = {}
    for arm in arms:
        rows[arm.name] = dict(costs.get(arm.name, {}))
        if arm.name in kept and "full" in kept:
            mine = kept[arm.name]
            rows[arm.name] |= compared_accuracy(mine["right"], kept["full"]["right"])
            rows[arm.name]["training_cpu_seconds"] = mine["training_cpu_seconds"]
            if arm.finest:
                rows[arm.name]["seen"] = sum(mine["seen"]) / len(mine["seen"])
    return {
        "side": given.side,
        "threads": given.threads,
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "teach_locations": given.teach_locations,
        "process_without_network_mb": costs.get("nothing", {}).get("peak_mb"),
        "arms": rows,
    }


def judged_path(given: argparse.Namespace, arm: Arm) -> Path:
    """Return where the judged images of an arm are kept."""
    path: Path = given.work / f"judged-{given.side}-{arm.name}.json"
    return path


if __name__ == "__main__":
    main()
