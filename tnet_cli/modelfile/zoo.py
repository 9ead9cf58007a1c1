"""Patch models that labs trust: folders of the WSInfer zoo, timm's folders, and models of tnet itself.

A patch model gives the probability of each of its classes for one patch of a fixed physical size. The zoo's schema is
``wsinfer-zoo``'s, version 1.0: a ``config.json`` beside ``model.safetensors`` or ``torchscript_model.pt``.
"""

import os
import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tnet_cli.errors import ModelFileError, printable
from tnet_cli.model.config import EncoderConfig
from tnet_cli.model.encoder import TORCHSCRIPT, TRUST_VARIABLE, Encoder, LinearClassifier, ProgramClassifier
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.position import encode_position
from tnet_cli.modelfile.card import TeacherCard
from tnet_cli.modelfile.modelfile import LoadedModel, fetch_from_hub, find_model, load_model, sha256_of
from tnet_cli.modelfile.zoo_config import read_patch_model_config
from tnet_cli.places import Place

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
PROGRAM = "torchscript_model.pt"
PAGE = "README.md"

UNKNOWN_LICENCE = "unknown"

_FORBIDDING = re.compile(r"(^|[-_ ])nd($|[-_ 0-9])|no.?deriv|h-optimus-1", re.IGNORECASE)
"""Licences that allow no derived models; of H-optimus-1 it is a clause of its own."""


@dataclass(frozen=True, slots=True)
class PatchModel:
    """A patch model, whatever it came from, ready to look.

    Attributes:
        digest: SHA-256 of its weights as they came, hexadecimal.
        licence: As it states it itself, else ``unknown``.
        patch_px, spacing_um_px: Side and scale of its patches.
        encoder: Its network as an encoder with classes of its own, of no processing level yet.
        network: In evaluation mode, on the CPU: patches to probabilities (N, C).
    """

    name: str
    digest: str
    licence: str
    attribution: str
    architecture: str
    patch_px: int
    spacing_um_px: float
    encoder: EncoderConfig
    network: Encoder

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.encoder.classes

    @property
    def side_um(self) -> float:
        """Side of a patch in micrometres."""
        return self.patch_px * self.spacing_um_px

    @property
    def forbids_derived_models(self) -> bool:
        """Whether its licence forbids models that were trained on what it says."""
        return _FORBIDDING.search(f"{self.licence} {self.name}") is not None

    def card(self) -> TeacherCard:
        """Return what the card of a distilled model says of it."""
        return TeacherCard(
            name=self.name,
            digest=self.digest,
            licence=self.licence,
            attribution=self.attribution,
            architecture=self.architecture,
            patch_px=self.patch_px,
            spacing_um_px=self.spacing_um_px,
            classes=self.classes,
        )


def load_patch_model(place: str, *, trust_torchscript: bool = False) -> PatchModel:
    """Load a patch model.

    Args:
        place: A folder of the zoo's kind, ``hf://owner/repo`` with such files, or a model of tnet, bundled or a file,
            whose finest view becomes the patch model.
        trust_torchscript: Whether a TorchScript program, which may do whatever its author wanted, may be run.

    Raises:
        ModelFileError: it is missing, damaged, of an unknown architecture, or a program that is not trusted.
    """
    if (address := Place(place)).is_url:
        folder = _fetched(address)
        if folder is not None:
            return _from_folder(folder, str(address), trust_torchscript=trust_torchscript)
        return patch_model_of(load_model(find_model(place)))
    if Path(place).is_dir():
        return _from_folder(Path(place), Path(place).resolve().name, trust_torchscript=trust_torchscript)
    return patch_model_of(load_model(find_model(place)))


def _fetched(address: Place) -> Path | None:
    """Fetch a patch model's files from the hub; None where the repository has none, but may have a model of tnet.

    Raises:
        ModelFileError: the address is none, or a file cannot be had.
    """
    if len(address.parts) > 2:  # a file is named
        return None
    try:
        config = fetch_from_hub(address, CONFIG)
    except ModelFileError as exc:
        if _is_absent(exc):
            return None
        raise
    first: ModelFileError | None = None
    for file in (WEIGHTS, PICKLED, PROGRAM):
        try:
            fetch_from_hub(address, file)
            break
        except ModelFileError as exc:
            if not _is_absent(exc):
                raise
            first = first or exc
    else:
        raise ModelFileError(f"{address}: has {CONFIG}, but neither {WEIGHTS} nor {PROGRAM} can be had: {first}")
    # A page is not needed: where none can be had, the licence is unknown, which is said.
    with suppress(ModelFileError):
        fetch_from_hub(address, PAGE)
    return config.parent


def _is_absent(error: ModelFileError) -> bool:
    """Tell a file that the repository, or without a network the cache, does not have."""
    if error.__cause__ is None or isinstance(error.__cause__, ImportError):
        return False
    from huggingface_hub.errors import EntryNotFoundError

    return isinstance(error.__cause__, EntryNotFoundError)


def _from_folder(folder: Path, name: str, *, trust_torchscript: bool) -> PatchModel:
    config, encoder = read_patch_model_config(folder / CONFIG)
    file = next((folder / each for each in (WEIGHTS, PICKLED, PROGRAM) if (folder / each).is_file()), None)
    if file is None:
        raise ModelFileError(f"{folder}: a patch model needs {WEIGHTS} or {PROGRAM} beside {CONFIG}, and has neither")
    if file.name == PROGRAM:
        encoder, network = _from_program(encoder, file, trusted=trust_torchscript)
    else:
        network = _network_of(encoder, tensors_in(file), file)
    extra = config.model_extra or {}
    return PatchModel(
        name=_one_line(extra.get("name") or name),
        digest=sha256_of(file),
        licence=_licence(extra, folder),
        attribution=_one_line(extra.get("attribution") or extra.get("citation") or ""),
        architecture=config.architecture,
        patch_px=config.patch_size_pixels,
        spacing_um_px=config.spacing_um_px,
        encoder=encoder,
        network=network,
    )


def tensors_in(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file, or of a ``.bin`` or ``.pth`` as ``tensors_of_pickle`` does.

    Raises:
        ModelFileError: it is damaged, or holds more than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        return tensors_of_pickle(file)
    except (SafetensorError, OSError) as exc:
        raise ModelFileError(f"{file}: damaged: {exc}") from exc


def tensors_of_pickle(file: Path) -> dict[str, Tensor]:
    """Read tensors of a ``.bin`` or ``.pth`` by torch's restricted reader, which runs nothing that is in it.

    Raises:
        ModelFileError: it holds anything but tensors by name, alone or under ``state_dict`` or ``model``.
    """
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ModelFileError(f"{file}: holds more than tensors, so it is not read; give a .safetensors file") from exc
    except Exception as exc:  # torch names no common base of what damaged files make it raise
        said = f"{str(exc) or type(exc).__name__}".splitlines()[0]
        raise ModelFileError(f"{file}: not a file of tensors, or damaged: {said}") from exc
    for key in ("state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ModelFileError(f"{file}: holds more than tensors by name, so it is not read; give a .safetensors file")
    return {str(key).removeprefix("module."): value for key, value in held.items()}


def _network_of(encoder: EncoderConfig, tensors: Mapping[str, Tensor], file: Path) -> Encoder:
    try:
        network = Encoder(encoder, needs_map=False)
        network.load_state_dict({f"backbone.network.{key}": value for key, value in tensors.items()})
    except ValueError as exc:
        raise ModelFileError(
            f"{file.parent}: its architecture cannot be built here: {exc}; where there is a {PROGRAM}, remove "
            f"{file.name} and allow that with --trust-torchscript"
        ) from exc
    except RuntimeError as exc:
        problem = str(exc).splitlines()[1].strip() if "\n" in str(exc) else str(exc)
        raise ModelFileError(f"{file}: its tensors are not those of a {encoder.backbone}: {problem}") from exc
    return network.eval()


def _from_program(encoder: EncoderConfig, file: Path, *, trusted: bool) -> tuple[EncoderConfig, Encoder]:
    """Return a program's network: built from its tensors where its architecture is known, else the program itself."""
    if not trusted:
        raise ModelFileError(
            f"{file}: a TorchScript file is a program, which may do whatever its author wanted, so it is not run; "
            f"give the model with {WEIGHTS}, or allow it with --trust-torchscript if you trust where it came from"
        )
    os.environ[TRUST_VARIABLE] = "1"  # this process, and those it starts, may run it from here on
    scripted = encoder.model_copy(update={"backbone": TORCHSCRIPT})
    program = Encoder(scripted, needs_map=False)
    if not isinstance(program.backbone, ProgramClassifier):
        raise TypeError(f"a program is held by a {type(program.backbone).__name__}")
    try:
        program.backbone.load(file.read_bytes())
        tensors = program.backbone.tensors()
        with torch.inference_mode():
            answers = program.eval()(sample := _random_patches(encoder.input_px))[0]
    except (ValueError, OSError, RuntimeError) as exc:
        raise ModelFileError(f"{file}: {str(exc).splitlines()[0]}") from exc
    if answers.shape != (len(sample), len(encoder.classes)):
        raise ModelFileError(f"{file}: gives {tuple(answers.shape)} for {len(sample)} patches, not a number a class")
    try:
        built = _network_of(encoder, tensors, file)
    except ModelFileError:
        return scripted, program
    with torch.inference_mode():
        alike = torch.allclose(built(sample)[0], answers, atol=1e-4)
    return (encoder, built) if alike else (scripted, program)


def _random_patches(side_px: int) -> Tensor:
    return torch.randint(
        0, 256, (2, 3, side_px, side_px), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def _licence(extra: Mapping[str, Any], folder: Path) -> str:
    """Return what ``config.json`` states, else what the page beside it does between its first two lines of dashes."""
    if stated := extra.get("license") or extra.get("licence"):
        return _one_line(stated)
    page = folder / PAGE
    if page.is_file():
        front = re.match(r"---\s*\n(.*?)\n---\s*\n", page.read_text("utf-8", errors="replace"), re.DOTALL)
        found = dict(
            re.findall(r"^(license(?:_name)?):[ \t]*[\"']?([^\"'\n]*?)[\"']?\s*$", front[1] if front else "", re.M)
        )
        named = found.get("license_name") if found.get("license", "other") == "other" else None
        if said := named or found.get("license"):
            return _one_line(said)
    return UNKNOWN_LICENCE


def _one_line(said: object) -> str:
    """Return a text as a card may hold it."""
    return printable(" ".join(str(said).split()))


def patch_model_of(model: LoadedModel) -> PatchModel:
    """Return what a model of tnet says of one patch of its finest view; of a distilled model that is its teacher.

    Raises:
        ModelFileError: that depends on more than the patch.
    """
    card, config, last = model.card, model.network.config, model.network.config.processing_levels - 1
    feature = model.network.feature
    finest = feature.encoder(len(config.encoders) - 1) if isinstance(feature, FeatureExtractionByLevel) else feature
    if card.verdict is not None:
        teacher = card.verdict.teacher
        return PatchModel(
            name=teacher.name,
            digest=teacher.digest,
            licence=teacher.licence,
            attribution=teacher.attribution,
            architecture=teacher.architecture,
            patch_px=teacher.patch_px,
            spacing_um_px=teacher.spacing_um_px,
            encoder=config.encoders[-1],
            network=finest.eval(),
        )
    if config.mpp is None or config.position_axes != "s":
        raise ModelFileError(
            f"{model.path}: what the model {card.name} says of a patch depends on where in its image that lies, so it "
            "is no patch model; give a model of slides whose position codes hold the scale alone"
        )
    if finest.feature_length != feature.feature_length_at(last):
        raise ModelFileError(
            f"{model.path}: the vectors of the finest encoder of the model {card.name} pass through a projection, "
            "which a patch model has no place for"
        )
    own = config.encoder_at(last)
    encoder = own.model_copy(
        update={"processing_levels": (), "frozen": True, "classes": config.class_names, "classifier": "linear"}
    )
    try:
        network = Encoder(encoder, needs_map=False)
    except ValueError as exc:
        raise ModelFileError(f"{model.path}: {exc}") from exc
    classifier = network.backbone
    if not isinstance(classifier, LinearClassifier):
        raise TypeError(f"a linear classifier is built as a {type(classifier).__name__}")
    classifier.network.load_state_dict(finest.backbone.state_dict())
    position, linear = model.network.position, model.network.classification.linear
    with torch.no_grad():
        code = encode_position(torch.tensor([[0, 0, last]]), position.length)
        classifier.offset.copy_(position.project(code)[0])  # type: ignore[operator]
        classifier.linear.weight.copy_(linear.weight / card.temperature)
        classifier.linear.bias.copy_(linear.bias / card.temperature + torch.tensor(card.bias or (0.0,)))
    return PatchModel(
        name=card.name,
        digest=model.digest,
        licence=card.licence,
        attribution="; ".join(f"{each.name} ({each.licence})" for each in card.training_data),
        architecture=own.backbone,
        patch_px=own.input_px,
        spacing_um_px=config.mpp[last],
        encoder=encoder,
        network=network.eval(),
    )
