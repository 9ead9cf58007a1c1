"""A training run under way: the network, where it computes, who shares the batch, and who is told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tnet_cli.errors import SlideError
from tnet_cli.learning.distributed import Group
from tnet_cli.learning.patch_store import PatchPool
from tnet_cli.learning.precision import Precision
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.model.tnet import TNet


@dataclass(frozen=True, slots=True)
class StepReport:
    """Figures of some steps of training.

    Attributes:
        stage: Name of the stage; ``validation <stage>`` for figures of the validation slides.
        step: Steps done in the stage.
        steps: Steps in the stage.
        terms: Mean of each term since the last report, by name.
    """

    stage: str
    step: int
    steps: int
    terms: dict[str, float]


@dataclass(slots=True, eq=False)
class Course:
    """A training run under way.

    Attributes:
        network: Trained in place.
        slides: Labelled slides.
        settings: Of the run.
        device: Where the network is.
        group: The processes that share each batch.
        precision: How it computes.
        pool: Patches of the warm-up.
        fingerprint: Names this run; only its own checkpoints can resume it.
        folder: Of checkpoints, or None to keep none.
        pretrained: Whether the backbone began with pretrained weights.
        skip_bad: Leave slides out that cannot be read, instead of stopping.
        halved: Whether batches are computed in two halves since memory ran out.
        on_step: Told the figures of steps.
        on_note: Told what a user should know.
        noted: Slides that were already named as unreadable.
    """

    network: TNet
    slides: list[TrainingSlide]
    settings: TrainingSettings
    device: torch.device
    group: Group
    precision: Precision
    pool: PatchPool = field(default_factory=PatchPool)
    fingerprint: str = ""
    folder: Path | None = None
    pretrained: bool = False
    skip_bad: bool = False
    halved: bool = False
    on_step: Callable[[StepReport], None] | None = None
    on_note: Callable[[str], None] | None = None
    noted: set[str] = field(default_factory=set)

    def report(self, report: StepReport) -> None:
        """Tell figures, once for all processes."""
        if self.on_step is not None and self.group.rank == 0:
            self.on_step(report)

    def note(self, text: str) -> None:
        """Tell a sentence, once for all processes."""
        if self.on_note is not None and self.group.rank == 0:
            self.on_note(text)

    def leave_out(self, error: SlideError) -> None:
        """Note a slide that cannot be read and go on without it, or stop.

        Raises:
            SlideError: bad slides are not to be skipped.
        """
        if not self.skip_bad:
            raise error
        if error.path not in self.noted:
            self.noted.add(error.path)
            # Only the process that read it knows, so it speaks for itself.
            if self.on_note is not None:
                self.on_note(f"left out: {error}")


def random_source(seed: int, *numbers: int) -> np.random.Generator:
    """Return the source of randomness of one part of a run, independent of all others."""
    return np.random.default_rng([seed, *numbers])


def seed_torch(seed: int, *numbers: int) -> None:
    """Seed torch on all devices for one part of a run."""
    torch.manual_seed(int(np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0] >> 1))
