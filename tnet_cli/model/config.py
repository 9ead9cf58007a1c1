"""The numbers of a TNet: everything a variant is, in one validated object."""

import math
from itertools import pairwise
from typing import Literal, Self

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


class TNetConfig(BaseModel):
    """Architecture, scales and default choice of locations. Its bounds keep what is built of it within reason.

    A *slide model* fixes the micrometres per pixel of every processing level; an *image model*, such as the paper's,
    resizes the whole image to ``image_px`` and has one root.

    Attributes:
        backbone: ``tnet_small``, ``tf_efficientnet_b0`` to ``b4``, a torchvision classifier, or ``timm:NAME``.
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
        position_length: Length of the positional code; a quarter of the feature when None.
        position_axes: ``yxs`` codes place and scale; ``s`` the scale alone, for slides, where place means nothing.
        weighting: Whether the feature weighting module combines the features; otherwise their mean does.
        dropout: Before the classifier, while training.
        pixel_mean, pixel_std: Of the normalisation, for values in [0, 1].
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
    location_softmax: Literal["plain", "temperature", "l2"] = "plain"
    position_length: int | None = Field(default=None, ge=12, le=65_536)
    position_axes: Literal["yxs", "s"] = "yxs"
    weighting: bool = False
    dropout: float = Field(default=0.5, ge=0, lt=1)
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

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
        if not all(math.isfinite(mean) for mean in self.pixel_mean):
            raise ValueError(f"pixel_mean must be finite, not {self.pixel_mean}")
        if not all(math.isfinite(std) and std > 0 for std in self.pixel_std):
            raise ValueError(f"pixel_std must be positive, not {self.pixel_std}")
        if self.cell_fraction * self.grid < 1 - 1e-9:
            raise ValueError(f"cells of {self.cell_fraction:g} of the side leave gaps in a grid of {self.grid}")
        if (self.mpp is None) == (self.image_px is None):
            raise ValueError("give either mpp (a slide model) or image_px (an image model)")
        if self.starts_where_filled and self.mpp is None:
            raise ValueError("starts_where_filled is for slide models: an image is looked at whole")
        self._check_choice()
        self._check_slice()
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

    def _check_scales(self, mpp: tuple[float, ...]) -> None:
        if len(mpp) != self.processing_levels or not all(math.isfinite(each) and each > 0 for each in mpp):
            raise ValueError(f"mpp needs {self.processing_levels} positive numbers, coarsest first, not {mpp}")
        if not self._cells_tile:
            raise ValueError("a slide model needs cells that tile the region: cell_fraction = 1 / grid")
        for coarse, fine in pairwise(mpp):
            if not math.isclose(coarse / fine, self.grid, rel_tol=1e-6):
                raise ValueError(f"each mpp must be {self.grid} times the next, not {coarse:g} and {fine:g}")

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
