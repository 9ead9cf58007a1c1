"""The curve of accuracy against locations, in one pass: a slide is opened and prepared once for all its points.

The traversals of a slide follow one another in one job. A region that an earlier one has looked at is not read and
looked at again: with the same weights the network sees the same.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tnet_cli.evaluation.arms import Comparison, sampler_of
from tnet_cli.geometry import Region, Size
from tnet_cli.inference.classify import run_sessions
from tnet_cli.inference.prepare import Preparation
from tnet_cli.inference.prepare_image import ImagePreparation, shown
from tnet_cli.inference.slide_session import SlideSession
from tnet_cli.inference.traversal_job import (
    ReadFunction,
    TraversalJob,
    TraversalResult,
    TraversalSteps,
)
from tnet_cli.inference.trust import patch_sharpness
from tnet_cli.inference.verdict import job_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.choice import TopK
from tnet_cli.model.traversal import Look, Traversal, Wanted
from tnet_cli.results.result import SlideResult
from tnet_cli.slide.slide import Slide

Seen = tuple[int, Region, tuple[int, ...], bool]
"""What a look depends on: processing level, region, its position in the grids, and whether cells were asked for."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One point of the curve.

    Attributes:
        arm: One of ``arms.BUDGETED_ARMS``.
        budget: Locations in all.
    """

    arm: str
    budget: int


def classify_for_curve(
    points: Sequence[CurvePoint], comparison: Comparison
) -> Generator[tuple[int, tuple[SlideResult, ...]], None, None]:
    """Classify each slide once for every point, which has its own locations; the random ones are the arm's alone.

    Yields:
        The slide's position among the inputs and a result for each point, as the slide ends. What was read and how
        long it took is that of the whole pass up to there.

    Raises:
        UsageError: a budget does not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """
    sessions = (CurveSession(position, entry, comparison, points) for position, entry in enumerate(comparison.inputs))
    yield from run_sessions(
        sessions, CurveSession.conclude_each, comparison.model, comparison.engine, comparison.progress
    )


class CurveSession(SlideSession):
    """One slide under way, for several points."""

    def __init__(self, position: int, entry: SlideInput, comparison: Comparison, points: Sequence[CurvePoint]) -> None:
        super().__init__(position, entry, comparison.model, comparison.options, TopK(), comparison.progress)
        self._points = [(point.budget, sampler_of(point.arm, comparison.seed, entry.name)) for point in points]
        self._traversals: list[Traversal] = []

    def job(self, slide: Slide, preparation: Preparation | ImagePreparation) -> TraversalJob | None:
        """Return the job of all points, one after another; None when there is nothing to look at.

        Raises:
            UsageError: a budget does not fit the model.
        """
        config = self.model.card.network
        jobs = []
        for budget, sampler in self._points:
            options = replace(self.options, locations=None, budget=budget, stop_at=None)
            job = job_of(slide, preparation, self.model.card, options, sampler)
            if job is None:
                return None
            jobs.append(job)
        steps = one_after_another([job.traversal for job in jobs], self._traversals)
        read = jobs[0].read if self.model.card.least_sharpness is None else self._measuring(jobs[0].read, slide.size)
        return TraversalJob(steps, read, keeps_patches=False, encoder_of=config.encoder_number)

    def _measuring(self, read: ReadFunction, size: Size) -> ReadFunction:
        """Measure the sharpness of what is read: the patches of all points are too many to hold."""

        def measured(region: Region) -> np.ndarray:
            pixels = read(region)
            self._sharpness[region] = patch_sharpness(shown(pixels), region, size)
            return pixels

        return measured

    def conclude_each(self, ended: TraversalResult | BaseException) -> tuple[SlideResult, ...]:
        """Turn what the engine says of the slide into a result for each point.

        Raises:
            UsageError: a budget does not fit the model.
        """
        if isinstance(ended, BaseException):
            return (self.conclude(ended),) * len(self._points)
        return tuple(self.conclude(TraversalResult(traversal, ())) for traversal in self._traversals)


def one_after_another(traversals: Sequence[TraversalSteps], ended: list[Traversal]) -> TraversalSteps:
    """Make one traversal of several, which wants each region looked at once.

    Args:
        traversals: Of one slide with the same weights; at least one. Looks hold tensors.
        ended: Takes each traversal as it ends, in order.

    Yields:
        The regions wanted that were not looked at before; send a ``Look`` of the same length.

    Returns:
        The last traversal.
    """
    seen: dict[Seen, Look] = {}
    for steps in traversals:
        traversal = yield from _remembering(steps, seen)
        ended.append(traversal)
    return ended[-1]


def _remembering(steps: TraversalSteps, seen: dict[Seen, Look]) -> TraversalSteps:
    """Run one traversal; what it wants and ``seen`` holds is not asked for, and what is asked for is put there."""
    wanted = next(steps)
    while True:
        keys = _keys(wanted)
        new = [number for number, key in enumerate(keys) if key not in seen]
        if new:
            look = yield _some_of(wanted, new)
            for row, number in enumerate(new):
                log_probs = None if look.cell_log_probs is None else look.cell_log_probs[row : row + 1]
                means = None if look.cell_means is None else look.cell_means[row : row + 1]
                seen[keys[number]] = Look(look.features[row : row + 1], log_probs, means)
        try:
            wanted = steps.send(_together([seen[key] for key in keys]))
        except StopIteration as end:
            traversal: Traversal = end.value
            return traversal


def _keys(wanted: Wanted) -> list[Seen]:
    is_located = wanted.allowed is not None
    return [
        (wanted.processing_level, region, tuple(int(each) for each in position), is_located)
        for region, position in zip(wanted.regions, wanted.positions, strict=True)
    ]


def _some_of(wanted: Wanted, numbers: Sequence[int]) -> Wanted:
    index = np.asarray(numbers, dtype=np.int64)
    return Wanted(
        processing_level=wanted.processing_level,
        regions=tuple(wanted.regions[number] for number in numbers),
        positions=wanted.positions[index],
        allowed=None if wanted.allowed is None else wanted.allowed[index],
    )


def _together(looks: Sequence[Look]) -> Look:
    log_probs = [look.cell_log_probs for look in looks if look.cell_log_probs is not None]
    means = [look.cell_means for look in looks if look.cell_means is not None]
    return Look(
        features=torch.cat([look.features for look in looks]),
        cell_log_probs=torch.cat(log_probs) if log_probs else None,
        cell_means=torch.cat(means) if means else None,
    )
