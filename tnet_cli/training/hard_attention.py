"""Hard attention: whole slides, sampled locations, and the paper's objective."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tnet_cli.learning.loop import StepOutput
from tnet_cli.learning.slides import AnnotationTargets
from tnet_cli.learning.state import TrainingState
from tnet_cli.model.choice import GumbelTopK, LocationSampler, StochasticBeam, TopK
from tnet_cli.model.location import mean_entropy
from tnet_cli.model.loss import ObjectiveInput, ObjectiveWeights, objective, objective_of_nothing
from tnet_cli.model.sampling_log_probs import SamplingScheme, sampling_log_probs
from tnet_cli.model.traversal import ProcessingLevelRecord, Traversal
from tnet_cli.training.rollout import Rollout, SlideBatch, SlideStage, all_features
from tnet_cli.training.warmup import places_loss

FIRST_BASELINE = 0.5


class HardAttention(SlideStage):
    """Training on whole slides: traverse with sampled locations, classify, and follow the objective.

    Where there are annotations, a feature's own class in the per-feature terms is what they say of its region, and the
    location module goes on learning from them; where nobody drew anything it is the slide's, as in the paper.

    Args:
        epochs: Passes over the slides.
        depth: Processing levels to descend; all of the model's when None.
        explored: Share of all steps of hard attention before this stage, and share after it: what is left of the
            exploration falls from one to the other.
    """

    detach_location = True

    def __init__(
        self,
        state: TrainingState,
        epochs: int,
        depth: int | None = None,
        explored: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        settings = state.settings
        self.epoch_steps = -(-len(state.slides) // settings.batch_slides)
        super().__init__(
            state=state,
            name="hard attention" if depth is None else f"hard attention to {depth} processing levels",
            steps=epochs * self.epoch_steps,
            learning_rate=settings.hard_learning_rate,
            gradient_clip=settings.gradient_clip,
            epoch=self.epoch_steps,
            depth=depth,
            carried={"baseline": FIRST_BASELINE},
        )
        self.explored = explored
        self.weights = ObjectiveWeights(
            reinforce=settings.reinforce_weight,
            slide_cross_entropy=settings.slide_share,
            slide_reinforce=settings.slide_share,
        )

    def prepare(self, rng: np.random.Generator, step: int) -> SlideBatch:
        """Open this process's slides of the step; every epoch has its own order."""
        epoch, within = divmod(step - 1, self.epoch_steps)
        # The order belongs to the epoch, not to the step: every step of it must draw the same.
        order = np.random.default_rng([self.settings.seed, self.number, 0, epoch]).permutation(len(self.state.slides))
        first = within * self.settings.batch_slides
        before, after = self.explored
        left = 1 - (before + (after - before) * (step - 1) / self.steps)
        chosen = order[first : first + self.settings.batch_slides]
        return self.open_slides(chosen, rng, self.settings.exploration * left)

    def sampler(self, rng: np.random.Generator) -> LocationSampler:
        """Sample as the settings say."""
        match self.settings.sampling:
            case "gumbel":
                return StochasticBeam(rng)
            case "gumbel_redrawn":
                return GumbelTopK(rng)
            case "top_k":
                return TopK()

    def learn(self, rollouts: Sequence[Rollout], share: float) -> StepOutput:
        """Classify, and compute the objective's terms."""
        state, traversals = self.state, [each.traversal for each in rollouts]
        targets = [AnnotationTargets(each.slide, state.network.config, self.settings) for each in rollouts]
        taught = [each for pair in zip(targets, traversals, strict=True) for each in _taught_regions(*pair)]
        tally = [len(rollouts), len(taught), sum(_choosing(traversal) for traversal in traversals)]
        total = state.group.total(torch.tensor(tally, dtype=torch.float64)) / share
        slides, taught_count, choosing = total.tolist()
        baseline = self.carried["baseline"]
        if not rollouts:
            moved = share * objective_of_nothing(baseline, self.weights, state.group.total)
            return StepOutput({}, {"baseline": moved / state.group.size}, {"baseline": moved})
        labels = torch.tensor([each.slide.label for each in rollouts], device=state.device)
        with state.precision.autocast():
            features = [all_features(traversal) for traversal in traversals]
            answer = state.network.classify(
                features, [each.rng for each in rollouts], closest=[each.closest for each in traversals]
            )
        logits = answer.logits.float()
        said = ObjectiveInput(
            logits=logits,
            labels=labels,
            feature_logits=[each.float() for each in answer.location_logits],
            location_log_probs=[self._log_probs(traversal, logits) for traversal in traversals],
            processing_levels=[_steps(traversal).to(state.device) for traversal in traversals],
            feature_labels=[_feature_labels(*pair).to(state.device) for pair in zip(targets, traversals, strict=True)],
        )
        result = objective(said, baseline, self.weights, state.group.total)
        weighted = ("cross_entropy", "feature_cross_entropy", "reinforce", "feature_reinforce")
        terms = {name: share * getattr(result, name) for name in weighted}
        if taught:
            config = state.network.config
            losses = [places_loss(config, log_probs, wanted.to(state.device)) for log_probs, wanted in taught]
            terms["location"] = self.settings.annotation_weight * torch.stack(losses).sum() / taught_count
        if self.settings.entropy_weight and choosing:
            entropy = torch.stack([_entropy_sum(traversal, logits) for traversal in traversals]).sum() / choosing
            terms["entropy"] = -self.settings.entropy_weight * entropy
        moved = share * result.baseline
        metrics = {
            "accuracy": float((logits.argmax(dim=1) == labels).sum()) / slides,
            # Every process knows it and reports a share.
            "baseline": moved / state.group.size,
        }
        return StepOutput(terms, metrics, {"baseline": moved})

    def _log_probs(self, traversal: Traversal, like: Tensor) -> Tensor:
        """Return what REINFORCE moves, (K - R,): of the draws, or of the cells in their grids; empty without any."""
        if len(traversal.levels) == 1:
            return like.new_zeros(0)
        if self.settings.credit == "cell" or self.settings.sampling == "top_k":
            return torch.cat([record.location_log_probs for record in traversal.levels[1:]])
        scheme: SamplingScheme = "redrawn" if self.settings.sampling == "gumbel_redrawn" else "beam_search"
        if self.state.network.config.choice == "per_grid":
            scheme = "per_grid"
        by_response = self.state.network.config.ranks_cells_alone
        return torch.cat(sampling_log_probs(traversal, scheme, by_response=by_response))


def _steps(traversal: Traversal) -> Tensor:
    """Return the processing level of each feature, (K,), counted from that of the roots."""
    return torch.cat([torch.full((len(r.regions),), step) for step, r in enumerate(traversal.levels)])


def _feature_labels(targets: AnnotationTargets, traversal: Traversal) -> Tensor:
    finest = len(targets.slide.scale.mpp) - 1  # that the slide serves; the traversal may have been stopped before it
    regions = [(region, record.processing_level == finest) for record in traversal.levels for region in record.regions]
    return torch.tensor([targets.feature_label(region, is_finest=is_finest) for region, is_finest in regions])


def _grids(traversal: Traversal) -> list[tuple[ProcessingLevelRecord, np.ndarray, Tensor]]:
    """Return the processing levels from which cells are attended, with the cells that may be and log-probabilities."""
    records = traversal.levels
    return [(r, r.allowed, r.cell_log_probs) for r in records if r.allowed is not None and r.cell_log_probs is not None]


def _taught_regions(targets: AnnotationTargets, traversal: Traversal) -> list[tuple[Tensor, Tensor]]:
    """Return log-probabilities and targets of each processing level in which annotations teach the location module."""
    found = []
    nothing_teaches = targets.config.cells_stand_alone and targets.know_places
    for record, allowed, log_probs in _grids(traversal):
        wanted = np.stack([targets.cells(region, row) for region, row in zip(record.regions, allowed, strict=True)])
        if wanted.any() or (nothing_teaches and allowed.any()):
            found.append((log_probs, torch.from_numpy(wanted)))
    return found


def _choosing(traversal: Traversal) -> int:
    """Count the grids that leave a choice."""
    return sum(int((allowed.sum(axis=1) > 1).sum()) for _, allowed, _ in _grids(traversal))


def _entropy_sum(traversal: Traversal, like: Tensor) -> Tensor:
    """Return the summed entropy of the grids that leave a choice."""
    total = like.new_zeros(())
    for _, allowed, log_probs in _grids(traversal):
        open_cells = torch.from_numpy(allowed).to(like.device)
        total = total + mean_entropy(log_probs, open_cells) * (open_cells.sum(dim=1) > 1).sum()
    return total
