"""The numbers of a TNet: everything a variant is, in one validated object."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tnet_cli.errors import RUN_BY_SPREADSHEETS, holds_controls

LONGEST_CLASS_NAME = 100


def problem_of_class_name(name: str) -> str | None:
    """Say why a name cannot be a class's, whose name becomes a cell and a column of tables and is shown in terminals.

    Returns:
        What goes on after the name in a sentence, or None where nothing is wrong with it.
    """
    if name.startswith(RUN_BY_SPREADSHEETS):
        return f"begins with {name[0]!r}, which a spreadsheet would run as a formula; give it another name"
    if holds_controls(name):
        return "holds a control character; give it another name"
    if len(name) > LONGEST_CLASS_NAME:
        return f"is longer than {LONGEST_CLASS_NAME} characters; give it a shorter name"
    return None


class EncoderConfig(BaseModel):
    """One encoder: the network that makes a vector, and where needed a map, of the patches of some processing levels.

    Attributes:
        backbone: As of ``TNetConfig``; also ``transformers:MODEL_TYPE``, or ``torchscript`` for a program that its user
            trusts.
        processing_levels: Those it serves, ascending; 0 is the coarsest.
        input_px: Side of the patch it sees.
        tap: As of ``TNetConfig``.
        arguments: What else its network is built with: JSON values, layers by name.
        pooling: What becomes the vector: the network's ``own``, the mean of the ``map``, the same with what comes
            after the map ``cut`` away, or of a transformer's tokens the ``mean`` of its patches, its class token
            ``cls``, or both one after the other.
        first_token: The first patch token; the class token and registers come before.
        interpolation: Brings patches of another size to ``input_px``.
        pixel_mean, pixel_std: Of the normalisation, for values in [0, 1].
        precision: Of its arithmetic on a GPU; a processor computes in float32.
        frozen: Whether training leaves it as it is.
        classes: Of a patch model that keeps its own classifier, a teacher: its vectors are their probabilities.
        classifier: Of such a model: the network's ``own``, or, on the vector that it ends in, ``linear``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(min_length=1)
    processing_levels: tuple[int, ...] = ()
    input_px: int = Field(ge=16, le=8192)
    tap: str | None = Field(default=None, min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    pooling: Literal["own", "map", "cut", "mean", "cls", "cls+mean"] = "own"
    first_token: int = Field(default=1, ge=0, le=1024)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    frozen: bool = False
    classes: tuple[str, ...] = Field(default=(), max_length=10_000)
    classifier: Literal["own", "linear"] = "own"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if holds_controls(f"{self.backbone}{self.tap}{self.classes}"):
            raise ValueError(f"the backbone {self.backbone!r}, its tap or its classes hold a control character")
        if fetching := sorted(_FETCHING.intersection(self.arguments)):
            raise ValueError(f"an encoder's arguments may not fetch or load anything, as {fetching[0]!r} does")
        check_pixel_statistics(self.pixel_mean, self.pixel_std)
        if list(self.processing_levels) != sorted(set(self.processing_levels)):
            raise ValueError(f"an encoder's processing levels must be ascending, not {self.processing_levels}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"the classes of an encoder must be different names, not {self.classes}")
        if self.classes and (not self.frozen or (self.classifier == "own" and self.pooling != "own")):
            raise ValueError("a patch model with classes of its own is frozen and keeps its own pooling")
        return self


_FETCHING = frozenset(
    [
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "features_only",
        "num_classes",
        "weights",
        "trust_remote_code",
    ]
)
"""Arguments of those who build networks that a model file must not set."""


def check_pixel_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Refuse statistics that nothing can be normalised with, with a ``ValueError``."""
    if not all(math.isfinite(each) for each in mean):
        raise ValueError(f"pixel_mean must be finite, not {mean}")
    if not all(math.isfinite(each) and each > 0 for each in std):
        raise ValueError(f"pixel_std must be positive, not {std}")


def mpp_by_level(finest_side_um: float, grid: int, inputs_px: Sequence[int]) -> tuple[float, ...]:
    """Return the micrometres per pixel of each processing level: the side of its regions over its encoder's input.

    Args:
        finest_side_um: Side of a finest region; each other region is ``grid`` times as wide as those below it.
        inputs_px: What the encoder of each processing level sees, coarsest first.
    """
    last = len(inputs_px) - 1
    return tuple(finest_side_um * grid ** (last - number) / px for number, px in enumerate(inputs_px))


class TNetConfig(BaseModel):
    """Architecture, scales and default choice of locations. Its bounds keep what is built of it within reason.

    A *slide model* fixes the micrometres per pixel of every processing level; an *image model*, such as the paper's,
    resizes the whole image to ``image_px`` and has one root.

    Attributes:
        backbone: ``tnet_small``, ``tf_efficientnet_lite0``, ``tf_efficientnet_b0`` to ``b4``, a torchvision classifier,
            or ``timm:NAME``.
        tap: Module of the backbone whose output is the location map; its last block at stride 16 when None.
        class_names: The classes, in the order of the logits.
        base_px: Side of the patch the network sees.
        grid: Cells of an attention grid along each axis, n.
        cell_fraction: Side of a cell over the side of its region.
        processing_levels: Steps of the traversal.
        mpp: Slide models: micrometres per pixel of each processing level, coarsest first.
        starts_where_filled: Slide models: whether a slide that does not fill the coarsest views begins at the first
            that it fills (``inference.prepare.Scale.where_filled``), with roots that do not hang over its edges.
        image_px: Image models: side the whole image is resized to.
        choice: ``per_grid`` keeps k cells of every grid; ``beam`` keeps the k most probable cells of the whole slide.
        locations: k for each processing level after the first.
        location_pool: How the map is brought to n x n: every ``location_slice`` step, the mean, or the maximum.
        location_slice: First row and step of the slice, and the row to stop before where the map goes on.
        location_softmax: ``plain``, ``temperature`` (learned) or ``l2`` (unit-norm logits, as the paper's code has it).
            Or ``sigmoid``, of each cell on its own: then it can be said that there is nothing in any of a region's, and
            cells of all regions are ranked alike.
        position_length: Length of the positional code; a quarter of the feature, and at least 12, when None.
        position_axes: ``yxs`` codes place and scale; ``s`` the scale alone, for slides, where place means nothing.
        weighting: Whether the feature weighting module combines the features; otherwise their mean does.
        verdict_from: Which features the slide is classified by: ``all`` that were looked at, as in the paper, or those
            of the ``closest`` processing level that was reached; coarser looks then only find places.
        dropout: Before the classifier, while training.
        pixel_mean, pixel_std: Of the normalisation, for values in [0, 1].
        encoders: Those of the processing levels, coarsest first; none where one serves all, which ``backbone``,
            ``base_px``, ``tap`` and the pixel statistics describe. Otherwise those describe the first.
        feature_length: What a linear projection brings the vectors of all encoders to; none is needed where they agree.
        response: Whether the location module predicts how a teacher responds to each cell, by a sigmoid, in place of
            which cell of a grid is worth most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(min_length=1)
    tap: str | None = Field(default=None, min_length=1)
    class_names: tuple[str, ...] = Field(min_length=2, max_length=10_000)
    base_px: int = Field(ge=16, le=8192)
    grid: int = Field(ge=2, le=64)
    cell_fraction: float = Field(gt=0, le=1)
    processing_levels: int = Field(ge=1, le=20)
    mpp: tuple[float, ...] | None = None
    starts_where_filled: bool = False
    image_px: int | None = Field(default=None, ge=16, le=100_000)
    choice: Literal["per_grid", "beam"]
    locations: tuple[int, ...]
    location_pool: Literal["slice", "mean", "max"] = "max"
    location_slice: tuple[int, int] | tuple[int, int, int] | None = None
    location_softmax: Literal["plain", "temperature", "l2", "sigmoid"] = "plain"
    position_length: int | None = Field(default=None, ge=12, le=65_536)
    position_axes: Literal["yxs", "s"] = "yxs"
    weighting: bool = False
    verdict_from: Literal["all", "closest"] = "all"
    dropout: float = Field(default=0.5, ge=0, lt=1)
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    encoders: tuple[EncoderConfig, ...] = ()
    feature_length: int | None = Field(default=None, ge=16, le=65_536)
    response: bool = False

    @model_validator(mode="after")
    def _can_be_shown(self) -> Self:
        if holds_controls(f"{self.backbone}{self.tap}"):
            raise ValueError(f"the backbone {self.backbone!r} or its tap {self.tap!r} holds a control character")
        for name in self.class_names:
            if (problem := problem_of_class_name(name)) is not None:
                raise ValueError(f"the class name {name!r} {problem}")
        return self

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.class_names)) != len(self.class_names) or not all(name.strip() for name in self.class_names):
            raise ValueError(f"class_names must be different names, none of them empty, not {self.class_names}")
        check_pixel_statistics(self.pixel_mean, self.pixel_std)
        if self.cell_fraction * self.grid < 1 - 1e-9:
            raise ValueError(f"cells of {self.cell_fraction:g} of the side leave gaps in a grid of {self.grid}")
        if (self.mpp is None) == (self.image_px is None):
            raise ValueError("give either mpp (a slide model) or image_px (an image model)")
        if self.starts_where_filled and self.mpp is None:
            raise ValueError("starts_where_filled is for slide models: an image is looked at whole")
        self._check_choice()
        self._check_slice()
        self._check_encoders()
        if self.mpp is not None:
            self._check_scales(self.mpp)
        return self

    @property
    def _cells_tile(self) -> bool:
        return abs(self.cell_fraction * self.grid - 1) <= 1e-9

    def _check_choice(self) -> None:
        if len(self.locations) != self.processing_levels - 1 or any(k < 1 for k in self.locations):
            raise ValueError(f"locations needs {self.processing_levels - 1} positive numbers, not {self.locations}")
        if self.choice == "per_grid" and any(k > self.grid**2 for k in self.locations):
            raise ValueError(f"a grid has {self.grid**2} cells; locations {self.locations} asks for more of each grid")
        if self.choice == "beam" and not self._cells_tile:
            raise ValueError("beam choice needs cells that tile the region: cell_fraction = 1 / grid")

    def _check_slice(self) -> None:
        if (self.location_slice is None) == (self.location_pool == "slice"):
            raise ValueError("location_slice goes with location_pool 'slice', and only with it")
        if self.location_slice is not None and (self.location_slice[0] < 0 or self.location_slice[1] < 1):
            raise ValueError(f"location_slice is a first row >= 0 and a step >= 1, not {self.location_slice}")

    def _check_encoders(self) -> None:
        if not self.encoders:
            if self.response:
                raise ValueError("response needs a teacher: an encoder with classes at the finest processing level")
            return
        if self.mpp is None:
            raise ValueError("encoders by processing level are for slide models: an image model has one")
        served = [each for encoder in self.encoders for each in encoder.processing_levels]
        if served != list(range(self.processing_levels)):
            raise ValueError(f"encoders must serve each processing level once, coarsest first, not {served}")
        first = self.encoders[0]
        if (self.backbone, self.base_px, self.tap) != (first.backbone, first.input_px, first.tap):
            raise ValueError(f"backbone, base_px and tap are those of the first encoder, {first.backbone}")
        if (self.pixel_mean, self.pixel_std) != (first.pixel_mean, first.pixel_std):
            raise ValueError("pixel_mean and pixel_std are those of the first encoder")
        if any(encoder.classes for encoder in self.encoders[:-1]) or (self.is_distilled and len(self.encoders) < 2):
            raise ValueError("a patch model with classes of its own looks at the finest processing level alone")
        if self.is_distilled and (len(self.encoders[-1].processing_levels) > 1 or len(self.class_names) != 2):
            raise ValueError("a distilled model has a teacher at its finest processing level, and two classes")
        if self.is_distilled != self.response:
            raise ValueError("response goes with a teacher at the finest processing level, and only with one")

    def encoder_at(self, processing_level: int) -> EncoderConfig:
        """Return the encoder of a processing level."""
        if self.encoders:
            return self.encoders[self.encoder_number(processing_level)]
        return EncoderConfig(
            backbone=self.backbone,
            processing_levels=tuple(range(self.processing_levels)),
            input_px=self.base_px,
            tap=self.tap,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
        )

    def encoder_number(self, processing_level: int) -> int:
        """Return which of the encoders serves a processing level; 0 where there is one for all.

        Raises:
            ValueError: there is no such processing level.
        """
        for number, encoder in enumerate(self.encoders):
            if processing_level in encoder.processing_levels:
                return number
        if self.encoders or not 0 <= processing_level < self.processing_levels:
            raise ValueError(f"there is no processing level {processing_level} of {self.processing_levels}")
        return 0

    def input_px(self, processing_level: int) -> int:
        """Return the side of the patch that is seen of a region of a processing level."""
        return self.encoders[self.encoder_number(processing_level)].input_px if self.encoders else self.base_px

    def side_um(self, processing_level: int) -> float:
        """Return the side of a region of a processing level in micrometres.

        Raises:
            ValueError: it is the configuration of an image model.
        """
        if self.mpp is None:
            raise ValueError("an image model has no physical scale")
        return self.mpp[processing_level] * self.input_px(processing_level)

    @property
    def is_distilled(self) -> bool:
        """Whether a teacher looks at the finest processing level, whose probabilities are what counts."""
        return bool(self.encoders and self.encoders[-1].classes)

    @property
    def cells_stand_alone(self) -> bool:
        """Whether each cell has a probability of its own, so that a region that holds nothing teaches too."""
        return self.location_softmax == "sigmoid"

    @property
    def ranks_cells_alone(self) -> bool:
        """Whether a cell is ranked by what is predicted of it alone, which is no share of its region's probability."""
        return self.response or self.cells_stand_alone

    def _check_scales(self, mpp: tuple[float, ...]) -> None:
        if len(mpp) != self.processing_levels or not all(math.isfinite(each) and each > 0 for each in mpp):
            raise ValueError(f"mpp needs {self.processing_levels} positive numbers, coarsest first, not {mpp}")
        if not self._cells_tile:
            raise ValueError("a slide model needs cells that tile the region: cell_fraction = 1 / grid")
        # With inputs of one size it is each mpp that is the grid times the next.
        what, scales = ("side in micrometres", self._sides_um()) if self.encoders else ("mpp", mpp)
        for coarse, fine in pairwise(scales):
            if not math.isclose(coarse / fine, self.grid, rel_tol=1e-6):
                raise ValueError(f"each {what} must be {self.grid} times the next, not {coarse:g} and {fine:g}")

    def _sides_um(self) -> tuple[float, ...]:
        return tuple(self.side_um(processing_level) for processing_level in range(self.processing_levels))

    @classmethod
    def slide(cls, class_names: tuple[str, ...]) -> Self:
        """Return the slide model the bundled weights have: four scales from 32 to 0.5 um per pixel, small backbone."""
        return cls(
            backbone="tnet_small",
            class_names=class_names,
            base_px=256,
            grid=4,
            cell_fraction=0.25,
            processing_levels=4,
            mpp=(32.0, 8.0, 2.0, 0.5),
            choice="beam",
            locations=(12, 12, 12),
            position_axes="s",
            weighting=True,
            dropout=0.2,
        )

    @classmethod
    def fmow(cls, class_names: tuple[str, ...], image_px: int = 448) -> Self:
        """Return the paper's model of satellite images: two processing levels at 448 px, three at 896.

        Source: arXiv:2102.10212, Sec. 4.2: EfficientNet-B0, base resolution 224, a 3 x 3 grid of half-size cells.
        """
        processing_levels = 1 + round(math.log2(image_px / 224))
        return cls(
            backbone="tf_efficientnet_b0",
            class_names=class_names,
            base_px=224,
            grid=3,
            cell_fraction=0.5,
            processing_levels=processing_levels,
            image_px=image_px,
            choice="per_grid",
            locations=(2, 1)[: processing_levels - 1],
            location_pool="slice",
            location_slice=(2, 4),
            location_softmax="l2",
            position_length=320,
            dropout=0.5,
        )

    @classmethod
    def fine_grained(
        cls, class_names: tuple[str, ...], backbone: str = "tf_efficientnet_b0", *, weighting: bool = True
    ) -> Self:
        """Return the paper's model of birds (CUB-200-2011 and NABirds): 448 px, two processing levels.

        Source: arXiv:2102.10212, Sec. 4.3 (fine-grained recognition): EfficientNet-B0 to B4, base resolution 224 for
        each of them, a 5 x 5 grid of cells of 0.35 of the side, three locations, features weighted.
        """
        # B0 locates in the first block of stride 16 (14 x 14), the others in the second block of stride 8 (28 x 28).
        smallest = backbone == "tf_efficientnet_b0"
        return cls(
            backbone=backbone,
            tap="features.4.0" if smallest else "features.3.1",
            class_names=class_names,
            base_px=224,
            grid=5,
            cell_fraction=0.35,
            processing_levels=2,
            image_px=448,
            choice="per_grid",
            locations=(3,),
            location_pool="slice",
            location_slice=(2, 2, 11) if smallest else (5, 4, 22),
            location_softmax="l2",
            weighting=weighting,
            dropout=0.75,
        )
