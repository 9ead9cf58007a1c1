"""``tnet models import``: a checkpoint of the authors' TensorFlow code becomes a model file with its card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from tnet_cli.errors import DISTRIBUTION, ManifestError, ModelFileError, UsageError, printable
from tnet_cli.model.config import problem_of_class_name
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard, TrainingData
from tnet_cli.modelfile.modelfile import refuse_taken_target, save_model
from tnet_cli.modelfile.tensorflow.bundle import find_prefix, open_bundle
from tnet_cli.modelfile.tensorflow.names import read_variables, to_state_dict
from tnet_cli.modelfile.tensorflow.variant import Variant, guess_variant

DATA_SETS = {
    62: TrainingData(
        name="fMoW", licence="the data set's own terms", description="Functional Map of the World, arXiv:1711.07846."
    ),
    200: TrainingData(name="CUB-200-2011", licence="the data set's own terms", description="Caltech-UCSD Birds."),
    555: TrainingData(name="NABirds", licence="the data set's own terms", description="North American birds."),
}
"""By number of classes: what the authors published models of."""

FMOW = (
    *("airport", "airport_hangar", "airport_terminal", "amusement_park", "aquaculture", "archaeological_site", "barn"),
    *("border_checkpoint", "burial_site", "car_dealership", "construction_site", "crop_field", "dam"),
    *("debris_or_rubble", "educational_institution", "electric_substation", "factory_or_powerplant", "fire_station"),
    *("flooded_road", "fountain", "gas_station", "golf_course", "ground_transportation_station", "helipad", "hospital"),
    *("interchange", "lake_or_pond", "lighthouse", "military_facility", "multi-unit_residential"),
    *("nuclear_powerplant", "office_building", "oil_or_gas_facility", "park", "parking_lot_or_garage"),
    *("place_of_worship", "police_station", "port", "prison", "race_track", "railway_bridge", "recreational_facility"),
    *("impoverished_settlement", "road_bridge", "runway", "shipyard", "shopping_mall", "single-unit_residential"),
    *("smokestack", "solar_farm", "space_facility", "stadium", "storage_tank", "surface_mine", "swimming_pool"),
    *("toll_booth", "tower", "tunnel_opening", "waste_disposal", "water_treatment_facility", "wind_farm", "zoo"),
)
"""The 62 categories of Functional Map of the World (arXiv:1711.07846) in the order of the published weights.

It is alphabetical but for ``impoverished_settlement``.
"""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was written: the card, the number of trainable weights, and sentences that the user should know of."""

    card: ModelCard
    weights: int
    notes: tuple[str, ...]


def import_model(
    checkpoint: Path, out: Path, *, classes: Path | None = None, image_px: int | None = None, overwrite: bool = False
) -> ImportReport:
    """Convert a checkpoint; the variant is told from its variables.

    Args:
        checkpoint: Prefix of the checkpoint, one of its files, or its folder.
        out: The model file to write; its card is written beside it.
        classes: Text file of class names, one a line.
        image_px: Side images are resized to; None for the smallest the model was made for.

    Raises:
        UsageError: the target exists, is no ``.safetensors`` file, the model takes no images of that size, or the
            tensorflow extra is not installed.
        ModelFileError: the checkpoint is missing, damaged, or of a model that cannot be imported.
        ManifestError: the class names cannot be used.
    """
    refuse_taken_target(out, "--out", overwrite=overwrite)
    prefix = find_prefix(checkpoint)
    variables = read_variables(open_bundle(prefix))
    try:
        variant = guess_variant(variables)
        state = to_state_dict(variables)
    except ValueError as exc:
        raise ModelFileError(f"{prefix}: {exc}") from exc
    class_names, notes = _class_names(classes, variant)
    try:
        network = TNet(variant.config(class_names, image_px))
    except ValueError as exc:
        raise UsageError(f"--image-px {image_px}: {exc}") from exc
    _fill(network, state, prefix)
    if variant.family == "fmow" and image_px is None:
        notes.append("the same weights serve images of 448 and 896 px; this file takes 448, see --image-px")
    card = _card(out, prefix, variant, network)
    # In full: half of the digits would not give the authors' own logits.
    save_model(network, card, out, halve=False)
    weights = sum(parameter.numel() for parameter in network.parameters())
    return ImportReport(card, weights, tuple(notes))


def _class_names(path: Path | None, variant: Variant) -> tuple[tuple[str, ...], list[str]]:
    if path is not None:
        return read_class_names(path, variant.classes), []
    if variant.family == "fmow" and variant.classes == len(FMOW):
        return FMOW, ["62 classes: named as fMoW's, in the order of the published weights; other names with --classes"]
    return tuple(f"class_{number}" for number in range(variant.classes)), [
        "the checkpoint names no classes: they are numbered, class_0 first; give their names with --classes"
    ]


def _fill(network: TNet, state: Mapping[str, Tensor], prefix: Path) -> None:
    """Put the weights into the network, every one in its place.

    Raises:
        ModelFileError: one is missing, has no place, has another shape, or is not finite.
    """
    # How many batches the statistics are of is counted by torch alone.
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - state.keys())
    surplus = sorted(state.keys() - wanted.keys())
    kind = f"a {network.config.backbone} model of {network.config.grid} x {network.config.grid} cells"
    if missing or surplus:
        problem = f"lacks {_some(missing)}" if missing else f"has more than it: {_some(surplus)}"
        raise ModelFileError(f"{prefix}: looks like {kind}, but {problem}; is the checkpoint whole?")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise ModelFileError(
                f"{prefix}: looks like {kind}, but {name} has shape {tuple(value.shape)}, "
                f"expected {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise ModelFileError(f"{prefix}: {name} holds values that are not finite; its training has failed")
    network.load_state_dict(dict(state), strict=False)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _card(out: Path, prefix: Path, variant: Variant, network: TNet) -> ModelCard:
    subject = {"fmow": "places in satellite images", "birds": "kinds of birds in photographs"}[variant.family]
    name = re.sub(r"[^A-Za-z0-9._-]", "-", out.stem).lstrip("._-") or "imported"
    known = DATA_SETS.get(variant.classes)
    whence = printable(prefix.name)
    return ModelCard(
        name=name,
        summary=f"Tells {variant.classes} {subject} apart. Imported from {whence}, a TensorFlow checkpoint.",
        intended_use="Research: the model of the TNet paper (arXiv:2102.10212), imported from its authors' checkpoint.",
        limits=(
            "What the checkpoint was trained on is told from its number of classes, not recorded in it.",
            "The whole image is resized to a square, so its aspect ratio is lost.",
        ),
        licence="unknown: the authors published their code and weights without a licence",
        training_data=(known,) if known else (),
        created=datetime.now(UTC).date(),
        package_version=version(DISTRIBUTION),
        network=network.config,
    )


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """Read class names from a text file, one a line in the order of the logits.

    A number before each name, counting up from 0 or 1 as in CUB's ``classes.txt``, is left out. Empty lines are too.

    Raises:
        ManifestError: the file cannot be read, or has not as many names as the model has classes, the same twice,
            or one that is no name for a class.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ManifestError(f"{path}: cannot be read as class names: {reason}") from exc
    names = _without_numbers([line.strip() for line in text.splitlines() if line.strip()])
    if len(names) != count:
        raise ManifestError(f"{path}: lists {len(names)} class names, but the model has {count} classes; one a line")
    if len(set(names)) != count:
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(f"{path}: lists the class name {twice!r} more than once")
    for name in names:
        if (problem := problem_of_class_name(name)) is not None:
            raise ManifestError(f"{path}: the class name {name!r} {problem}")
    return tuple(names)


def _without_numbers(lines: list[str]) -> list[str]:
    split = [re.fullmatch(r"(\d+)\s+(\S.*)", line) for line in lines]
    numbered = [(int(each[1]), each[2]) for each in split if each]
    numbers = [number for number, _ in numbered]
    if len(numbered) == len(lines) and lines and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return [name for _, name in numbered]
    return lines
