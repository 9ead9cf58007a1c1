"""How the arms learn: one warm start for all of them, then each on its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.megapixel_mnist.arms import (
    BASE_PX,
    Attending,
    classify_whole,
    in_colour,
    read_region,
    traverse_all,
)
from benchmarks.megapixel_mnist.canvas import DIGIT_PX, Canvas, Digits, make_canvas
from benchmarks.megapixel_mnist.loop import Loop
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.loss import ObjectiveInput, ObjectiveWeights, objective
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.sampling_log_probs import sampling_log_probs
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Traversal

CUT_PX = 4
"""Most that a patch of the warm start cuts off a digit's box: its empty margin."""

FINER_SHARE = 3
"""One image in so many of the warm-up is also seen closer: finding the digit takes longer to learn than reading it."""


@dataclass(frozen=True, slots=True)
class Series:
    """An endless series of training images.

    Attributes:
        digits: The training part.
        side_px: S.
        seed: Of the series; different stages see different images.
        batch: Images in each step.
    """

    digits: Digits
    side_px: int
    seed: int
    batch: int

    def at(self, step: int) -> list[Canvas]:
        """Return the images of a step."""
        numbers = range(step * self.batch, (step + 1) * self.batch)
        return [make_canvas(self.digits, self.side_px, seed=self.seed, number=number) for number in numbers]


def warm_up(network: TNet, series: Series, loop: Loop, *, teach_locations: bool) -> None:
    """Learn from regions that hold the digit: each image whole, and some of them at every finer processing level.

    Batch statistics are those of all processing levels together, and are frozen afterwards.

    Args:
        network: TNet; trained in place.
        series: Images.
        loop: Of the stage.
        teach_locations: Also teach the location module where the digit is; otherwise it learns nothing here.
    """
    network.train()
    config = network.config
    for step in loop:
        canvases = series.at(step)
        fewer = canvases[: max(1, len(canvases) // FINER_SHARE)]
        shown = [(canvas, 0) for canvas in canvases]
        shown += [
            (canvas, processing_level) for processing_level in range(1, config.processing_levels) for canvas in fewer
        ]
        rng = np.random.default_rng([series.seed, step])
        regions = [region_with_digit(canvas, config, processing_level, rng) for canvas, processing_level in shown]
        patches = [
            read_region(canvas.pixels, region, BASE_PX) for (canvas, _), region in zip(shown, regions, strict=True)
        ]
        positions = [position_of_digit(canvas, config, processing_level) for canvas, processing_level in shown]
        allowed = torch.ones(len(shown), config.grid**2, dtype=torch.bool)
        look = network.look(in_colour(torch.stack(patches)), torch.tensor(positions), allowed, detach_location=False)
        logits = network.classification(look.features)
        labels, processing_levels = (
            torch.tensor([canvas.label for canvas, _ in shown]),
            torch.tensor([n for _, n in shown]),
        )
        loss, metrics = torch.zeros(()), dict[str, float]()
        for processing_level in range(config.processing_levels):
            mine = processing_levels == processing_level
            loss = loss + functional.cross_entropy(logits[mine], labels[mine])
            metrics[f"processing level {processing_level}"] = _accuracy(logits[mine], labels[mine])
        if teach_locations and look.cell_log_probs is not None:
            taught = int((processing_levels < config.processing_levels - 1).sum())
            holds = _cells_with_digit(network, [canvas for canvas, _ in shown[:taught]], regions)  # (N, G)
            log_probs = look.cell_log_probs[:taught]
            loss = loss + holding_loss(log_probs, holds)
            metrics["hit"] = float(holds.gather(1, log_probs.argmax(1, keepdim=True)).float().mean())
        loop.descend(loss, **metrics)
    freeze_normalisation(network)


def hold_all_but_locations(network: TNet, *, held: bool) -> None:
    """Hold still everything but the location module, or let go of it; what is held is not differentiated either."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad = not held or name.startswith("location.")


def learn_to_attend(
    network: TNet, series: Series, loop: Loop, *, locations: tuple[int, ...], teach_locations: bool
) -> None:
    """Train with hard attention: Gumbel top-k, the paper's objective and its weights.

    Args:
        network: TNet, of which what is not held learns; its normalisation is frozen.
        series: Images.
        loop: Of the stage.
        locations: k for each processing level after the first.
        teach_locations: Go on teaching the location module where the digit is.
    """
    network.train()
    freeze_normalisation(network)
    for step in loop:
        canvases = series.at(step)
        attending = Attending(locations, GumbelTopK(np.random.default_rng([series.seed, step])))
        traversals = traverse_all(network, canvases, attending, batch_size=128)
        output = network.classify([torch.cat([r.features for r in each.levels]) for each in traversals])
        said = ObjectiveInput(
            logits=output.logits,
            labels=torch.tensor([canvas.label for canvas in canvases]),
            feature_logits=output.location_logits,
            location_log_probs=[torch.cat(sampling_log_probs(each, "per_grid")) for each in traversals],
            processing_levels=[
                torch.cat([torch.full((len(r.regions),), r.processing_level) for r in each.levels])
                for each in traversals
            ],
        )
        terms = objective(said, loop.baseline, ObjectiveWeights())
        loop.baseline = terms.baseline
        taught = _taught(network, canvases, traversals) if teach_locations else torch.zeros(())
        loop.descend(
            terms.total + taught,
            cross_entropy=float(terms.cross_entropy.detach()),
            accuracy=_accuracy(output.logits, said.labels),
            hit=float(np.mean(holds_digit(canvases, traversals))),
            baseline=loop.baseline,
        )


def learn_whole(network: TNet, series: Series, loop: Loop) -> None:
    """Train arm (a) or (b); every batch is of one scale, so its batch statistics go on being learnt."""
    network.train()
    for step in loop:
        canvases = series.at(step)
        logits = classify_whole(network, canvases)
        labels = torch.tensor([canvas.label for canvas in canvases])
        loss = functional.cross_entropy(logits, labels)
        loop.descend(loss, loss=float(loss.detach()), accuracy=_accuracy(logits, labels))


def region_with_digit(canvas: Canvas, config: TNetConfig, processing_level: int, rng: np.random.Generator) -> Region:
    """Return a region of a processing level's size that holds the digit's ink, wherever in it."""
    whole_px = len(canvas.pixels)
    side = round(whole_px * config.cell_fraction**processing_level)
    y, x = (
        int(rng.integers(max(0, start + DIGIT_PX - CUT_PX - side), min(whole_px - side, start + CUT_PX) + 1))
        for start in (canvas.box.y, canvas.box.x)
    )
    return Region(x, y, side, side)


def position_of_digit(canvas: Canvas, config: TNetConfig, processing_level: int) -> tuple[int, int, int]:
    """Return y, x and scale of the nominal cell of a processing level that the digit's middle lies in."""
    cells, whole_px = config.grid**processing_level, len(canvas.pixels)
    y, x = ((start + DIGIT_PX // 2) * cells // whole_px for start in (canvas.box.y, canvas.box.x))
    return y, x, processing_level


def _cells_with_digit(network: TNet, canvases: Sequence[Canvas], regions: Sequence[Region]) -> Tensor:
    """Tell which cells of each region's grid hold the digit's ink, bool (N, G)."""
    grid = AttentionGrid(network.config.grid, network.config.cell_fraction)
    return torch.tensor(
        [
            [cell.contains(ink_box(canvas)) for cell in grid.cells(region)]
            for canvas, region in zip(canvases, regions, strict=False)
        ]
    )


def holding_loss(log_probs: Tensor, holds: Tensor) -> Tensor:
    """Return the mean of -log of the probability that a cell with the digit is drawn first, over grids with one.

    Args:
        log_probs: (N, G).
        holds: bool (N, G).
    """
    some = holds.any(dim=1)
    if not bool(some.any()):
        return log_probs.new_zeros(())
    return -torch.logsumexp(log_probs[some].masked_fill(~holds[some], -1e9), dim=1).mean()


def _taught(network: TNet, canvases: Sequence[Canvas], traversals: Sequence[Traversal]) -> Tensor:
    """Teach the location module in every grid of finished traversals."""
    log_probs, shown, regions = list[Tensor](), list[Canvas](), list[Region]()
    for canvas, traversal in zip(canvases, traversals, strict=True):
        for record in traversal.levels[:-1]:
            if record.cell_log_probs is None:
                continue
            log_probs.append(record.cell_log_probs)
            shown += [canvas] * len(record.regions)
            regions += record.regions
    return holding_loss(torch.cat(log_probs), _cells_with_digit(network, shown, regions))


def ink_box(canvas: Canvas) -> Region:
    """Return the 20 px of the digit's box that MNIST draws in."""
    margin = 4
    return Region(canvas.box.x + margin, canvas.box.y + margin, DIGIT_PX - 2 * margin, DIGIT_PX - 2 * margin)


def holds_digit(canvases: Sequence[Canvas], traversals: Sequence[Traversal]) -> list[bool]:
    """Tell for each image whether a region of the finest processing level holds the digit's ink."""
    return [
        any(region.contains(ink_box(canvas)) for region in each.levels[-1].regions)
        for canvas, each in zip(canvases, traversals, strict=True)
    ]


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).float().mean())
