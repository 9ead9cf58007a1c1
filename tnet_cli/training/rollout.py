"""Traversals for training: slides opened and their roots read ahead, then driven together with gradients."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.inference.engine import LookFunction, TraversalJob, TraversalResult, drive
from tnet_cli.inference.prepare import plan_traversal
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.state import Course
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.exploration import mix_uniform
from tnet_cli.model.traversal import Look, Traversal, traverse
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

BATCH_PATCHES = 32


@dataclass(slots=True, eq=False)
class OpenedSlide:
    """A slide of the next step, with the patches of its roots; what a step needs first is read before it begins.

    Attributes:
        slide: The labelled slide.
        rng: Source of what is random in this slide's traversal.
        base_px: Side of a patch.
        handle: The open file, or None where it could not be opened.
        roots: Patches of the roots.
        error: Why the slide cannot be read.
    """

    slide: TrainingSlide
    rng: np.random.Generator
    base_px: int
    handle: Slide | None = None
    roots: dict[Region, np.ndarray] = field(default_factory=dict)
    error: SlideError | None = None

    def open(self) -> "OpenedSlide":
        """Open the file and read the roots; an error is kept."""
        try:
            self.handle = open_slide(self.slide.entry.path, mpp=self.slide.entry.mpp)
            for region in self.slide.held.root_regions:
                self.roots[region] = self.handle.read(region, self.base_px, self.base_px)
        except SlideError as error:
            self.close()
            self.error = error
        return self

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region, uint8 (base_px, base_px, 3)."""
        if region in self.roots:
            return self.roots[region]
        if self.error is not None:
            raise self.error
        if self.handle is None:
            raise ValueError("the slide is not open")
        return self.handle.read(region, self.base_px, self.base_px)

    def close(self) -> None:
        """Close the file."""
        if self.handle is not None:
            self.handle.close()
            self.handle = None


def open_ahead(
    slides: Sequence[TrainingSlide], sources: Sequence[np.random.Generator], base_px: int, readers: int
) -> list[OpenedSlide]:
    """Open slides and read their roots, several at once."""
    waiting = [OpenedSlide(slide, rng, base_px) for slide, rng in zip(slides, sources, strict=True)]
    if not waiting:
        return []
    with ThreadPoolExecutor(min(readers, len(waiting)), thread_name_prefix="tnet-ahead") as pool:
        return list(pool.map(OpenedSlide.open, waiting))


def close_all(opened: Sequence[OpenedSlide]) -> None:
    """Close the files of a step."""
    for each in opened:
        each.close()


def gradient_look(course: Course, *, detach_location: bool, exploration: float = 0.0) -> LookFunction:
    """Return the engine's view of the network in training: with gradients, and a share of uniform choice mixed in.

    It raises ``FloatingPointError`` when the network's features are not finite.
    """

    def look(patches: Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        may_attend = None if allowed is None else torch.from_numpy(allowed).to(course.device)
        with course.precision.autocast():
            seen = course.network.look(
                patches.to(course.device, non_blocking=True),
                torch.from_numpy(positions).to(course.device),
                may_attend,
                detach_location=detach_location,
            )
        if not bool(torch.isfinite(seen.features).all()):
            raise FloatingPointError("the network's features are not finite")
        log_probs = seen.cell_log_probs
        if log_probs is not None and may_attend is not None:
            log_probs = mix_uniform(log_probs.float(), may_attend, exploration)
            if bool(torch.isnan(log_probs).any()):
                raise FloatingPointError("the location module's probabilities are not finite")
        return Look(features=seen.features.float(), cell_log_probs=log_probs)

    return look


def travel_together(
    course: Course,
    opened: Sequence[OpenedSlide],
    look: LookFunction,
    make_chooser: Callable[[OpenedSlide], LocationSampler],
) -> list[tuple[TrainingSlide, Traversal]]:
    """Traverse slides together; those that cannot be read are left out or raised.

    Raises:
        SlideError: a slide cannot be read, and bad slides are not to be skipped.
    """
    config, settings = course.network.config, course.settings
    jobs = []
    for each in opened:
        preparation = each.slide.preparation
        locations = settings.hard_locations[: preparation.scale.processing_levels - 1]
        plan = plan_traversal(config, preparation.scale, locations, make_chooser(each))
        jobs.append(
            TraversalJob(
                traversal=traverse(preparation.root_regions, preparation.root_log_probs, plan, preparation.allowed()),
                read=each.read,
            )
        )
    ended = dict(
        drive(
            jobs,
            look,
            batch_size=BATCH_PATCHES,
            readers=settings.readers,
            slides_in_flight=max(len(jobs), 1),
            may_halve=False,
        )
    )
    travelled = []
    for number, each in enumerate(opened):
        traversed = ended[number]
        if isinstance(traversed, TraversalResult):
            travelled.append((each.slide, traversed.traversal))
        elif isinstance(traversed, SlideError):
            course.leave_out(traversed)
        else:
            raise traversed
    return travelled


def all_features(traversal: Traversal) -> Tensor:
    """Return the features of all that was looked at, (K, D), coarsest processing level first."""
    return torch.cat([record.features for record in traversal.levels])
