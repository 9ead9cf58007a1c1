"""Model files with random weights: their answers mean nothing, their path through the code is the real one."""

from datetime import date
from pathlib import Path

import torch

from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import save_model


def card_of(network: TNetConfig, name: str = "tiny") -> ModelCard:
    """Return a card that says nothing but what the network is."""
    return ModelCard(
        name=name,
        summary="Random weights.",
        intended_use="For tests only.",
        licence="Apache-2.0",
        created=date(2026, 1, 1),
        package_version="0",
        network=network,
    )


def save_random(folder: Path, network: TNetConfig, *, seed: int, name: str = "tiny") -> Path:
    """Write a model file of that name into a folder; the same seed gives the same weights."""
    torch.manual_seed(seed)
    path = folder / f"{name}.safetensors"
    save_model(TNet(network), card_of(network, name), path)
    return path


def tiny_network() -> TNetConfig:
    """Return a network for slides of 1 µm per pixel: 64 px patches at 16, 4 and 1 µm."""
    return TNetConfig.slide(("benign", "lesion")).model_copy(
        update={"base_px": 64, "processing_levels": 3, "mpp": (16.0, 4.0, 1.0), "locations": (3, 4)}
    )
