"""A training run under way: the network, where and how it computes, who shares the batch, and who is told."""

import hashlib
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tnet_cli.errors import SlideError
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.learning.distributed import ProcessGroup
from tnet_cli.learning.frozen_features import FrozenFeatures
from tnet_cli.learning.frozen_views import FrozenViews
from tnet_cli.learning.interruption import Interruption
from tnet_cli.learning.patch_store import PatchPool
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.model.tnet import TNet


class Precision:
    """How a network computes: on CUDA in bfloat16, or float16 with a scaled loss where it has not; else in float32.

    Args:
        mixed: Whether half precision is wanted.
    """

    def __init__(self, device: torch.device, *, mixed: bool) -> None:
        self.dtype: torch.dtype | None = None
        if mixed and device.type == "cuda":
            self.dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the network computes."""
        return nullcontext() if self.dtype is None else torch.autocast("cuda", dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled where float16 needs it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimiser: torch.optim.Optimizer, network: torch.nn.Module, gradient_clip: float) -> float:
        """Clip the gradients and take a step, unless they are not finite.

        Returns:
            The norm of the gradient before it was clipped. Where it is not finite no step was taken; under a scaled
            loss that happens now and then, and the scale is lowered.
        """
        self.scaler.unscale_(optimiser)
        norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), gradient_clip))
        if self.scaler.is_enabled() or math.isfinite(norm):
            self.scaler.step(optimiser)
        self.scaler.update()
        return norm


@dataclass(slots=True, eq=False)
class TrainingState:
    """A training run under way.

    Attributes:
        network: Trained in place.
        device: Where the network is.
        pool: Patches of the warm-up.
        run_digest: Names this run; only its own checkpoints can resume it.
        folder: Of checkpoints, or None to keep none.
        interruption: Whether the user has asked to stop.
        pretrained: Whether the backbone began with pretrained weights.
        skip_bad: Leave slides out that cannot be read, instead of stopping.
        features: What frozen encoders see, where it is kept; None where it is always computed.
        views: What they see of the views of the pool's patches; None where these have none.
        noted: Slides that were already named as unreadable, and sentences that are told once.
    """

    network: TNet
    slides: list[TrainingSlide]
    settings: TrainingSettings
    device: torch.device
    group: ProcessGroup
    precision: Precision
    progress: Progress = field(default_factory=Progress)
    pool: PatchPool = field(default_factory=PatchPool)
    run_digest: str = ""
    folder: Path | None = None
    pretrained: bool = False
    skip_bad: bool = False
    features: FrozenFeatures | None = None
    views: FrozenViews | None = None
    noted: set[str] = field(default_factory=set)
    interruption: Interruption = field(default_factory=Interruption)

    def report(self, report: StepReport) -> None:
        """Tell metrics, once for all processes."""
        if self.group.rank == 0:
            self.progress.step(report)

    def note(self, text: str) -> None:
        """Tell a sentence, once for all processes."""
        if self.group.rank == 0:
            self.progress.note(text)

    def note_once(self, text: str) -> None:
        """Tell a sentence for the first time only."""
        if text not in self.noted:
            self.noted.add(text)
            self.note(text)

    def tell_doubts(self, slide: TrainingSlide) -> None:
        """Tell what the reader of a slide has doubted, each sentence once."""
        for sentence in sorted(slide.doubts - self.noted):
            self.noted.add(sentence)
            # Only the process that read it knows, so it speaks for itself.
            self.progress.note(sentence)

    def leave_out(self, error: SlideError) -> None:
        """Note a slide that cannot be read and go on without it, or stop.

        Raises:
            SlideError: bad slides are not to be skipped.
        """
        if not self.skip_bad:
            raise error
        if error.path not in self.noted:
            self.noted.add(error.path)
            self.progress.note(f"left out: {error}")


def digest_of(network: TNet) -> str:
    """Return a digest of a network's weights, hexadecimal."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def random_source(seed: int, *numbers: int) -> np.random.Generator:
    """Return the source of randomness of one part of a run, independent of all others."""
    return np.random.default_rng([seed, *numbers])


def seed_torch(seed: int, *numbers: int) -> None:
    """Seed torch on all devices for one part of a run."""
    torch.manual_seed(int(np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0] >> 1))
