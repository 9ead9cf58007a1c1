"""What a distilled model says of a slide: a rule over its teacher's scores of the finest cells that were looked at.

Cells are attended because they looked promising, so their mean says nothing of the slide's. Where the rule is about all
of the tissue, some of the other cells are drawn at random and looked at too, and ``metrics.difference`` makes an
estimate of both, and of what is predicted for the rest.
"""

import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region
from tnet_cli.inference.every_cell import tissue_cells
from tnet_cli.inference.prepare import Preparation
from tnet_cli.inference.prepare_image import ImagePreparation
from tnet_cli.inference.traversal_job import TraversalJob, traversal_job
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.metrics.difference import MeanOfCells, difference_estimate, top_mean
from tnet_cli.model.best_first import StoppingRule
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import Look, ProcessingLevelRecord, Traversal, Wanted, as_float64
from tnet_cli.modelfile.card import ModelCard, Verdict
from tnet_cli.results.result import Score
from tnet_cli.slide.slide import Slide


def responses_of(verdict: Verdict, probabilities: np.ndarray) -> np.ndarray:
    """Return a teacher's responses, float64 (N,): its probabilities (N, C) of the targets, added up."""
    targets = [verdict.teacher.classes.index(name) for name in verdict.targets]
    summed: np.ndarray = np.asarray(probabilities, dtype=np.float64)[:, targets].sum(axis=1)
    return summed.clip(0.0, 1.0)


def values_of(verdict: Verdict, responses: np.ndarray) -> np.ndarray:
    """Return what the rule averages over the tissue: responses, or whether they reach the threshold."""
    return (responses >= verdict.threshold).astype(np.float64) if verdict.rule == "area" else responses


def job_of(
    slide: Slide,
    preparation: Preparation | ImagePreparation,
    card: ModelCard,
    options: TraversalOptions,
    sampler: LocationSampler,
    *,
    stopping: StoppingRule | None = None,
) -> TraversalJob | None:
    """Return the job of a slide, as of ``traversal_job``, with the random sample where the model's rule needs one.

    A budget is of both: at most half of it is drawn, and a location of each processing level stays.

    Raises:
        UsageError: the options do not fit the model.
    """
    drawn = 0 if card.verdict is None else card.verdict.sample
    if options.budget is not None:
        drawn = min(drawn, options.budget // 2, max(0, options.budget - len(card.network.locations)))
        options = replace(options, budget=options.budget - drawn)
    job = traversal_job(slide, preparation, card.network, options, sampler, stopping=stopping)
    if job is None or drawn == 0 or not isinstance(preparation, Preparation):
        return job
    return replace(job, traversal=with_sample(job.traversal, preparation, card.network, drawn))


def with_sample(
    steps: Generator[Wanted, Look, Traversal], preparation: Preparation, config: TNetConfig, count: int
) -> Generator[Wanted, Look, Traversal]:
    """Traverse, then look at so many of the other finest cells with tissue, drawn at random, all alike.

    A slide gives the same draw each time.

    Args:
        steps: A traversal of the slide.
        preparation: The slide's.
    """
    traversal = yield from steps
    last = config.processing_levels - 1
    if count == 0 or traversal.levels[-1].processing_level != last:
        return traversal
    regions, positions = tissue_cells(preparation, config)
    attended = {(region.x, region.y) for region in traversal.levels[-1].regions}
    others = [number for number, region in enumerate(regions) if (region.x, region.y) not in attended]
    if not others:
        return traversal
    seed = zlib.crc32(repr([(each.x, each.y, each.width) for each in preparation.root_regions]).encode())
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(others, size=min(count, len(others)), replace=False))
    wanted = Wanted(last, tuple(regions[number] for number in drawn), positions[drawn], None)
    look = yield wanted
    none = np.full(len(drawn), -1, dtype=np.int64)
    predicted = np.log(np.maximum(predicted_responses(traversal, wanted.regions, config), 1e-12))
    record = ProcessingLevelRecord(
        processing_level=last,
        regions=wanted.regions,
        positions=wanted.positions,
        parents=none,
        cells=none,
        location_log_probs=predicted,
        path_log_probs=predicted,
        features=look.features,
    )
    count_before = sum(len(each.regions) for each in traversal.levels)
    order = traversal.order
    return replace(
        traversal,
        levels=(*traversal.levels, record),
        order=None if order is None else np.append(order, np.arange(count_before, count_before + len(drawn))),
        sampled=len(drawn),
    )


def predicted_responses(traversal: Traversal, regions: Sequence[Region], config: TNetConfig) -> np.ndarray:
    """Return the mean response that is predicted for finest cells, float64 (N,): by the closest look that offered them.

    Where no look offered a cell it is the mean of what all looks predict, or without any 0.5.
    """
    centres = np.array([(region.x + region.width / 2, region.y + region.height / 2) for region in regions]).reshape(
        -1, 2
    )
    from_left = np.argsort(centres[:, 0])  # a region looked at is compared with cells of its columns alone
    left_x = centres[from_left, 0]
    predicted = np.full(len(regions), np.nan)
    everything: list[np.ndarray] = []
    for record in traversal.levels:
        if record.cell_means is None or record.allowed is None:
            continue
        means = as_float64(record.cell_means)
        everything.append(means[record.allowed])
        for region, of_cells in zip(record.regions, means, strict=True):
            near = from_left[slice(*np.searchsorted(left_x, (region.x, region.x + region.width)))]
            column, row = np.floor((centres[near] - (region.x, region.y)) * config.grid / region.width).T
            inside = (np.minimum(column, row) >= 0) & (np.maximum(column, row) < config.grid)
            predicted[near[inside]] = of_cells[(row * config.grid + column)[inside].astype(np.int64)]
    known = np.concatenate(everything) if everything else np.empty(0)
    predicted[np.isnan(predicted)] = known.mean() if len(known) else 0.5
    return predicted


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a rule says of a slide.

    Attributes:
        logits: float64 (2,): of not being called and of being called.
        weights: float64 (K,): share of each region looked at in the score.
        probabilities: float64 (K, 2): of each region by itself.
    """

    score: Score
    logits: np.ndarray
    weights: np.ndarray
    probabilities: np.ndarray


def judged(path: str, verdict: Verdict, preparation: Preparation, traversal: Traversal, config: TNetConfig) -> Judged:
    """Judge a slide by its traversal.

    Raises:
        SlideError: its finest cells were not looked at: the slide is too coarse for them, or none holds enough tissue.
        ArithmeticError: the patch model, or what is predicted of it, is not a number.
    """
    last, records = config.processing_levels - 1, traversal.levels
    finest = [record for record in records if record.processing_level == last]
    teacher = verdict.teacher
    if not finest and preparation.scale.processing_levels <= last:
        raise SlideError(
            path,
            f"was not looked at as closely as the patch model {teacher.name} needs, "
            f"{teacher.spacing_um_px:g} µm per pixel; give a scan of higher resolution, or the right --mpp",
        )
    if not finest:
        raise SlideError(
            path,
            f"shows too little tissue for the patch model {teacher.name}: nowhere enough for one of its patches, "
            f"{config.side_um(last):g} µm wide",
        )
    responses = [responses_of(verdict, as_float64(record.features)) for record in finest]
    seen = np.concatenate(responses)
    means = [as_float64(record.cell_means) for record in records if record.cell_means is not None]
    if not all(np.isfinite(each).all() for each in (seen, *means)):
        raise ArithmeticError("the network's answer is not a number")
    drawn = traversal.sampled
    attended, sampled = seen[: len(seen) - drawn], seen[len(seen) - drawn :]
    regions, _ = tissue_cells(preparation, config)
    if verdict.rule == "top":
        value = top_mean(seen, verdict.k or 1)
        estimate, weights = MeanOfCells(value, value, value), _share_of_top(seen, verdict.k or 1)
    else:
        where = {(region.x, region.y): number for number, region in enumerate(regions)}
        looked_at = [where[region.x, region.y] for region in finest[0].regions if (region.x, region.y) in where]
        rest = np.setdiff1d(np.arange(len(regions)), looked_at)
        sample = [where[region.x, region.y] for region in records[-1].regions] if drawn else []
        estimate = difference_estimate(
            values_of(verdict, attended),
            predicted_responses(traversal, [regions[number] for number in rest], config),
            np.searchsorted(rest, np.array(sample, dtype=np.int64)),
            values_of(verdict, sampled),
        )
        shares = values_of(verdict, seen)
        weights = shares / shares.sum() if shares.sum() > 0 else np.full(len(seen), 1 / len(seen))
    has_interval = verdict.rule != "top"
    score = Score(
        rule=verdict.rule_words,
        value=estimate.value,
        low=estimate.low if has_interval else None,
        high=estimate.high if has_interval else None,
        cells=len(regions),
        attended=len(attended),
        sampled=drawn,
    )
    coarse = [record for record in records if record.processing_level != last]
    alone = np.concatenate([*(_best_offered(record) for record in coarse), seen])
    return Judged(
        score=score,
        logits=np.array([0.0, verdict.slope * score.value + verdict.intercept]),
        weights=np.concatenate([np.zeros(len(alone) - len(seen)), weights]),
        probabilities=np.stack([1 - alone, alone], axis=1),
    )


def _share_of_top(values: np.ndarray, k: int) -> np.ndarray:
    best = np.argsort(-values, kind="stable")[:k]
    shares = np.zeros(len(values))
    shares[best] = 1 / len(best)
    return shares


def _best_offered(record: ProcessingLevelRecord) -> np.ndarray:
    """Return the highest response that is predicted in each region of a record, float64 (N,)."""
    log_probs: Any = record.cell_log_probs
    return np.zeros(len(record.regions)) if log_probs is None else np.exp(as_float64(log_probs).max(axis=1))
