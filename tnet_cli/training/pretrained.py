"""Pretrained weights of a backbone: torchvision's or timm's own, a safetensors file, or one of the hub."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.modelfile import find_model

PREFIXES = ("feature.backbone.", "backbone.network.", "backbone.", "network.", "module.", "")
"""What names of a backbone's tensors begin with in model files of this package and elsewhere."""


def load_backbone_weights(network: TNet, source: str) -> None:
    """Load pretrained weights into a network's backbone.

    Args:
        network: Changed in place.
        source: ``torchvision`` (the best weights there are), ``torchvision:NAME``, ``timm``, a ``.safetensors`` file
            with the backbone's tensors or a whole model's, or ``hf://owner/repo[/file]``.

    Raises:
        UsageError: the source cannot give weights for this backbone.
        ModelFileError: the file is missing, damaged, or of another backbone.
    """
    name = network.config.backbone
    backbone = network.feature.backbone
    if source == "torchvision" or source.startswith("torchvision:"):
        tensors = _from_torchvision(name.removeprefix("tf_"), source.partition(":")[2] or "DEFAULT")
    elif source == "timm":
        tensors = _from_timm(name)
    else:
        tensors = _from_file(source)
    wanted = backbone.state_dict()
    found = _matching(tensors, wanted)
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise ModelFileError(
            f"{source}: holds no weights for backbone {name}: {len(missing)} of {len(wanted)} tensors are missing or "
            f"of another shape, the first is {missing[0]}"
        )
    backbone.load_state_dict(found, strict=False)


def _matching(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names that are wanted, by the prefix that fits most of them."""
    best: dict[str, Tensor] = {}
    for prefix in PREFIXES:
        bare = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        # A backbone that is tapped keeps its own names one step down.
        for inner in ("", "network."):
            found = {
                inner + key: value.to(wanted[inner + key].dtype)
                for key, value in bare.items()
                if inner + key in wanted and value.shape == wanted[inner + key].shape
            }
            best = max(best, found, key=len)
    return best


def _from_torchvision(name: str, weights: str) -> dict[str, Tensor]:
    import torchvision.models

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UsageError(f"torchvision has no pretrained weights for backbone {name}; give a file or hf://owner/repo")
    known: Any = torchvision.models.get_model_weights(name)
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
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ModelFileError(f"{source}: damaged: {exc}") from exc
    return tensors
