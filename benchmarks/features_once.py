"""What keeping the features of a frozen encoder saves: epochs of hard attention without, while kept, and once kept.

    python benchmarks/features_once.py [--slides 8] [--epochs 3] [--encoder timm:vit_small_patch16_224] [--work FOLDER]

The encoder has random weights, on which its time does not depend. Three runs of the same settings: one that computes
every feature, one that keeps them in an empty folder, and that one again in another run's folder. The second run draws
locations anew in each epoch, and so looks up what it has met before; the third has met them all.
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.learning.feature_store import list_features
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.model.config import EncoderConfig, TNetConfig
from tnet_cli.synth.synthesis import CLASS_NAMES, synthesize
from tnet_cli.training.train import train

SIDE_PX = 224
STAGE = "hard attention"


class Clock(Progress):
    """Notes when each step ends, by the wall and by the processor, and the losses that are told of hard attention."""

    def __init__(self) -> None:
        self.ends, self.losses = [self._now()], list[float]()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def step(self, report: StepReport) -> None:
        """Note a report."""
        if report.stage == STAGE:
            self.losses.append(report.terms["total"])

    def tick(self, *_: object) -> None:
        """Note the end of a step."""
        self.ends.append(self._now())

    def epochs(self, steps: int) -> list[tuple[float, float]]:
        """Return wall and processor seconds of each epoch of so many steps; the first with preparing the slides."""
        return [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(self.ends[::steps])]


def network_with(encoder: str) -> TNetConfig:
    """Return a slide model of three processing levels whose finest has a frozen encoder of its own."""
    own: dict[str, Any] = {"input_px": SIDE_PX}
    encoders = (
        EncoderConfig(backbone="tnet_small", processing_levels=(0, 1), **own),
        EncoderConfig(backbone=encoder, processing_levels=(2,), frozen=True, **own),
    )
    numbers = {"base_px": SIDE_PX, "processing_levels": 3, "mpp": (8.0, 2.0, 0.5), "locations": (6, 16)}
    return TNetConfig.model_validate(TNetConfig.slide(CLASS_NAMES).model_dump() | numbers | {"encoders": encoders})


def main() -> None:
    """Draw slides, train three times and print what each epoch took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--encoder", default="timm:vit_small_patch16_224")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    config, losses, rest = network_with(given.encoder), {}, list[tuple[float, ...]]()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        synthesize(work / "slides", count=given.slides, side_px=given.size, seed=5, mpp=0.5)
        inputs = read_manifest(work / "slides" / "labels.csv")
        print("run, wall and processor seconds of each epoch, regions kept", flush=True)
        for name, store in (("computed", None), ("kept", "features"), ("once kept", "features")):
            clock = Clock()
            hook = register_optimizer_step_post_hook(clock.tick)
            settings = TrainingSettings(
                annotations=False,
                rounds=0,
                normalisation="none",
                hard_epochs=given.epochs,
                hard_locations=(6, 16),
                features=store and str(work / store),
            )
            train(inputs, config, settings, device=torch.device(given.device), progress=clock)
            hook.remove()
            losses[name], took = clock.losses, clock.epochs(-(-given.slides // settings.batch_slides))
            kept = sum(each["regions"] for each in list_features(work / store)) if store else 0
            print(f"{name:10} {'  '.join(f'{wall:6.1f} {own:6.1f}' for wall, own in took)} {kept:8}", flush=True)
            rest.append(tuple(statistics.median(seconds) for seconds in zip(*took[1:], strict=True)))
    apart = max(abs(a - b) for a, b in zip(losses["computed"], losses["once kept"], strict=True))
    wall, own = (before / after for before, after in zip(rest[0], rest[2], strict=True))
    print(
        f"an epoch once features are kept: wall time / {wall:.1f}, processor time / {own:.1f}; losses {apart:.1e} apart"
    )


if __name__ == "__main__":
    main()
