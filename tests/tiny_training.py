"""Tiny synthetic slides, a tiny model, and a run on them that goes through every stage in seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tnet_cli.geometry import Region, Size
from tnet_cli.inference.prepare import Scale
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.learning.distributed import ProcessGroup
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import PackedMask, TrainingSlide, load_training_slides
from tnet_cli.learning.state import Precision, TrainingState
from tnet_cli.model.config import EncoderConfig, TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.places import Place
from tnet_cli.synth.synthesis import CLASS_NAMES
from tnet_cli.tissue.roots import Root
from tnet_cli.tissue.tissue import TissueMask

CONFIG = TNetConfig.slide(CLASS_NAMES).model_copy(
    update={"base_px": 64, "processing_levels": 3, "mpp": (16.0, 4.0, 1.0), "locations": (3, 4)}
)
STILL = CONFIG.model_copy(update={"dropout": 0.0})
OWN = TNetConfig.model_validate(
    CONFIG.model_dump()
    | {
        "encoders": (
            EncoderConfig(backbone="tnet_small", processing_levels=(0, 1), input_px=64),
            EncoderConfig(backbone="timm:resnet10t", processing_levels=(2,), input_px=64, frozen=True),
        )
    }
)
"""An encoder that learns to look for places, and a frozen one for the finest view."""
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
LABELS_ALONE: dict[str, Any] = {"annotations": False, "normal_class": None}


class Told(Progress):
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.notes: list[str] = []

    def step(self, report: StepReport) -> None:
        """Keep a report."""
        self.reports.append(report)

    def note(self, text: str) -> None:
        """Keep a sentence."""
        self.notes.append(text)


def settings_with(**changes: Any) -> TrainingSettings:
    """The settings, some of them changed."""
    return TrainingSettings.model_validate({**SETTINGS.model_dump(), **changes})


def state_of(
    slides: Sequence[TrainingSlide],
    settings: TrainingSettings = SETTINGS,
    config: TNetConfig = CONFIG,
    *,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> TrainingState:
    """A run on the CPU, always from the same weights."""
    torch.manual_seed(0)
    return TrainingState(
        network=TNet(config),
        slides=list(slides),
        settings=settings,
        device=torch.device("cpu"),
        group=ProcessGroup(),
        precision=Precision(torch.device("cpu"), mixed=True),
        progress=progress or Progress(),
        folder=folder,
    )


def bare(slides: Sequence[TrainingSlide]) -> list[TrainingSlide]:
    """The slides as if nobody had drawn anything."""
    return [replace(slide, annotated=None) for slide in slides]


def batch_statistics(network: TNet) -> list[Tensor]:
    """Copies of means and variances of normalisation, by turns."""
    return [b.clone() for name, b in network.named_buffers() if name.endswith(("running_mean", "running_var"))]


def seen_by(network: TNet, *, training: bool) -> Tensor:
    """Logits and cell log-probabilities of six random patches."""
    patches = torch.from_numpy(np.random.default_rng(9).integers(0, 255, (6, 3, 64, 64), dtype=np.uint8))
    network.train(training)
    with torch.no_grad():
        seen = network.look(patches, torch.zeros(6, 3, dtype=torch.int64), torch.ones(6, 16, dtype=torch.bool))
        assert seen.cell_log_probs is not None
        return torch.cat([network.classification(seen.features), seen.cell_log_probs], dim=1)


def location_gradient(network: TNet, terms: dict[str, Tensor]) -> float:
    """Sum of the norms of the location module's gradients."""
    network.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    return sum(float(p.grad.norm()) for p in network.location.parameters() if p.grad is not None)


SIDE = 1024
ROOT = Region(0, 0, SIDE, SIDE)
EVERYWHERE = np.ones(16, dtype=bool)


def mask_of(*boxes: Region) -> TissueMask:
    """A mask of 16 px a pixel over a slide of 1024 px, true in the boxes."""
    mask = np.zeros((64, 64), dtype=bool)
    for box in boxes:
        mask[box.y // 16 : box.bottom // 16, box.x // 16 : box.right // 16] = True
    return TissueMask(mask=mask, slide_size=Size(SIDE, SIDE))


def slide_with(annotated: TissueMask | None, tissue: TissueMask | None = None, path: str = "none.png") -> TrainingSlide:
    """A slide of one root with the label 1, of which somebody may have drawn something."""
    return TrainingSlide(
        entry=SlideInput(path=Place(path), name="s", mpp=1.0),
        label=1,
        scale=Scale(root_side_px=SIDE, finest_side_px=SIDE // 16, processing_levels=3, mpp=(16.0, 4.0, 1.0), notes=()),
        roots=(Root(region=ROOT, tissue_share=1.0),),
        tissue=PackedMask.of(tissue or mask_of(ROOT)),
        annotated=None if annotated is None else PackedMask.of(annotated),
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in one thread: several are slower where little is computed at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_inputs(labelled_slides: Path) -> Sequence[SlideInput]:
    """Four slides of 2000 px at 1 µm per pixel, two of each class, with annotations."""
    return read_manifest(labelled_slides)


@pytest.fixture(scope="session")
def tiny_slides(tiny_inputs: Sequence[SlideInput]) -> list[TrainingSlide]:
    """The slides, prepared."""
    return load_training_slides(tiny_inputs, CONFIG)
