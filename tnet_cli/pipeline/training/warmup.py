"""The warm-up: extractor, location module and classifier learn from a pool of patches, taught by annotations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tnet_cli.model.tnet import TNet
from tnet_cli.pipeline.training.augment import augment_patch
from tnet_cli.pipeline.training.pool import PatchPool
from tnet_cli.pipeline.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class StepReport:
    """Figures of some steps of training.

    Attributes:
        stage: Name of the stage.
        step: Steps done in the stage.
        steps: Steps in the stage.
        terms: Mean of each term since the last report, by name.
    """

    stage: str
    step: int
    steps: int
    terms: dict[str, float]


def warm_up(
    network: TNet,
    pool: PatchPool,
    settings: TrainingSettings,
    rng: np.random.Generator,
    *,
    stage: str,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """Train on patches drawn from the pool, every processing level in every batch.

    The location module learns the share of the annotated area in each cell; gradients pass into the extractor here,
    unlike in the hard phase. Batch statistics are those of all processing levels together, and are frozen afterwards.

    Args:
        network: Trained in place.
        pool: Patches with targets.
        settings: Rates and sizes.
        rng: Source of randomness.
        stage: Named in reports.
        on_step: Told the losses every 25 steps.
    """
    weights = pool.sampling_weights()
    steps = settings.warmup_steps
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.warmup_learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.warmup_learning_rate, total_steps=steps + 1)
    network.train()
    sums: dict[str, list[float]] = {}
    for step in range(1, steps + 1):
        chosen = rng.choice(len(pool), size=settings.batch_patches, p=weights)
        terms = _losses(network, pool, chosen, settings, rng)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        for name, term in terms.items():
            sums.setdefault(name, []).append(float(term.detach()))
        if on_step is not None and (step % 25 == 0 or step == steps):
            on_step(StepReport(stage, step, steps, {name: float(np.mean(values)) for name, values in sums.items()}))
            sums = {}


def _losses(
    network: TNet, pool: PatchPool, chosen: np.ndarray, settings: TrainingSettings, rng: np.random.Generator
) -> dict[str, Tensor]:
    pixels, cells = [], []
    for index in chosen:
        changed, carried = augment_patch(
            pool.pixels[index],
            np.stack([pool.allowed[index], pool.cell_targets[index]]),
            settings.colour_jitter,
            rng,
        )
        pixels.append(changed)
        cells.append(carried)
    carried_cells = np.stack(cells)  # (N, 2, G)
    seen = network.look(
        torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([pool.positions[index] for index in chosen])),
        torch.from_numpy(carried_cells[:, 0] > 0),
        detach_location=False,
    )
    labels = torch.tensor([pool.labels[index] for index in chosen])
    targets = torch.from_numpy(carried_cells[:, 1].astype(np.float32))
    terms: dict[str, Tensor] = {}
    if seen.cell_log_probs is not None:
        terms["location"] = location_loss(seen.cell_log_probs, targets)
    if bool((labels >= 0).any()):
        logits = network.classification(seen.features)
        terms["patch"] = functional.cross_entropy(logits, labels, ignore_index=-1)
    return terms


def location_loss(cell_log_probs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy between the annotated shares and the attention, over the regions that hold annotations.

    Args:
        cell_log_probs: (N, G), -inf where a cell may not be attended.
        targets: (N, G) float32; rows sum to one, or to zero where nothing is annotated.

    Returns:
        Scalar; zero when no region holds annotations.
    """
    # -inf times a zero target would be NaN, in the gradient too: those cells are cut out before the product.
    finite = torch.where(targets > 0, cell_log_probs, torch.zeros_like(cell_log_probs))
    taught = (targets.sum(dim=1) > 0).sum().clamp(min=1)
    return -(targets * finite).sum() / taught
