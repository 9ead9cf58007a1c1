"""An encoder: patches become vectors and maps, by the network of an ``EncoderConfig`` and with its normalisation."""

import io
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tnet_cli.model.backbone import build_backbone, build_network
from tnet_cli.model.config import EncoderConfig

PART_PATCHES = 4
"""Patches that a frozen encoder sees at once on a processor."""


class Encoder(nn.Module):
    """One encoder.

    A frozen one is in evaluation mode always: neither batches nor dropout change what it sees.

    Args:
        needs_map: Whether its maps locate cells; a patch model with classes of its own has none.

    Attributes:
        feature_length: D, of its vectors.
        map_channels: C, of its maps; None without them.

    Raises:
        ValueError: the network cannot be built, or has no map where one is needed.
    """

    backbone: nn.Module
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: EncoderConfig, *, needs_map: bool = True) -> None:
        super().__init__()
        self.settings = config
        self.feature_length: int
        self.map_channels: int | None
        if config.classes:
            if needs_map:
                raise ValueError(f"a patch model with classes, {config.backbone}, has no map to locate cells with")
            self.backbone = _classifier_of(config)
            self.feature_length, self.map_channels = len(config.classes), None
        else:
            self.backbone = _backbone_of(config, needs_map=needs_map)
            self.feature_length = self.backbone.feature_length  # type: ignore[assignment]
            self.map_channels = self.backbone.map_channels  # type: ignore[assignment]
        if config.frozen:
            self.requires_grad_(requires_grad=False)
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std).view(1, 3, 1, 1), persistent=False)
        self.train()  # which leaves a frozen one in evaluation mode; modules begin in training mode

    def encode(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode patches.

        Args:
            patches: (N, 3, H, W), uint8 or float in [0, 1]; resized to ``input_px`` when of another size.

        Returns:
            Vectors (N, D) float32, of a patch model the probabilities of its classes, and maps (N, C, h, w) float32 or
            None.
        """
        pixels, greatest = patches.float(), 255.0 if patches.dtype == torch.uint8 else 1.0
        side_px = self.settings.input_px
        if pixels.shape[2:] != (side_px, side_px) and not len(pixels):
            pixels = pixels.new_empty(0, 3, side_px, side_px)  # nothing cannot be resized
        elif pixels.shape[2:] != (side_px, side_px):
            # Bilinear without antialiasing, as the published weights of the paper were trained.
            is_cubic = self.settings.interpolation == "bicubic"
            pixels = functional.interpolate(
                pixels,
                size=(side_px, side_px),
                mode=self.settings.interpolation,
                align_corners=False,
                antialias=is_cubic,
            )
            if is_cubic:
                pixels = pixels.clamp(0, greatest)  # which it may overshoot
        normalised = self._normalised(pixels, greatest)
        if self.settings.precision == "float32" or normalised.device.type != "cuda":
            vectors, maps = self._in_parts(normalised)
        else:
            with torch.autocast("cuda", dtype=getattr(torch, self.settings.precision)):
                vectors, maps = self.backbone(normalised)
            vectors, maps = vectors.float(), None if maps is None else maps.float()
        if self.settings.classes:
            # One class stands for itself against nothing, several exclude each other.
            vectors = vectors.sigmoid() if vectors.shape[1] == 1 else vectors.softmax(dim=1)
        return vectors, maps

    def _in_parts(self, normalised: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the network, on a processor a few patches at a time where they do not depend on each other.

        What the first blocks make of 32 patches of 224 px is 50 MB a layer: in parts it stays in the cache.
        """
        # Their number is asked last: a graph that is exported would be of that number alone.
        if not self.settings.frozen or normalised.device.type != "cpu" or len(normalised) <= PART_PATCHES:
            vectors, maps = self.backbone(normalised)
            return vectors, maps
        parts = [self.backbone(part) for part in torch.split(normalised, PART_PATCHES)]
        maps = None if parts[0][1] is None else torch.cat([each for _, each in parts])
        return torch.cat([each for each, _ in parts]), maps

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what ``encode`` does."""
        return self.encode(patches)

    def train(self, mode: bool = True) -> "Encoder":  # noqa: FBT001, FBT002 (torch's signature)
        """Set the mode as for any module; a frozen encoder stays in evaluation mode."""
        super().train(mode and not self.settings.frozen)
        return self

    def _normalised(self, pixels: Tensor, greatest: float) -> Tensor:
        """Return (pixels / greatest - mean) / std, (N, 3, H, W) in the memory format of channels last.

        Whole rows at once, since along an axis of three channels torch takes ten times as long.
        """
        rows = pixels.permute(0, 2, 3, 1).flatten(2)  # (N, H, 3 W): in channels last, as patches are read, a view
        height, width = pixels.shape[2:]
        slope = (1 / (greatest * self.pixel_std)).flatten().repeat(width)
        offset = (-self.pixel_mean / self.pixel_std).flatten().repeat(width)
        return torch.addcmul(offset, rows, slope).reshape(-1, height, width, 3).permute(0, 3, 1, 2)


def _backbone_of(config: EncoderConfig, *, needs_map: bool) -> nn.Module:
    return build_backbone(
        config.backbone,
        config.input_px,
        config.tap,
        arguments=config.arguments,
        pooling=config.pooling,
        first_token=config.first_token,
        needs_map=needs_map,
    )


def _classifier_of(config: EncoderConfig) -> nn.Module:
    if config.backbone == TORCHSCRIPT:
        return ProgramClassifier()
    if config.classifier == "own":
        return Classifier(build_network(config.backbone, config.arguments, len(config.classes)))
    return LinearClassifier(config)


class Classifier(nn.Module):
    """A network with its own classifier, in the place of a backbone: logits (N, C) and no map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return logits (N, C) of normalised patches (N, 3, H, W)."""
        return self.network(patches), None


class LinearClassifier(nn.Module):
    """What TNet says of one patch alone: its vector, the code of its processing level, one linear layer.

    Where position codes hold the scale alone, that of a processing level is the same for all its patches: ``offset``.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.network = _backbone_of(config, needs_map=False)
        length: int = self.network.feature_length  # type: ignore[assignment]
        self.register_buffer("offset", torch.zeros(length))
        self.linear = nn.Linear(length, len(config.classes))

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return logits (N, C) of normalised patches (N, 3, H, W)."""
        vectors, _ = self.network(patches)
        return self.linear(functional.silu(vectors + self.offset)), None


class ProgramClassifier(nn.Module):
    """A TorchScript program that was trusted when its model file was made, held as the bytes of its archive.

    Such a program may do whatever its author wanted. It is run only where ``TNET_TRUST_TORCHSCRIPT=1`` says so. Its own
    tensors are within those bytes and nowhere else: they are none of this module's, to be stored again or trained.
    """

    program: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("program", torch.zeros(0, dtype=torch.uint8))
        self._held: tuple[torch.jit.ScriptModule, ...] = ()

    def load(self, program: bytes) -> None:
        """Take a program over.

        Raises:
            ValueError: it is not to be trusted, or is none.
        """
        if os.environ.get(TRUST_VARIABLE) != "1":
            raise ValueError(
                "its patch model is a TorchScript program, which may do whatever its author wanted; "
                f"set {TRUST_VARIABLE}=1 if you trust where it came from"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))  # torch would have others export again
            try:
                module = torch.jit.load(io.BytesIO(program), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError) as exc:
                raise ValueError(f"it is no TorchScript program: {str(exc).splitlines()[0]}") from exc
        for parameter in module.parameters():
            parameter.requires_grad_(requires_grad=False)
        self._held = (module,)
        self.program = torch.frombuffer(bytearray(program), dtype=torch.uint8)

    def tensors(self) -> dict[str, Tensor]:
        """Return the program's own tensors by name."""
        return {name: tensor for module in self._held for name, tensor in module.state_dict().items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_rest: Any) -> None:
        self.load(bytes(state_dict[f"{prefix}program"].numpy()))

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return logits (N, C) of normalised patches (N, 3, H, W)."""
        if not self._held:
            raise ValueError("no program has been loaded")
        logits = self._held[0](patches)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError("it gives no table of logits, a row a patch")
        return logits, None

    def _apply(self, fn: Any, recurse: bool = True) -> "ProgramClassifier":  # noqa: FBT001, FBT002 (torch's signature)
        for module in self._held:
            module._apply(fn, recurse)  # type: ignore[no-untyped-call]  # noqa: SLF001 (to the same device)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


TORCHSCRIPT = "torchscript"
TRUST_VARIABLE = "TNET_TRUST_TORCHSCRIPT"
