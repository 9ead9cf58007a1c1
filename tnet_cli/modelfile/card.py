"""The card a model file carries: what the model is, what it was trained on, and what it must not be used for."""

import math
import re
from datetime import date
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tnet_cli.errors import holds_controls
from tnet_cli.model.config import TNetConfig

CARD_KEY = "tnet_card"
"""Where a model file's header holds its card."""

MODEL_FILE = "model.safetensors"
"""What a model file is called in the folder of a run, and in a repository of the hub."""


def _without_controls(value: Any, *, allowed: str = "") -> Any:
    """Refuse control characters, in whatever is nested: a card is shown in terminals."""
    if isinstance(value, str) and holds_controls(value, allowed=allowed):
        raise ValueError(f"holds a control character: {value!r}")
    if isinstance(value, dict):
        for key, each in value.items():
            _without_controls((key, each), allowed=allowed)
    elif isinstance(value, list | tuple):
        for each in value:
            _without_controls(each, allowed=allowed)
    return value


Line = Annotated[str, AfterValidator(_without_controls)]
"""A text of a card that has one line."""

Text = Annotated[str, AfterValidator(partial(_without_controls, allowed="\n"))]
"""A text of a card that may have several."""


def card_name(text: str, otherwise: str) -> str:
    """Return a model's name made of a text, such as its folder's; ``otherwise`` where nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-") or otherwise


class TrainingData(BaseModel):
    """One source of training data and the terms it comes under."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line
    licence: Line
    description: Text = ""


class DomainLimits(BaseModel):
    """How far a slide's features may lie from those the model was calibrated on (``inference.trust``).

    Attributes:
        limits: For each processing level, coarsest first: the largest distance that is no reason for a warning.
        slides: How many slides they were calibrated on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: tuple[float, ...] = Field(min_length=1)
    slides: int = Field(ge=2)

    @model_validator(mode="after")
    def _are_positive(self) -> Self:
        if not all(math.isfinite(limit) and limit > 0 for limit in self.limits):
            raise ValueError(f"limits must be positive, not {self.limits}")
        return self


class CalibrationError(BaseModel):
    """How far the model's probabilities were from what they say, on average over slides that it was judged on.

    Attributes:
        value: Expected calibration error (``metrics.calibration``).
        slides: How many slides.
    """

    model_config = ConfigDict(frozen=True)

    value: float = Field(ge=0, le=1)
    slides: int = Field(ge=1)


def calibration_error_of(metrics: Any) -> CalibrationError | None:
    """Return what a card's metrics say of the probabilities, as ``tnet evaluate`` writes it; None for nothing."""
    try:
        judged = metrics["evaluation"]
        return CalibrationError(value=judged["expected calibration error"], slides=judged["slides"])
    except (KeyError, TypeError, ValueError):
        return None


def calibration_words(error: CalibrationError | None) -> str:
    """Say in a few words how far a probability can be relied on."""
    if error is None:
        return "never checked on test slides"
    return f"on average off by {error.value:.2f} on {error.slides} test slides"


class TileRate(BaseModel):
    """A share of tiles with its 95 % interval.

    Attributes:
        tiles: How many it is a share of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    tiles: int = Field(ge=1)

    def words(self) -> str:
        """Return it as it is read: ``0.925 (0.874 to 0.957)``, and of how many tiles."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}), {self.tiles} tiles"


class TileRates(BaseModel):
    """How often the finest view by itself is right about one tile, by class: what is called is the most probable one.

    Attributes:
        source: Which tiles they were; the model has not learnt from them.
        sensitivity: Share of the class's tiles that are called so.
        specificity: Share of the other tiles that are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Line
    sensitivity: Annotated[dict[str, TileRate], AfterValidator(_without_controls)]
    specificity: Annotated[dict[str, TileRate], AfterValidator(_without_controls)]

    @model_validator(mode="after")
    def _are_of_the_same_classes(self) -> Self:
        if not self.sensitivity or set(self.sensitivity) != set(self.specificity):
            raise ValueError("sensitivity and specificity must name the same classes, at least one")
        return self


class TeacherCard(BaseModel):
    """The patch model that a distilled model looks with at the finest processing level.

    Attributes:
        digest: SHA-256 of its weights as they came.
        licence: Its terms, ``unknown`` where it states none.
        attribution: Whom its terms want named.
        patch_px, spacing_um_px: Of its patches as it was trained: their side and scale.
        classes: In the order of its probabilities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line
    digest: Line
    licence: Line
    attribution: Text = ""
    architecture: Line
    patch_px: int = Field(ge=1)
    spacing_um_px: float = Field(gt=0)
    classes: Annotated[tuple[str, ...], AfterValidator(_without_controls)] = Field(min_length=1)


class Verdict(BaseModel):
    """How the scores of a teacher's patches become the answer for a slide; of a distilled model.

    A patch's response is the sum of the teacher's probabilities of the targets.

    Attributes:
        rule: The slide's score: ``top``, the mean of the ``k`` highest responses among the patches looked at; ``area``,
            the share of the tissue whose response is at least ``threshold``; ``mean``, the mean response of the tissue.
        targets: The teacher's classes that are sought.
        call_at: The least score at which the teacher, having seen all of the tissue, calls a slide positive.
        slope, intercept: The probability of that is sigmoid(slope x score + intercept).
        sample: How many finest cells are drawn at random and looked at beside those attended, for the interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["top", "area", "mean"]
    k: int | None = Field(default=None, ge=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    targets: Annotated[tuple[str, ...], AfterValidator(_without_controls)] = Field(min_length=1)
    call_at: float = Field(ge=0, le=1)
    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)
    sample: int = Field(default=0, ge=0)
    teacher: TeacherCard

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.k is None) == (self.rule == "top"):
            raise ValueError("k goes with the rule top, and only with it")
        if missing := [name for name in self.targets if name not in self.teacher.classes]:
            raise ValueError(f"{missing[0]!r} is none of the teacher's classes {', '.join(self.teacher.classes)}")
        return self

    @property
    def rule_words(self) -> str:
        """The rule as the command line has it."""
        return f"top:{self.k}" if self.rule == "top" else self.rule


class ModelCard(BaseModel):
    """Everything a user must know of a model, stored in the header of its file.

    Attributes:
        name: Short name, as in ``tnet classify -m NAME``.
        summary: One sentence: what it tells apart.
        intended_use: One sentence, printed with results and on overlays.
        limits: What it has not been shown to do.
        licence: Terms of the weights (an SPDX identifier where there is one).
        metrics: Measured values, by name; nested where one has an interval.
        created: Day the weights were written.
        temperature: Divides the logits before the softmax.
        bias: Is added to the logits of the classes after that, so that the most probable class is the one to call;
            none for zero. A card of old has a ``threshold`` instead, the least probability of the last of two classes
            that calls it, which is read as the bias that calls the same.
        made_for: ``synthetic`` for a model that knows nothing but slides of ``tnet synth``.
        domain: How far from what the model knows a slide may be; None where that was not calibrated.
        least_sharpness: Of a slide that is in focus (``inference.trust``); None where that was not calibrated.
        tile_rates: Of its finest view on single tiles; None where they were not measured.
        verdict: Of a distilled model, and only of one: how its teacher's scores become the answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: Text
    intended_use: Text
    limits: tuple[Text, ...] = ()
    licence: Line
    training_data: tuple[TrainingData, ...] = ()
    metrics: Annotated[dict[str, Any], AfterValidator(_without_controls)] = Field(default_factory=dict)
    created: date
    package_version: Line
    temperature: float = Field(default=1.0, gt=0)
    bias: tuple[float, ...] = ()
    made_for: Literal["any", "synthetic"] = "any"
    domain: DomainLimits | None = None
    least_sharpness: float | None = Field(default=None, gt=0, lt=1)
    tile_rates: TileRates | None = None
    verdict: Verdict | None = None
    network: TNetConfig

    @model_validator(mode="before")
    @classmethod
    def _reads_a_threshold_as_bias(cls, card: Any) -> Any:
        if not isinstance(card, dict) or "threshold" not in card:
            return card
        threshold = card["threshold"]
        if not isinstance(threshold, int | float) or not 0 < threshold < 1:
            raise ValueError(f"a decision threshold lies between 0 and 1, not {threshold}")
        half = math.log(threshold / (1 - threshold)) / 2
        bias = {"bias": (half, -half)} if half else {}
        return {name: value for name, value in card.items() if name != "threshold"} | bias

    @model_validator(mode="after")
    def _has_a_bias_for_each_class(self) -> Self:
        count = len(self.network.class_names)
        if self.bias and (len(self.bias) != count or not all(map(math.isfinite, self.bias))):
            raise ValueError(f"a bias has a finite number for each of the {count} classes, not {self.bias}")
        return self

    @model_validator(mode="after")
    def _has_tile_rates_of_its_classes(self) -> Self:
        named = set() if self.tile_rates is None else set(self.tile_rates.sensitivity)
        if unknown := sorted(named - set(self.network.class_names)):
            raise ValueError(f"tile_rates names {unknown[0]!r}, which is none of the classes")
        return self

    @model_validator(mode="after")
    def _has_the_verdict_of_its_teacher(self) -> Self:
        if (self.verdict is not None) != self.network.is_distilled:
            raise ValueError("a verdict goes with a teacher at the finest processing level, and only with one")
        if self.verdict is not None and self.verdict.teacher.classes != self.network.encoders[-1].classes:
            raise ValueError("the teacher's classes are not those of the encoder at the finest processing level")
        return self

    @property
    def introduction(self) -> str:
        """What a run says of its model before it begins: name and intended use."""
        return f"Model {self.name}: {self.intended_use}"

    @property
    def calibration_error(self) -> CalibrationError | None:
        """What its metrics say of its probabilities; None where they were never compared with what came true."""
        return calibration_error_of(self.metrics)
