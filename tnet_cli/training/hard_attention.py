"""Hard attention: whole slides, sampled locations, and the paper's objective."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tnet_cli.learning.patch_store import Teacher
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.stage import Computed
from tnet_cli.learning.state import Course
from tnet_cli.model.choice import GumbelTopK, LocationSampler, StochasticBeam, TopK
from tnet_cli.model.exploration import mean_entropy
from tnet_cli.model.loss import ObjectiveInput, ObjectiveWeights, objective, objective_of_nothing
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.sampling_log_probs import SamplingScheme, sampling_log_probs
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
from tnet_cli.training.soft_attention import halved_slides
from tnet_cli.training.warmup import location_loss

FIRST_BASELINE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class SlideBatch:
    """The slides of one step, and how much of what is drawn is uniform in it."""

    opened: list[OpenedSlide]
    exploration: float


@dataclass(slots=True, eq=False)
class HardAttention:
    """Training on whole slides: traverse with sampled locations, classify, and follow the objective; a ``Stage``.

    Where there are annotations, a feature's own class in the per-feature terms is what they say of its region, and the
    location module goes on learning from them; where nobody drew anything it is the slide's, as in the paper.

    Args:
        settings: Of the run.
        slide_count: Slides of an epoch.
        epochs: How many.
        depth: Processing levels to descend; all of the model's when None.
        explored: Share of all steps of hard attention before this stage, and share after it: what is left of the
            exploration falls from one to the other.
    """

    settings: TrainingSettings
    slide_count: int
    epochs: int
    depth: int | None = None
    explored: tuple[float, float] = (0.0, 1.0)
    name: str = "hard attention"
    steps: int = 0
    learning_rate: float = 0.0
    report_every: int = 10
    gradient_clip: float = 0.0
    epoch: int = 0
    state: dict[str, float] = field(default_factory=lambda: {"baseline": FIRST_BASELINE})
    slides: Sequence[TrainingSlide] = ()
    share: slice = field(default_factory=lambda: slice(None))
    base_px: int = 0
    stage: int = 0

    def __post_init__(self) -> None:
        """Take the settings' numbers."""
        self.epoch = -(-self.slide_count // self.settings.batch_slides)
        self.steps = self.epochs * self.epoch
        self.learning_rate, self.gradient_clip = self.settings.hard_learning_rate, self.settings.gradient_clip
        if self.depth is not None:
            self.name = f"hard attention to {self.depth} processing levels"

    def begin(self, course: Course, number: int) -> None:
        """Measure the statistics of normalisation if nothing has yet."""
        measure_if_new(course, number)
        self.resume(course, number)

    def resume(self, course: Course, number: int) -> None:
        """Take the run's slides; normalisation is frozen from here on."""
        freeze_normalisation(course.network)
        self.slides = [slide.down_to(self.depth) for slide in course.slides]
        self.base_px, self.stage = course.network.config.base_px, number
        self.share = slice(course.group.rank, None, course.group.size)

    def prepare(self, rng: np.random.Generator, step: int) -> SlideBatch:
        """Open this process's slides of the step; every epoch has its own order."""
        epoch, within = divmod(step - 1, self.epoch)
        # The order belongs to the epoch, not to the step: every step of it must draw the same.
        order = np.random.default_rng([self.settings.seed, self.stage, 0, epoch]).permutation(self.slide_count)
        first = within * self.settings.batch_slides
        chosen = order[first : first + self.settings.batch_slides]
        sources = rng.spawn(len(chosen))
        opened = open_ahead(
            [self.slides[index] for index in chosen[self.share]],
            sources[self.share],
            self.base_px,
            self.settings.readers,
        )
        before, after = self.explored
        left = 1 - (before + (after - before) * (step - 1) / self.steps)
        return SlideBatch(opened, self.settings.exploration * left)

    def compute(self, course: Course, work: SlideBatch) -> Computed:
        """Traverse, classify, and compute the objective's terms."""
        look = gradient_look(course, detach_location=True, exploration=work.exploration)
        travelled = travel_together(course, work.opened, look, lambda each: self._sampler(each.rng))
        weights = ObjectiveWeights(
            reinforce=self.settings.reinforce_weight,
            slide_cross_entropy=self.settings.slide_share,
            slide_reinforce=self.settings.slide_share,
        )
        teachers = [Teacher(slide, course.network.config, self.settings) for slide, _ in travelled]
        traversals = [traversal for _, traversal in travelled]
        taught = [each for pair in zip(teachers, traversals, strict=True) for each in _taught_regions(*pair)]
        slides, taught_count, choosing = course.group.total(
            torch.tensor([len(travelled), len(taught), sum(_choosing(t) for t in traversals)], dtype=torch.float64)
        ).tolist()
        baseline = self.state["baseline"]
        if not travelled:
            moved = objective_of_nothing(baseline, weights, course.group.total)
            return Computed({}, {"baseline": moved / course.group.size}, {"baseline": moved})
        labels = torch.tensor([slide.label for slide, _ in travelled], device=course.device)
        with course.precision.autocast():
            answer = course.network.classify([all_features(traversal) for traversal in traversals])
        logits = answer.logits.float()
        said = ObjectiveInput(
            logits=logits,
            labels=labels,
            feature_logits=[each.float() for each in answer.location_logits],
            location_log_probs=[self._log_probs(course, traversal, logits) for traversal in traversals],
            processing_levels=[_processing_levels(traversal).to(course.device) for traversal in traversals],
            feature_labels=[
                _feature_labels(*pair).to(course.device) for pair in zip(teachers, traversals, strict=True)
            ],
        )
        result = objective(said, baseline, weights, course.group.total)
        terms = {
            "cross_entropy": result.cross_entropy,
            "feature_cross_entropy": result.feature_cross_entropy,
            "reinforce": result.reinforce,
            "feature_reinforce": result.feature_reinforce,
        }
        if taught:
            losses = [location_loss(log_probs, targets.to(course.device)) for log_probs, targets in taught]
            terms["location"] = self.settings.annotation_weight * torch.stack(losses).sum() / taught_count
        if self.settings.entropy_weight and choosing:
            entropy = torch.stack([_entropy_sum(traversal, logits) for traversal in traversals]).sum() / choosing
            terms["entropy"] = -self.settings.entropy_weight * entropy
        figures = {
            "accuracy": float((logits.argmax(dim=1) == labels).sum()) / slides,
            # Every process knows it and reports a share.
            "baseline": result.baseline / course.group.size,
        }
        return Computed(terms, figures, {"baseline": result.baseline})

    def halves(self, work: SlideBatch) -> Sequence[tuple[float, SlideBatch]]:
        """Split the batch."""
        return [(share, SlideBatch(opened, work.exploration)) for share, opened in halved_slides(work.opened)]

    def release(self, work: SlideBatch) -> None:
        """Close the slides."""
        close_all(work.opened)

    def _sampler(self, rng: np.random.Generator) -> LocationSampler:
        match self.settings.sampling:
            case "gumbel":
                return StochasticBeam(rng)
            case "gumbel_redrawn":
                return GumbelTopK(rng)
            case "top_k":
                return TopK()

    def _log_probs(self, course: Course, traversal: Traversal, like: Tensor) -> Tensor:
        """Return what REINFORCE moves, (K - R,): of the draws, or of the cells in their grids; empty without any."""
        if len(traversal.levels) == 1:
            return like.new_zeros(0)
        if self.settings.credit == "cell" or self.settings.sampling == "top_k":
            return torch.cat([record.location_log_probs for record in traversal.levels[1:]])
        drawing: SamplingScheme = "redrawn" if self.settings.sampling == "gumbel_redrawn" else "beam_search"
        if course.network.config.choice == "per_grid":
            drawing = "per_grid"
        return torch.cat(sampling_log_probs(traversal, drawing))


def _processing_levels(traversal: Traversal) -> Tensor:
    return torch.cat([torch.full((len(r.regions),), r.processing_level) for r in traversal.levels])


def _feature_labels(teacher: Teacher, traversal: Traversal) -> Tensor:
    finest = teacher.finest
    return torch.tensor(
        [
            teacher.feature_label(region, is_finest=record.processing_level == finest)
            for record in traversal.levels
            for region in record.regions
        ]
    )


def _taught_regions(teacher: Teacher, traversal: Traversal) -> list[tuple[Tensor, Tensor]]:
    """Return log-probabilities and targets of each processing level in which annotations teach the location module."""
    found = []
    for record in traversal.levels:
        if record.allowed is None or record.cell_log_probs is None:
            continue
        targets = np.stack(
            [teacher.cell_targets(region, row) for region, row in zip(record.regions, record.allowed, strict=True)]
        )
        if targets.any():
            found.append((record.cell_log_probs, torch.from_numpy(targets)))
    return found


def _choosing(traversal: Traversal) -> int:
    """Count the grids that leave a choice."""
    return sum(int((r.allowed.sum(axis=1) > 1).sum()) for r in traversal.levels if r.allowed is not None)


def _entropy_sum(traversal: Traversal, like: Tensor) -> Tensor:
    """Return the summed entropy of the grids that leave a choice."""
    total = like.new_zeros(())
    for record in traversal.levels:
        if record.allowed is None or record.cell_log_probs is None:
            continue
        allowed = torch.from_numpy(record.allowed).to(like.device)
        total = total + mean_entropy(record.cell_log_probs, allowed) * (allowed.sum(dim=1) > 1).sum()
    return total
