"""Labelled slides made ready for training: open, prepared, with their annotations as masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet_cli.errors import ManifestError
from tnet_cli.geometry import Region
from tnet_cli.model.config import TNetConfig
from tnet_cli.pipeline.annotation import read_annotation
from tnet_cli.pipeline.inputs import SlideInput
from tnet_cli.pipeline.preparation import Preparation, prepare
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.tissue import TissueMask


@dataclass(frozen=True, slots=True)
class TrainingSlide:
    """One labelled slide. Its file is opened for each read, so thousands of them need no open handles.

    Attributes:
        entry: Where it is, and its mpp from the manifest.
        label: Index of its class.
        preparation: Tissue, roots and scale.
        annotated: Where its lesions are, or None when nobody drew any.
    """

    entry: SlideInput
    label: int
    preparation: Preparation
    annotated: TissueMask | None

    def annotated_fractions(self, regions: Sequence[Region]) -> np.ndarray:
        """Return the share of each region that is annotated, float64 (N,); zero without annotations."""
        if self.annotated is None:
            return np.zeros(len(regions))
        return np.asarray(self.annotated.fractions(regions))

    def read(self, regions: Sequence[Region], base_px: int) -> list[np.ndarray]:
        """Read regions as patches uint8 (base_px, base_px, 3), in order."""
        with open_slide(self.entry.path, mpp=self.entry.mpp) as slide:
            return [slide.read(region, base_px, base_px) for region in regions]


def load_training_slides(inputs: Sequence[SlideInput], config: TNetConfig) -> list[TrainingSlide]:
    """Open and prepare every labelled slide.

    Raises:
        ManifestError: a slide has no label, or one that is not among the model's classes.
        SlideError: a slide cannot be read, or holds no tissue.
    """
    slides = []
    for entry in inputs:
        if entry.label not in config.class_names:
            raise ManifestError(
                f"{entry.shown_path}: label {entry.label!r} is not among the classes {', '.join(config.class_names)}"
            )
        with open_slide(entry.path, mpp=entry.mpp) as slide:
            preparation = prepare(slide, config)
            size, bounds = slide.size, slide.bounds
        if not preparation.roots:
            raise ManifestError(f"{entry.shown_path}: no tissue was found, so there is nothing to train on")
        annotated = read_annotation(entry.annotation, size, origin=(bounds.x, bounds.y)) if entry.annotation else None
        slides.append(TrainingSlide(entry, config.class_names.index(entry.label), preparation, annotated))
    return slides
