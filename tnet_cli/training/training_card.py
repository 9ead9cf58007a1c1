"""The card of a model that a user has trained."""

import re
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from tnet_cli.errors import DISTRIBUTION
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import ModelCard, TrainingData
from tnet_cli.training.config_file import TrainConfig
from tnet_cli.training.manifest import TrainingManifest
from tnet_cli.training.splits import DataSplit


def training_card(
    name: str,
    config: TrainConfig,
    network: TNetConfig,
    manifest: TrainingManifest,
    split: DataSplit,
    validation: dict[str, Any] | None,
) -> ModelCard:
    """Say what a model is, what it has learnt from, and how good it was on its validation slides.

    Args:
        name: Of the run's folder; made a valid name of.
        config: What was asked for.
        network: What was trained.
        manifest: Where the slides are from.
        split: Which of them were learnt from.
        validation: Figures of the validation slides; None when nothing was measured.
    """
    classes = network.class_names
    counts = ", ".join(f"{count} {label}" for label, count in manifest.count(split.train).items())
    patients = len({slide.entry.patient for slide in split.train if slide.entry.patient})
    whose = f" of {patients} patients" if patients else ""
    annotated = sum(slide.entry.annotation is not None for slide in split.train)
    description = (
        f"{len(split.train)} slides{whose} ({counts})"
        f"{f', {annotated} of them with annotations' if annotated else ''}; "
        f"manifest digest {manifest.digest[:12]}, settings digest {config.digest[:12]}, seed {config.training.seed}."
    )
    return ModelCard(
        name=config.card.name or valid_name(name),
        summary=config.card.summary or f"Tells slides of {len(classes)} classes apart: {', '.join(classes)}.",
        intended_use=config.card.intended_use,
        limits=(*_limits(split, validation), *config.card.limits),
        licence=config.card.licence,
        training_data=(
            TrainingData(name=manifest.path.name, licence=config.card.data_licence, description=description),
        ),
        metrics={"validation": validation} if validation else {},
        created=datetime.now(UTC).date(),
        package_version=version(DISTRIBUTION),
        network=network,
    )


def valid_name(text: str) -> str:
    """Make a model's name of a folder's: letters, digits, dots, dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-") or "model"


def _limits(split: DataSplit, validation: dict[str, Any] | None) -> tuple[str, ...]:
    if validation is None or "accuracy" not in validation:
        return ("No slides were set aside to measure it on: nothing is known of how good it is.",)
    measured = (
        f"Measured on {validation['slides']} slides from the same manifest as those it was trained on; "
        "slides of other scanners, stainings or hospitals may fare worse."
    )
    limits = [measured]
    if validation["patients"] < validation["slides"]:
        limits.append("Some patients have several validation slides, so the interval is narrower than it should be.")
    if split.test:
        limits.append(f"The manifest's {len(split.test)} test slides were neither trained nor measured on.")
    return tuple(limits)
