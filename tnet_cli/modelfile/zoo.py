"""Patch models that labs trust: folders of the WSInfer zoo, timm's folders, and models of tnet itself.

A patch model gives the probability of each of its classes for one patch of a fixed physical size. The zoo's schema is
``wsinfer-zoo``'s, version 1.0: a ``config.json`` beside ``model.safetensors`` or ``torchscript_model.pt``.
"""

import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tnet_cli.errors import ModelFileError
from tnet_cli.model.config import EncoderConfig, problem_of_class_name
from tnet_cli.model.encoder import TORCHSCRIPT, TRUST_VARIABLE, Encoder, LinearClassifier, ProgramClassifier
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.position import encode_position
from tnet_cli.modelfile.card import TeacherCard
from tnet_cli.modelfile.modelfile import LoadedModel, fetch_from_hub, find_model, load_model, sha256_of
from tnet_cli.places import Place

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
PROGRAM = "torchscript_model.pt"

UNKNOWN_LICENCE = "unknown"

_FORBIDDING = re.compile(r"(^|[-_ ])nd($|[-_ 0-9])|no.?deriv|h-optimus-1", re.IGNORECASE)
"""Licences that allow no derived models; of H-optimus-1 it is a clause of its own."""


def _a_class_name(name: str) -> str:
    if not name.strip():
        raise ValueError("a class has no name")
    if (problem := problem_of_class_name(name)) is not None:
        raise ValueError(f"the class name {name!r} {problem}")
    return name


class ZooTransform(BaseModel):
    """One step from a patch's pixels to the network's input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["Resize", "ToTensor", "Normalize"]
    arguments: dict[str, Any] | None = None


class ZooConfig(BaseModel):
    """``config.json`` of a patch model, by the zoo's schema; other keys are allowed beside those it names."""

    model_config = ConfigDict(frozen=True, extra="allow")

    spec_version: Literal["1.0"]
    architecture: str = Field(min_length=1)
    num_classes: int = Field(ge=1)
    patch_size_pixels: int = Field(ge=1, le=65_536)
    spacing_um_px: float = Field(gt=0, allow_inf_nan=False)
    class_names: tuple[Annotated[str, AfterValidator(_a_class_name)], ...] = Field(min_length=1)
    transform: tuple[ZooTransform, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(self.class_names) != self.num_classes or len(set(self.class_names)) != self.num_classes:
            raise ValueError(f"class_names needs {self.num_classes} different names, not {list(self.class_names)}")
        _ = self.input_px, self.pixel_statistics
        return self

    def _arguments(self, name: str) -> dict[str, Any]:
        found = [each.arguments or {} for each in self.transform if each.name == name]
        if len(found) > 1:
            raise ValueError(f"transform has {name} {len(found)} times, expected once at most")
        return found[0] if found else {}

    @property
    def input_px(self) -> int:
        """Side of what the network sees: that of Resize, else of the patch itself."""
        size = self._arguments("Resize").get("size", self.patch_size_pixels)
        sides = size if isinstance(size, list | tuple) else [size]
        if not sides or any(not isinstance(side, int) or side != sides[0] for side in sides):
            raise ValueError(f"transform Resize: size must be one whole number or twice the same, not {size}")
        return int(sides[0])

    @property
    def pixel_statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation of Normalize, for values in [0, 1]; 0 and 1 without it."""
        given = self._arguments("Normalize")
        mean, std = given.get("mean", [0.0] * 3), given.get("std", [1.0] * 3)
        for name, values in (("mean", mean), ("std", std)):
            if not isinstance(values, list | tuple) or len(values) != 3:
                raise ValueError(f"transform Normalize: {name} must be three numbers, not {values}")
        return tuple(map(float, mean)), tuple(map(float, std))  # type: ignore[return-value]


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
    if Place(place).is_url:
        return _from_folder(_fetched(place), str(Place(place)), trust_torchscript=trust_torchscript)
    if Path(place).is_dir():
        return _from_folder(Path(place), Path(place).resolve().name, trust_torchscript=trust_torchscript)
    return patch_model_of(load_model(find_model(place)))


def read_zoo_config(path: Path) -> ZooConfig:
    """Read the ``config.json`` of a patch model.

    Raises:
        ModelFileError: it is missing or not of the zoo's schema.
    """
    try:
        return ZooConfig.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror or exc}; a patch model needs it") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(
            f"{path}: not a patch model's, by the WSInfer zoo's schema 1.0: {where + ': ' if where else ''}"
            f"{first['msg'].removeprefix('Value error, ')}"
        ) from exc


def _fetched(place: str) -> Path:
    config = fetch_from_hub(Place(place), CONFIG)
    for file in (WEIGHTS, PICKLED, PROGRAM):
        try:
            fetch_from_hub(Place(place), file)
        except ModelFileError:
            if file == PROGRAM:
                raise
        else:
            break
    return config.parent


def _from_folder(folder: Path, name: str, *, trust_torchscript: bool) -> PatchModel:
    config = read_zoo_config(folder / CONFIG)
    mean, std = config.pixel_statistics
    try:
        encoder = EncoderConfig(
            backbone=_backbone_name(config.architecture),
            input_px=config.input_px,
            pixel_mean=mean,
            pixel_std=std,
            frozen=True,
            classes=config.class_names,
        )
    except ValidationError as exc:
        raise ModelFileError(f"{folder / CONFIG}: {exc.errors()[0]['msg'].removeprefix('Value error, ')}") from exc
    file = next((folder / each for each in (WEIGHTS, PICKLED, PROGRAM) if (folder / each).is_file()), None)
    if file is None:
        raise ModelFileError(f"{folder}: a patch model needs {WEIGHTS} or {PROGRAM} beside {CONFIG}, and has neither")
    if file.name == PROGRAM:
        encoder, network = _from_program(encoder, file, trusted=trust_torchscript)
    else:
        network = _network_of(encoder, _read_tensors(file), file)
    extra = config.model_extra or {}
    return PatchModel(
        name=str(extra.get("name") or name),
        digest=sha256_of(file),
        licence=_licence(extra, folder),
        attribution=str(extra.get("attribution") or extra.get("citation") or ""),
        architecture=config.architecture,
        patch_px=config.patch_size_pixels,
        spacing_um_px=config.spacing_um_px,
        encoder=encoder,
        network=network,
    )


def _backbone_name(architecture: str) -> str:
    """Name an architecture of the zoo, which are timm's, as a backbone of ours."""
    return architecture if ":" in architecture else f"timm:{architecture}"


def _read_tensors(file: Path) -> dict[str, Tensor]:
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
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as exc:
        raise ModelFileError(f"{file}: not a file of tensors: {str(exc).splitlines()[0]}") from exc
    except pickle.UnpicklingError as exc:
        raise ModelFileError(f"{file}: holds more than tensors, so it is not read; give a .safetensors file") from exc
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
    stated = extra.get("license") or extra.get("licence")
    if stated:
        return " ".join(str(stated).split())
    with_front_matter = folder / "README.md"
    if with_front_matter.is_file():
        found = re.search(
            r"^license:\s*(\S[^\n]*)$", with_front_matter.read_text("utf-8", errors="replace"), re.MULTILINE
        )
        if found:
            return found[1].strip().strip("\"'")
    return UNKNOWN_LICENCE


def patch_model_of(model: LoadedModel) -> PatchModel:
    """Return what a model of tnet says of one patch of its finest view; of a distilled model that is its teacher.

    Raises:
        ModelFileError: that depends on more than the patch.
    """
    card, config, last = model.card, model.network.config, model.network.config.processing_levels - 1
    if card.verdict is not None and isinstance(model.network.feature, FeatureExtractionByLevel):
        teacher, network = card.verdict.teacher, model.network.feature.encoder(len(config.encoders) - 1)
        return PatchModel(
            name=teacher.name,
            digest=teacher.digest,
            licence=teacher.licence,
            attribution=teacher.attribution,
            architecture=teacher.architecture,
            patch_px=teacher.patch_px,
            spacing_um_px=teacher.spacing_um_px,
            encoder=config.encoders[-1],
            network=network.eval(),
        )
    if config.mpp is None or config.position_axes != "s":
        raise ModelFileError(f"{model.path}: the model {card.name} is one of whole images or places, no patch model")
    own = config.encoder_at(last)
    if own.arguments or own.pooling != "own" or config.encoders:
        raise ModelFileError(f"{model.path}: the model {card.name} has encoders of its own, and cannot teach yet")
    encoder = own.model_copy(
        update={"processing_levels": (), "frozen": True, "classes": config.class_names, "classifier": "linear"}
    )
    network = Encoder(encoder, needs_map=False)
    classifier = network.backbone
    if not isinstance(classifier, LinearClassifier):
        raise TypeError(f"a linear classifier is built as a {type(classifier).__name__}")
    classifier.network.load_state_dict(model.network.feature.backbone.state_dict())
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
        architecture=config.backbone,
        patch_px=own.input_px,
        spacing_um_px=config.mpp[last],
        encoder=encoder,
        network=network.eval(),
    )
