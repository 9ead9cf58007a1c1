"""Labelled slides made ready for training: open, prepared, with their annotations as masks."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from tnet_cli.errors import ManifestError, SlideError
from tnet_cli.geometry import Region
from tnet_cli.inference.prepare import Preparation, Scale, prepare
from tnet_cli.inputs.annotation import read_annotation
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.config import TNetConfig
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.tissue import TissueMask


@dataclass(frozen=True, slots=True)
class TrainingSlide:
    """One labelled slide. Its file is opened for each read, so thousands of them need no open handles.

    Attributes:
        entry: Where it is, and its mpp from the manifest.
        label: Index of its class.
        held: Tissue, roots and scale, as they are held for all slides at once.
        annotated: Where its lesions are, or None when nobody drew any.
    """

    entry: SlideInput
    label: int
    held: Preparation
    annotated: TissueMask | None

    @property
    def preparation(self) -> Preparation:
        """What a traversal needs. What it works out on the way goes with it, and is not held with the slide."""
        return replace(self.held, tissue=_apart(self.held.tissue))

    @property
    def scale(self) -> Scale:
        """How the model's processing levels fall on the slide."""
        return self.held.scale

    def down_to(self, processing_levels: int | None) -> "TrainingSlide":
        """Return the slide with traversals that end at this many processing levels, or where it ends by itself."""
        scale = self.held.scale
        if processing_levels is None or processing_levels >= scale.processing_levels:
            return self
        shallow = replace(scale, processing_levels=processing_levels)
        return replace(self, held=replace(self.held, scale=shallow))

    def annotated_fractions(self, regions: Sequence[Region]) -> np.ndarray:
        """Return the share of each region that is annotated, float64 (N,); zero without annotations."""
        if self.annotated is None:
            return np.zeros(len(regions))
        return np.asarray(_apart(self.annotated).fractions(regions))

    def read(self, regions: Sequence[Region], base_px: int) -> list[np.ndarray]:
        """Read regions as patches uint8 (base_px, base_px, 3), in order."""
        with open_slide(self.entry.path, mpp=self.entry.mpp) as slide:
            return [slide.read(region, base_px, base_px) for region in regions]


def _apart(mask: TissueMask) -> TissueMask:
    return TissueMask(mask.mask, mask.slide_size)


def load_training_slides(
    inputs: Sequence[SlideInput],
    config: TNetConfig,
    *,
    annotations: bool = True,
    readers: int = 1,
    on_bad: Callable[[SlideError], None] | None = None,
) -> list[TrainingSlide]:
    """Open and prepare every labelled slide.

    Args:
        inputs: Labelled slides.
        config: The model.
        annotations: Whether to read what pathologists have drawn.
        readers: Slides that are prepared at once.
        on_bad: Told of each slide that cannot be read, which is then left out; without it the first one is raised.

    Raises:
        ManifestError: a slide has no label, or one that is not among the model's classes, or holds no tissue.
        SlideError: a slide cannot be read.
    """
    for entry in inputs:
        if entry.label not in config.class_names:
            raise ManifestError(
                f"{entry.shown_path}: label {entry.label!r} is not among the classes {', '.join(config.class_names)}"
            )

    def load(entry: SlideInput) -> TrainingSlide | SlideError:
        try:
            return _load(entry, config, annotations=annotations)
        except SlideError as error:
            return error

    slides: list[TrainingSlide] = []
    with ThreadPoolExecutor(readers, thread_name_prefix="tnet-prepare") as pool:
        for loaded in pool.map(load, inputs):
            if isinstance(loaded, TrainingSlide):
                slides.append(loaded)
            elif on_bad is None:
                pool.shutdown(wait=False, cancel_futures=True)
                raise loaded
            else:
                on_bad(loaded)
    return slides


def _load(entry: SlideInput, config: TNetConfig, *, annotations: bool) -> TrainingSlide:
    with open_slide(entry.path, mpp=entry.mpp) as slide:
        preparation = prepare(slide, config)
        size, bounds = slide.size, slide.bounds
    if not preparation.roots:
        raise ManifestError(f"{entry.shown_path}: no tissue was found, so there is nothing to train on")
    # Slides are held by the thousand: without the picture, and with the mask alone.
    held = replace(preparation, thumbnail=np.zeros((0, 0, 3), np.uint8), tissue=_apart(preparation.tissue))
    annotated = None
    if entry.annotation and annotations:
        annotated = read_annotation(entry.annotation, size, origin=(bounds.x, bounds.y))
    return TrainingSlide(entry, config.class_names.index(entry.label or ""), held, annotated)
