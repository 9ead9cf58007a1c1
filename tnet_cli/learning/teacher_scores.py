"""What a teacher says of every finest cell with tissue of a slide; kept on disk, so that no slide is scored twice."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from tnet_cli.errors import DISTRIBUTION, SlideError
from tnet_cli.geometry import Region
from tnet_cli.inference.classify import EngineOptions, run_sessions
from tnet_cli.inference.every_cell import every_cell_job, tissue_cells
from tnet_cli.inference.outcome import sentence_of
from tnet_cli.inference.prepare import Preparation
from tnet_cli.inference.prepare_image import ImagePreparation
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inference.slide_session import SlideSession
from tnet_cli.inference.slide_task import NothingToSeeError
from tnet_cli.inference.traversal_job import TraversalJob, TraversalResult
from tnet_cli.inference.verdict import responses_of, values_of
from tnet_cli.inputs.fingerprint import fingerprint_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.learning.kept import KeptReads, key_of
from tnet_cli.metrics.difference import top_mean
from tnet_cli.model.choice import TopK
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import Verdict
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.slide.slide import Slide


@dataclass(frozen=True, slots=True, eq=False)
class TeacherScores:
    """What a teacher says of a slide.

    Attributes:
        boxes: int64 (N, 3): x, y and side of each cell that was scored, level-0 pixels.
        probabilities: float32 (N, C), of the teacher's classes.
        cells: How many finest cells with tissue the slide has, scored or not.
        pixels_read: Of the slide, for these scores.
        seconds: Of work on them.
    """

    boxes: np.ndarray
    probabilities: np.ndarray
    cells: int
    pixels_read: int
    seconds: float


def scores_key(entry: SlideInput, config: TNetConfig, teacher_digest: str, share: float, seed: int) -> str | None:
    """Return what a slide's scores are kept under; None where nobody can tell whether the slide changes."""
    mark = fingerprint_of(entry.path)
    if mark is None:
        return None
    cells = [config.grid, config.mpp, config.encoders[-1].model_dump(mode="json"), config.starts_where_filled]
    return key_of("scores", version(DISTRIBUTION), teacher_digest, cells, entry.mpp, mark, share, share < 1 and seed)


def score_slides(
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    kept: KeptReads,
    engine: EngineOptions,
    *,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generator[tuple[int, TeacherScores | SlideError], None, None]:
    """Score slides with the teacher of a distilled model, but for those whose scores are kept.

    Args:
        model: Its finest encoder is the teacher.
        kept: Where scores lie, and where they are put as slides end.
        shares: Of each slide's tissue, in whole regions of the processing level above the finest, drawn at random; all
            of all when None.
        seed: Of these draws.
        progress: Told of batches and of slides that have ended.

    Yields:
        The slide's position and its scores, or why it has none.

    Raises:
        RunStoppedError: the device or the storage answers no more.
        OSError: there is no room for the scores.
    """
    teller, config, verdict = progress or Progress(), model.card.network, model.card.verdict
    digest = "" if verdict is None else verdict.teacher.digest
    shares = shares or [1.0] * len(inputs)
    keys = [scores_key(entry, config, digest, share, seed) for entry, share in zip(inputs, shares, strict=True)]
    missing = []
    for position, key in enumerate(keys):
        found = kept.get(key) if key is not None else None
        if found is None:
            missing.append(position)
        else:
            arrays, about = found
            yield position, TeacherScores(boxes=arrays["boxes"], probabilities=arrays["probabilities"], **about)
    sessions = (
        _ScoringSession(position, inputs[position], model, teller, shares[position], seed) for position in missing
    )
    for position, scores in run_sessions(sessions, _ScoringSession.scores, model, engine, teller):
        key = keys[position]
        if isinstance(scores, TeacherScores) and key is not None:
            arrays = {"boxes": scores.boxes, "probabilities": scores.probabilities}
            about = {"cells": scores.cells, "pixels_read": scores.pixels_read, "seconds": scores.seconds}
            kept.put(key, arrays, about)
        yield position, scores


def gather_scores(
    inputs: Sequence[SlideInput],
    model: LoadedModel,
    kept: KeptReads,
    engine: EngineOptions,
    progress: Progress,
    *,
    shares: Sequence[float] | None = None,
    seed: int = 0,
) -> tuple[dict[int, TeacherScores], list[tuple[str, str]]]:
    """Score slides as ``score_slides`` does, and tell of each as it ends.

    Returns:
        The scores by position, ascending; and path and sentence of each slide that has none.
    """
    scores: dict[int, TeacherScores] = {}
    failures: list[tuple[str, str]] = []
    scored = score_slides(inputs, model, kept, engine, shares=shares, seed=seed, progress=progress)
    for done, (position, found) in enumerate(scored, start=1):
        if isinstance(found, SlideError):
            failures.append((inputs[position].shown_path, str(found)))
            progress.note(f"left out: {found}")
        else:
            scores[position] = found
        progress.step(StepReport("the teacher's scores", done, len(inputs), {}))
    return dict(sorted(scores.items())), failures


class _ScoringSession(SlideSession):
    """One slide of which finest cells are looked at, and nothing else."""

    def __init__(
        self, position: int, entry: SlideInput, model: LoadedModel, progress: Progress, share: float, seed: int
    ) -> None:
        super().__init__(position, entry, model, TraversalOptions(), TopK(), progress)
        self._share, self._seed, self._cells = share, seed, 0

    def job(self, slide: Slide, preparation: Preparation | ImagePreparation) -> TraversalJob | None:
        config = self.model.card.network
        if not isinstance(preparation, Preparation) or not preparation.roots:
            return None
        if preparation.scale.processing_levels < config.processing_levels:
            raise SlideError(
                self._entry.shown_path,
                f"its {slide.mpp:g} µm per pixel are too coarse for the teacher's patches, at {config.mpp[-1]:g}"
                if config.mpp
                else "has no scale",
            )
        cells = tissue_cells(preparation, config)
        self._cells = len(cells[0])
        if self._share < 1 and self._cells:
            cells = _some_of(cells, config.grid, self._share, np.random.default_rng([self._seed, self._cells]))
        return every_cell_job(slide, preparation, config, cells) if len(cells[0]) else None

    def scores(self, ended: TraversalResult | BaseException) -> TeacherScores | SlideError:
        """Return the scores of a slide whose cells were looked at, or why there are none."""
        path = self._entry.shown_path
        if isinstance(ended, NothingToSeeError):
            return SlideError(path, "shows no tissue, so a teacher has nothing to say of it")
        if isinstance(ended, BaseException):
            return ended if isinstance(ended, SlideError) else SlideError.saying(path, sentence_of(path, ended))
        (record,) = ended.traversal.levels
        boxes = np.array([[each.x, each.y, each.width] for each in record.regions], dtype=np.int64)
        probabilities = record.features.float().cpu().numpy()
        read = 0 if self._slide is None else self._slide.pixels_read
        return TeacherScores(boxes, probabilities, self._cells, read, self._work.seconds + (self._opening_s or 0.0))


def _some_of(
    cells: tuple[tuple[Region, ...], np.ndarray], grid: int, share: float, rng: np.random.Generator
) -> tuple[tuple[Region, ...], np.ndarray]:
    """Return the cells of some regions of the processing level above, drawn at random: at least one region's."""
    regions, positions = cells
    # Cells of one region follow each other; where its place in the grid changes another begins.
    places = positions[:, :2] // grid
    begins = np.append(True, (np.diff(places, axis=0) != 0).any(axis=1))
    numbers = np.cumsum(begins) - 1
    count = int(numbers[-1]) + 1
    drawn = rng.choice(count, size=max(1, round(share * count)), replace=False)
    kept = np.flatnonzero(np.isin(numbers, drawn))
    return tuple(regions[number] for number in kept), positions[kept]


def teacher_score(verdict: Verdict, scores: TeacherScores) -> float:
    """Return a slide's score by the rule, of all cells that the teacher has scored.

    Where those are a share of the slide's, as large a share of the K highest are averaged.
    """
    responses = responses_of(verdict, scores.probabilities)
    if verdict.rule == "top":
        k = math.ceil((verdict.k or 1) * len(responses) / max(1, scores.cells))
        return top_mean(responses, k)
    return float(values_of(verdict, responses).mean())
