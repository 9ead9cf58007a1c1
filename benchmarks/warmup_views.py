"""What a fixed number of views of each patch saves in the warm-up of a model whose encoder is frozen.

    python -m benchmarks.warmup_views [--slides 8] [--steps 300] [--views 2] [--backbone tf_efficientnet_lite0]

The encoder, one for all processing levels, has random weights, on which its time does not depend. Two runs of the same
settings: one that turns, mirrors and tints every patch anew, and one in which each has so many views.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.features_once import SIDE_PX, Clock
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.model.config import EncoderConfig, TNetConfig
from tnet_cli.synth.synthesis import CLASS_NAMES, synthesize
from tnet_cli.training.train import train

PARTS = 3


def main() -> None:
    """Draw slides, train twice and print what a step took in each third of the warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    encoder = EncoderConfig(backbone=given.backbone, processing_levels=(0, 1, 2), input_px=SIDE_PX, frozen=True)
    numbers = {"backbone": given.backbone, "base_px": SIDE_PX, "processing_levels": 3, "mpp": (8.0, 2.0, 0.5)}
    numbers |= {"locations": (6, 16), "encoders": (encoder,)}
    config = TNetConfig.model_validate(TNetConfig.slide(CLASS_NAMES).model_dump() | numbers)
    last = []
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), count=given.slides, side_px=given.size, seed=5, mpp=0.5)
        inputs = read_manifest(Path(folder) / "labels.csv")
        print(f"views, seconds of wall and processor time a step in each of {PARTS} parts", flush=True)
        for views in (0, given.views):
            clock = Clock()
            hook = register_optimizer_step_post_hook(clock.tick)
            settings = TrainingSettings(
                rounds=1,
                warmup_steps=given.steps,
                hard_epochs=0,
                hard_locations=(6, 16),
                normalisation="none",
                normal_class=CLASS_NAMES[0],
                views=views,
            )
            train(inputs, config, settings, progress=clock)
            hook.remove()
            clock.ends.pop(0)  # the slides were prepared before the first step ended
            parts = [tuple(s / (given.steps // PARTS) for s in each) for each in clock.epochs(given.steps // PARTS)]
            print(f"{views:5}  {'   '.join(f'{wall:.3f} {own:.3f}' for wall, own in parts)}", flush=True)
            last.append(parts[-1])
    wall, own = (before / after for before, after in zip(*last, strict=True))
    print(f"a step at the end with {given.views} views: wall time / {wall:.1f}, processor time / {own:.1f}")


if __name__ == "__main__":
    main()
