"""A whole training run: pool, warm-up, rounds with the model's own paths, then hard attention."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from tnet_cli.model.config import TNetConfig
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.tnet import TNet
from tnet_cli.pipeline.inputs import SlideInput
from tnet_cli.pipeline.training.hard import train_hard
from tnet_cli.pipeline.training.pool import PatchPool, add_attended_patches, add_guided_patches
from tnet_cli.pipeline.training.settings import TrainingSettings
from tnet_cli.pipeline.training.slides import load_training_slides
from tnet_cli.pipeline.training.warmup import StepReport, warm_up


def train(
    inputs: Sequence[SlideInput],
    config: TNetConfig,
    settings: TrainingSettings,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> TNet:
    """Train a slide model from nothing.

    1. Patches along annotated and random paths fill a pool; extractor, location module and classifier learn from it.
    2. The patches the model now attends to join the pool, and it learns again; several rounds.
    3. Normalisation is frozen, and whole slides are traversed with sampled locations under the paper's objective.

    Args:
        inputs: Labelled slides; annotations where a pathologist has drawn them.
        config: The model.
        settings: Sizes, rates and weights.
        on_step: Told the losses as it goes.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        ManifestError: a label or annotation cannot be used.
        SlideError: a slide cannot be read.
    """
    rng = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    slides = load_training_slides(inputs, config)
    network = TNet(config)
    pool = PatchPool()
    for slide in slides:
        add_guided_patches(pool, slide, config, settings, rng)
    for warmup_round in range(1, settings.rounds + 1):
        if warmup_round > 1:
            add_attended_patches(pool, slides, network, settings, rng)
        warm_up(network, pool, settings, rng, stage=f"warm-up {warmup_round}", on_step=on_step)
    freeze_normalisation(network)
    train_hard(network, slides, settings, rng, on_step=on_step)
    network.eval()
    return network
