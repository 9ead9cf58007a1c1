"""Train a slide model: warm-up rounds with the model's own paths, soft attention, then hard attention."""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tnet_cli.errors import PartialFailureError
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.checkpoint import Checkpoint, StoredRun, load_checkpoint, save_checkpoint
from tnet_cli.learning.distributed import own_device, process_group
from tnet_cli.learning.feature_store import FeatureStore
from tnet_cli.learning.frozen_features import FrozenFeatures
from tnet_cli.learning.kept import KeptReads, key_of
from tnet_cli.learning.loop import Stage, StageRun
from tnet_cli.learning.patch_store import PatchPool, restored_pool
from tnet_cli.learning.settings import TrainingSettings, identity_of
from tnet_cli.learning.slides import TrainingSlide, load_training_slides, slide_identity
from tnet_cli.learning.state import Precision, TrainingState, seed_torch
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.training.architecture import load_backbone_weights, load_finest_weights
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.soft_attention import SoftAttention
from tnet_cli.training.validation import validation_metrics
from tnet_cli.training.warmup import WarmUp

KEPT_SLIDES, KEPT_PATCHES = "slides", "patches"
"""Folders beside the checkpoint, of what was read and is not read again; gone when the run has ended."""


def train(
    inputs: Sequence[SlideInput],
    config: TNetConfig,
    settings: TrainingSettings,
    *,
    validation: Sequence[SlideInput] = (),
    folder: Path | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> TNet:
    """Train a slide model.

    1. Patches along annotated and random paths fill a pool; extractor, location module and classifier learn from it.
    2. The patches the model now attends to join the pool, and it learns again; several rounds.
    3. Normalisation is frozen. If asked for, slide labels teach the location module by soft attention over random
       cells.
    4. Whole slides are traversed with sampled locations under the paper's objective, if asked for to fewer processing
       levels first.

    Without annotations there is nothing for 1 and 2 to learn from, and they are left out, unless patches are to take
    their slide's label.

    Args:
        inputs: Labelled slides; annotations where a pathologist has drawn them.
        validation: Labelled slides to validate on after each stage and each epoch of hard attention.
        folder: Of checkpoints; a run that was stopped goes on from the one there. None to keep none.
        device: Where the network runs; under torchrun each process has its own.
        skip_bad: Leave out slides that cannot be read, and say so, instead of stopping.
        progress: Told of steps and in sentences what a user should know; under torchrun by the first process alone.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        ManifestError: a label or annotation cannot be used.
        PartialFailureError: all slides of a class had to be left out.
        ModelFileError: the checkpoint or the pretrained weights cannot be used.
        SlideError: a slide cannot be read.
        TrainingError: the loss is not finite any more, or memory does not suffice.
        UsageError: the settings do not fit the model, the folder holds the checkpoint of another run, or features
            cannot be kept where they are to be.
    """
    settings.check_fit(config)
    if settings.features is not None:
        FeatureStore(Path(settings.features)).check_usable()
    device = own_device(device)
    seed_torch(settings.seed)
    network = TNet(config)
    if settings.backbone_weights is not None:
        load_backbone_weights(network, settings.backbone_weights)
    if settings.finest_weights is not None:
        load_finest_weights(network, settings.finest_weights)
    with process_group(device) as group:
        state = TrainingState(
            network=network.to(device),
            slides=[],
            settings=settings,
            device=device,
            group=group,
            precision=Precision(device, mixed=settings.mixed_precision),
            progress=progress or Progress(),
            pool=PatchPool(KeptReads(folder and folder / KEPT_PATCHES)),
            run_digest=key_of(config.model_dump(mode="json"), identity_of(settings)),
            folder=folder,
            pretrained=settings.backbone_weights is not None,
            skip_bad=skip_bad,
        )
        # The first has begun the run's folder when it comes here; before that nobody may write into it.
        group.agreed(0)
        stored = load_checkpoint(state)
        kept = KeptReads(folder and folder / KEPT_SLIDES)
        if stored is None or not _is_done(stored, inputs, settings):
            load = partial(
                load_training_slides,
                annotations=settings.annotations,
                readers=settings.readers,
                on_bad=state.leave_out,
                on_note=state.note_once,
                kept=kept,
            )
            # In an order of their own: rows in another order are the same manifest, and a moved slide is the same.
            state.slides = sorted(load(inputs, config), key=attrgetter("identity"))
            _check_classes(state, inputs)
            validation_slides = load(validation, config)
            if stored is not None:
                stored.check_slides(state.slides)
            _run_stages(state, plan_stages(state), validation_slides, stored)
            group.synchronise(network)
        else:
            network.load_state_dict(stored.network)
            state.note("going on from the checkpoint at the end")
        if group.rank == 0:
            for each in (kept, state.pool.kept):
                each.clear()
        return network.eval()


def _check_classes(state: TrainingState, inputs: Sequence[SlideInput]) -> None:
    """Refuse to train without a class of which every slide had to be left out."""
    left = {slide.entry.label for slide in state.slides}
    lost = sorted({entry.label or "" for entry in inputs} - left)
    if lost:
        raise PartialFailureError(
            f"none of the slides of class {', '.join(map(repr, lost))} can be read, so nothing can be learnt of it; "
            f"{len(inputs) - len(state.slides)} of {len(inputs)} slides were left out"
        )


def _is_done(stored: StoredRun, inputs: Sequence[SlideInput], settings: TrainingSettings) -> bool:
    """Tell whether a run with these very slides has ended, without opening any."""
    if not stored.checkpoint.has_ended:
        return False
    given = sorted(slide_identity(entry, annotations=settings.annotations) for entry in inputs)
    return given == [identity for identity, _ in stored.slides]


def plan_stages(state: TrainingState) -> list[Stage[Any]]:
    """Return the stages of a run, in order; those without steps are left out."""
    settings = state.settings
    stages: list[Stage[Any]] = []
    if settings.slide_labels_teach_patches or any(slide.annotated is not None for slide in state.slides):
        stages += [WarmUp(state, number) for number in range(1, settings.rounds + 1)]
    elif settings.rounds:
        state.note("no slide has an annotation that may teach, so the warm-up on patches is left out")
    stages.append(SoftAttention(state))
    depths = [*settings.staged_depth, (None, settings.hard_epochs)]
    steps = np.cumsum([0] + [epochs for _, epochs in depths])
    for (depth, epochs), before, after in zip(depths, steps, steps[1:], strict=False):
        explored = (float(before / max(steps[-1], 1)), float(after / max(steps[-1], 1)))
        stages.append(HardAttention(state, epochs, depth, explored))
    planned = [stage for stage in stages if stage.steps > 0]
    for number, stage in enumerate(planned):
        stage.number = number
    return planned


def _run_stages(
    state: TrainingState,
    stages: Sequence[Stage[Any]],
    validation_slides: Sequence[TrainingSlide],
    stored: StoredRun | None,
) -> None:
    first, settings = 0, state.settings
    if stored is not None:
        state.network.load_state_dict(stored.network)
        first = stored.checkpoint.stage
        where = "the end" if first == len(stages) else f"{stages[first].name}, step {stored.checkpoint.step}"
        state.note(f"going on from the checkpoint at {where}")
        if stored.pool:
            px, readers = state.network.config.base_px, settings.readers
            state.pool = restored_pool(stored.pool, stored.pool_keys, state.pool.kept, state.slides, px, readers)
    state.group.synchronise(state.network)
    if settings.features is not None:
        # Of the weights as they are now: those of a run that goes on are its checkpoint's.
        state.features = FrozenFeatures.of(
            state.network,
            Path(settings.features),
            state.device,
            side_px=lambda _number: state.network.config.base_px,
            arithmetic=state.precision.dtype,
        )
    metrics = partial(validation_metrics, state, validation_slides) if validation_slides else None
    for stage in stages[first:]:
        run = StageRun(stage, metrics)
        if stored is not None and stage.number == first:
            stage.resume()
            run.restore(stored.checkpoint)
        else:
            stage.begin()
        run.run()
    save_checkpoint(state, Checkpoint(stage=len(stages), step=0, has_ended=True))
