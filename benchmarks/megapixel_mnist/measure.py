"""What each arm gets right and what it costs."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.megapixel_mnist.arms import (
    Attending,
    budget_locations,
    classify_attending,
    classify_traversals,
    classify_whole,
    traverse_all,
)
from benchmarks.megapixel_mnist.canvas import Canvas, Digits, make_canvas
from benchmarks.megapixel_mnist.training import holds_digit
from tnet_cli.metrics.estimate import wilson
from tnet_cli.model.choice import RandomChoice, TopK
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.model.tnet import TNet

TEST_SEED = 5_000_000
BATCH = 16
"""Images that are classified together where only the predictions count."""

Classify = Callable[[Sequence[Canvas]], Tensor]


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the table.

    Attributes:
        kind: ``full``, ``shrunk``, ``tnet`` or ``random``.
        finest: Locations seen at the image's own resolution; 0 for the first two kinds.
    """

    kind: str
    finest: int = 0

    @property
    def name(self) -> str:
        """Its name in results, such as ``tnet-4``."""
        return f"{self.kind}-{self.finest}" if self.finest else self.kind

    @property
    def network(self) -> str:
        """The network it uses: random locations go with TNet's own weights."""
        return "tnet" if self.kind == "random" else self.kind


def all_arms(budgets: Sequence[int]) -> list[Arm]:
    """Return every arm, in the order of the table."""
    pairs = [(kind, finest) for kind in ("tnet", "random") for finest in budgets]
    return [Arm("full"), Arm("shrunk"), *(Arm(kind, finest) for kind, finest in pairs)]


def prepare(network: TNet) -> TNet:
    """Make a network ready to be measured, as the package does before it classifies."""
    network.eval().requires_grad_(requires_grad=False)
    fold_normalisation(network)
    return network


def classifier(arm: Arm, network: TNet, side_px: int) -> Classify:
    """Return what classifies images the way of an arm."""
    if arm.finest == 0:
        return lambda canvases: classify_whole(network, canvases)
    attending = _attending(arm, side_px)
    return lambda canvases: classify_attending(network, canvases, attending)


def test_canvas(digits: Digits, side_px: int, number: int) -> Canvas:
    """Return a test image."""
    return make_canvas(digits, side_px, seed=TEST_SEED, number=number)


@dataclass(frozen=True, slots=True)
class Judged:
    """What an arm made of the test images, in their order.

    Attributes:
        right: Whether the class is right.
        seen: Whether a location at the image's own resolution held the digit's ink; empty where nothing attends.
    """

    right: list[bool]
    seen: list[bool]


def judge(arm: Arm, network: TNet, digits: Digits, side_px: int, count: int) -> Judged:
    """Classify the first ``count`` test images with an arm."""
    found = Judged([], [])
    with torch.inference_mode():
        for start in range(0, count, BATCH):
            canvases = [test_canvas(digits, side_px, n) for n in range(start, min(count, start + BATCH))]
            labels = torch.tensor([canvas.label for canvas in canvases])
            if arm.finest:
                traversals = traverse_all(network, canvases, _attending(arm, side_px))
                logits = classify_traversals(network, traversals)
                found.seen.extend(holds_digit(canvases, traversals))
            else:
                # Whole images of full resolution fill the memory fast.
                logits = torch.cat([classify_whole(network, [canvas]) for canvas in canvases])
            found.right.extend((logits.argmax(dim=1) == labels).tolist())
    return found


def compared_accuracy(right: Sequence[bool], right_of_full: Sequence[bool]) -> dict[str, Any]:
    """Return accuracy with its Wilson interval, and how the predictions differ from arm (a)'s on the same images."""
    accuracy = wilson(sum(right), len(right))
    pairs = list(zip(right, right_of_full, strict=True))
    return {
        "images": len(right),
        "accuracy": accuracy.value,
        "interval_95": [accuracy.low, accuracy.high],
        "only_this_right": sum(mine and not full for mine, full in pairs),
        "only_full_right": sum(full and not mine for mine, full in pairs),
    }


def multiply_adds(classify: Classify, canvas: Canvas) -> int:
    """Count the multiply-adds of one image: those of convolutions and matrix products."""
    counter = FlopCounterMode(display=False)
    # The counter sees no operations of tensors made in inference mode.
    with torch.no_grad(), counter:
        classify([canvas])
    return int(counter.get_total_flops()) // 2


def times(classifiers: dict[str, Classify], canvases: Sequence[Canvas]) -> dict[str, dict[str, float]]:
    """Time every arm on every image, one image at a time and the arms in turn, so that all meet the same disturbances.

    Returns:
        For each arm the median wall time and the median processor time of an image, in seconds.
    """
    wall: dict[str, list[float]] = {name: [] for name in classifiers}
    cpu: dict[str, list[float]] = {name: [] for name in classifiers}
    with torch.inference_mode():
        for classify in classifiers.values():
            classify(canvases[:1])
        for canvas in canvases:
            for name, classify in classifiers.items():
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                classify([canvas])
                wall[name].append(time.perf_counter() - wall_start)
                cpu[name].append(time.process_time() - cpu_start)
    return {
        name: {"seconds": statistics.median(wall[name]), "cpu_seconds": statistics.median(cpu[name])}
        for name in classifiers
    }


def probe_memory(arm: Arm | None, side_px: int, mnist: Path, threads: int) -> float:
    """Return the peak memory of a fresh process that classifies three images, or with no arm that only makes one."""
    command = [sys.executable, "-m", "benchmarks.megapixel_mnist", "probe", "--mnist", str(mnist)]
    command += ["--side", str(side_px), "--threads", str(threads)]
    if arm is not None:
        command += ["--arm", arm.kind, "--finest", str(arm.finest)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak_mb"])


def _attending(arm: Arm, side_px: int) -> Attending:
    sampler = RandomChoice(np.random.default_rng(arm.finest)) if arm.kind == "random" else TopK()
    return Attending(budget_locations(side_px, arm.finest), sampler)
