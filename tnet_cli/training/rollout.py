"""Rollouts: whole slides traversed while training, opened and their roots read ahead, together and with gradients."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.inference.engine import drive
from tnet_cli.inference.traversal_job import TraversalResult
from tnet_cli.learning.frozen_features import FrozenFeatures, SlideFeatures
from tnet_cli.learning.loop import Stage, StepOutput
from tnet_cli.learning.patch_store import PatchPool
from tnet_cli.learning.slides import TrainingSlide, doubts_of, read_many
from tnet_cli.learning.state import random_source
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.location import mix_uniform
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.traversal import Look, Traversal
from tnet_cli.slide.slide import Slide
from tnet_cli.training.warmup import fill_pool, measure_statistics

BATCH_PATCHES = 32


class Rollout(NamedTuple):
    """A slide and how it was traversed, the tensors with their gradients; and the source of what is random after it."""

    slide: TrainingSlide
    traversal: Traversal
    rng: np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSlide:
    """A slide of the next step, with the patches of its roots; what a step needs first is read before it begins.

    Attributes:
        rng: Source of what is random in this slide's traversal.
        handle: The open file.
        roots: Pixels of the roots, without those of which what a frozen encoder sees is kept.
        features: What frozen encoders see of the slide; None where that is not kept.
    """

    slide: TrainingSlide
    rng: np.random.Generator
    base_px: int
    handle: Slide
    roots: dict[Region, np.ndarray]
    features: SlideFeatures | None = None

    @classmethod
    def open(
        cls, slide: TrainingSlide, rng: np.random.Generator, base_px: int, frozen: FrozenFeatures | None = None
    ) -> Self:
        """Open the file and read the roots, and what is kept of the features of frozen encoders.

        Raises:
            SlideError: that is not possible.
        """
        handle = slide.open()
        try:
            features = None if frozen is None else frozen.of_slide(slide, handle)
            wanted = [each for each in slide.root_regions if features is None or not features.has_seen(each)]
            roots = {region: handle.read(region, base_px, base_px) for region in wanted}
        except SlideError:
            handle.close()
            raise
        return cls(slide, rng, base_px, handle, roots, features)

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region, uint8 (base_px, base_px, 3)."""
        return self.roots[region] if region in self.roots else self.handle.read(region, self.base_px, self.base_px)


@dataclass(frozen=True, slots=True, eq=False)
class SlideBatch:
    """This process's slides of one step.

    Attributes:
        exploration: How much of what is drawn is uniform.
        errors: Of slides that could not be opened.
    """

    opened: Sequence[OpenedSlide]
    exploration: float
    errors: Sequence[SlideError] = ()

    def __len__(self) -> int:
        return len(self.opened)

    def part(self, rows: slice) -> Self:
        """Return some of the slides."""
        return replace(self, opened=self.opened[rows])

    def close(self) -> None:
        """Close the slides."""
        for each in self.opened:
            each.slide.doubts.update(doubts_of(each.handle))
            each.handle.close()


class SlideStage(Stage[SlideBatch]):
    """A stage that traverses whole slides, one processing level at a time, and so cannot learn batch statistics."""

    detach_location: bool
    """Whether no gradient passes from the location module into the extractor."""

    def begin(self) -> None:
        """Measure the statistics of normalisation where neither a warm-up nor pretraining has; drop the patches."""
        if self.number == 0 and not self.state.pretrained:
            fill_pool(self.state, random_source(self.settings.seed, self.number, 0))
            measure_statistics(self.state)
        self._drop_patches()
        self.resume()

    def _drop_patches(self) -> None:
        group, kept = self.state.group, self.state.pool.kept
        self.state.pool, self.state.views = PatchPool(kept), None
        # Others may still be reading of what is removed.
        if group.agreed(0) == 0 and group.rank == 0:
            kept.clear()

    def resume(self) -> None:
        """Freeze normalisation from here on."""
        freeze_normalisation(self.state.network)

    def open_slides(self, chosen: np.ndarray, rng: np.random.Generator, exploration: float = 0.0) -> SlideBatch:
        """Open this process's of the chosen slides and read their roots, several at once."""
        state, base_px = self.state, self.state.network.config.base_px
        mine = zip(state.group.share(chosen.tolist()), state.group.share(rng.spawn(len(chosen))), strict=True)

        def opened(drawn: tuple[int, np.random.Generator]) -> OpenedSlide:
            index, source = drawn
            return OpenedSlide.open(state.slides[index].down_to(self.depth), source, base_px, state.features)

        errors: list[SlideError] = []
        slides = list(read_many(opened, mine, self.settings.readers, errors.append))
        return SlideBatch(slides, exploration, errors)

    def compute(self, batch: SlideBatch, share: float) -> StepOutput:
        """Traverse the slides and learn from that."""
        return self.learn(self.roll_out(batch), share)

    def roll_out(self, batch: SlideBatch) -> list[Rollout]:
        """Traverse slides together; those that cannot be read are left out or raised.

        Raises:
            SlideError: a slide cannot be read, and bad slides are not to be skipped.
        """
        state, locations = self.state, self.settings.hard_locations
        for error in batch.errors:
            state.leave_out(error)
        jobs = [
            each.slide.job(each.handle, state.network.config, locations, self.sampler(each.rng), each.read)
            for each in batch.opened
        ]
        if (frozen := state.features) is not None:
            finish = partial(self.finish, batch.exploration)
            pairs = zip(jobs, [each.features for each in batch.opened], strict=True)
            jobs = [job if kept is None else frozen.serve(job, kept, finish) for job, kept in pairs]
        for each in batch.opened:
            state.tell_doubts(each.slide)  # what was doubted when it was read the time before
        ended = drive(
            jobs,
            partial(self.look, batch.exploration),
            batch_size=BATCH_PATCHES,
            readers=self.settings.readers,
            slides_in_flight=max(len(jobs), 1),
            may_halve=False,
        )
        rollouts = []
        for number, result in sorted(ended, key=lambda each: each[0]):
            if isinstance(result, TraversalResult):
                opened = batch.opened[number]
                rollouts.append(Rollout(opened.slide, result.traversal, opened.rng))
            elif isinstance(result, SlideError):
                state.leave_out(result)
            else:
                raise result
        return rollouts

    def look(self, exploration: float, patches: Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        """Look at patches as the engine asks for it: with gradients, and a share of uniform choice mixed in.

        Of a frozen encoder whose features are kept it gives these alone, and ``finish`` what follows.

        Raises:
            FloatingPointError: the network's features or probabilities are not finite.
        """
        state = self.state
        with state.precision.autocast():
            if state.features is not None and (encoded := state.features.encode(patches, positions)) is not None:
                return encoded
            seen = state.network.look(
                patches.to(state.device, non_blocking=True),
                torch.from_numpy(positions).to(state.device),
                None if allowed is None else torch.from_numpy(allowed).to(state.device),
                detach_location=self.detach_location,
            )
        return self._mixed(exploration, seen, allowed)

    def finish(
        self,
        exploration: float,
        processing_level: int,
        vectors: Tensor,
        cells: Tensor | None,
        positions: np.ndarray,
        allowed: np.ndarray | None,
    ) -> Look:
        """Go on where a frozen encoder has ended (``learning.frozen_features.FinishFunction``), as ``look`` does."""
        state = self.state
        with state.precision.autocast():
            seen = state.network.look_at_encoded(
                processing_level,
                vectors,
                cells,
                torch.from_numpy(positions).to(state.device),
                None if allowed is None else torch.from_numpy(allowed).to(state.device),
                detach_location=self.detach_location,
            )
        return self._mixed(exploration, seen, allowed)

    def _mixed(self, exploration: float, seen: Look, allowed: np.ndarray | None) -> Look:
        """Return what was seen in float32, with a share of uniform choice in its log-probabilities."""
        if not bool(torch.isfinite(seen.features).all()):
            raise FloatingPointError("the network's features are not finite")
        log_probs = seen.cell_log_probs
        if log_probs is not None and allowed is not None:
            log_probs = mix_uniform(log_probs.float(), torch.from_numpy(allowed).to(self.state.device), exploration)
            if bool(torch.isnan(log_probs).any()):
                raise FloatingPointError("the location module's probabilities are not finite")
        return Look(features=seen.features.float(), cell_log_probs=log_probs)

    @abstractmethod
    def sampler(self, rng: np.random.Generator) -> LocationSampler:
        """Return how a slide's locations are chosen."""

    @abstractmethod
    def learn(self, rollouts: Sequence[Rollout], share: float) -> StepOutput:
        """Compute the terms of a step, or of a part of it that is this share of all processes' slides."""


def all_features(traversal: Traversal) -> Tensor:
    """Return the features of all that was looked at, (K, D), coarsest processing level first."""
    return torch.cat([record.features for record in traversal.levels])
