"""Hard attention: whole slides, sampled locations, and the paper's objective."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.loss import Objective, ObjectiveInput, ObjectiveWeights, objective
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal
from tnet_cli.pipeline.engine import Journey, drive
from tnet_cli.pipeline.errand import slide_errand
from tnet_cli.pipeline.training.pool import Teacher
from tnet_cli.pipeline.training.settings import TrainingSettings
from tnet_cli.pipeline.training.slides import TrainingSlide
from tnet_cli.pipeline.training.warmup import StepReport, location_loss
from tnet_cli.slide.opening import open_slide

READERS = 2
BATCH_PATCHES = 32


def train_hard(
    network: TNet,
    slides: Sequence[TrainingSlide],
    settings: TrainingSettings,
    rng: np.random.Generator,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """Train on whole slides: traverse with Gumbel top-k, classify, and follow the objective.

    Where there are annotations, a feature's own class in the per-feature terms is what they say of its region, and the
    location module goes on learning from them; where nobody drew anything it is the slide's, as in the paper.

    Args:
        network: Trained in place; its normalisation is frozen.
        slides: Labelled slides.
        settings: Rates, sizes and weights.
        rng: Source of randomness.
        on_step: Told the terms every ten steps.
    """
    steps = settings.hard_epochs * -(-len(slides) // settings.batch_slides)
    if steps == 0:
        return
    weights = ObjectiveWeights(
        reinforce=settings.reinforce_weight,
        slide_cross_entropy=settings.slide_share,
        slide_reinforce=settings.slide_share,
    )
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.hard_learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.hard_learning_rate, total_steps=steps + 1)
    network.train()
    baseline, step, sums = 0.5, 0, dict[str, list[float]]()
    for _ in range(settings.hard_epochs):
        order = rng.permutation(len(slides))
        for start in range(0, len(order), settings.batch_slides):
            batch = [slides[index] for index in order[start : start + settings.batch_slides]]
            terms, supervised, accuracy = _step(network, batch, settings, weights, baseline, rng)
            optimiser.zero_grad(set_to_none=True)
            (terms.total + supervised).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimiser.step()
            schedule.step()
            baseline, step = terms.baseline, step + 1
            for name, value in (
                ("total", float(terms.total.detach())),
                ("cross_entropy", float(terms.cross_entropy.detach())),
                ("location", float(supervised.detach())),
                ("accuracy", accuracy),
                ("baseline", baseline),
            ):
                sums.setdefault(name, []).append(value)
            if on_step is not None and (step % 10 == 0 or step == steps):
                on_step(StepReport("hard attention", step, steps, {k: float(np.mean(v)) for k, v in sums.items()}))
                sums = {}


def _step(
    network: TNet,
    batch: Sequence[TrainingSlide],
    settings: TrainingSettings,
    weights: ObjectiveWeights,
    baseline: float,
    rng: np.random.Generator,
) -> tuple[Objective, Tensor, float]:
    journeys = _traverse(network, batch, settings, rng)
    teachers = [Teacher(slide, network.config, settings) for slide in batch]
    labels = torch.tensor([slide.label for slide in batch])
    answer = network.classify([torch.cat([r.features for r in traversal.levels]) for traversal in journeys])
    said = ObjectiveInput(
        logits=answer.logits,
        labels=labels,
        feature_logits=answer.location_logits,
        location_log_probs=[_chosen_log_probs(t, answer.logits) for t in journeys],
        processing_levels=[
            torch.cat([torch.full((len(r.regions),), r.processing_level) for r in t.levels]) for t in journeys
        ],
        feature_labels=[_feature_labels(teacher, t) for teacher, t in zip(teachers, journeys, strict=True)],
    )
    terms = objective(said, baseline, weights)
    supervised = _annotation_term(teachers, journeys, settings.annotation_weight)
    accuracy = float((answer.logits.argmax(dim=1) == labels).float().mean())
    return terms, supervised, accuracy


def _traverse(
    network: TNet, batch: Sequence[TrainingSlide], settings: TrainingSettings, rng: np.random.Generator
) -> list[Traversal]:
    def look(patches: Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        return network.look(
            patches, torch.from_numpy(positions), None if allowed is None else torch.from_numpy(allowed)
        )

    with ExitStack() as open_slides:
        errands = [
            slide_errand(
                open_slides.enter_context(open_slide(slide.entry.path, mpp=slide.entry.mpp)),
                slide.preparation,
                network.config,
                settings.hard_locations,
                GumbelTopK(rng),
            )
            for slide in batch
        ]
        ended = dict(drive(errands, look, batch_size=BATCH_PATCHES, readers=READERS, slides_in_flight=len(errands)))
    traversals = []
    for number in range(len(batch)):
        journey = ended[number]
        if not isinstance(journey, Journey):
            raise journey
        traversals.append(journey.traversal)
    return traversals


def _chosen_log_probs(traversal: Traversal, like: Tensor) -> Tensor:
    """Return the log-probability of each attended location in its grid, (K - R,); empty when only roots were seen."""
    chosen = [record.location_log_probs for record in traversal.levels[1:]]
    return torch.cat(chosen) if chosen else like.new_zeros(0)


def _feature_labels(teacher: Teacher, traversal: Traversal) -> Tensor:
    finest = teacher.slide.preparation.scale.processing_levels - 1
    return torch.tensor(
        [
            teacher.feature_label(region, is_finest=record.processing_level == finest)
            for record in traversal.levels
            for region in record.regions
        ]
    )


def _annotation_term(teachers: Sequence[Teacher], traversals: Sequence[Traversal], weight: float) -> Tensor:
    """Keep teaching the location module where lesions are."""
    losses = []
    for teacher, traversal in zip(teachers, traversals, strict=True):
        for record in traversal.levels:
            if record.allowed is None or record.cell_log_probs is None:
                continue
            targets = np.stack(
                [teacher.cell_targets(region, row) for region, row in zip(record.regions, record.allowed, strict=True)]
            )
            if targets.any():
                losses.append(location_loss(record.cell_log_probs, torch.from_numpy(targets)))
    return weight * torch.stack(losses).mean() if losses else torch.zeros(())
