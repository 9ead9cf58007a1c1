"""Backbones by name: a small one of our own, the paper's, and any classifier of torchvision or timm."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from tnet_cli.model.small_backbone import SmallBackbone
from tnet_cli.model.tf_padding import pad_like_tensorflow

PROBE_PX = 224
MAP_STRIDE = 16


class Backbone(Protocol):
    """What a feature extraction module needs of a network."""

    map_channels: int
    feature_length: int

    def __call__(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (N, D) and location maps (N, C, h, w) of patches (N, 3, H, W)."""
        ...


def build_backbone(name: str) -> nn.Module:
    """Build a backbone with random weights.

    Args:
        name: ``tnet_small``, ``tf_efficientnet_b0``, a torchvision classifier, or ``timm:NAME``.

    Raises:
        ValueError: the name is unknown, timm is not installed, or the network has no map at stride 16.
    """
    if name == "tnet_small":
        return SmallBackbone()
    if name == "tf_efficientnet_b0":
        return _paper_efficientnet()
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"))
    # torchvision takes a second to import, which the small backbone must not cost.
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(
            f"backbone {name!r}: expected tnet_small, tf_efficientnet_b0, a torchvision classifier or timm:NAME"
        )
    return TappedBackbone(partial(get_model, name, weights=None), name)


class TappedBackbone(nn.Module):
    """A torchvision classifier without its head, and a tap at its last map of stride 16.

    Args:
        make: Builds the classifier.
        name: Named in errors.
        tap: Name of the module whose output is the location map; found by trial when None.
    """

    def __init__(self, make: Callable[[], nn.Module], name: str, tap: str | None = None) -> None:
        super().__init__()
        self.network = make()
        head = _last_linear(self.network, name)
        _replace(self.network, head, nn.Identity())
        self.tap = tap or _last_map(self.network, name)
        self._seen: list[Tensor] = []
        self._channels_last = False
        self.network.get_submodule(self.tap).register_forward_hook(self._remember)
        was_training = self.training
        self.eval()
        with torch.no_grad():
            vectors, maps = self(torch.zeros(1, 3, PROBE_PX, PROBE_PX))
            # Transformers with windows keep their maps as (N, H, W, C).
            self._channels_last = maps.shape[1] == maps.shape[2] == PROBE_PX // MAP_STRIDE != maps.shape[3]
            maps = self(torch.zeros(1, 3, PROBE_PX, PROBE_PX))[1]
        self.train(was_training)
        self.feature_length, self.map_channels = vectors.shape[1], maps.shape[1]

    def _remember(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._seen.append(output)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (N, D) and maps (N, C, h, w) of patches (N, 3, H, W)."""
        self._seen.clear()
        vectors = self.network(patches)
        maps = self._seen.pop()
        return vectors.flatten(1), maps.permute(0, 3, 1, 2) if self._channels_last else maps


class TimmBackbone(nn.Module):
    """A timm model: its last map of stride 16, and the mean of its last map.

    Args:
        name: As in ``timm.create_model``.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as exc:
            raise ValueError(
                f"backbone timm:{name} needs the timm extra; install it with: pip install 'tnet[timm]'"
            ) from exc
        try:
            self.network = timm.create_model(name, features_only=True, pretrained=False)
        except (RuntimeError, AttributeError) as exc:
            raise ValueError(f"backbone timm:{name}: {exc}") from exc
        strides, channels = self.network.feature_info.reduction(), self.network.feature_info.channels()
        if MAP_STRIDE not in strides:
            raise ValueError(f"backbone timm:{name} has no map of stride {MAP_STRIDE}; its strides are {strides}")
        self._tap = len(strides) - 1 - strides[::-1].index(MAP_STRIDE)
        self.map_channels, self.feature_length = channels[self._tap], channels[-1]

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (N, D) and maps (N, C, h, w) of patches (N, 3, H, W)."""
        maps = self.network(patches)
        return maps[-1].mean(dim=(2, 3)), maps[self._tap]


def _paper_efficientnet() -> nn.Module:
    """EfficientNet-B0 as the published weights have it: TensorFlow's padding and batch-norm constants."""
    from torchvision.models import efficientnet_b0

    def make() -> nn.Module:
        network: nn.Module = efficientnet_b0(norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
        network.get_submodule("classifier")[0] = nn.Identity()  # type: ignore[index]
        pad_like_tensorflow(network)
        return network

    # The last block of 14 x 14 x 80; torchvision counts the stem as the first part.
    return TappedBackbone(make, "tf_efficientnet_b0", tap="features.4")


def _last_linear(network: nn.Module, name: str) -> str:
    heads = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise ValueError(f"backbone {name}: no linear layer to take the features from")
    return heads[-1]


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _last_map(network: nn.Module, name: str) -> str:
    """Find the outermost last module whose output is a map at stride 16, by running the network once."""
    side = PROBE_PX // MAP_STRIDE
    found: list[str] = []

    def note(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and side in (output.shape[1], output.shape[2]):
                channels_first = tuple(output.shape[2:]) == (side, side)
                channels_last = tuple(output.shape[1:3]) == (side, side)
                if channels_first or channels_last:
                    found.append(path)

        return hook

    handles = [module.register_forward_hook(note(path)) for path, module in network.named_modules() if path]
    was_training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, PROBE_PX, PROBE_PX))
    network.train(was_training)
    for handle in handles:
        handle.remove()
    if not found:
        raise ValueError(f"backbone {name} has no map of stride {MAP_STRIDE} to locate with")
    return found[-1]
