"""How the arms learn: one warm start for all of them, then each on its own."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.megapixel_mnist.arms import (
    BASE_PX,
    Attending,
    classify_whole,
    full_network,
    in_colour,
    read_region,
    traverse_all,
    whole,
)
from benchmarks.megapixel_mnist.canvas import DIGIT_PX, Canvas, Digits, make_canvas
from tnet_cli.geometry import Region
from tnet_cli.model.choice import GumbelTopK
from tnet_cli.model.loss import ObjectiveInput, ObjectiveWeights, objective
from tnet_cli.model.normalisation import freeze_normalisation
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Traversal

GRADIENT_CLIP = 5.0
WEIGHT_DECAY = 1e-3
CUT_PX = 8
"""Most that a patch of the warm start cuts off a digit's box: twice its empty margin."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        steps: Of the optimiser.
        batch: Images in each.
        learning_rate: At its height; one cycle of it.
    """

    steps: int
    batch: int
    learning_rate: float


class Log:
    """Prints running means of the figures of a stage, to stderr.

    Args:
        name: Of the stage.
        stage: For its length.
    """

    def __init__(self, name: str, stage: Stage) -> None:
        self.name, self.stage = name, stage
        self.step, self.sums = 0, dict[str, list[float]]()
        self.started = time.perf_counter()

    def add(self, **figures: float) -> None:
        """Take the figures of one step."""
        self.step += 1
        for name, figure in figures.items():
            self.sums.setdefault(name, []).append(figure)
        if self.step % max(1, min(25, self.stage.steps // 20)) == 0 or self.step == self.stage.steps:
            said = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in self.sums.items())
            seconds = time.perf_counter() - self.started
            print(f"{self.name} {self.step}/{self.stage.steps} {seconds:.0f} s: {said}", file=sys.stderr, flush=True)
            self.sums = {}


class Series:
    """An endless series of training images.

    Args:
        digits: The training part.
        side_px: S.
        seed: Of the series; different stages see different images.
    """

    def __init__(self, digits: Digits, side_px: int, seed: int) -> None:
        self.digits, self.side_px, self.seed, self.number = digits, side_px, seed, 0

    def take(self, count: int) -> list[Canvas]:
        """Return the next images."""
        self.number += count
        numbers = range(self.number - count, self.number)
        return [make_canvas(self.digits, self.side_px, seed=self.seed, number=number) for number in numbers]


def warm_up(network: TNet, series: Series, stage: Stage, *, supervised: bool, seed: int) -> None:
    """Learn from patches that hold the digit and from coarse views of the same images, half of each batch.

    Batch statistics are those of both scales, and are frozen afterwards.

    Args:
        network: TNet; trained in place.
        series: Images.
        stage: Length and rate.
        supervised: Also teach the location module where the digit is; otherwise it learns nothing here.
        seed: Of the crops.
    """
    rng, log = np.random.default_rng(seed), Log("warm-up", stage)
    network.train()
    for step in _optimised(network.parameters(), stage):
        canvases = series.take(stage.batch)
        coarse = torch.stack([read_region(canvas.pixels, whole(canvas), BASE_PX) for canvas in canvases])
        native = torch.stack([_patch_with_digit(canvas, rng) for canvas in canvases])
        labels = torch.tensor([canvas.label for canvas in canvases])
        positions = _coarse_and_native(network, canvases)
        allowed = torch.ones(2 * len(canvases), network.config.grid**2, dtype=torch.bool)
        look = network.look(in_colour(torch.cat([coarse, native])), positions, allowed, detach_location=False)
        logits = network.classification(look.features)
        loss_coarse = functional.cross_entropy(logits[: len(canvases)], labels)
        loss_native = functional.cross_entropy(logits[len(canvases) :], labels)
        loss = loss_coarse + loss_native
        figures = {
            "coarse": _accuracy(logits[: len(canvases)], labels),
            "native": _accuracy(logits[len(canvases) :], labels),
        }
        if supervised:
            assert look.cell_log_probs is not None
            log_probs = look.cell_log_probs[: len(canvases)]
            holds = _cells_with_digit(network, canvases)  # (N, G)
            location = -torch.logsumexp(log_probs.masked_fill(~holds, -1e9), dim=1).mean()
            loss = loss + location
            figures["location"] = float(location.detach())
            figures["hit"] = float(holds.gather(1, log_probs.argmax(1, keepdim=True)).float().mean())
        step(loss)
        log.add(**figures)
    freeze_normalisation(network)


def learn_locations(network: TNet, series: Series, stage: Stage, *, locations: tuple[int, ...], seed: int) -> None:
    """Let the location module alone learn by REINFORCE; everything else is held still, which makes steps cheap."""
    held = [p for name, p in network.named_parameters() if not name.startswith("location.")]
    for parameter in held:
        parameter.requires_grad_(requires_grad=False)
    _attend(network, series, stage, "locations", locations, seed)
    for parameter in held:
        parameter.requires_grad_(requires_grad=True)


def learn_to_attend(network: TNet, series: Series, stage: Stage, *, locations: tuple[int, ...], seed: int) -> None:
    """Train all of TNet with hard attention and the paper's objective."""
    _attend(network, series, stage, "hard attention", locations, seed)


def _attend(network: TNet, series: Series, stage: Stage, name: str, locations: tuple[int, ...], seed: int) -> None:
    attending = Attending(locations, GumbelTopK(np.random.default_rng(seed)))
    log, baseline = Log(name, stage), 0.5
    network.train()
    freeze_normalisation(network)
    for step in _optimised([p for p in network.parameters() if p.requires_grad], stage):
        canvases = series.take(stage.batch)
        traversals = traverse_all(network, canvases, attending, batch_size=128)
        answer = network.classify([torch.cat([r.features for r in each.levels]) for each in traversals])
        said = ObjectiveInput(
            logits=answer.logits,
            labels=torch.tensor([canvas.label for canvas in canvases]),
            feature_logits=answer.location_logits,
            location_log_probs=[torch.cat([r.location_log_probs for r in each.levels[1:]]) for each in traversals],
            processing_levels=[
                torch.cat([torch.full((len(r.regions),), r.processing_level) for r in each.levels])
                for each in traversals
            ],
        )
        terms = objective(said, baseline, ObjectiveWeights())
        step(terms.total)
        baseline = terms.baseline
        log.add(
            loss=float(terms.total.detach()),
            accuracy=_accuracy(answer.logits, said.labels),
            hit=_hit_share(canvases, traversals),
            baseline=baseline,
        )


def learn_whole(network: TNet, series: Series, stage: Stage, *, name: str) -> None:
    """Train arm (a) or (b); every batch is of one scale, so that the batch statistics go on being learnt."""
    log = Log(name, stage)
    network.train()
    for step in _optimised(network.parameters(), stage):
        canvases = series.take(stage.batch)
        logits = classify_whole(network, canvases)
        labels = torch.tensor([canvas.label for canvas in canvases])
        loss = functional.cross_entropy(logits, labels)
        step(loss)
        log.add(loss=float(loss.detach()), accuracy=_accuracy(logits, labels))


def grown(network: TNet, side_px: int) -> TNet:
    """Return arm (a) for images of another size, with the same weights: it is convolutional up to its pooling."""
    larger = full_network(side_px)
    larger.load_state_dict(network.state_dict())
    return larger


def _optimised(parameters: object, stage: Stage) -> Iterator[Callable[[Tensor], None]]:
    """Yield, for each step of a stage, what to call with its loss."""
    trained = list(parameters)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, stage.learning_rate, total_steps=stage.steps + 1)

    def step(loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, GRADIENT_CLIP)
        optimiser.step()
        schedule.step()

    for _ in range(stage.steps):
        yield step


def _patch_with_digit(canvas: Canvas, rng: np.random.Generator) -> Tensor:
    """Cut a patch of the image's own pixels that holds the digit, all but ``CUT_PX`` of its box."""
    side = len(canvas.pixels)
    places = []
    for start in (canvas.box.y, canvas.box.x):
        low, high = start + DIGIT_PX - CUT_PX - BASE_PX + DIGIT_PX // 2, start + CUT_PX // 2
        places.append(int(rng.integers(max(0, low - DIGIT_PX // 2 + CUT_PX // 2), min(side - BASE_PX, high) + 1)))
    return read_region(canvas.pixels, Region(places[1], places[0], BASE_PX, BASE_PX), BASE_PX)


def _coarse_and_native(network: TNet, canvases: Sequence[Canvas]) -> Tensor:
    """Return positions (2 N, 3): those of the roots, then of the cell of the finest grid nearest each digit."""
    config, side = network.config, len(canvases[0].pixels)
    scale = config.processing_levels - 1
    cells = config.grid**scale
    fine = [
        ((c.box.y + DIGIT_PX // 2) * cells // side, (c.box.x + DIGIT_PX // 2) * cells // side, scale) for c in canvases
    ]
    return torch.tensor([(0, 0, 0)] * len(canvases) + fine)


def _cells_with_digit(network: TNet, canvases: Sequence[Canvas]) -> Tensor:
    """Tell which cells of each image's grid hold the digit's ink, bool (N, G)."""
    from tnet_cli.geometry import AttentionGrid

    config = network.config
    cells = AttentionGrid(config.grid, config.cell_fraction).cells(whole(canvases[0]))
    return torch.tensor([[cell.contains(ink_box(canvas)) for cell in cells] for canvas in canvases])


def ink_box(canvas: Canvas) -> Region:
    """Return the 20 px of the digit's box that MNIST draws in."""
    margin = 4
    return Region(canvas.box.x + margin, canvas.box.y + margin, DIGIT_PX - 2 * margin, DIGIT_PX - 2 * margin)


def _hit_share(canvases: Sequence[Canvas], traversals: Sequence[Traversal]) -> float:
    """Return the share of images of which a region of the finest processing level holds the digit's ink."""
    hits = [
        any(region.contains(ink_box(canvas)) for region in each.levels[-1].regions)
        for canvas, each in zip(canvases, traversals, strict=True)
    ]
    return float(np.mean(hits))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).float().mean())
