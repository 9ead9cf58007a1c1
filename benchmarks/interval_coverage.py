"""How often the interval of ``metrics.difference`` holds, and how wide it is: made-up slides of many kinds.

    python benchmarks/interval_coverage.py [--draws 400]

A slide is a population of finest cells with a teacher's response each; the model's predictions are good, useless,
biased or have missed a focus; the cells predicted highest are attended, and some of the others are drawn.
"""

import argparse

import numpy as np

from tnet_cli.metrics.difference import difference_estimate

PREDICTIONS = ("good", "useless", "biased", "missed a focus")
SHARES = (0.0, 0.001, 0.01, 0.1, 0.5)


def slide(rng: np.random.Generator, cells: int, share: float, *, binary: bool) -> np.ndarray:
    """Draw the responses of a slide of which that share is positive."""
    is_positive = rng.random(cells) < share
    if binary:
        return is_positive.astype(float)
    return np.where(is_positive, rng.beta(6, 2, cells), rng.beta(1, 40, cells))


def predicted(rng: np.random.Generator, responses: np.ndarray, kind: str) -> np.ndarray:
    """Return what a model of that kind predicts."""
    good = np.clip(0.8 * responses + 0.02 + rng.normal(0, 0.05, len(responses)), 0.001, 0.999)
    match kind:
        case "good":
            return good
        case "useless":
            return rng.permutation(good)
        case "biased":
            return np.clip(good * 0.5 + 0.1, 0, 1)
    positives = np.flatnonzero(responses > 0.5)
    missed = positives[: len(positives) // 2]
    good[missed] = rng.random(len(missed)) * 0.05
    return good


def covered(
    rng: np.random.Generator, cells: int, share: float, kind: str, drawn: int, *, binary: bool
) -> tuple[bool, float]:
    """Tell whether the interval of one slide holds, and its width."""
    responses = slide(rng, cells, share, binary=binary)
    predictions = predicted(rng, responses, kind)
    order = np.argsort(-predictions)
    attended, rest = order[: min(50, cells // 4)], order[min(50, cells // 4) :]
    sample = rng.choice(len(rest), size=min(drawn, len(rest)), replace=False)
    found = difference_estimate(responses[attended], predictions[rest], sample, responses[rest][sample])
    return found.low - 1e-12 <= responses.mean() <= found.high + 1e-12, found.high - found.low


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    print("predictions     response    drawn  worst coverage (cells, share)     mean coverage  median width")
    for kind in PREDICTIONS:
        for binary in (True, False):
            for drawn in (12, 25, 50, 100):
                table = {}
                for cells in (60, 500, 5000):
                    for share in SHARES:
                        table[cells, share] = [
                            covered(rng, cells, share, kind, drawn, binary=binary) for _ in range(draws)
                        ]
                hits = {key: np.mean([hit for hit, _ in each]) for key, each in table.items()}
                worst = min(hits, key=hits.__getitem__)
                width = np.median([width for each in table.values() for _, width in each])
                print(
                    f"{kind:15} {'binary' if binary else 'continuous':11} {drawn:5} {hits[worst]:8.3f} {worst!s:26} "
                    f"{np.mean(list(hits.values())):8.3f} {width:12.3f}"
                )


if __name__ == "__main__":
    main()
