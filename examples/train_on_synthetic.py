"""Train a small model on synthetic slides from their labels alone, and see how good it is on slides it never saw.

Run: python examples/train_on_synthetic.py FOLDER

Takes about twenty minutes on two cores; interrupted, the same command goes on. The same by hand:

    tnet synth FOLDER/train --count 300 --size 2000 --seed 0
    tnet synth FOLDER/fresh --count 100 --size 2000 --seed 1000000
    tnet train FOLDER/train/labels.csv --config examples/train_on_synthetic.toml --normal-class benign -o FOLDER/model
    tnet evaluate FOLDER/fresh/labels.csv -m FOLDER/model/model.safetensors -o FOLDER/evaluation
"""

import argparse
import time
from pathlib import Path

from scipy.stats import binomtest

import tnet_cli
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.synth.synthesis import synthesize

CONFIG = Path(__file__).with_suffix(".toml")
FRESH_SEED = 1_000_000


def make_slides(folder: Path, count: int, size: int, seed: int) -> Path:
    """Draw labelled slides unless they are there; return their manifest."""
    manifest = folder / "labels.csv"
    if not manifest.exists():
        synthesize(folder, count=count, side_px=size, seed=seed)
    return manifest


class Told(Progress):
    """Prints what a run tells."""

    def note(self, text: str) -> None:
        """Print a sentence."""
        print(text, flush=True)

    def step(self, report: StepReport) -> None:
        """Print the metrics of some steps."""
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in report.terms.items())
        print(f"{report.stage}  {report.step}/{report.steps}  {metrics}", flush=True)


def main() -> None:
    """Draw, train, and classify fresh slides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=300, help="slides to train on")
    parser.add_argument("--fresh", type=int, default=100, help="slides to test on")
    parser.add_argument("--size", type=int, default=2000, help="side in pixels")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="table.key=value over the file's")
    given = parser.parse_args()

    started = time.perf_counter()
    train = make_slides(given.folder / "train", given.count, given.size, 0)
    fresh = make_slides(given.folder / "fresh", given.fresh, given.size, FRESH_SEED)
    print(f"slides drawn, {time.perf_counter() - started:.0f} s", flush=True)

    report = tnet_cli.train(
        train,
        given.folder / "model",
        config=CONFIG,
        overrides=given.overrides,
        normal_class="benign",
        progress=Told(),
    )
    print(f"trained, {time.perf_counter() - started:.0f} s", flush=True)

    inputs = read_manifest(fresh)
    results = classify_slides(inputs, tnet_cli.load_model(report.models[0]))
    right = sum(result.prediction == inputs[position].label for position, result in results)
    interval = binomtest(right, len(inputs)).proportion_ci(method="wilson")
    seconds = time.perf_counter() - started
    print(
        f"accuracy on {len(inputs)} fresh slides: {right / len(inputs):.3f} "
        f"(95 % interval {interval.low:.3f} to {interval.high:.3f}); {seconds:.0f} s in all"
    )


if __name__ == "__main__":
    main()
