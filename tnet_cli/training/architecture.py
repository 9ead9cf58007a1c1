"""The model a run trains: a preset, the numbers the user puts in place of its own, and pretrained weights.

Weights of a backbone are torchvision's or timm's own, a safetensors file, or one of the hub.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.model.config import TNetConfig, mpp_by_level
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.encoders import encoder_from, load_weights
from tnet_cli.modelfile.modelfile import find_model, read_card

PRESETS = ("slide",)
GPU_BACKBONE = "efficientnet_b0"
"""The paper's backbone, which is the default where a GPU can train it."""

MODEL_KEYS = frozenset(TNetConfig.model_fields) - {"class_names"} | {"preset", "pretrained", "finest"}


def model_config(
    given: Mapping[str, Any],
    class_names: tuple[str, ...],
    *,
    weights: str | None = None,
    finest: str | None = None,
    on_gpu: bool = False,
) -> TNetConfig:
    """Put the user's numbers in the place of the preset's, and fit the others to them.

    The number of processing levels follows ``mpp`` or ``locations``; ``mpp`` that is not given follows ``grid`` and the
    number of processing levels, from the preset's finest. Pretrained weights bring the mean and deviation of the pixels
    they were trained with.

    Args:
        given: Keys of the table [model].
        weights: Pretrained weights of the backbone, or None.
        finest: Of an encoder of the finest processing level's own; the others then see patches of as many pixels, and
            the scales follow from its own where that is known.
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
        config = TNetConfig.model_validate(base.model_dump() | numbers)
        return config if finest is None or config.encoders else _with_finest(config, finest)
    except ValidationError as exc:
        raise UsageError(describe_first(exc, "model")) from exc


def _with_finest(config: TNetConfig, source: str) -> TNetConfig:
    """Give the finest processing level an encoder of its own, frozen."""
    last = config.processing_levels - 1
    if last < 1 or config.mpp is None:
        raise UsageError(f"--finest {source}: a model of one processing level has no other to look for places with")
    found = encoder_from(source, (last,))
    side_px = found.config.input_px
    finder = config.encoder_at(0).model_copy(update={"processing_levels": tuple(range(last)), "input_px": side_px})
    scales = mpp_by_level((found.spacing_um_px or config.mpp[-1]) * side_px, config.grid, [side_px] * (last + 1))
    own = {"base_px": side_px, "mpp": scales, "encoders": (finder, found.config)}
    return TNetConfig.model_validate(config.model_dump() | own)


def describe_first(error: ValidationError, table: str) -> str:
    """Put the first thing that is wrong with a table into words."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"[{table}] {place} = {first['input']!r}: {message}" if place else f"[{table}] {message}"


def _fit_scales(numbers: dict[str, Any], base: TNetConfig) -> None:
    """Complete in place what follows from the numbers that are given; wrong ones are left as they are."""
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
    backbone, known = str(numbers["backbone"]), None
    if source == "torchvision":
        with suppress(KeyError):
            known = _torchvision_weights(backbone)[name or "DEFAULT"].transforms()
    elif source == "timm":
        with suppress(ImportError):
            from timm.models import get_pretrained_cfg

            known = get_pretrained_cfg(backbone.removeprefix("timm:"))
    elif weights is not None and Path(weights).is_file():
        with suppress(ModelFileError):
            network = read_card(Path(weights)).network
            return {"pixel_mean": network.pixel_mean, "pixel_std": network.pixel_std}
    return {} if known is None else {"pixel_mean": tuple(known.mean), "pixel_std": tuple(known.std)}


def _torchvision_weights(backbone: str) -> Any:
    """Return the enumeration of torchvision's weights of a backbone; empty where it does not know it."""
    # torchvision takes a second to import.
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(backbone.removeprefix("tf_"))
    except ValueError:
        return {}


def load_finest_weights(network: TNet, source: str) -> None:
    """Load the weights of the finest processing level's own encoder.

    Raises:
        UsageError: the source is none, or the network has no such encoder.
        ModelFileError: they cannot be had, or are of another network.
    """
    last = network.config.processing_levels - 1
    if not isinstance(network.feature, FeatureExtractionByLevel):
        raise UsageError(f"[training] finest_weights {source}: the model has one encoder for all processing levels")
    found, encoder = encoder_from(source, (last,)), network.feature.encoder(network.config.encoder_number(last))
    load_weights(encoder.backbone, found.tensors(), name=found.config.backbone, source=source)


def load_backbone_weights(network: TNet, source: str) -> None:
    """Load pretrained weights into a network's backbone.

    Args:
        source: ``torchvision`` (the best weights there are), ``torchvision:NAME``, ``timm``, a ``.safetensors`` file
            with the backbone's tensors or a whole model's, or ``hf://owner/repo[/file]``.

    Raises:
        UsageError: the source cannot give weights for this backbone.
        ModelFileError: the file is missing, damaged, or of another backbone.
    """
    name = network.config.backbone
    backbone = network.feature.backbone
    if source == "torchvision" or source.startswith("torchvision:"):
        tensors = _from_torchvision(name, source.partition(":")[2] or "DEFAULT")
    elif source == "timm":
        tensors = _from_timm(name)
    else:
        tensors = _from_file(source)
    load_weights(backbone, tensors, name=name, source=source)


def _from_torchvision(name: str, weights: str) -> dict[str, Tensor]:
    known = _torchvision_weights(name)
    if not known:
        raise UsageError(f"torchvision has no pretrained weights for backbone {name}; give a file or hf://owner/repo")
    if weights not in known.__members__:
        raise UsageError(f"torchvision:{weights}: for {name} there are {', '.join(known.__members__)}")
    try:
        return dict(known[weights].get_state_dict(check_hash=True))
    except (URLError, OSError, RuntimeError) as exc:
        raise UsageError(f"torchvision:{weights}: the weights of {name} cannot be fetched: {exc}") from exc


def _from_timm(name: str) -> dict[str, Tensor]:
    if not name.startswith("timm:"):
        raise UsageError(f"backbone {name} is not of timm; give torchvision, a file or hf://owner/repo")
    import timm

    try:
        network: nn.Module = timm.create_model(name.removeprefix("timm:"), pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as exc:
        raise UsageError(f"timm: the weights of {name} cannot be had: {exc}") from exc
    return network.state_dict()


def _from_file(source: str) -> dict[str, Tensor]:
    if not source.startswith("hf://") and Path(source).suffix != ".safetensors":
        raise UsageError(f"{source}: expected torchvision, timm, a .safetensors file or hf://owner/repo")
    path = find_model(source)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as exc:
        raise ModelFileError(f"{source}: damaged: {exc}") from exc
