"""Train the bundled model on synthetic slides, from nothing, with the package's own code.

Run: python benchmarks/train_synthetic_demo.py --out weights/synthetic-demo.safetensors
"""

import argparse
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import DISTRIBUTION
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import ModelCard, TrainingData
from tnet_cli.modelfile.modelfile import save_model
from tnet_cli.synth.synthesis import CLASS_NAMES, synthesize
from tnet_cli.training.train import train

LOCATIONS = (12, 20, 64)
"""Chosen on 40 slides of 20 000 px, seeds 800000 to 800039: the fewest tried that found every lesion."""


class Printed(Progress):
    """Prints the losses of some steps."""

    def step(self, report: StepReport) -> None:
        """Print a report."""
        terms = "  ".join(f"{name} {value:.4f}" for name, value in report.terms.items())
        print(f"{time.strftime('%H:%M:%S')}  {report.stage}  {report.step}/{report.steps}  {terms}", flush=True)


def make_card(
    name: str, *, slides: int, size: int, seed: int, config: TNetConfig, metrics: dict[str, Any] | None = None
) -> ModelCard:
    """Return the card of a model trained here."""
    return ModelCard(
        name=name,
        summary="Tells synthetic slides with a lesion from synthetic slides with benign foci only.",
        intended_use="A demonstration on synthetic slides, not for diagnosis.",
        limits=(
            "It has seen nothing but slides made by `tnet synth`; what it says of a real slide means nothing.",
            "Its two classes are a game with nuclei that a generator draws; they are no diagnosis.",
        ),
        licence="Apache-2.0",
        training_data=(
            TrainingData(
                name=f"{slides} slides of tnet synth, {size} px a side, seed {seed}, with their lesions' outlines",
                licence="Apache-2.0",
                description="Made by this package; no image of any person or tissue is in them.",
            ),
        ),
        metrics=metrics or {},
        created=datetime.now(UTC).date(),
        package_version=version(DISTRIBUTION),
        network=config,
    )


def main() -> None:
    """Make the slides if they are not there, train, and write the model file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=Path, default=Path("synthetic-training"), help="folder, filled if it is empty")
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--size", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=1000, help="of the slides; the measured ones have other seeds")
    given = parser.parse_args()
    torch.set_num_threads(2)
    manifest = given.slides / "labels.csv"
    if not manifest.exists():
        synthesize(given.slides, count=given.count, side_px=given.size, seed=given.seed)
    config = TNetConfig.slide(CLASS_NAMES).model_copy(update={"locations": LOCATIONS})
    # The draws and their credit that the bundled weights were trained with.
    settings = TrainingSettings(normal_class=CLASS_NAMES[0], sampling="gumbel_redrawn", credit="cell")
    inputs = read_manifest(manifest)
    network = train(inputs, config, settings, progress=Printed())
    card = make_card(given.out.stem, slides=len(inputs), size=given.size, seed=given.seed, config=config)
    save_model(network, card, given.out)


if __name__ == "__main__":
    main()
