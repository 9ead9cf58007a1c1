"""The loop that every stage of training runs in: steps, reports, checkpoints, validation, and what may go wrong."""

import math
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import torch

from tnet_cli.errors import TrainingError
from tnet_cli.learning.checkpoint import (
    FILE_NAME,
    Checkpoint,
    optimiser_parts,
    restore_optimiser,
    save_checkpoint,
)
from tnet_cli.learning.stage import Computed, Stage
from tnet_cli.learning.state import Course, StepReport, random_source, seed_torch


class StageRun:
    """One stage of a run under way.

    Args:
        course: The run.
        stage: The stage, begun or resumed.
        number: Of the stage in the run, from 0.
        validate: Called after each epoch with the stage; None where there is nothing to validate on.
    """

    def __init__(
        self, course: Course, stage: Stage, number: int, validate: Callable[[Stage], dict[str, float]] | None
    ) -> None:
        self.course, self.stage, self.number, self.validate = course, stage, number, validate
        self.optimiser = torch.optim.AdamW(
            course.network.parameters(), lr=stage.learning_rate, weight_decay=course.settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, stage.learning_rate, total_steps=stage.steps + 1
        )
        self.step = 0
        self.sums: dict[str, list[float]] = {}
        self.saved: str | None = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this stage."""
        self.step, self.sums, self.stage.state = checkpoint.step, checkpoint.sums, checkpoint.state
        if checkpoint.groups:
            restore_optimiser(self.optimiser, checkpoint.groups, checkpoint.optimiser)
            self.schedule.load_state_dict(checkpoint.schedule)
        self.saved = f"{self.stage.name}, step {self.step}"

    def run(self) -> None:
        """Run the steps that are left, each prepared in a thread while the one before computes.

        Raises:
            TrainingError: the loss or its gradient is not finite, or memory does not suffice.
            SlideError: a slide cannot be read, and bad slides are not to be skipped.
        """
        steps = self.stage.steps
        self.course.network.train()
        if self.step == 0:
            self._save()
        with ThreadPoolExecutor(1, thread_name_prefix="tnet-next-step") as ahead:
            pending = ahead.submit(self._prepare, self.step + 1) if self.step < steps else None
            try:
                while pending is not None:
                    work = pending.result()
                    pending = ahead.submit(self._prepare, self.step + 2) if self.step + 1 < steps else None
                    try:
                        self._take_step(work)
                    finally:
                        self.stage.release(work)
                    self._after_step()
            finally:
                self._drop(pending)

    def _drop(self, pending: "Future[Any] | None") -> None:
        """Close what was opened for a step that will not be taken."""
        if pending is not None and not pending.cancel() and pending.exception() is None:
            self.stage.release(pending.result())

    def _prepare(self, step: int) -> Any:
        return self.stage.prepare(random_source(self.course.settings.seed, self.number, step), step)

    def _take_step(self, work: Any) -> None:
        course = self.course
        seed_torch(course.settings.seed, self.number, self.step + 1, course.group.rank)
        try:
            figures, state = self._gradients(work)
        except torch.OutOfMemoryError as exc:
            if course.halved or course.group.size > 1 or len(self.stage.halves(work)) < 2:
                raise TrainingError(
                    f"{self.stage.name}, step {self.step + 1}: memory on {course.device} does not suffice"
                    f"{' for half a batch' if course.halved else ''}; give smaller batches or fewer locations"
                ) from exc
            course.halved = True
            course.note(
                f"{self.stage.name}, step {self.step + 1}: memory on {course.device} did not suffice; "
                "from here on each batch is computed in two halves"
            )
        else:
            self._finish_step(figures, state)
            return
        # Outside the handler nothing holds the failed attempt's tensors any more.
        if course.device.type == "cuda":
            torch.cuda.empty_cache()
        seed_torch(course.settings.seed, self.number, self.step + 1, course.group.rank)
        self._take_again(work)

    def _take_again(self, work: Any) -> None:
        try:
            figures, state = self._gradients(work)
        except torch.OutOfMemoryError as exc:
            raise TrainingError(
                f"{self.stage.name}, step {self.step + 1}: memory on {self.course.device} does not suffice for half a "
                "batch; give smaller batches or fewer locations"
            ) from exc
        self._finish_step(figures, state)

    def _gradients(self, work: Any) -> tuple[dict[str, float], dict[str, float]]:
        """Compute the gradients of a step; return its figures and the stage's state after it."""
        self.optimiser.zero_grad(set_to_none=True)
        parts = self.stage.halves(work) if self.course.halved else [(1.0, work)]
        figures: dict[str, float] = {}
        states: list[dict[str, float]] = []
        for share, part in parts:
            try:
                computed = self.stage.compute(self.course, part)
            except FloatingPointError:
                self._stop({"network": math.nan})
            for name, value in _figures_of(computed).items():
                figures[name] = figures.get(name, 0.0) + share * value
            if computed.terms:
                loss = torch.stack(list(computed.terms.values())).sum()
                if not self.course.group.size > 1 and not bool(torch.isfinite(loss)):
                    self._stop(figures)
                self.course.precision.backward(share * loss)
            states.append(computed.state)
        state = {name: float(np.mean([each[name] for each in states])) for name in states[0]}
        return figures, state

    def _finish_step(self, figures: dict[str, float], state: dict[str, float]) -> None:
        course = self.course
        figures = self._of_all_processes(figures)
        if not all(math.isfinite(value) for value in figures.values()):
            self._stop(figures)
        course.group.add_gradients(course.network)
        if "total" in figures:
            norm = course.precision.step(self.optimiser, course.network, self.stage.gradient_clip)
            if not math.isfinite(norm) and not course.precision.scaler.is_enabled():
                self._stop({**figures, "gradient": norm})
        with warnings.catch_warnings():
            # A step may be left out, where no slide could be read or a scaled loss was too large; time goes on.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.schedule.step()
        self.stage.state = {**self.stage.state, **state}
        self.step += 1
        for name, value in figures.items():
            self.sums.setdefault(name, []).append(value)

    def _of_all_processes(self, figures: dict[str, float]) -> dict[str, float]:
        """Add up the figures of all processes; a process without a slide of its own may lack some."""
        group = self.course.group
        if group.size == 1:
            return figures
        every: list[dict[str, float]] = [{} for _ in range(group.size)]
        torch.distributed.all_gather_object(every, figures)
        names = dict.fromkeys(name for each in every for name in each)
        return {name: sum(each.get(name, 0.0) for each in every) for name in names}

    def _stop(self, figures: dict[str, float]) -> NoReturn:
        bad = ", ".join(f"{name} {value:g}" for name, value in figures.items() if not math.isfinite(value))
        kept = "no checkpoint was kept"
        if self.course.folder is not None and self.saved is not None:
            kept = f"the last good checkpoint is {self.course.folder / FILE_NAME} ({self.saved})"
        raise TrainingError(
            f"{self.stage.name}, step {self.step + 1}: the loss is not finite any more ({bad}); {kept}; "
            "try a lower learning rate"
        )

    def _after_step(self) -> None:
        stage, course = self.stage, self.course
        if self.step % stage.report_every == 0 or self.step == stage.steps:
            means = {name: float(np.mean(values)) for name, values in self.sums.items()}
            course.report(StepReport(stage.name, self.step, stage.steps, means))
            self.sums = {}
        if self.validate is not None and (self.step % stage.epoch == 0 or self.step == stage.steps):
            course.group.make_alike(course.network)
            terms = self.validate(stage)
            course.report(StepReport(f"validation {stage.name}", self.step, stage.steps, terms))
            course.network.train()
        if self.step % course.settings.checkpoint_every == 0 or self.step == stage.steps:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, unless a weight is not finite: the one before is the last good one then."""
        course = self.course
        course.group.make_alike(course.network)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in course.network.parameters()):
            self._stop({"weights": math.nan})
        groups, tensors = optimiser_parts(self.optimiser)
        checkpoint = Checkpoint(
            stage=self.number,
            step=self.step,
            state=self.stage.state,
            sums=self.sums,
            schedule=self.schedule.state_dict(),
            groups=groups,
            optimiser=tensors,
        )
        save_checkpoint(course, checkpoint)
        self.saved = f"{self.stage.name}, step {self.step}"


def _figures_of(computed: Computed) -> dict[str, float]:
    """Return the terms' values, their sum, and the other figures."""
    if not computed.terms:
        return dict(computed.figures)
    values = {name: float(term.detach()) for name, term in computed.terms.items()}
    return {"total": sum(values.values()), **values, **computed.figures}
