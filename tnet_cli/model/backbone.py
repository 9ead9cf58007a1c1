"""Backbones by name: a small one of our own, the paper's, and any classifier of torchvision or timm."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from tnet_cli.errors import install_hint
from tnet_cli.model.efficientnet_lite import EfficientNetLite0
from tnet_cli.model.small_backbone import SmallBackbone
from tnet_cli.model.tensorflow_padding import pad_like_tensorflow
from tnet_cli.model.token_backbone import TokenBackbone, has_tokens

LITE = "tf_efficientnet_lite0"
"""As timm calls it, which is not needed for it."""

MAP_STRIDE = 16

PAPER_BLOCK_DROP = 0.3
"""Share of samples for which the last block is skipped while training; earlier blocks in proportion."""


def build_backbone(
    name: str,
    base_px: int,
    tap: str | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    pooling: str = "own",
    first_token: int = 1,
    needs_map: bool = True,
) -> nn.Module:
    """Build a backbone with random weights.

    Args:
        name: ``tnet_small``, ``tf_efficientnet_lite0``, ``tf_efficientnet_b0`` to ``b4``, a torchvision classifier, or
            ``timm:NAME``.
        base_px: Side of the patches it will see.
        tap: Module whose output is the location map; by default the last block with a map at stride 16.
        arguments: What else the network is built with.
        pooling: What becomes the vector, as of ``EncoderConfig``.
        first_token: The first patch token of a transformer.
        needs_map: Whether there must be a location map.

    Returns:
        A module from patches (N, 3, H, W) to vectors (N, D) and location maps (N, C, h, w), or None where none is
        needed, that knows its ``feature_length`` D and ``map_channels`` C.

    Raises:
        ValueError: the name is unknown, timm is not installed, the network cannot take such patches, or it has no
            map to locate with.
    """
    if name == "tnet_small":
        if tap is not None:
            raise ValueError(f"backbone tnet_small has one location map; leave tap out instead of giving {tap!r}")
        return SmallBackbone()
    network = _network_for(name, arguments or {}, base_px)
    if pooling not in {"own", "map", "cut"} or (needs_map and tap is None and has_tokens(network)):
        if pooling == "cut":
            raise ValueError(f"backbone {name} has no map to be cut at")
        return TokenBackbone(network, name, base_px, pooling, first_token)
    if re.fullmatch("tf_efficientnet_b[0-4]", name):
        # The last block of part 5, 14 x 14: torchvision counts the stem as the first stage.
        tap = tap or "features.4"
    if not needs_map and pooling == "own":
        return PlainBackbone(network, name, base_px)
    tapped = TappedBackbone(network, name, base_px, tap)
    if pooling in {"map", "cut"}:
        tapped.pools_map()
    if pooling == "cut":
        tapped.ends_at_map()
    return tapped


def build_network(name: str, arguments: Mapping[str, Any] | None = None, num_classes: int = 0) -> nn.Module:
    """Build a bare network with random weights: patches (N, 3, H, W) to its own vectors (N, D) or logits (N, C).

    Args:
        name: As of ``build_backbone``.
        arguments: What else it is built with, JSON values.
        num_classes: Of its own classifier; 0 for none.

    Raises:
        ValueError: the name or the arguments are unknown, or a package is missing.
    """
    if name.startswith("timm:"):
        return _timm_network(name, arguments or {}, num_classes)
    if name.startswith("transformers:"):
        return _transformers_network(name, arguments or {})
    if arguments:
        raise ValueError(f"backbone {name} takes no arguments, not {', '.join(arguments)}")
    if name == LITE:
        return EfficientNetLite0(num_classes)
    if num_classes:
        return _torchvision_network(name, num_classes)
    if re.fullmatch("tf_efficientnet_b[0-4]", name):
        return _paper_efficientnet(name)
    return _torchvision_network(name)


class TappedBackbone(nn.Module):
    """A network that ends in its feature vector, and a tap at the map it is located with.

    Args:
        network: Patches (N, 3, H, W) to vectors (N, D).
        base_px: Side of the patches it will see; it is run once to learn its shapes.
        tap: Name of the module whose output is the location map; found by trial when None.

    Raises:
        ValueError: the network cannot take such patches, gives no vector, or has no such map.
    """

    def __init__(self, network: nn.Module, name: str, base_px: int, tap: str | None = None) -> None:
        super().__init__()
        self.network = network
        vectors, maps = _probe(network, name, base_px)
        if vectors.ndim != 2:
            raise ValueError(f"backbone {name} gives no feature vector but a tensor of shape {tuple(vectors.shape)}")
        self.tap = tap or _last_map(network, maps, name, base_px)
        if self.tap not in maps:
            raise ValueError(f"backbone {name}: tap {self.tap!r} is not a module of it that gives a map")
        shape = maps[self.tap]
        # Transformers with windows keep their maps as (N, H, W, C).
        self._channels_last = shape[1] == shape[2] != shape[3]
        self.feature_length, self.map_channels = vectors.shape[1], shape[3 if self._channels_last else 1]
        self._seen: list[Tensor] = []
        self._pools_map = False
        network.get_submodule(self.tap).register_forward_hook(self._remember)

    def _remember(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._seen.append(output)

    def pools_map(self) -> None:
        """Give the mean of the map in place of the network's own vector."""
        self._pools_map, self.feature_length = True, self.map_channels

    def ends_at_map(self) -> None:
        """Drop what follows the tap.

        Raises:
            ValueError: the tap is not in a plain sequence of modules.
        """
        module: nn.Module = self.network
        for name in self.tap.split("."):
            if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
                raise ValueError(f"a network can be cut only in a plain sequence of modules, not at {self.tap!r}")
            names = [each for each, _ in module.named_children()]
            for later in names[names.index(name) + 1 :]:
                delattr(module, later)
            module = module.get_submodule(name)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (N, D) and maps (N, C, h, w) of patches (N, 3, H, W)."""
        self._seen.clear()
        vectors = _first(self.network(patches))
        maps = self._seen.pop()
        maps = maps.permute(0, 3, 1, 2) if self._channels_last else maps
        return maps.mean(dim=(2, 3)) if self._pools_map else vectors, maps


class PlainBackbone(nn.Module):
    """A network that ends in its feature vector, where no map is needed; arguments as of ``TappedBackbone``."""

    map_channels = None

    def __init__(self, network: nn.Module, name: str, base_px: int) -> None:
        super().__init__()
        self.network = network
        vectors, _ = _probe(network, name, base_px)
        if vectors.ndim != 2:
            raise ValueError(f"backbone {name} gives no feature vector but a tensor of shape {tuple(vectors.shape)}")
        self.feature_length = vectors.shape[1]

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return vectors (N, D) of patches (N, 3, H, W)."""
        return _first(self.network(patches)), None


def _network_for(name: str, arguments: Mapping[str, Any], base_px: int) -> nn.Module:
    """Build a network for patches of that side, where its architecture allows another than its own."""
    network = build_network(name, arguments)
    if name.startswith("timm:") and "img_size" not in arguments and hasattr(network, "num_prefix_tokens"):
        own = getattr(getattr(network, "patch_embed", None), "img_size", None)
        if own is not None and tuple(own) != (base_px, base_px):
            return build_network(name, {**arguments, "img_size": base_px})
    return network


def _paper_efficientnet(name: str) -> nn.Module:
    """EfficientNet as the published weights have it: TensorFlow's padding and batch-norm constants."""
    import torchvision.models
    from torchvision.ops import StochasticDepth

    build = getattr(torchvision.models, name.removeprefix("tf_"))
    network: nn.Module = build(norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
    _remove_head(network, name)
    pad_like_tensorflow(network)
    blocks = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for number, block in enumerate(blocks, start=1):
        block.p = PAPER_BLOCK_DROP * number / len(blocks)
    return network


def _torchvision_network(name: str, num_classes: int = 0) -> nn.Module:
    # torchvision takes a second to import, which the small backbone must not cost.
    import torchvision.models

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"backbone {name!r}: expected tnet_small, {LITE}, tf_efficientnet_b0 to b4, a torchvision classifier or "
            "timm:NAME"
        )
    with warnings.catch_warnings():
        # Two old networks announce another initialisation to come.
        warnings.simplefilter("ignore", FutureWarning)
        classes = {"num_classes": num_classes} if num_classes else {}
        network: nn.Module = torchvision.models.get_model(name, weights=None, **classes)
    if not num_classes:
        _remove_head(network, name)
    return network


def _timm_network(name: str, arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    if ":" in (bare := name.removeprefix("timm:")):
        # timm would go by hf-hub:... and local-dir:... to wherever a model file says.
        raise ValueError(f"backbone {name}: {bare} is no name of timm's, and nothing is fetched to build a network")
    try:
        import timm
    except ImportError as exc:
        raise ValueError(f"backbone {name} needs the timm extra; install it with: {install_hint('timm')}") from exc
    try:
        network: nn.Module = timm.create_model(
            bare, pretrained=False, num_classes=num_classes, **_with_layers(arguments)
        )
    except (RuntimeError, ValueError, TypeError) as exc:
        raise ValueError(f"backbone {name}: {exc}") from exc
    return network


_LAYERS = {
    "SwiGLUPacked": "timm.layers",
    "SwiGLU": "timm.layers",
    "GluMlp": "timm.layers",
    "Mlp": "timm.layers",
    "SiLU": "torch.nn",
    "GELU": "torch.nn",
    "ReLU": "torch.nn",
    "LayerNorm": "torch.nn",
}
"""Layers that arguments may name, and where they are."""


def _with_layers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with the layers that they name, such as ``act_layer``, in place of the names.

    Raises:
        ValueError: a layer is not among those that may be named.
    """
    found = dict(arguments)
    for key, value in arguments.items():
        if key.endswith("_layer"):
            if value not in _LAYERS:
                raise ValueError(f"{key} {value!r}: expected one of {', '.join(_LAYERS)}")
            found[key] = getattr(import_module(_LAYERS[value]), value)
    return found


def _transformers_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as exc:
        raise ValueError(
            f"backbone {name} needs the transformers extra; install it with: {install_hint('transformers')}"
        ) from exc
    try:
        build: Any = AutoModel.from_config
        network: nn.Module = build(AutoConfig.for_model(name.partition(":")[2], **arguments))
    except (ValueError, TypeError, KeyError) as exc:
        raise ValueError(f"backbone {name}: {str(exc).splitlines()[0]}") from exc
    return network


def _remove_head(network: nn.Module, name: str) -> None:
    """Replace the last linear layer, and a dropout right before it, by nothing."""
    heads = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise ValueError(f"backbone {name} has no linear layer at its end to take the features from")
    path, _, child = heads[-1].rpartition(".")
    parent = network.get_submodule(path)
    setattr(parent, child, nn.Identity())
    if isinstance(parent, nn.Sequential) and len(parent) > 1 and isinstance(parent[-2], nn.Dropout):
        # The classification module has its own.
        parent[-2] = nn.Identity()


def _first(output: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the features of networks that add the answers of auxiliary classifiers while they train."""
    return output if isinstance(output, Tensor) else output[0]


def _probe(network: nn.Module, name: str, base_px: int) -> tuple[Tensor, dict[str, tuple[int, ...]]]:
    """Run the network once; return its vectors and, in order of execution, the shapes of all four-axis outputs."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                shapes[path] = tuple(output.shape)

        return hook

    handles = [module.register_forward_hook(note(path)) for path, module in network.named_modules() if path]
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            vectors = _first(network(torch.zeros(1, 3, base_px, base_px)))
    except (RuntimeError, AssertionError, ValueError) as exc:
        raise ValueError(f"backbone {name} cannot take patches of {base_px} px: {exc}") from exc
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return vectors, shapes


def _last_map(network: nn.Module, shapes: dict[str, tuple[int, ...]], name: str, base_px: int) -> str:
    """Name the last of the outermost modules whose output is a map at stride 16."""
    sides = {base_px // MAP_STRIDE, -(-base_px // MAP_STRIDE)}
    found = [
        path
        for path, (_, second, third, fourth) in shapes.items()
        if (third == fourth and third in sides) or (second == third and third in sides)
    ]
    # A lone convolution is the patch embedding of a transformer: it has seen nothing around its cell.
    found = [path for path in found if not isinstance(network.get_submodule(path), nn.Conv2d)]
    if not found:
        raise ValueError(
            f"backbone {name} has no map at stride {MAP_STRIDE} of {base_px} px to locate with; give a tap"
        )
    outermost = min(path.count(".") for path in found)
    return [path for path in found if path.count(".") == outermost][-1]
