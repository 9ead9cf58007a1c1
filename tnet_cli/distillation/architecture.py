"""The network of a distilled model: small encoders that look for places, and the teacher itself where it counts."""

from datetime import UTC, datetime
from importlib.metadata import version

import torch
from pydantic import ValidationError

from tnet_cli.errors import DISTRIBUTION, UsageError
from tnet_cli.model.config import EncoderConfig, TNetConfig, mpp_by_level, problem_of_class_name
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard, Verdict
from tnet_cli.modelfile.encoders import FoundEncoder, load_weights
from tnet_cli.modelfile.zoo import PatchModel

GRID = 4
COARSE_PX = 256
COARSEST_UM = 5000.0
"""Least side of the coarsest regions: a dozen of them cover a large section."""

FINE_LOCATIONS = 50
COARSE_LOCATIONS = (24, 12)
"""Attended at the processing levels above the finest, from there upwards; the last holds for those above."""

SAMPLE_SHARE = 0.5
"""Of the finest cells that are looked at, those that are drawn at random where the rule is about all of the tissue."""


def distilled_config(
    teacher: PatchModel, class_names: tuple[str, str], fine_locations: int, finder: FoundEncoder | None = None
) -> TNetConfig:
    """Return the configuration of a model that looks with a teacher where it looks closest.

    A finest region is one of the teacher's patches. As many processing levels lie above it as make the coarsest regions
    at least five millimetres wide.

    Args:
        fine_locations: Attended at the finest processing level.
        finder: What looks for places, at the coarse processing levels; a small network with random weights when None.

    Raises:
        UsageError: the teacher's patches cannot be those of a slide model, or the finder has no place in one.
    """
    coarse = 1
    while teacher.side_um * GRID**coarse < COARSEST_UM and coarse < 19:
        coarse += 1
    coarsest = EncoderConfig(backbone="tnet_small", input_px=COARSE_PX) if finder is None else finder.config
    coarsest = coarsest.model_copy(update={"processing_levels": tuple(range(coarse)), "frozen": False})
    above = [COARSE_LOCATIONS[min(number, len(COARSE_LOCATIONS) - 1)] for number in range(coarse - 1)]
    inputs_px = [coarsest.input_px] * coarse + [teacher.encoder.input_px]
    try:
        return TNetConfig(
            backbone=coarsest.backbone,
            tap=coarsest.tap,
            class_names=class_names,
            base_px=coarsest.input_px,
            grid=GRID,
            cell_fraction=1 / GRID,
            processing_levels=coarse + 1,
            mpp=mpp_by_level(teacher.side_um, GRID, inputs_px),
            starts_where_filled=True,
            choice="beam",
            locations=(*reversed(above), fine_locations),
            position_axes="s",
            pixel_mean=coarsest.pixel_mean,
            pixel_std=coarsest.pixel_std,
            encoders=(coarsest, teacher.encoder.model_copy(update={"processing_levels": (coarse,)})),
            response=True,
        )
    except ValidationError as exc:
        option = "--teacher" if finder is None else f"--teacher with --finder {finder.source}"
        raise UsageError(f"{option}: {exc.errors()[0]['msg'].removeprefix('Value error, ')}") from exc


def distilled_network(config: TNetConfig, teacher: PatchModel, finder: FoundEncoder | None = None) -> TNet:
    """Build the network, with the teacher's weights, the finder's where there is one, and others at random.

    Raises:
        UsageError: the finder is no network that can look for places.
        ModelFileError: its weights cannot be had.
    """
    try:
        network = TNet(config)
    except ValueError as exc:
        raise UsageError(f"{config.backbone} cannot look for places: {exc}") from exc
    if not isinstance(network.feature, FeatureExtractionByLevel):
        raise TypeError("a distilled network has encoders by processing level")
    finest = network.feature.encoder(len(config.encoders) - 1)
    finest.load_state_dict(teacher.network.state_dict())
    if finder is not None:
        backbone = network.feature.encoder(0).backbone
        load_weights(backbone, finder.tensors(), name=config.backbone, source=finder.source)
    network.to(memory_format=torch.channels_last)
    return network


def class_names_for(teacher: PatchModel, targets: tuple[str, ...]) -> tuple[str, str]:
    """Name what a slide is called: not one with the targets, and one with them.

    Raises:
        UsageError: a target is none of the teacher's classes, they are all of them, or make no name.
    """
    unknown = [name for name in targets if name not in teacher.classes]
    if unknown or not targets or len(set(targets)) != len(targets):
        said = f"--target {','.join(targets)}: " if targets else "--target: "
        problem = f"{unknown[0]!r} is none of them" if unknown else "name some of them, each once"
        raise UsageError(f"{said}the classes of {teacher.name} are {', '.join(teacher.classes)}; {problem}")
    others = [name for name in teacher.classes if name not in targets]
    if not others and len(teacher.classes) > 1:
        raise UsageError(f"--target {','.join(targets)}: these are all classes of {teacher.name}, so nothing is sought")
    positive = " or ".join(targets)
    negative = others[0] if len(others) == 1 else f"no {positive}"
    for name in (positive, negative):
        wrong = problem_of_class_name(name)
        if wrong is not None:
            raise UsageError(f"--target {','.join(targets)}: the name {name!r} {wrong}")
    return negative, positive


def card_of(
    name: str, config: TNetConfig, verdict: Verdict, *, licence: str, limits: tuple[str, ...] = ()
) -> ModelCard:
    """Return the card of a distilled model."""
    teacher, positive = verdict.teacher, config.class_names[1]
    return ModelCard(
        name=name,
        summary=f"Says what the patch model {teacher.name} would of every tile of a slide: {positive} or not.",
        intended_use=(
            f"In place of {teacher.name} on every tile, where that is used already; it is no better than its teacher, "
            "and not for diagnosis"
        ),
        limits=limits,
        licence=licence,
        created=datetime.now(UTC).date(),
        package_version=version(DISTRIBUTION),
        verdict=verdict,
        network=config,
    )
