"""What a stage of training is to the loop that runs it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from tnet_cli.learning.state import Course


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What one step, or this process's share of it, has computed.

    Attributes:
        terms: Scalars with gradients, by name; the loss is their sum. Empty when there was nothing to learn from.
        figures: More numbers to report. Terms and figures of all processes add up to those of the step.
        state: What the stage carries from step to step, after this one.
    """

    terms: dict[str, Tensor]
    figures: dict[str, float] = field(default_factory=dict)
    state: dict[str, float] = field(default_factory=dict)


class Stage(Protocol):
    """One stage: how many steps, what each works on, and what it computes.

    Everything random in a step follows from the seed, the number of the stage and that of the step. So the next step
    can be prepared while this one computes, and a resumed run repeats what the interrupted one would have done.

    Attributes:
        name: Named in reports.
        steps: How many.
        learning_rate: Peak of a cosine schedule.
        report_every: Steps between two reports.
        gradient_clip: Largest norm of the gradient; infinite for no limit.
        epoch: Steps after which the model is validated; ``steps`` for once, at the end.
        depth: Processing levels that validation descends; all of the model's when None.
        state: What is carried from step to step.
    """

    name: str
    steps: int
    learning_rate: float
    report_every: int
    gradient_clip: float
    epoch: int
    depth: int | None
    state: dict[str, float]

    def begin(self, course: Course, number: int) -> None:
        """Make ready; called once, before the first step, and not when a run is resumed in the midst of the stage."""
        ...

    def resume(self, course: Course, number: int) -> None:
        """Make ready after the state of the run has been restored."""
        ...

    def prepare(self, rng: np.random.Generator, step: int) -> Any:
        """Return what step ``step`` (from 1) works on; called in a thread while the step before computes."""
        ...

    def compute(self, course: Course, work: Any) -> Computed:
        """Compute the terms of a step from what was prepared."""
        ...

    def halves(self, work: Any) -> Sequence[tuple[float, Any]]:
        """Split what was prepared into two, each with its share of the whole; one where it cannot be split."""
        ...

    def release(self, work: Any) -> None:
        """Close what was opened for a step."""
        ...
