"""The warm-up with soft attention: slide labels alone teach the location module where to look.

Cells are drawn at random. Their features are averaged with the softmax of the location module's log-probabilities over
what was drawn, and the average is classified: so the label's gradient reaches the location module, which hard attention
keeps it from.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from tnet_cli.learning.loop import StepOutput
from tnet_cli.learning.state import TrainingState
from tnet_cli.model.choice import LocationSampler, RandomChoice
from tnet_cli.model.traversal import Traversal
from tnet_cli.training.rollout import Rollout, SlideBatch, SlideStage, all_features


class SoftAttention(SlideStage):
    """Soft attention over random cells."""

    detach_location = False

    def __init__(self, state: TrainingState) -> None:
        super().__init__(
            state=state,
            name="soft attention",
            steps=state.settings.soft_steps,
            learning_rate=state.settings.soft_learning_rate,
            gradient_clip=state.settings.gradient_clip,
        )

    def prepare(self, rng: np.random.Generator, step: int) -> SlideBatch:  # noqa: ARG002 (every step draws alike)
        """Draw slides, and open this process's."""
        count = len(self.state.slides)
        return self.open_slides(rng.choice(count, size=min(self.settings.batch_slides, count), replace=False), rng)

    def sampler(self, rng: np.random.Generator) -> LocationSampler:
        """Choose at random, all cells alike."""
        return RandomChoice(rng)

    def learn(self, rollouts: Sequence[Rollout], share: float) -> StepOutput:
        """Compute the cross-entropy of each processing level's soft average, and of the whole slide."""
        state = self.state
        tally = torch.tensor([len(rollouts), sum(len(traversal.levels) - 1 for _, traversal, _ in rollouts)])
        slides, averages = (state.group.total(tally.double()) / share).tolist()
        if not rollouts:
            return StepOutput({})
        with state.precision.autocast():
            features, rngs = [all_features(each.traversal) for each in rollouts], [each.rng for each in rollouts]
            logits = state.network.classify(
                features, rngs, closest=[each.traversal.closest for each in rollouts]
            ).logits.float()
            soft = [self._soft_logits(each.traversal, each.rng) for each in rollouts]
        labels = torch.tensor([each.slide.label for each in rollouts], device=state.device)
        terms = {"slide": functional.cross_entropy(logits, labels, reduction="sum") / slides}
        below = [label.expand(len(each)) for label, each in zip(labels, soft, strict=True)]
        if averages and any(len(each) for each in soft):
            of_averages = functional.cross_entropy(torch.cat(soft), torch.cat(below), reduction="sum")
            terms["soft"] = of_averages / averages
        right = float((logits.argmax(dim=1) == labels).sum())
        return StepOutput(terms, {"accuracy": right / slides})

    def _soft_logits(self, traversal: Traversal, rng: np.random.Generator) -> torch.Tensor:
        """Return the logits (L - 1, C) of the soft average of each processing level after the roots'."""
        averages = [torch.softmax(each.path_log_probs, dim=0) @ each.features for each in traversal.levels[1:]]
        stacked = torch.stack(averages) if averages else all_features(traversal)[:0]
        classification = self.state.network.classification
        logits: torch.Tensor = classification(stacked, classification.draw_kept(len(stacked), rng).to(stacked.device))
        return logits.float()
