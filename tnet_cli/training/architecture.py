"""The model a run trains: a preset, and the numbers the user puts in place of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.modelfile import read_card

PRESETS = ("slide",)
GPU_BACKBONE = "efficientnet_b0"
"""The paper's backbone, which is the default where a GPU can train it."""

MODEL_KEYS = frozenset(TNetConfig.model_fields) - {"class_names"} | {"preset"}


def model_config(
    given: Mapping[str, Any], class_names: tuple[str, ...], *, weights: str | None = None, on_gpu: bool = False
) -> TNetConfig:
    """Put the user's numbers in the place of the preset's, and fit the others to them.

    The number of processing levels follows ``mpp`` or ``locations``; ``mpp`` that is not given follows ``grid`` and the
    number of processing levels, from the preset's finest. Pretrained weights bring the mean and deviation of the pixels
    they were trained with.

    Args:
        given: Keys of the table [model].
        class_names: In the order of the logits.
        weights: Pretrained weights of the backbone, or None.
        on_gpu: Whether the default backbone may be one that needs a GPU to be trained.

    Raises:
        UsageError: the numbers do not go together, or the model is none of slides.
    """
    numbers = dict(given)
    preset = numbers.pop("preset", PRESETS[0])
    if preset not in PRESETS:
        raise UsageError(f"[model] preset = {preset!r}: expected {' or '.join(PRESETS)}")
    if numbers.get("image_px") is not None:
        raise UsageError("[model] image_px: tnet train makes models of slides; give mpp instead")
    base = TNetConfig.slide(class_names)
    numbers.setdefault("backbone", GPU_BACKBONE if on_gpu else base.backbone)
    numbers = _pixel_statistics(numbers, weights) | numbers
    _fit_scales(numbers, base)
    try:
        return TNetConfig.model_validate(base.model_dump() | numbers)
    except ValidationError as exc:
        raise UsageError(describe_first(exc, "model")) from exc


def describe_first(error: ValidationError, table: str) -> str:
    """Put the first thing that is wrong with a table into words."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"[{table}] {place} = {first['input']!r}: {message}" if place else f"[{table}] {message}"


def _fit_scales(numbers: dict[str, Any], base: TNetConfig) -> None:
    """Complete grid, mpp, processing levels and locations from those that are given; wrong ones are left as they are.

    Args:
        numbers: Completed in place.
        base: The preset.
    """
    grid = numbers.get("grid", base.grid)
    steps = numbers.get("processing_levels")
    for key, more in (("locations", 1), ("mpp", 0)):
        if isinstance(numbers.get(key), list | tuple):
            steps = len(numbers[key]) + more if steps is None else steps
    steps = base.processing_levels if steps is None else steps
    if not isinstance(grid, int) or not isinstance(steps, int) or grid < 2 or not 1 <= steps <= 20:
        return
    numbers["processing_levels"] = steps
    numbers.setdefault("cell_fraction", 1 / grid)
    if base.mpp is not None:
        finest = base.mpp[-1]
        numbers.setdefault("mpp", tuple(finest * grid ** (steps - 1 - number) for number in range(steps)))
    numbers.setdefault("locations", base.locations[-1:] * (steps - 1))


def _pixel_statistics(numbers: Mapping[str, Any], weights: str | None) -> dict[str, Any]:
    """Return mean and deviation of the pixels that pretrained weights were trained with, where that is known.

    What is wrong with a name is left to be said when the weights are loaded.
    """
    source, _, name = (weights or "").partition(":")
    backbone = str(numbers["backbone"])
    if source == "torchvision":
        return _torchvision_statistics(backbone.removeprefix("tf_"), name or "DEFAULT")
    if source == "timm":
        return _timm_statistics(backbone.removeprefix("timm:"))
    if weights is not None and Path(weights).is_file():
        try:
            network = read_card(Path(weights)).network
        except ModelFileError:
            return {}
        return {"pixel_mean": network.pixel_mean, "pixel_std": network.pixel_std}
    return {}


def _torchvision_statistics(backbone: str, name: str) -> dict[str, Any]:
    # torchvision takes a second to import.
    from torchvision.models import get_model_weights

    try:
        known: Any = get_model_weights(backbone)
        transforms = known[name].transforms()
    except (ValueError, KeyError):
        return {}
    return {"pixel_mean": tuple(transforms.mean), "pixel_std": tuple(transforms.std)}


def _timm_statistics(backbone: str) -> dict[str, Any]:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError:
        return {}
    known = get_pretrained_cfg(backbone)
    return {} if known is None else {"pixel_mean": tuple(known.mean), "pixel_std": tuple(known.std)}
