"""What coarse encoders learn from: patches of coarse regions, with the teacher's response in each of their cells."""

from dataclasses import dataclass

import numpy as np

from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.prepare import Preparation, prepare
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.teacher_scores import TeacherScores
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import allowed_cells, origins, positions_below
from tnet_cli.slide.opening import open_slide

PATCHES = 16
"""Most patches of each processing level of a slide."""


@dataclass(frozen=True, slots=True, eq=False)
class CellResponses:
    """The teacher's response in the cells of regions; G cells of each of N regions.

    Attributes:
        top, mean: float32 (N, G): its highest, and the mean of what the rule averages.
        known: bool (N, G): where anything was scored.
    """

    top: np.ndarray
    mean: np.ndarray
    known: np.ndarray


def cell_responses(
    regions: list[Region], scores: TeacherScores, responses: np.ndarray, values: np.ndarray, grid: int
) -> CellResponses:
    """Return the teacher's response in the cells of regions.

    Args:
        responses: (M,) of the cells that were scored.
        values: (M,) of these, what the rule averages.
        grid: Cells along each axis.
    """
    shape = (len(regions), grid**2)
    counts, sums, tops = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    centre = scores.boxes[:, :2] + scores.boxes[:, 2:] / 2
    for number, region in enumerate(regions):
        places = np.floor((centre - [region.x, region.y]) * grid / region.width).astype(np.int64)
        inside = ((places >= 0) & (places < grid)).all(axis=1)
        cells = places[inside, 1] * grid + places[inside, 0]
        np.add.at(counts[number], cells, 1)
        np.add.at(sums[number], cells, values[inside])
        np.maximum.at(tops[number], cells, responses[inside])
    mean = np.divide(sums, counts, out=np.zeros(shape), where=counts > 0)
    return CellResponses(tops.astype(np.float32), mean.astype(np.float32), counts > 0)


def coarse_patches(
    entry: SlideInput,
    config: TNetConfig,
    scores: TeacherScores,
    responses: np.ndarray,
    values: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Read patches of a slide's coarse regions: half of those with the highest responses, half at random.

    Args:
        scores: Of the slide.
        responses, values: As of ``cell_responses``.

    Returns:
        ``pixels`` uint8 (N, px, px, 3), ``positions`` int64 (N, 3), ``allowed`` bool (N, G), ``top`` and ``mean``
        float32 (N, G), of which ``allowed`` says where they are known, and ``stands_for`` float64 (N,): how many
        regions of the slide each stands for.

    Raises:
        SlideError: the slide cannot be read.
    """
    grid, last = AttentionGrid(config.grid, config.cell_fraction), config.processing_levels - 1
    parts: list[dict[str, np.ndarray]] = []
    with open_slide(entry.path, mpp=entry.mpp) as slide:
        preparation: Preparation = prepare(slide, config)
        may_attend = preparation.allowed()
        regions, start = list(preparation.root_regions), preparation.scale.start
        positions, root_of = origins(len(regions), start), np.arange(len(regions))
        for processing_level in range(start, last):
            grids = [grid.cells(region) for region in regions]
            allowed = allowed_cells(grids, root_of, may_attend)
            found = cell_responses(regions, scores, responses, values, config.grid)
            known = allowed & found.known
            chosen, stands_for = _chosen(np.where(known, found.top, -1).max(axis=1), known.any(axis=1), rng)
            side_px = config.input_px(processing_level)
            if len(chosen):
                parts.append(
                    {
                        "pixels": np.stack([slide.read(regions[number], side_px, side_px) for number in chosen]),
                        "positions": positions[chosen],
                        "allowed": known[chosen],
                        "top": found.top[chosen],
                        "mean": found.mean[chosen],
                        "stands_for": stands_for,
                    }
                )
            parents, cells = np.nonzero(allowed)
            regions = [grids[parent][cell] for parent, cell in zip(parents, cells, strict=True)]
            positions, root_of = positions_below(positions[parents], cells, grid), root_of[parents]
            if not regions:
                break
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chosen(top: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose regions, half of them the highest; return their numbers and how many each stands for."""
    candidates = np.flatnonzero(known)
    ranked = candidates[np.argsort(-top[candidates], kind="stable")]
    highest, others = ranked[: PATCHES // 2], ranked[PATCHES // 2 :]
    drawn = rng.permutation(others)[: PATCHES - len(highest)]
    share = len(others) / len(drawn) if len(drawn) else 0.0
    weights = np.concatenate([np.ones(len(highest)), np.full(len(drawn), share)])
    return np.concatenate([highest, drawn]).astype(np.int64), weights
