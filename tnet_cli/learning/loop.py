"""The loop that every stage of training runs in: steps, reports, checkpoints, validation, and what may go wrong."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from tnet_cli.errors import TrainingError
from tnet_cli.inference.progress import VALIDATION, StepReport
from tnet_cli.learning.checkpoint import FILE_NAME, Checkpoint, optimiser_parts, restore_optimiser, save_checkpoint
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.state import TrainingState, random_source, seed_torch

TICK_S = 0.2
"""How often it is seen, while slides are read, whether the run is to stop."""


class Batch(Protocol):
    """This process's share of what one step works on."""

    def __len__(self) -> int: ...

    def part(self, rows: slice) -> Self:
        """Return some of its items."""

    def close(self) -> None:
        """Close what was opened for it."""


BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """What one step has computed, or one process or part of it; those of all of them add up to the step's.

    Attributes:
        terms: Scalars with gradients, by name; the loss is their sum. Empty when there was nothing to learn from.
        metrics: More numbers to report.
        carried: What the stage carries from step to step, after this one; each process knows it whole.
    """

    terms: dict[str, Tensor]
    metrics: dict[str, float] = field(default_factory=dict)
    carried: dict[str, float] = field(default_factory=dict)

    def all_metrics(self) -> dict[str, float]:
        """Return the terms' values, their sum, and the other metrics."""
        if not self.terms:
            return dict(self.metrics)
        values = {name: float(term.detach()) for name, term in self.terms.items()}
        return {"total": sum(values.values()), **values, **self.metrics}


@dataclass(eq=False, kw_only=True)
class Stage(ABC, Generic[BatchT]):
    """One stage of a run: how many steps, what each works on, and what it computes.

    Everything random in a step follows from the seed, the number of the stage and that of the step. So the next step
    can be prepared while this one computes, and a resumed run repeats what the interrupted one would have done.

    Attributes:
        name: Named in reports.
        learning_rate: Peak of a cosine schedule.
        report_every: Steps between two reports.
        gradient_clip: Largest norm of the gradient.
        epoch: Steps after which the model is validated, beside the end.
        depth: Processing levels that are descended, in validation too; all of the model's when None.
        carried: Numbers that are carried from step to step.
        number: Of the stage in the run, from 0.
    """

    state: TrainingState
    name: str
    steps: int
    learning_rate: float
    report_every: int = 10
    gradient_clip: float = math.inf
    epoch: int | None = None
    depth: int | None = None
    carried: dict[str, float] = field(default_factory=dict)
    number: int = 0

    @property
    def settings(self) -> TrainingSettings:
        """The run's settings."""
        return self.state.settings

    @abstractmethod
    def begin(self) -> None:
        """Make ready before the first step; not called when a run is resumed in the midst of the stage."""

    @abstractmethod
    def resume(self) -> None:
        """Make ready after the state of the run has been restored."""

    @abstractmethod
    def prepare(self, rng: np.random.Generator, step: int) -> BatchT:
        """Return what step ``step`` (from 1) works on; called in a thread while the step before computes."""

    @abstractmethod
    def compute(self, batch: BatchT, share: float) -> StepOutput:
        """Compute the terms of a step from what was prepared, or from a part of it.

        Args:
            batch: This process's items; there may be none.
            share: Of the step's items, those of all processes in this part.
        """


class StageRun:
    """One stage of a run under way.

    Args:
        validation_metrics: Called after each epoch with the stage's depth; None where there is nothing to validate on.
            It returns None where it was interrupted.
    """

    def __init__(
        self, stage: Stage[Any], validation_metrics: Callable[[int | None], dict[str, float] | None] | None = None
    ) -> None:
        self.state, self.stage, self.validation_metrics = stage.state, stage, validation_metrics
        self.optimiser = torch.optim.AdamW(
            self.state.network.parameters(), lr=stage.learning_rate, weight_decay=self.state.settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, stage.learning_rate, total_steps=stage.steps + 1
        )
        self.step = 0
        self.sums: dict[str, list[float]] = {}
        self.is_validated = True
        self.saved: str | None = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this stage."""
        self.step, self.sums, self.stage.carried = checkpoint.step, checkpoint.sums, checkpoint.carried
        self.is_validated = checkpoint.is_validated
        if checkpoint.groups:
            restore_optimiser(self.optimiser, checkpoint)
            self.schedule.load_state_dict(checkpoint.schedule)
        self.saved = f"{self.stage.name}, step {self.step}"

    def run(self) -> None:
        """Run the steps that are left, each prepared in a thread while the one before computes.

        A signal that asks to stop ends it after the step under way, in all processes after the same, with a checkpoint
        from which a run goes on as if nothing had been.

        Raises:
            KeyboardInterrupt: a signal asked to stop.
            TrainingError: the loss or its gradient is not finite, or memory does not suffice.
            SlideError: a slide cannot be read, and bad slides are not to be skipped.
        """
        asked = self.state.interruption
        try:
            with asked.held_back():
                self._run()
                # Its last checkpoint is written.
                number = self.state.group.agreed(asked.requested)
            if number:
                asked.act(number)
        except RuntimeError:
            # Of several processes that were asked to stop, some may be gone in the midst of an exchange.
            if not asked.requested or self.state.group.size == 1:
                raise
            asked.act(asked.requested)

    def _run(self) -> None:
        steps = self.stage.steps
        self.state.network.train()
        if self.step == 0:
            self._save()
        elif not self.is_validated:
            self._validate()
            self._save()
        with ThreadPoolExecutor(1, thread_name_prefix="tnet-next-step") as ahead:
            pending = ahead.submit(self._prepare, self.step + 1) if self.step < steps else None
            try:
                while pending is not None:
                    batch = self._prepared(pending)
                    pending = ahead.submit(self._prepare, self.step + 2) if self.step + 1 < steps else None
                    with closing(batch):
                        self._take_step(batch)
                    self._after_step()
            finally:
                self._drop(pending)

    def _prepared(self, pending: "Future[Any]") -> Any:
        """Wait for what was prepared; one process alone need not, when it is asked to stop."""
        while not pending.done() and self.state.group.size == 1:
            wait([pending], TICK_S)
            self._stop_if_asked(self.state.interruption.requested)
        return pending.result()

    def _stop_if_asked(self, number: int) -> None:
        """Write a checkpoint and end, where a signal has asked for that."""
        if number:
            self._save()
            self.state.interruption.act(number)

    def _drop(self, pending: "Future[Any] | None") -> None:
        """Close what was opened for a step that will not be taken."""
        if pending is not None and not pending.cancel() and pending.exception() is None:
            pending.result().close()

    def _prepare(self, step: int) -> Any:
        return self.stage.prepare(random_source(self.state.settings.seed, self.stage.number, step), step)

    def _take_step(self, batch: Batch) -> None:
        state = self.state
        seed_torch(state.settings.seed, self.stage.number, self.step + 1, state.group.rank)
        self.optimiser.zero_grad(set_to_none=True)
        try:
            metrics, carried = self._add_gradients(batch)
        except torch.OutOfMemoryError as exc:
            raise TrainingError(
                f"{self.stage.name}, step {self.step + 1}: memory on {state.device} does not suffice; compute each "
                f"batch in more parts ([training] accumulate, now {state.settings.accumulate}), or give smaller "
                "batches or fewer locations"
            ) from exc
        metrics = state.group.total_by_name(metrics)
        if not all(math.isfinite(value) for value in metrics.values()):
            self._stop(metrics)
        state.group.add_gradients(state.network)
        if "total" in metrics:
            norm = state.precision.step(self.optimiser, state.network, self.stage.gradient_clip)
            if not math.isfinite(norm) and not state.precision.scaler.is_enabled():
                self._stop({**metrics, "gradient": norm})
        with warnings.catch_warnings():
            # A step may be left out, where no slide could be read or a scaled loss was too large; time goes on.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.schedule.step()
        self.stage.carried |= carried
        self.step += 1
        for name, value in metrics.items():
            self.sums.setdefault(name, []).append(value)

    def _add_gradients(self, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
        """Add up the gradients of a batch's parts; return its metrics and what the stage carries on."""
        metrics: dict[str, float] = {}
        carried: dict[str, float] = {}
        for share, part in self._parts(batch):
            try:
                output = self.stage.compute(part, share)
            except FloatingPointError:
                self._stop({"network": math.nan})
            if output.terms:
                self.state.precision.backward(torch.stack(list(output.terms.values())).sum())
            for sums, values in ((metrics, output.all_metrics()), (carried, output.carried)):
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
        return metrics, carried

    def _parts(self, batch: Batch) -> list[tuple[float, Batch]]:
        """Split a batch as the settings say, each part with its share of the items of all processes.

        All processes split alike, so that each part is one of all of them, though it may be empty in some.
        """
        count = self.state.settings.accumulate
        parts = [batch.part(slice(first, None, count)) for first in range(count)]
        items = self.state.group.total(torch.tensor([len(part) for part in parts], dtype=torch.float64))
        if count == 1 or not items.any():
            return [(1.0, batch)]
        return [(share, part) for share, part in zip((items / items.sum()).tolist(), parts, strict=True) if share]

    def _stop(self, metrics: dict[str, float]) -> NoReturn:
        bad = ", ".join(f"{name} {value:g}" for name, value in metrics.items() if not math.isfinite(value))
        kept = "no checkpoint was kept"
        if self.state.folder is not None and self.saved is not None:
            kept = f"the last good checkpoint is {self.state.folder / FILE_NAME} ({self.saved})"
        raise TrainingError(
            f"{self.stage.name}, step {self.step + 1}: the loss is not finite any more ({bad}); {kept}; "
            "try a lower learning rate"
        )

    def _after_step(self) -> None:
        stage, state = self.stage, self.state
        is_last = self.step == stage.steps
        if self.step % stage.report_every == 0 or is_last:
            means = {name: float(np.mean(values)) for name, values in self.sums.items()}
            state.report(StepReport(stage.name, self.step, stage.steps, means))
            self.sums = {}
        self.is_validated = self.validation_metrics is None or not (
            self.step % (stage.epoch or stage.steps) == 0 or is_last
        )
        self._stop_if_asked(state.group.agreed(state.interruption.requested))
        if not self.is_validated:
            self._validate()
        if self.step % state.settings.checkpoint_every == 0 or is_last:
            self._save()

    def _validate(self) -> None:
        stage, state = self.stage, self.state
        if self.validation_metrics is None:
            return
        state.group.synchronise(state.network)
        terms = self.validation_metrics(stage.depth)
        if terms is None:
            self._stop_if_asked(state.group.agreed(state.interruption.requested))
        else:
            state.report(StepReport(VALIDATION + stage.name, self.step, stage.steps, terms))
        self.is_validated = True
        state.network.train()

    def _save(self) -> None:
        """Write a checkpoint, unless a weight is not finite: the one before is the last good one then."""
        state = self.state
        state.group.synchronise(state.network)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in state.network.parameters()):
            self._stop({"weights": math.nan})
        stage, parts, schedule = self.stage, optimiser_parts(self.optimiser), self.schedule.state_dict()
        where = Checkpoint(
            stage.number, self.step, stage.carried, self.sums, schedule, *parts, is_validated=self.is_validated
        )
        save_checkpoint(state, where)
        self.saved = f"{self.stage.name}, step {self.step}"
