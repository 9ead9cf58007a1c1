"""Which of the authors' models a checkpoint is of, from the names and shapes of its variables alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tnet_cli.model.config import TNetConfig

Family = Literal["fmow", "birds"]

BIRD_CLASSES = frozenset({200, 555})
"""Of CUB-200-2011 and NABirds; without the feature weighting module, only the classes tell a B0 of theirs."""

EXTRACTORS = {
    (16, 1280): "tf_efficientnet_b0",
    (23, 1280): "tf_efficientnet_b1",
    (23, 1408): "tf_efficientnet_b2",
    (26, 1536): "tf_efficientnet_b3",
    (32, 1792): "tf_efficientnet_b4",
}
"""By number of blocks and length of the feature vector."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the authors' models.

    Attributes:
        family: ``fmow``: a 3 x 3 grid of half-size cells, features averaged; ``birds`` (CUB-200-2011, NABirds): a
            5 x 5 grid of cells of 0.35 of the side.
        backbone: ``tf_efficientnet_b0`` to ``tf_efficientnet_b4``.
        weighting: Whether it has the feature weighting module.
    """

    family: Family
    backbone: str
    weighting: bool
    classes: int

    def config(self, class_names: tuple[str, ...], image_px: int | None = None) -> TNetConfig:
        """Return the model's configuration for images of 448 px, or of 896: the weights of ``fmow`` serve both.

        Raises:
            ValueError: the model was not made for such images.
        """
        sizes = {"fmow": (448, 896), "birds": (448,)}[self.family]
        if image_px is not None and image_px not in sizes:
            raise ValueError(f"this model takes images of {' or '.join(map(str, sizes))} px, not {image_px}")
        if self.family == "fmow":
            return TNetConfig.fmow(class_names, image_px=image_px or sizes[0])
        return TNetConfig.fine_grained(class_names, self.backbone, weighting=self.weighting)


def guess_variant(variables: Mapping[str, np.ndarray]) -> Variant:
    """Tell which model variables are of, by the authors' names for them.

    Raises:
        ValueError: they are of no model that can be imported; the message continues the checkpoint's name.
    """
    names = variables.keys()
    if not any(name.startswith("feature_extraction/") for name in names):
        raise ValueError("holds no variables of the authors' TNet code")
    if any(name.startswith(("location_prediction_earlyLocs/", "feature_extraction/part1/")) for name in names):
        raise ValueError("is the BagNet model of ImageNet; only EfficientNet models (fMoW, CUB, NABirds) are imported")
    if not any(name.startswith("location_prediction/") for name in names):
        raise ValueError("has no location module: it is a baseline network, not a TNet")
    backbone = _extractor(variables)
    weighting = any(name.startswith("feat_weighting/") for name in names)
    classes = _shape(variables, "feature_extraction/logits_layer/linear/kernel", 2)[1]
    is_birds = weighting or backbone != "tf_efficientnet_b0" or classes in BIRD_CLASSES
    return Variant("birds" if is_birds else "fmow", backbone, weighting, classes)


def _extractor(variables: Mapping[str, np.ndarray]) -> str:
    blocks = {found[0] for name in variables if (found := re.match(r"feature_extraction/part\d_block\d+/", name))}
    length = _shape(variables, "feature_extraction/top/conv2d/kernel", 4)[3]
    if (len(blocks), length) not in EXTRACTORS:
        raise ValueError(
            f"has an extractor of {len(blocks)} blocks and {length} features, "
            "which is none of EfficientNet-B0 to B4; is the checkpoint whole?"
        )
    return EXTRACTORS[len(blocks), length]


def _shape(variables: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    if name not in variables:
        raise ValueError(f"lacks the variable {name}")
    if variables[name].ndim != axes:
        raise ValueError(f"its variable {name} has {variables[name].ndim} axes, expected {axes}")
    return variables[name].shape
