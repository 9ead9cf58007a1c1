"""The honest baseline: every cell with tissue at the finest resolution, through the same engine and network."""

from collections.abc import Generator, Sequence

import numpy as np
import torch

from tnet_cli.errors import SlideError
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.inference.prepare import Preparation
from tnet_cli.inference.traversal_job import TraversalJob, reader_of
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import Look, ProcessingLevelRecord, Traversal, Wanted, origins, positions_below
from tnet_cli.slide.slide import Slide

CELLS_AT_ONCE = 512
"""Cells wanted at a time: enough to keep readers and network busy, few enough to hold."""


def tissue_cells(preparation: Preparation, config: TNetConfig) -> tuple[tuple[Region, ...], np.ndarray]:
    """Return every region of the finest processing level that may be attended, and its place in the grids.

    Returns:
        N boxes in level-0 pixels, and positions int64 (N, 3): y, x and scale.
    """
    grid, allowed = AttentionGrid(config.grid, config.cell_fraction), preparation.allowed()
    regions = list(preparation.root_regions)
    positions, root_of = origins(len(regions), preparation.scale.start), np.arange(len(regions))
    for _ in range(preparation.scale.start, preparation.scale.processing_levels - 1):
        cells = [cell for region in regions for cell in grid.cells(region)]
        parents, numbers = np.divmod(np.arange(len(cells)), grid.cell_count)
        kept = np.flatnonzero(allowed(cells, root_of[parents]))
        root_of = root_of[parents[kept]]
        regions = [cells[number] for number in kept]
        positions = positions_below(positions[parents[kept]], numbers[kept], grid)
    return tuple(regions), positions


def every_cell_job(
    slide: Slide,
    preparation: Preparation,
    config: TNetConfig,
    cells: tuple[tuple[Region, ...], np.ndarray] | None = None,
) -> TraversalJob:
    """Return the job of a slide of which every finest cell with tissue is looked at, and nothing else.

    Args:
        slide: Open until the job has ended.
        preparation: Of this slide for this model.
        cells: Some of ``tissue_cells``, in place of all.

    Raises:
        SlideError: there is no such cell.
    """
    regions, positions = cells or tissue_cells(preparation, config)
    if not regions:
        raise SlideError(slide.path, "shows no tissue at the finest resolution, so there is nothing to look at")
    steps = _in_turn(regions, positions, preparation.scale.processing_levels - 1)
    return TraversalJob(
        traversal=steps,
        read=reader_of(slide, config, preparation),
        keeps_patches=False,
        encoder_of=config.encoder_number,
    )


def _in_turn(
    regions: Sequence[Region], positions: np.ndarray, processing_level: int
) -> Generator[Wanted, Look, Traversal]:
    features: list[torch.Tensor] = []
    for start in range(0, len(regions), CELLS_AT_ONCE):
        some = slice(start, start + CELLS_AT_ONCE)
        look = yield Wanted(processing_level, tuple(regions[some]), positions[some], None)
        features.append(look.features)
    none, certain = np.full(len(regions), -1, dtype=np.int64), np.zeros(len(regions))
    record = ProcessingLevelRecord(
        processing_level=processing_level,
        regions=tuple(regions),
        positions=positions,
        parents=none,
        cells=none,
        location_log_probs=certain,
        path_log_probs=certain,
        features=torch.cat(features),
        cell_log_probs=None,
        allowed=None,
    )
    return Traversal(levels=(record,))
