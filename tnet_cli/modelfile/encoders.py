"""Encoders that users bring: by a preset's name, from timm, torchvision, the hub, a folder or a file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from pydantic import ValidationError
from torch import Tensor, nn

from tnet_cli.errors import ModelFileError, UsageError, install_hint
from tnet_cli.model.backbone import LITE
from tnet_cli.model.config import EncoderConfig
from tnet_cli.modelfile.modelfile import fetch_from_hub, read_card
from tnet_cli.modelfile.presets import IMAGENET_MEAN, IMAGENET_STD, PRESETS, Preset
from tnet_cli.modelfile.zoo import CONFIG, PICKLED, WEIGHTS, tensors_in
from tnet_cli.places import Place

PREFIXES = (
    *("backbone.network.", "feature.backbone.", "feature.encoders.0.backbone.", "backbone.", "network.", "module."),
    *("model.", "encoder.", "teacher.backbone.", ""),
)
"""What names of an encoder's tensors begin with in files of this package and elsewhere."""


@dataclass(frozen=True, slots=True)
class FoundEncoder:
    """An encoder as it was found.

    Attributes:
        source: As the user gave it.
        config: Frozen, of the processing levels it was asked for.
        tensors: Fetches or reads its weights; raises ``ModelFileError`` where that cannot be done.
        spacing_um_px: Of the patches it was made for, where that is known.
    """

    source: str
    config: EncoderConfig
    tensors: Callable[[], Mapping[str, Tensor]]
    spacing_um_px: float | None = None


def encoder_from(source: str, processing_levels: tuple[int, ...]) -> FoundEncoder:
    """Find an encoder.

    Args:
        source: A preset's name; ``timm:NAME`` or ``torchvision:NAME`` with their own weights; ``hf-hub:OWNER/REPO`` or
            ``hf://OWNER/REPO`` and a local folder, with timm's ``config.json`` or that of ``transformers``; a
            ``.safetensors``, ``.bin`` or ``.pth`` file beside such a one; or a model file of tnet.
        processing_levels: Those it is to serve.

    Raises:
        UsageError: the source is none of these.
        ModelFileError: it is missing, gated or damaged.
    """
    found = _found(source)
    config = found.config.model_copy(update={"processing_levels": processing_levels, "frozen": True})
    return FoundEncoder(source, config, found.tensors, found.spacing_um_px)


def _found(source: str) -> FoundEncoder:
    if source in PRESETS:
        return _of_preset(source, PRESETS[source])
    kind, _, name = source.partition(":")
    if kind == "timm":
        return _of_timm(source, name)
    if kind == "torchvision":
        return _of_torchvision(source, name)
    if kind in {"hf-hub", "hf_hub"} or source.startswith("hf://"):
        return _of_hub(source, Place(source if source.startswith("hf://") else f"hf://{name}"))
    path = Path(source)
    if path.is_dir():
        return _of_folder(source, path)
    if path.is_file():
        return _of_file(source, path)
    raise UsageError(
        f"{source}: is neither a preset ({', '.join(PRESETS)}) nor timm:NAME, torchvision:NAME, hf-hub:OWNER/REPO, a "
        "folder or a file"
    )


def _of_preset(source: str, preset: Preset) -> FoundEncoder:
    if preset.loads.startswith("not loaded"):
        raise UsageError(f"{source}: is {preset.loads}; give another encoder, or its features' own program")
    place = Place(f"hf://{preset.repository}")
    if preset.config is None:
        found = _of_hub(source, place)
        return FoundEncoder(source, found.config, found.tensors, preset.spacing_um_px)
    return FoundEncoder(source, preset.config, lambda: _tensors_on_hub(place), preset.spacing_um_px)


def _of_hub(source: str, place: Place) -> FoundEncoder:
    config = _config_in(fetch_from_hub(place, CONFIG))
    return FoundEncoder(source, config, lambda: _tensors_on_hub(place))


def _tensors_on_hub(place: Place) -> Mapping[str, Tensor]:
    try:
        return tensors_in(fetch_from_hub(place, WEIGHTS))
    except ModelFileError as first:
        try:
            return tensors_in(fetch_from_hub(place, PICKLED))
        except ModelFileError:
            raise first from None


def _of_folder(source: str, folder: Path) -> FoundEncoder:
    file = next((folder / name for name in (WEIGHTS, PICKLED) if (folder / name).is_file()), None)
    if file is None:
        raise ModelFileError(f"{folder}: an encoder needs {WEIGHTS} or {PICKLED} beside {CONFIG}")
    return FoundEncoder(source, _config_in(folder / CONFIG), lambda: tensors_in(file))


def _of_file(source: str, file: Path) -> FoundEncoder:
    if file.suffix not in {".safetensors", ".bin", ".pth", ".pt"}:
        raise UsageError(f"{file}: expected a .safetensors, .bin or .pth file of an encoder's tensors")
    if (file.parent / CONFIG).is_file():
        return FoundEncoder(source, _config_in(file.parent / CONFIG), lambda: tensors_in(file))
    if file.suffix == ".safetensors":
        config = read_card(file).network.encoder_at(0)
        return FoundEncoder(source, config, lambda: tensors_in(file))
    raise ModelFileError(f"{file}: what network its tensors are of stands in no {CONFIG} beside it")


def _config_in(file: Path) -> EncoderConfig:
    """Read a ``config.json`` of timm or of ``transformers``."""
    try:
        held = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise ModelFileError(f"{file}: no readable {CONFIG}: {exc}") from exc
    if not isinstance(held, dict):
        raise ModelFileError(f"{file}: holds no encoder: expected timm's or transformers' {CONFIG}")
    try:
        if isinstance(held.get("architecture"), str):
            return _of_timm_config(held)
        if isinstance(held.get("model_type"), str):
            return _of_transformers_config(held)
    except (ValidationError, TypeError, ValueError, KeyError) as exc:
        raise ModelFileError(f"{file}: {str(exc).splitlines()[0]}") from exc
    raise ModelFileError(f"{file}: names no architecture; expected timm's or transformers' {CONFIG}")


def _of_timm_config(held: dict[str, Any]) -> EncoderConfig:
    stated = held.get("pretrained_cfg") or held
    arguments = {key: value for key, value in (held.get("model_args") or {}).items() if key != "num_classes"}
    pooled = held.get("global_pool", stated.get("global_pool"))
    if pooled is not None and "global_pool" not in arguments:
        arguments["global_pool"] = pooled
    size = stated.get("input_size") or (3, 224, 224)
    mean, std = stated.get("mean", IMAGENET_MEAN), stated.get("std", IMAGENET_STD)
    is_own = held["architecture"] == LITE and arguments in ({}, {"global_pool": "avg"})
    return EncoderConfig(
        backbone=LITE if is_own else f"timm:{held['architecture']}",
        arguments={} if is_own else arguments,
        input_px=int(size[1]),
        interpolation="bicubic" if stated.get("interpolation") == "bicubic" else "bilinear",
        pixel_mean=(mean[0], mean[1], mean[2]),
        pixel_std=(std[0], std[1], std[2]),
        # A transformer without pooling of its own gives all tokens: then the first, and the mean of the patches.
        pooling="cls+mean" if arguments.get("global_pool") == "" else "own",
    )


_OF_TRANSFORMERS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "image_size"),
    *("layerscale_value", "use_swiglu_ffn", "num_register_tokens", "qkv_bias", "hidden_act", "intermediate_size"),
)


def _of_transformers_config(held: dict[str, Any]) -> EncoderConfig:
    if held.get("auto_map"):
        raise ValueError("its code would come from its repository, which is not run")
    return EncoderConfig(
        backbone=f"transformers:{held['model_type']}",
        arguments={key: held[key] for key in _OF_TRANSFORMERS if key in held},
        input_px=224,
        pooling="cls",
        first_token=1 + int(held.get("num_register_tokens", 0)),
        interpolation="bicubic",
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )


def _of_timm(source: str, name: str) -> FoundEncoder:
    try:
        import timm
        from timm.models import get_pretrained_cfg
    except ImportError as exc:
        raise UsageError(f"{source}: needs the timm extra; install it with: {install_hint('timm')}") from exc
    stated = get_pretrained_cfg(name)
    if stated is None:
        raise UsageError(f"{source}: timm has no model {name}")

    def tensors() -> Mapping[str, Tensor]:
        try:
            network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
        except (RuntimeError, OSError, ValueError) as exc:
            raise ModelFileError(f"{source}: its weights cannot be had: {str(exc).splitlines()[0]}") from exc
        return network.state_dict()

    config = EncoderConfig(
        backbone=f"timm:{name}",
        input_px=int(stated.input_size[1]),
        interpolation="bicubic" if stated.interpolation == "bicubic" else "bilinear",
        pixel_mean=(stated.mean[0], stated.mean[1], stated.mean[2]),
        pixel_std=(stated.std[0], stated.std[1], stated.std[2]),
    )
    return FoundEncoder(source, config, tensors)


def _of_torchvision(source: str, name: str) -> FoundEncoder:
    from torchvision.models import get_model_weights

    try:
        weights: Any = get_model_weights(name)["DEFAULT"]
    except (ValueError, KeyError) as exc:
        raise UsageError(f"{source}: torchvision has no such model with weights") from exc
    transform = weights.transforms()

    def tensors() -> Mapping[str, Tensor]:
        try:
            return dict(weights.get_state_dict(check_hash=True))
        except (URLError, OSError, RuntimeError) as exc:
            raise ModelFileError(f"{source}: its weights cannot be fetched: {exc}") from exc

    config = EncoderConfig(
        backbone=name,
        input_px=int(transform.crop_size[0]),
        interpolation="bicubic" if str(transform.interpolation.value) == "bicubic" else "bilinear",
        pixel_mean=tuple(transform.mean),
        pixel_std=tuple(transform.std),
    )
    return FoundEncoder(source, config, tensors)


def _matching(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names that are wanted, by the prefix that fits most of them."""
    best: dict[str, Tensor] = {}
    for prefix in PREFIXES:
        bare = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        # A network within a backbone keeps its own names one step down.
        for inner in ("", "network."):
            found = {
                inner + key: value.to(wanted[inner + key].dtype)
                for key, value in bare.items()
                if inner + key in wanted and value.shape == wanted[inner + key].shape
            }
            best = max(best, found, key=len)
    return best


def load_weights(backbone: nn.Module, tensors: Mapping[str, Tensor], *, name: str, source: str) -> None:
    """Load tensors into a backbone, under whatever prefix they are named.

    Args:
        name: The backbone's.
        source: Where the tensors are from.

    Raises:
        ModelFileError: they are of another network.
    """
    wanted = backbone.state_dict()
    found = _matching(tensors, wanted)
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise ModelFileError(
            f"{source}: holds no weights for backbone {name}: {len(missing)} of {len(wanted)} tensors are missing or "
            f"of another shape, the first is {missing[0]}"
        )
    backbone.load_state_dict(found, strict=False)
