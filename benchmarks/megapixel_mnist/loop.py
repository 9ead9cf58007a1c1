"""The loop of one stage of training: optimiser, rate, what is said of it, and how it survives being stopped."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GRADIENT_CLIP = 5.0
WEIGHT_DECAY = 1e-3
SAVE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        name: In what is said of it.
        steps: Of the optimiser.
        batch: Images in each.
        learning_rate: At its height; one cycle of it.
    """

    name: str
    steps: int
    batch: int
    learning_rate: float


class Loop:
    """The steps of one stage; goes on from where an interrupted one was last saved.

    Args:
        network: Trained in place: those of its parameters that want gradients.
        stage: Length and rate.
        saved: Where the unfinished stage is kept; nowhere when None.
    """

    def __init__(self, network: nn.Module, stage: Stage, saved: Path | None = None) -> None:
        self.network, self.stage, self.saved = network, stage, saved
        self.step, self.baseline = 0, 0.5
        self._trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(self._trained, lr=stage.learning_rate, weight_decay=WEIGHT_DECAY)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, stage.learning_rate, total_steps=stage.steps + 1
        )
        self._sums = dict[str, list[float]]()
        self._cpu_before, self._saved_at = 0.0, time.monotonic()
        self._cpu_start = time.process_time()
        if saved is not None and saved.exists():
            self._load(torch.load(saved, weights_only=True))

    @property
    def cpu_seconds(self) -> float:
        """Processor time the stage has taken, of all runs of it."""
        return self._cpu_before + time.process_time() - self._cpu_start

    def __iter__(self) -> Iterator[int]:
        """Yield the number of each step that is left."""
        while self.step < self.stage.steps:
            yield self.step

    def descend(self, loss: Tensor, /, **metrics: float) -> None:
        """Take one step down a loss, and the metrics to be said of it."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained, GRADIENT_CLIP)
        self._optimiser.step()
        self._schedule.step()
        self.step += 1
        for name, metric in metrics.items():
            self._sums.setdefault(name, []).append(metric)
        if self.step % max(1, min(25, self.stage.steps // 20)) == 0 or self.step == self.stage.steps:
            self._say()
        if self.saved is not None and time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self._save(self.saved)

    def _say(self) -> None:
        said = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in self._sums.items())
        place = f"{self.stage.name} {self.step}/{self.stage.steps}, {self.cpu_seconds:.0f} s of CPU"
        print(f"{place}: {said}", file=sys.stderr, flush=True)
        self._sums = {}

    def _save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "step": self.step,
            "baseline": self.baseline,
            "cpu_seconds": self.cpu_seconds,
        }
        write_whole(state, path)
        self._saved_at = time.monotonic()

    def _load(self, state: dict[str, object]) -> None:
        self.network.load_state_dict(state["network"])  # type: ignore[arg-type]
        self._optimiser.load_state_dict(state["optimiser"])  # type: ignore[arg-type]
        self._schedule.load_state_dict(state["schedule"])  # type: ignore[arg-type]
        self.step, self.baseline = int(state["step"]), float(state["baseline"])  # type: ignore[call-overload, arg-type]
        self._cpu_before = float(state["cpu_seconds"])  # type: ignore[arg-type]


def write_whole(state: object, path: Path) -> None:
    """Write a checkpoint so that it is there whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    torch.save(state, unfinished)
    unfinished.replace(path)
