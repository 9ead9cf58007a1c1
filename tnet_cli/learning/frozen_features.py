"""What frozen encoders see of slides, computed once: looked up where it is kept, else computed and kept.

A feature depends on the encoder and on the pixels. It is kept of pixels as they are in the slide and of no others:
patches that are turned, mirrored or tinted, as in the warm-up, are always computed.

It comes between a traversal and the engine. Of the regions that a traversal wants looked at by a frozen encoder the
engine is asked for those alone of which nothing is kept, and so reads no others; what follows the encoder, which
learns, is computed for all of them.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnet_cli.errors import DISTRIBUTION
from tnet_cli.geometry import Region
from tnet_cli.inference.traversal_job import TraversalJob, TraversalSteps
from tnet_cli.inputs.fingerprint import fingerprint_of
from tnet_cli.learning.feature_store import EncoderFolder
from tnet_cli.learning.kept import key_of
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.model.encoder import Encoder
from tnet_cli.model.feature import FeatureExtractionByLevel
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look, Traversal, Wanted
from tnet_cli.slide.slide import Slide

FinishFunction = Callable[[int, Tensor, Tensor | None, np.ndarray, np.ndarray | None], Look]
"""What follows a frozen encoder: processing level, vectors (N, D), cells (N, C, n, n) or None, positions int64 (N, 3)
and allowed bool (N, G) or None -> Look. Tensors are float32, on the network's device."""


@dataclass(slots=True, eq=False)
class SlideFeatures:
    """What frozen encoders see of one slide: what was kept of it, and what is added to that.

    Attributes:
        folders: By the number of the encoder.
        fingerprint: Digest of the slide's; None of one that nobody can tell from another, of which nothing is kept.
        may_be_kept: Whether what is read of the slide now may be kept.
    """

    folders: Mapping[int, EncoderFolder]
    fingerprint: str | None
    may_be_kept: Callable[[], bool]
    _held: dict[int, dict[Region, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what is kept."""
        for number, folder in self.folders.items():
            self._held[number] = {} if self.fingerprint is None else folder.get(self.fingerprint)

    def holds(self, number: int, region: Region) -> bool:
        """Whether what an encoder sees of a region is there."""
        return region in self._held.get(number, {})

    def has_seen(self, region: Region) -> bool:
        """Whether what some encoder sees of a region is there, so that its pixels need not be read."""
        return any(region in held for held in self._held.values())

    def rows(self, number: int, regions: Sequence[Region]) -> np.ndarray:
        """Return what an encoder sees of regions, float32 (N, L); all must be there."""
        return np.stack([self._held[number][region] for region in regions])

    def add(self, number: int, regions: Sequence[Region], rows: np.ndarray) -> None:
        """Add what an encoder sees of regions, float32 (N, L), and keep it where that may be.

        Raises:
            OSError: it cannot be written.
        """
        added = dict(zip(regions, rows, strict=True))
        self._held[number] |= added
        if self.fingerprint is not None and bool(np.isfinite(rows).all()) and self.may_be_kept():
            self.folders[number].add(self.fingerprint, added)


@dataclass(frozen=True, slots=True, eq=False)
class FrozenFeatures:
    """The frozen encoders of a network, and where what they see is kept.

    Attributes:
        folders: By the number of the encoder; none of one that learns.
    """

    network: TNet
    device: torch.device
    folders: Mapping[int, EncoderFolder]

    @classmethod
    def of(
        cls,
        network: TNet,
        store: Path,
        device: torch.device,
        *,
        side_px: Callable[[int], int],
        arithmetic: torch.dtype | None = None,
        digests: Mapping[int, str] | None = None,
    ) -> "FrozenFeatures":
        """Find the folders of a network whose frozen encoders have their weights.

        Args:
            device: Where the network computes.
            side_px: Encoder's number -> side that patches are read with.
            arithmetic: Of the context in which it computes; None for each encoder's own.
            digests: Of the frozen encoders by number, where they are known.
        """
        known = digests or digests_of(network)
        how = {"version": version(DISTRIBUTION), "device": device.type, "arithmetic": str(arithmetic or "own")}
        folders = {}
        for number, digest in known.items():
            settings = network.config.encoders[number]
            encoder = {"digest": digest, "backbone": settings.backbone, "input_px": settings.input_px}
            transform = {**how, "read_px": side_px(number), "cells": _cells_of(network, number)}
            folders[number] = EncoderFolder.within(store, encoder, transform)
        return cls(network, device, folders)

    @property
    def digests(self) -> dict[int, str]:
        """Of the frozen encoders, by number."""
        return {number: str(folder.encoder["digest"]) for number, folder in self.folders.items()}

    def of_slide(self, slide: TrainingSlide, handle: Slide) -> SlideFeatures:
        """Read what is kept of a slide that is open."""

        def may_be_kept() -> bool:
            # A doubt is told by whoever reads; and what changed since it was fingerprinted is another slide.
            doubted = any(doubt.may_change_answer for doubt in handle.doubts)
            return not doubted and fingerprint_of(slide.entry.path) == slide.fingerprint

        name = None if slide.fingerprint is None else key_of("slide", slide.fingerprint)
        return SlideFeatures(self.folders, name, may_be_kept)

    def encode(self, patches: Tensor, positions: np.ndarray) -> Look | None:
        """Return what a frozen encoder sees of patches, all of one encoder, as it is kept: rows (N, L) as features.

        None where the encoder of these patches learns.
        """
        processing_level = int(positions[0, 2])
        number = self.network.config.encoder_number(processing_level)
        if number not in self.folders:
            return None
        rows = encoded_rows(self.network, patches.to(self.device, non_blocking=True), processing_level)
        return Look(features=rows, cell_log_probs=None)

    def serve(self, job: TraversalJob, kept: SlideFeatures, finish: FinishFunction) -> TraversalJob:
        """Return a job whose traversal has the engine look only at what is not kept; it keeps no patches.

        Args:
            kept: Of the job's slide.
            finish: What follows a frozen encoder. The engine's look is to give what ``encode`` does, where it does.
        """
        return replace(job, traversal=self._steps(job.traversal, kept, finish), keeps_patches=False)

    def _steps(self, steps: TraversalSteps, kept: SlideFeatures, finish: FinishFunction) -> TraversalSteps:
        with closing(steps):
            look: Any = None  # what a generator is begun with
            while True:
                try:
                    wanted = steps.send(look)
                except StopIteration as end:
                    traversal: Traversal = end.value
                    return traversal
                number = self.network.config.encoder_number(wanted.processing_level)
                if number in self.folders:
                    rows = yield from _rows(wanted, number, kept)
                    vectors, cells = parted_rows(self.network, number, torch.from_numpy(rows).to(self.device))
                    look = finish(wanted.processing_level, vectors, cells, wanted.positions, wanted.allowed)
                else:
                    look = yield wanted


def encoded_rows(network: TNet, patches: Tensor, processing_level: int) -> Tensor:
    """Return what a frozen encoder sees of patches of a processing level, vectors and cells in rows float32 (N, L)."""
    number = network.config.encoder_number(processing_level)
    with torch.no_grad():
        vectors, cells = _extraction_of(network).encode(patches, processing_level)
    parts = [vectors] if cells is None or _cells_of(network, number) is None else [vectors, cells.flatten(1)]
    return torch.cat([each.float() for each in parts], dim=1)


def parted_rows(network: TNet, number: int, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Part rows of an encoder as ``encoded_rows`` made them: vectors (N, D), and cells (N, C, n, n) or None."""
    length, shape = _extraction_of(network).encoder(number).feature_length, _cells_of(network, number)
    if shape is None:
        return rows, None
    return rows[:, :length], rows[:, length:].reshape(-1, *shape["shape"])


def _rows(wanted: Wanted, number: int, kept: SlideFeatures) -> Generator[Wanted, Look, np.ndarray]:
    """Return what an encoder sees of the wanted regions, (N, L), after asking for what is not kept."""
    missing = [index for index, region in enumerate(wanted.regions) if not kept.holds(number, region)]
    if missing:
        regions = tuple(wanted.regions[index] for index in missing)
        seen = yield replace(wanted, regions=regions, positions=wanted.positions[missing], allowed=None)
        kept.add(number, regions, seen.features.cpu().numpy())
    return kept.rows(number, wanted.regions)


def _extraction_of(network: TNet) -> FeatureExtractionByLevel:
    if not isinstance(network.feature, FeatureExtractionByLevel):
        raise TypeError("a network with one encoder for all processing levels has none that is frozen")
    return network.feature


def _cells_of(network: TNet, number: int) -> dict[str, Any] | None:
    """Return how the map of an encoder becomes cells, and their shape; None where it need not locate any."""
    config, channels = network.config, _extraction_of(network).map_channels[number]
    if channels is None or config.encoders[number].processing_levels == (config.processing_levels - 1,):
        return None
    how = {"pool": config.location_pool, "slice": config.location_slice and list(config.location_slice)}
    return {**how, "shape": [channels, config.grid, config.grid]}


def digests_of(network: TNet) -> dict[int, str]:
    """Return a digest of each frozen encoder, by number: its settings and its tensors with their names."""
    encoders = enumerate(network.config.encoders)
    return {n: digest_of_encoder(_extraction_of(network).encoder(n)) for n, each in encoders if each.frozen}


def digest_of_encoder(encoder: Encoder) -> str:
    """Return a digest of an encoder's settings and tensors, 64 hexadecimal digits, wherever it is used."""
    settings = encoder.settings.model_dump(mode="json", exclude={"processing_levels", "frozen"})
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
