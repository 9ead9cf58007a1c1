"""The warm-up with soft attention: slide labels alone teach the location module where to look.

Cells are drawn at random. Their features are averaged with the softmax of the location module's log-probabilities over
what was drawn, and the average is classified: so the label's gradient reaches the location module, which hard attention
keeps it from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.stage import Computed
from tnet_cli.learning.state import Course
from tnet_cli.model.choice import RandomChoice
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.traversal import Traversal
from tnet_cli.training.frozen import measure_if_new
from tnet_cli.training.rollout import (
    OpenedSlide,
    all_features,
    close_all,
    gradient_look,
    open_ahead,
    travel_together,
)


@dataclass(slots=True, eq=False)
class SoftAttention:
    """Soft attention over random cells; a ``Stage``.

    Args:
        settings: Of the run.
    """

    settings: TrainingSettings
    name: str = "soft attention"
    steps: int = 0
    learning_rate: float = 0.0
    report_every: int = 10
    gradient_clip: float = 0.0
    epoch: int = 0
    depth: int | None = None
    state: dict[str, float] = field(default_factory=dict)
    slides: Sequence[TrainingSlide] = ()
    share: slice = field(default_factory=lambda: slice(None))
    base_px: int = 0

    def __post_init__(self) -> None:
        """Take the settings' numbers."""
        self.steps = self.epoch = self.settings.soft_steps
        self.learning_rate, self.gradient_clip = self.settings.soft_learning_rate, self.settings.gradient_clip

    def begin(self, course: Course, number: int) -> None:
        """Measure the statistics of normalisation if nothing has yet."""
        measure_if_new(course, number)
        self.resume(course, number)

    def resume(self, course: Course, number: int) -> None:  # noqa: ARG002 (of the protocol)
        """Take the run's slides; normalisation is frozen from here on."""
        freeze_normalisation(course.network)
        self.slides, self.base_px = course.slides, course.network.config.base_px
        self.share = slice(course.group.rank, None, course.group.size)

    def prepare(self, rng: np.random.Generator, step: int) -> list[OpenedSlide]:  # noqa: ARG002 (of the protocol)
        """Draw slides, and open this process's."""
        count = min(self.settings.batch_slides, len(self.slides))
        chosen = rng.choice(len(self.slides), size=count, replace=False)[self.share]
        sources = rng.spawn(count)[self.share]
        return open_ahead([self.slides[index] for index in chosen], sources, self.base_px, self.settings.readers)

    def compute(self, course: Course, work: list[OpenedSlide]) -> Computed:
        """Compute the cross-entropy of each processing level's soft average, and of the whole slide."""
        look = gradient_look(course, detach_location=False)
        travelled = travel_together(course, work, look, lambda each: RandomChoice(each.rng))
        tally = torch.tensor([len(travelled), sum(len(t.levels) - 1 for _, t in travelled)])
        slides, averages = course.group.total(tally.double()).tolist()
        if not travelled:
            return Computed({})
        with course.precision.autocast():
            logits = course.network.classify([all_features(traversal) for _, traversal in travelled]).logits.float()
            soft = [soft_logits(course, traversal) for _, traversal in travelled]
        labels = torch.tensor([slide.label for slide, _ in travelled], device=course.device)
        terms = {"slide": functional.cross_entropy(logits, labels, reduction="sum") / slides}
        below = [label.expand(len(each)) for label, each in zip(labels, soft, strict=True)]
        if averages and any(len(each) for each in soft):
            of_averages = functional.cross_entropy(torch.cat(soft), torch.cat(below), reduction="sum")
            terms["soft"] = of_averages / averages
        right = float((logits.argmax(dim=1) == labels).sum())
        return Computed(terms, {"accuracy": right / slides})

    def halves(self, work: list[OpenedSlide]) -> Sequence[tuple[float, list[OpenedSlide]]]:
        """Split the batch."""
        return halved_slides(work)

    def release(self, work: list[OpenedSlide]) -> None:
        """Close the slides."""
        close_all(work)


def soft_logits(course: Course, traversal: Traversal) -> torch.Tensor:
    """Return the logits (L - 1, C) of the soft average of each processing level after the roots'."""
    averages = []
    for record in traversal.levels[1:]:
        weights = torch.softmax(record.path_log_probs, dim=0)
        averages.append(weights @ record.features)
    stacked = torch.stack(averages) if averages else all_features(traversal)[:0]
    logits: torch.Tensor = course.network.classification(stacked)
    return logits.float()


def halved_slides(work: list[OpenedSlide]) -> Sequence[tuple[float, list[OpenedSlide]]]:
    """Split a batch of slides into two, each with its share."""
    if len(work) < 2:
        return [(1.0, work)]
    half = len(work) // 2
    return [(half / len(work), work[:half]), (1 - half / len(work), work[half:])]
