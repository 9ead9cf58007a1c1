"""Train a slide model: warm-up rounds with the model's own paths, soft attention, then hard attention."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from tnet_cli.errors import UsageError
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tnet_cli.learning.distributed import Group, joined_group, own_device
from tnet_cli.learning.loop import StageRun
from tnet_cli.learning.patch_store import read_again
from tnet_cli.learning.precision import Precision
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide, load_training_slides
from tnet_cli.learning.stage import Stage
from tnet_cli.learning.state import Course, StepReport, seed_torch
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.pretrained import load_backbone_weights
from tnet_cli.training.soft_attention import SoftAttention
from tnet_cli.training.validation import validate
from tnet_cli.training.warmup import WarmUp

__all__ = ["StepReport", "train"]


def train(
    inputs: Sequence[SlideInput],
    config: TNetConfig,
    settings: TrainingSettings,
    *,
    validation: Sequence[SlideInput] = (),
    folder: Path | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    skip_bad: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
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
        config: The model.
        settings: Sizes, rates and weights.
        validation: Labelled slides to validate on after each stage and each epoch of hard attention.
        folder: Of checkpoints; a run that was stopped goes on from the one there. None to keep none.
        device: Where the network runs; under torchrun each process has its own.
        skip_bad: Leave out slides that cannot be read, and say so, instead of stopping.
        on_step: Told the losses as it goes; under torchrun by the first process alone.
        on_note: Told in sentences what a user should know.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        ManifestError: a label or annotation cannot be used.
        ModelFileError: the checkpoint or the pretrained weights cannot be used.
        SlideError: a slide cannot be read.
        TrainingError: the loss is not finite any more, or memory does not suffice.
        UsageError: the settings do not fit the model, or the folder holds the checkpoint of another run.
    """
    _check_fit(config, settings)
    device = own_device(device)
    with joined_group(device) as group:
        course = _set_out(config, settings, device=device, group=group, folder=folder, skip_bad=skip_bad)
        course.on_step, course.on_note = on_step, on_note
        course.slides = _load(inputs, course)
        held_out = _load(validation, course)
        course.fingerprint = _fingerprint(inputs, config, settings)
        stages = plan_stages(course)
        _run_stages(course, stages, held_out)
        course.group.make_alike(course.network)
        course.network.eval()
        return course.network


def _check_fit(config: TNetConfig, settings: TrainingSettings) -> None:
    if config.mpp is None:
        raise UsageError("training on slides needs a model with the micrometres per pixel of each processing level")
    if len(settings.hard_locations) != config.processing_levels - 1:
        raise UsageError(
            f"hard_locations needs {config.processing_levels - 1} numbers for this model, one for each processing "
            f"level after the first, not {len(settings.hard_locations)}"
        )
    if settings.normal_class is not None and settings.normal_class not in config.class_names:
        raise UsageError(f"normal_class {settings.normal_class!r} is not among {', '.join(config.class_names)}")
    if any(depth >= config.processing_levels for depth, _ in settings.staged_depth):
        raise UsageError(
            f"staged_depth names processing levels before all {config.processing_levels} are used; "
            f"found {', '.join(str(depth) for depth, _ in settings.staged_depth)}"
        )


def _set_out(
    config: TNetConfig,
    settings: TrainingSettings,
    *,
    device: torch.device,
    group: Group,
    folder: Path | None,
    skip_bad: bool,
) -> Course:
    seed_torch(settings.seed)
    network = TNet(config)
    if settings.backbone_weights is not None:
        load_backbone_weights(network, settings.backbone_weights)
    network.to(device)
    return Course(
        network=network,
        slides=[],
        settings=settings,
        device=device,
        group=group,
        precision=Precision(device, mixed=settings.mixed_precision),
        folder=folder,
        pretrained=settings.backbone_weights is not None,
        skip_bad=skip_bad,
    )


def _load(inputs: Sequence[SlideInput], course: Course) -> list[TrainingSlide]:
    return load_training_slides(
        inputs,
        course.network.config,
        annotations=course.settings.annotations,
        readers=course.settings.readers,
        on_bad=course.leave_out,
    )


def _fingerprint(inputs: Sequence[SlideInput], config: TNetConfig, settings: TrainingSettings) -> str:
    """Name a run by all that decides its numbers."""
    # How often it is saved and how many threads read changes nothing of what is computed.
    said = settings.model_dump(mode="json", exclude={"checkpoint_every", "readers"})
    slides = [[entry.path, entry.label, entry.mpp, str(entry.annotation)] for entry in inputs]
    whole = json.dumps([slides, config.model_dump(mode="json"), said], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def plan_stages(course: Course) -> list[Stage]:
    """Return the stages of a run, in order; those without steps are left out."""
    settings, slides = course.settings, course.slides
    stages: list[Stage] = []
    if settings.slide_labels_teach_patches or any(slide.annotated is not None for slide in slides):
        stages += [WarmUp(settings, number) for number in range(1, settings.rounds + 1)]
    elif settings.rounds:
        course.note("no slide has an annotation that may teach, so the warm-up on patches is left out")
    stages.append(SoftAttention(settings))
    depths = [*settings.staged_depth, (None, settings.hard_epochs)]
    steps = np.cumsum([0] + [epochs for _, epochs in depths])
    for (depth, epochs), before, after in zip(depths, steps, steps[1:], strict=False):
        explored = (float(before / max(steps[-1], 1)), float(after / max(steps[-1], 1)))
        stages.append(HardAttention(settings, len(slides), epochs, depth, explored))
    return [stage for stage in stages if stage.steps > 0]


def _run_stages(course: Course, stages: Sequence[Stage], held_out: Sequence[TrainingSlide]) -> None:
    restored = load_checkpoint(course)
    course.group.make_alike(course.network)
    first = 0
    if restored is not None:
        checkpoint, pool = restored
        first = checkpoint.stage
        where = "the end" if first == len(stages) else f"{stages[first].name}, step {checkpoint.step}"
        course.note(f"going on from the checkpoint at {where}")
        if pool:
            course.pool = read_again(pool, course.slides, course.network.config.base_px, course.settings.readers)
    for number in range(first, len(stages)):
        stage = stages[number]
        resumed = restored is not None and number == first
        if resumed:
            stage.resume(course, number)
        else:
            stage.begin(course, number)
        run = StageRun(
            course,
            stage,
            number,
            (lambda stage: validate(course, held_out, stage.depth)) if held_out else None,
        )
        if resumed and restored is not None:
            run.restore(restored[0])
        run.run()
    save_checkpoint(course, Checkpoint(stage=len(stages), step=0))
