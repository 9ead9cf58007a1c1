"""Tiny synthetic slides and a tiny model that training runs on in seconds."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.learning.distributed import Group
from tnet_cli.learning.precision import Precision
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide, load_training_slides
from tnet_cli.learning.state import Course
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.synth.synthesis import CLASS_NAMES, synthesize

CONFIG = TNetConfig.slide(CLASS_NAMES).model_copy(
    update={"base_px": 64, "processing_levels": 3, "mpp": (16.0, 4.0, 1.0), "locations": (3, 4)}
)
SETTINGS = TrainingSettings(
    normal_class="benign",
    patches_per_slide=4,
    warmup_steps=6,
    rounds=2,
    batch_patches=8,
    hard_epochs=3,
    batch_slides=2,
    hard_locations=(2, 3),
    checkpoint_every=2,
)


@pytest.fixture(scope="session")
def tiny_config() -> TNetConfig:
    """Three processing levels of 64 px patches."""
    return CONFIG


@pytest.fixture(scope="session")
def tiny_settings() -> TrainingSettings:
    """A few steps of each stage."""
    return SETTINGS


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides of 2000 px at 1 µm per pixel, two of each class, with annotations."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    synthesize(folder, count=4, side_px=2000, seed=12, mpp=1.0, workers=1)
    return folder / "labels.csv"


@pytest.fixture(scope="session")
def tiny_inputs(tiny_manifest: Path) -> Sequence[SlideInput]:
    """The slides as inputs."""
    return read_manifest(tiny_manifest)


@pytest.fixture(scope="session")
def tiny_slides(tiny_inputs: Sequence[SlideInput]) -> list[TrainingSlide]:
    """The slides, prepared."""
    return load_training_slides(tiny_inputs, CONFIG)


def course_of(
    slides: list[TrainingSlide], settings: TrainingSettings = SETTINGS, config: TNetConfig = CONFIG
) -> Course:
    """A run on the CPU that nobody listens to."""
    torch.manual_seed(0)
    return Course(
        network=TNet(config),
        slides=slides,
        settings=settings,
        device=torch.device("cpu"),
        group=Group(),
        precision=Precision(torch.device("cpu"), mixed=True),
    )
