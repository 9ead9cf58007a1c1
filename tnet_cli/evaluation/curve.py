"""The curve of accuracy against locations, in one pass: a slide is opened and prepared once for all its points.

The traversals of a slide follow one another in one job. A region that an earlier one has looked at is not read and
looked at again: with the same weights the network sees the same.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tnet_cli.evaluation.arms import sampler_of
from tnet_cli.geometry import Region
from tnet_cli.inference.classify import ClassifyOptions, Events, manner_of, work_through
from tnet_cli.inference.flight import TraversalJob, TraversalResult
from tnet_cli.inference.outcome import Outcome
from tnet_cli.inference.prepare import Preparation
from tnet_cli.inference.prepare_image import ImagePreparation
from tnet_cli.inference.slide_task import Manner, SlideWork, job_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal, Wanted
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.slide.slide import Slide

TraversalSteps = Generator[Wanted, Look, Traversal]

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
    points: Sequence[CurvePoint],
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    options: ClassifyOptions,
    *,
    seed: int,
    events: Events | None = None,
) -> Generator[tuple[int, tuple[Outcome, ...]], None, None]:
    """Classify each slide once for every point.

    Args:
        points: Arms and budgets.
        inputs: The slides.
        model: The same weights for all points.
        options: All but locations and budget.
        seed: Of the random arm; a point draws what the arm alone with this budget would.
        events: Who wants to know how it goes.

    Yields:
        The slide's position in ``inputs`` and an outcome for each point, as the slide ends. What was read and how
        long it took is that of the whole pass up to there.

    Raises:
        UsageError: a budget does not fit the model.
        RunStoppedError: the device or the storage answers no more.
    """

    def works() -> Iterable[CurveWork]:
        for position, entry in enumerate(inputs):
            samplers = [sampler_of(point.arm, seed, position) for point in points]
            manner = manner_of(model, replace(options, locations=None, budget=None, stop_at=None), samplers[0], events)
            yield CurveWork(position, entry, manner, [point.budget for point in points], samplers)

    yield from work_through(works(), CurveWork.conclude_each, model, options, events=events)


class CurveWork(SlideWork):
    """One slide under way, for several points.

    Args:
        position: Of the slide among the inputs.
        entry: The input.
        manner: How it is opened; its locations, budget and sampler are not used.
        budgets: Of each point.
        samplers: Of each point.
    """

    def __init__(
        self,
        position: int,
        entry: SlideInput,
        manner: Manner,
        budgets: Sequence[int],
        samplers: Sequence[LocationSampler],
    ) -> None:
        super().__init__(position, entry, manner)
        self._network = manner.card.network
        self._points = tuple(zip(budgets, samplers, strict=True))
        self._traversals: list[Traversal] = []

    def _job(self, slide: Slide, preparation: Preparation | ImagePreparation) -> TraversalJob | None:
        jobs = [job_of(slide, preparation, self._network, None, budget, sampler) for budget, sampler in self._points]
        there = [job for job in jobs if job is not None]
        if not there:
            return None
        steps = one_after_another([job.traversal for job in there], self._traversals.append)
        return TraversalJob(traversal=steps, read=there[0].read)

    def conclude_each(self, ended: TraversalResult | BaseException, network: TNet) -> tuple[Outcome, ...]:
        """Turn what the engine says of the slide into an outcome for each point.

        Raises:
            UsageError: a budget does not fit the model.
        """
        if isinstance(ended, BaseException):
            return (self.conclude(ended, network),) * len(self._points)
        return tuple(self.conclude(TraversalResult(traversal, ()), network) for traversal in self._traversals)


def one_after_another(traversals: Sequence[TraversalSteps], on_end: Callable[[Traversal], None]) -> TraversalSteps:
    """Make one traversal of several, which wants each region looked at once.

    Args:
        traversals: Of one slide with the same weights; at least one. Looks hold tensors.
        on_end: Told each traversal as it ends, in order.

    Yields:
        The regions wanted that were not looked at before; send a ``Look`` of the same length.

    Returns:
        The last traversal.
    """
    seen: dict[Seen, Look] = {}
    ended: list[Traversal] = []
    for steps in traversals:
        traversal = yield from _remembering(steps, seen)
        on_end(traversal)
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
                seen[keys[number]] = _rows(look, slice(row, row + 1))
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


def _rows(look: Look, rows: slice) -> Look:
    return Look(
        features=look.features[rows], cell_log_probs=None if look.cell_log_probs is None else look.cell_log_probs[rows]
    )


def _together(looks: Sequence[Look]) -> Look:
    log_probs = [look.cell_log_probs for look in looks if look.cell_log_probs is not None]
    return Look(
        features=torch.cat([look.features for look in looks]),
        cell_log_probs=torch.cat(log_probs) if log_probs else None,
    )
