"""``config.json`` of patch models: by the WSInfer zoo's schema 1.0, or timm's own where it says as much."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from tnet_cli.errors import ModelFileError, holds_controls
from tnet_cli.model.config import EncoderConfig, problem_of_class_name
from tnet_cli.modelfile.presets import IMAGENET_MEAN, IMAGENET_STD

LONGEST_QUOTE = 80
"""Characters of what a document holds that are said back."""


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
        if holds_controls(self.architecture):
            raise ValueError(f"architecture holds a control character: {self.architecture!r}")
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
        sides = size if isinstance(size, list | tuple) and size else [size]
        if any(type(side) is not int or side < 1 or side != sides[0] for side in sides) or len(sides) > 2:
            raise ValueError(f"transform Resize: size must be one whole number or twice the same, not {_quoted(size)}")
        return int(sides[0])

    @property
    def pixel_statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation of Normalize, for values in [0, 1]; 0 and 1 without it."""
        given = self._arguments("Normalize")
        return _three(given, "mean", 0.0), _three(given, "std", 1.0)


def read_zoo_config(path: Path) -> ZooConfig:
    """Read the ``config.json`` of a patch model.

    Raises:
        ModelFileError: it is missing or not of the zoo's schema.
    """
    return _checked(_document(path), path)


def read_patch_model_config(path: Path) -> tuple[ZooConfig, EncoderConfig]:
    """Read the ``config.json`` of a patch model, of the zoo's schema or timm's, and what network it describes.

    Raises:
        ModelFileError: it is missing, of neither kind, or timm's without what its patches and classes are.
    """
    document = _document(path)
    stated: Mapping[str, Any] = {}
    arguments: dict[str, Any] = {}
    if "spec_version" not in document and isinstance(document.get("pretrained_cfg"), dict):
        stated = document["pretrained_cfg"]
        if isinstance(given := document.get("model_args"), dict):
            arguments = {key: each for key, each in given.items() if key != "num_classes"}
        if document.get("global_pool") is not None:
            arguments.setdefault("global_pool", document["global_pool"])
        document = _of_timm(document, stated, path)
    config = _checked(document, path)
    mean, std = config.pixel_statistics
    try:
        return config, EncoderConfig(
            backbone=_backbone_of(config.architecture),
            arguments=arguments,
            input_px=config.input_px,
            interpolation="bicubic" if stated.get("interpolation") == "bicubic" else "bilinear",
            pixel_mean=mean,
            pixel_std=std,
            frozen=True,
            classes=config.class_names,
        )
    except ValidationError as exc:
        raise ModelFileError(f"{path}: {_fault(exc.errors()[0])}") from exc


def _backbone_of(architecture: str) -> str:
    """Name an architecture as a backbone of ours; without a word of whose it is it is timm's, as in the zoo."""
    if architecture.startswith("torchvision:"):
        return architecture.removeprefix("torchvision:")
    return architecture if ":" in architecture else f"timm:{architecture}"


def _of_timm(held: Mapping[str, Any], stated: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return timm's document as one of the zoo; what its patches are timm has no keys for."""
    names = held.get("class_names") or held.get("label_names") or stated.get("label_names")
    given = {
        "class_names": names,
        "patch_size_pixels": held.get("patch_size_pixels"),
        "spacing_um_px": held.get("spacing_um_px"),
    }
    if missing := [f'"{key}"' for key, each in given.items() if each is None]:
        raise ModelFileError(
            f"{path}: is timm's, which does not say what the patches are; add {' and '.join(missing)} to it, as the "
            "model was trained"
        )
    size = stated.get("input_size")
    side = size[1:] if isinstance(size, list) and len(size) == 3 else given["patch_size_pixels"]
    statistics = {"mean": stated.get("mean", IMAGENET_MEAN), "std": stated.get("std", IMAGENET_STD)}
    document = {
        "spec_version": "1.0",
        "transform": [
            {"name": "Resize", "arguments": {"size": side}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": statistics},
        ],
        "license": held.get("license") or stated.get("license"),
    }
    return {**held, **given, **document}


def _document(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_bytes())
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror or exc}; a patch model needs it") from exc
    except (ValueError, RecursionError) as exc:
        raise ModelFileError(f"{path}: is no JSON: {exc}; a patch model needs it") from exc
    if not isinstance(held, dict):
        raise ModelFileError(f"{path}: holds {_quoted(held)}, expected an object with the keys of a patch model")
    return held


def _checked(document: Mapping[str, Any], path: Path) -> ZooConfig:
    try:
        return ZooConfig.model_validate(document)
    except ValidationError as exc:
        raise ModelFileError(
            f"{path}: not a patch model's, by the WSInfer zoo's schema 1.0: {_fault(exc.errors()[0])}"
        ) from exc


def _fault(error: ErrorDetails) -> str:
    """Say what was found where, and what was expected."""
    where = ".".join(str(part) for part in error["loc"])
    match error["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            return f"{where} is no key of a step, which has a name and may have arguments"
        case "value_error":
            return f"{where + ': ' if where else ''}{error['msg'].removeprefix('Value error, ')}"
    return f"{where}: {error['msg'][:1].lower()}{error['msg'][1:]}, not {_quoted(error['input'])}"


def _three(given: Mapping[str, Any], name: str, default: float) -> tuple[float, float, float]:
    match given.get(name, [default] * 3):
        case [int() | float() as red, int() | float() as green, int() | float() as blue]:
            return float(red), float(green), float(blue)
        case other:
            raise ValueError(f"transform Normalize: {name} must be three numbers, not {_quoted(other)}")


def _quoted(found: object) -> str:
    said = json.dumps(found, default=repr)
    return said if len(said) <= LONGEST_QUOTE else f"{said[:LONGEST_QUOTE]}..."
