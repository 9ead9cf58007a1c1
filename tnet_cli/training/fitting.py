"""The one place where a run meets the training loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.training.train import StepReport, train

__all__ = ["VALIDATION_STAGE", "Fitting", "StepReport", "fit"]

VALIDATION_STAGE = "validation "
"""Before the name of a stage, in reports of the validation slides' figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What one model is trained on, and how.

    Attributes:
        slides: Labelled; learnt from.
        validation: Labelled; measured on.
        network: The model.
        settings: Stages, rates, sizes and weights.
        checkpoints: Folder of checkpoints; training goes on from the one in it.
        device: Where the network runs.
        skip_bad: Leave slides out that cannot be read.
    """

    slides: Sequence[SlideInput]
    validation: Sequence[SlideInput] = ()
    network: TNetConfig
    settings: TrainingSettings
    checkpoints: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    skip_bad: bool = False


def fit(
    fitting: Fitting,
    on_step: Callable[[StepReport], None],
    on_note: Callable[[str], None],
) -> TNet:
    """Train a model.

    Args:
        fitting: What on, and how.
        on_step: Told the losses as it goes.
        on_note: Told sentences the user should know.

    Raises:
        ManifestError: a label or annotation cannot be used.
        ModelFileError: the checkpoint or the pretrained weights cannot be used.
        SlideError: a slide cannot be read.
        TrainingError: the loss is not finite any more, or memory does not suffice.
        UsageError: the settings do not fit the model, or the folder holds the checkpoint of another run.
    """
    return train(
        fitting.slides,
        fitting.network,
        fitting.settings,
        validation=fitting.validation,
        folder=fitting.checkpoints,
        device=fitting.device,
        skip_bad=fitting.skip_bad,
        on_step=on_step,
        on_note=on_note,
    )
