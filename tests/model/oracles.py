"""Slow, obvious versions of the model's arithmetic, in float64 numpy loops, written from the published description.

They share no code with the package: pictures are (H, W, C), grids are cut with plain arithmetic on arrays.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[str, Array]
Pair = tuple[int, int]


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


def cell_spans(side: int, n: int, fraction: float) -> list[Pair]:
    """First row and length of the cells along one side: rounded half to even, stride up, odd pixel in front."""
    if abs(fraction * n - 1) < 1e-9:
        return [(side * i // n, side * (i + 1) // n - side * i // n) for i in range(n)]
    patch = int(np.round(side * fraction))
    stride = math.ceil((side - patch) / (n - 1))
    padded = (n - 1) * stride + patch
    before = math.ceil((padded - side) / 2)
    return [(i * stride - before, patch) for i in range(n)]


def crop(image: Array, x: int, y: int, width: int, height: int, fill: float = 0.0) -> Array:
    """Cut a box out of a picture, with a constant where it reaches beyond."""
    out = np.full((height, width, image.shape[2]), fill, dtype=image.dtype)
    for row in range(max(0, -y), min(height, image.shape[0] - y)):
        left, right = max(0, -x), min(width, image.shape[1] - x)
        out[row, left:right] = image[y + row, x + left : x + right]
    return out


def resize(image: Array, side: int) -> Array:
    """Bilinear, half-pixel centres, edges repeated, no antialias."""
    out = image.astype(np.float64)
    for axis in (0, 1):
        length = out.shape[axis]
        at = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, length - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
    return out


def convolve(picture: Array, weight: Array, stride: int, before: Pair, after: Pair) -> Array:
    """Convolve (H, W, C) with (C', C / groups, k, k), padded by zeros before and after (rows, columns)."""
    padded = np.pad(picture.astype(np.float64), ((before[0], after[0]), (before[1], after[1]), (0, 0)))
    outputs, per_group, height, width = weight.shape
    groups = picture.shape[2] // per_group
    rows = (padded.shape[0] - height) // stride + 1
    columns = (padded.shape[1] - width) // stride + 1
    out = np.zeros((rows, columns, outputs))
    for r, c, output in itertools.product(range(rows), range(columns), range(outputs)):
        first = output // (outputs // groups) * per_group
        window = padded[r * stride : r * stride + height, c * stride : c * stride + width, first : first + per_group]
        out[r, c, output] = (window * weight[output].transpose(1, 2, 0)).sum()
    return out


def position_code(position: Sequence[int], length: int) -> Array:
    """Sines then cosines of y, then of x, then of scale; frequencies fall geometrically from 1 to 1 / 100."""
    count = length // 6
    code = np.zeros(length)
    for d, value in enumerate(position):
        for j in range(count):
            frequency = math.exp(-j * math.log(100) / (count - 1))
            code[2 * count * d + j] = math.sin(value * frequency)
            code[2 * count * d + count + j] = math.cos(value * frequency)
    return code


def positioned(weights: Weights, vector: Array, position: Sequence[int], axes: str) -> Array:
    kept = position if axes == "yxs" else (0, 0, position[2])
    matrix = weights["position.project.weight"]
    return silu(vector + matrix @ position_code(kept, matrix.shape[1]) + weights["position.project.bias"])


def location_probs(weights: Weights, cells: Array, allowed: Array, kind: str) -> Array:
    """Probability of each cell of one region from its location features (n, n, C); zero where not allowed."""

    def dense(name: str, x: Array) -> Array:
        return weights[f"location.{name}.weight"][:, :, 0, 0] @ x + weights[f"location.{name}.bias"]

    n = cells.shape[0]
    first = np.array([[silu(dense("init", cells[r, c])) for c in range(n)] for r in range(n)])
    gate = sigmoid(dense("excite", silu(dense("squeeze", first.mean(axis=(0, 1))))))
    (a, b), (c0, d) = weights["location.row_scaling"], weights["location.column_scaling"]
    logits = np.zeros(n * n)
    for r, c in itertools.product(range(n), range(n)):
        row, column = -1 + 2 * r / (n - 1), -1 + 2 * c / (n - 1)
        placed = np.concatenate([first[r, c] * gate, [a * row + b, c0 * column + d]])
        logits[r * n + c] = dense("score", silu(dense("final", placed)))[0]
    if kind == "l2":
        logits = logits / math.sqrt((logits**2).sum())
    elif kind == "temperature":
        logits = logits / math.exp(weights["location.log_temperature"])
    probs = np.zeros(n * n)
    if allowed.any():
        probs[allowed] = softmax(logits[allowed])
    return probs


def feature_weights(weights: Weights, features: Array) -> Array:
    """Share of each of (K, D) features."""

    def dense(name: str, x: Array) -> Array:
        return np.asarray(weights[f"weighting.{name}.weight"] @ x + weights[f"weighting.{name}.bias"])

    if "weighting.score.weight" not in weights:
        return np.full(len(features), 1 / len(features))
    gate = sigmoid(dense("excite", silu(dense("squeeze", features.mean(axis=0)))))
    return softmax(np.array([dense("score", feature * gate)[0] for feature in features]))


def small_backbone(weights: Weights, patch: Array) -> tuple[Array, Array]:
    """Vector and location map (h, w, C) of one normalised patch, from the state dict of ``tnet_small``."""

    def unit(name: str, x: Array, stride: int) -> Array:
        out = convolve(x, weights[f"feature.backbone.{name}.0.weight"], stride, (1, 1), (1, 1))
        mean, variance = (weights[f"feature.backbone.{name}.1.running_{kind}"] for kind in ("mean", "var"))
        scale, shift = (weights[f"feature.backbone.{name}.1.{kind}"] for kind in ("weight", "bias"))
        return np.asarray((out - mean) / np.sqrt(variance + 1e-5) * scale + shift)

    def block(name: str, x: Array) -> Array:
        inner = np.maximum(unit(f"{name}.first", x, 1), 0)
        return np.asarray(np.maximum(x + unit(f"{name}.second", inner, 1), 0))

    maps = patch
    for number in (0, 1, 2):
        maps = np.maximum(unit(f"fine.{number}", maps, 2), 0)
    maps = block("fine.3", maps)
    maps = block("fine.5", np.maximum(unit("fine.4", maps, 2), 0))
    top = block("coarse.1", np.maximum(unit("coarse.0", maps, 2), 0))
    return np.concatenate([top.mean(axis=(0, 1)), top.max(axis=(0, 1))]), maps


def pooled(maps: Array, n: int) -> Array:
    """Largest value of each of n x n parts of a map whose side is a multiple of n."""
    step = maps.shape[0] // n
    return np.asarray(maps.reshape(n, step, n, step, -1).max(axis=(1, 3)))


@dataclass(frozen=True, slots=True)
class Box:
    """A region of the oracle: left, top, width, height; where it stands, and the log-probability of its path."""

    x: int
    y: int
    width: int
    height: int
    position: tuple[int, int, int]
    path: float


def most_probable(keys: Sequence[float], k: int) -> list[int]:
    """Indices of the k largest finite keys, ascending; of equals the first."""
    ranked = sorted((index for index, key in enumerate(keys) if key > -math.inf), key=lambda index: -keys[index])
    return sorted(ranked[:k])


def expand(boxes: Sequence[Box], probs: Sequence[Array], n: int, fraction: float, k: int, choice: str) -> list[Box]:
    """Go from the boxes of one processing level to the chosen cells of the next."""
    children: list[Box] = []
    keys: list[float] = []
    for box, shares in zip(boxes, probs, strict=True):
        rows, columns = cell_spans(box.height, n, fraction), cell_spans(box.width, n, fraction)
        for cell in range(n * n):
            (dy, height), (dx, width) = rows[cell // n], columns[cell % n]
            y, x, s = box.position
            path = box.path + (math.log(shares[cell]) if shares[cell] > 0 else -math.inf)
            where = (y * n + cell // n, x * n + cell % n, s + 1)
            children.append(Box(box.x + dx, box.y + dy, width, height, where, path))
            keys.append(path)
    if choice == "beam":
        return [children[index] for index in most_probable(keys, k)]
    kept = []
    for first in range(0, len(keys), n * n):
        kept += [children[first + index] for index in most_probable(keys[first : first + n * n], k)]
    return kept


def sequential_inclusion(probs: Array, k: int) -> Array:
    """Probability that each candidate is among k drawn one after the other without replacement, by enumeration."""
    inclusion = np.zeros(len(probs))
    for order in itertools.permutations(np.flatnonzero(probs), k):
        chance, left = 1.0, probs.sum()
        for index in order:
            chance *= probs[index] / left
            left -= probs[index]
        inclusion[list(order)] += chance
    return inclusion


def paper_loss(
    logits: Array,
    labels: Array,
    feature_logits: Sequence[Array],
    log_probs: Sequence[Array],
    *,
    processing_levels: Sequence[Sequence[int]],
    baseline: float,
    w_c: float,
    w_r: float,
    lam: float,
    cap: int,
) -> tuple[dict[str, float], float]:
    """The weighted terms and the next baseline, slide by slide and feature by feature."""

    def entropy(z: Array, label: int) -> float:
        return -math.log(softmax(z)[label])

    def reward(z: Array, label: int) -> float:
        return float(z[label] >= z.max())

    terms = {"cross_entropy": 0.0, "feature_cross_entropy": 0.0, "reinforce": 0.0, "feature_reinforce": 0.0}
    slides = len(labels)
    counted = sum(level < cap for levels in processing_levels for level in levels)
    moved = sum(0 < level < cap for levels in processing_levels for level in levels)
    slide_rewards, feature_rewards = [], []
    for number, label in enumerate(labels):
        terms["cross_entropy"] += w_c * entropy(logits[number], label) / slides
        slide_rewards.append(reward(logits[number], label))
        advantage = slide_rewards[-1] - baseline
        terms["reinforce"] += lam * w_r * advantage * -log_probs[number].sum() / slides
        roots = list(processing_levels[number]).count(0)
        for index, level in enumerate(processing_levels[number]):
            own = feature_logits[number][index]
            if level < cap:
                terms["feature_cross_entropy"] += (1 - w_c) * entropy(own, label) / counted
            if 0 < level < cap:
                feature_rewards.append(reward(own, label))
                log_prob = log_probs[number][index - roots]
                terms["feature_reinforce"] += lam * (1 - w_r) * (feature_rewards[-1] - baseline) * -log_prob / moved
    seen = w_r * float(np.mean(slide_rewards)) + (1 - w_r) * float(np.mean(feature_rewards))
    return terms, 0.9 * baseline + 0.1 * seen
