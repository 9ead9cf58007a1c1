"""Whether the answer for a slide counts: decided here, once, from named checks; whoever shows a result only says so.

The network answers whatever it is given. Its answer does not count where the slide is not of the kind that the model
knows, was scanned too coarsely, shows too little tissue, is out of focus, or was read with a doubt.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from tnet_cli.geometry import AttentionGrid, Region, Size
from tnet_cli.inference.prepare import COARSER_THAN_WANTED, TISSUE_IN_A_CELL, Preparation
from tnet_cli.inference.prepare_image import ImagePreparation
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.traversal import Traversal
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideResult, TrustCheck
from tnet_cli.slide.slide import Slide

SYNTHETIC_MARK = "tnet synthetic slide"
"""How the description of a slide of ``tnet synth`` begins."""

FAMILIAR_SHARE = 0.25
"""Some of a slide's fields, a lesion's above all, may be like none before; of its kind are the most familiar ones."""

LEAST_TISSUE = 0.25
"""Less tissue, as a share of one field of the model's finest view, is too little to judge."""

NEAR_PX, FAR_PX = 1, 4
"""Distances over which sharpness compares grey values."""

LEAST_CONTRAST = 8.0
"""Mean squared difference of grey values, of 255, below which a patch shows too little to tell whether it is sharp."""

PATCHES_FOR_SHARPNESS = 32


def decided(
    result: SlideResult,
    model: LoadedModel,
    slide: Slide,
    preparation: Preparation | ImagePreparation,
    traversal: Traversal,
) -> SlideResult:
    """Return a slide's result with the checks of its answer, and without the answer where one of them has failed.

    Args:
        result: Of a slide that was looked at, with its evidence.
        model: Its card and domain have the limits; a check whose limit the card has not is left out.
        slide: Has been read.
    """
    card, features = model.card, {} if result.evidence is None else result.evidence.features
    found = [
        _out_of_domain(card, model.domain, slide, features),
        *_scale_and_tissue(card.network, slide, preparation, traversal),
        _unsharp(card, result),
        _reader(slide),
    ]
    checks = tuple(check for check in found if check is not None)
    if any(check.failed for check in checks):
        return replace(result, checks=checks, status="abstained", prediction=None, probability=None)
    return replace(result, checks=checks)


def _out_of_domain(
    card: ModelCard, domain: Sequence[FeatureDomain], slide: Slide, features: Mapping[int, np.ndarray]
) -> TrustCheck | None:
    if card.made_for == "synthetic" and not is_synthetic(slide):
        sentence = "this model was made for synthetic slides, and this is none"
        return TrustCheck(name="out_of_domain", failed=True, sentence=sentence, measure="kind of slide")
    if card.domain is None:
        return None
    limits = card.domain.limits
    # A teacher's probabilities, at the finest processing level of a distilled model, say nothing of how a slide looks.
    distances = {at: slide_distance(domain[at], some) for at, some in features.items() if at < len(limits)}
    if not distances:
        return None
    worst = max(distances, key=lambda at: distances[at] / limits[at])
    return TrustCheck(
        name="out_of_domain",
        failed=distances[worst] > limits[worst],
        sentence="this slide looks unlike the slides this model was made for",
        measure=f"distance from the slides it was calibrated on, of features at processing level {worst}",
        value=distances[worst],
        limit=limits[worst],
    )


def _scale_and_tissue(
    config: TNetConfig, slide: Slide, preparation: Preparation | ImagePreparation, traversal: Traversal
) -> list[TrustCheck]:
    if config.mpp is None or slide.mpp is None or isinstance(preparation, ImagePreparation):
        return []
    coarsest = config.mpp[-1] * COARSER_THAN_WANTED
    too_coarse = TrustCheck(
        name="too_coarse",
        failed=slide.mpp > coarsest,
        sentence="this slide was scanned too coarsely for the closest view of this model",
        measure="micrometres per pixel of the slide",
        value=slide.mpp,
        limit=coarsest,
    )
    fields = _fields_of_tissue(config, slide.mpp, preparation, traversal)
    too_little = TrustCheck(
        name="too_little_tissue",
        failed=fields < LEAST_TISSUE,
        sentence="this slide shows too little tissue to judge",
        measure="tissue, in fields of the model's finest view",
        value=fields,
        limit=LEAST_TISSUE,
    )
    return [too_coarse, too_little]


def _fields_of_tissue(config: TNetConfig, slide_mpp: float, preparation: Preparation, traversal: Traversal) -> float:
    """Return how much tissue there is to look at closely, in fields of the model's finest view.

    Tissue in specks none of which is worth a closer look counts as the largest of them.
    """
    field_px = (config.side_um(config.processing_levels - 1) / slide_mpp) ** 2
    tissue, first = preparation.tissue, traversal.levels[0]
    if first.allowed is None or first.allowed.any():
        return tissue.area_px / field_px
    grid = AttentionGrid(config.grid, config.cell_fraction)
    cells = [cell for region in first.regions for cell in grid.cells(region)]
    in_cells = tissue.fractions(cells) * np.array([cell.area for cell in cells], dtype=np.float64)
    # What may be attended is measured in fields as the slide has them, which differ a little in size.
    least_px = TISSUE_IN_A_CELL * preparation.scale.finest_side_px**2
    return float(in_cells.max() / least_px * LEAST_TISSUE)


def _unsharp(card: ModelCard, result: SlideResult) -> TrustCheck | None:
    if card.least_sharpness is None or not (measured := _finest_sharpness(result, card.network)):
        return None
    sharpness = _median(measured)
    faint = "this slide shows too little detail where the model looked, as if far out of focus"
    return TrustCheck(
        name="unsharp",
        # Where the focus is far off, no patch has any contrast left to measure it by.
        failed=sharpness is None or sharpness < card.least_sharpness,
        sentence=faint if sharpness is None else "this slide is out of focus where the model looked",
        measure="sharpness of the finest patches (inference.trust.sharpness)",
        value=sharpness,
        limit=card.least_sharpness,
    )


def _reader(slide: Slide) -> TrustCheck:
    doubts = [doubt.sentence for doubt in slide.doubts if doubt.may_change_answer]
    return TrustCheck(
        name="reader",
        failed=bool(doubts),
        sentence=f"it is not certain that the file was read rightly: {'; '.join(doubts)}",
        measure="doubts of the reader that may change the answer",
        value=len(doubts),
        limit=0,
    )


def is_synthetic(slide: Slide) -> bool:
    """Tell whether a slide says of itself that ``tnet synth`` drew it."""
    return any(str(value).startswith(SYNTHETIC_MARK) for value in slide.properties.values())


def features_of(traversal: Traversal) -> dict[int, np.ndarray]:
    """Return the features of each processing level that was looked at, float32 (N, D)."""
    found: dict[int, list[np.ndarray]] = {}
    for record in traversal.levels:
        if len(record.regions):
            found.setdefault(record.processing_level, []).append(record.features.float().cpu().numpy())
    return {processing_level: np.concatenate(some) for processing_level, some in found.items()}


def slide_distance(domain: FeatureDomain, features: np.ndarray) -> float:
    """Return how far a slide is from a domain: a quarter of its features (N, D) lie as near or nearer."""
    return float(np.quantile(domain.distances(torch.from_numpy(features)).numpy(), FAMILIAR_SHARE))


def slide_sharpness(result: SlideResult, config: TNetConfig) -> float | None:
    """Return the sharpness of a slide where the model looked closest: the median over patches of its finest view.

    None where it has looked at none, the patches were not kept, or they show next to nothing.
    """
    return _median(_finest_sharpness(result, config))


def _median(measured: Sequence[float | None]) -> float | None:
    found = [value for value in measured if value is not None]
    return statistics.median(found) if found else None


def _finest_sharpness(result: SlideResult, config: TNetConfig) -> list[float | None]:
    """Return how sharp some of the patches are that were looked at closest; nothing where there is none to measure."""
    seen, size = result.evidence, result.size
    if seen is None or size is None or not (seen.patches or seen.sharpness):
        return []
    finest = [
        (number, each.region)
        for number, each in enumerate(result.regions)
        if each.processing_level == config.processing_levels - 1
        and _of_slide(each.region, size, config.input_px(each.processing_level))
    ]
    step = max(1, -(-len(finest) // PATCHES_FOR_SHARPNESS))
    return [
        patch_sharpness(seen.patches[number], region, size) if seen.patches else seen.sharpness[region]
        for number, region in finest[::step]
    ]


def patch_sharpness(pixels: np.ndarray, region: Region, size: Size) -> float | None:
    """Return the sharpness of what a patch, uint8 (S, S, 3), shows of a slide of that size; None where that is nothing.

    The end of the slide, where the patch goes on white, is a sharp edge and left out.
    """
    part = _of_slide(region, size, len(pixels))
    return None if part is None else sharpness(pixels[part])


def _of_slide(region: Region, size: Size, side_px: int) -> tuple[slice, slice] | None:
    """Return which rows and columns of a region's patch show the slide; None for too few to measure."""
    inside = region.intersect(Region(0, 0, size.width, size.height))
    if inside is None:
        return None
    scale = side_px / region.height  # both are square
    left, top = math.ceil((inside.x - region.x) * scale), math.ceil((inside.y - region.y) * scale)
    right, bottom = math.floor((inside.right - region.x) * scale), math.floor((inside.bottom - region.y) * scale)
    return (slice(top, bottom), slice(left, right)) if min(right - left, bottom - top) > FAR_PX else None


def sharpness(pixels: np.ndarray) -> float | None:
    """Return how sharp a patch, uint8 (H, W, 3), is: D(1) / D(4), whatever its contrast; None where it shows nothing.

    D(h) is the mean squared difference of grey values h pixels apart, along rows and columns. The ratio is 1/16 for
    what changes only slowly, about 0.2 for tissue in focus, and 1 for noise.
    """
    # Sums of the channels and whole numbers, so that numpy never goes along an axis of three.
    grey = pixels[..., 0].astype(np.int16) + pixels[..., 1] + pixels[..., 2]
    near, far = (_difference(grey, apart_px) / 9 for apart_px in (NEAR_PX, FAR_PX))
    return near / far if far >= LEAST_CONTRAST else None


def _difference(grey: np.ndarray, apart_px: int) -> float:
    along = (grey[apart_px:] - grey[:-apart_px], grey[:, apart_px:] - grey[:, :-apart_px])
    flat = [each.astype(np.float32).ravel() for each in along]
    return float(sum(np.dot(each, each) / each.size for each in flat) / 2)
