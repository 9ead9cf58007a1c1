"""What a training run is asked to do."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tnet_cli.errors import UsageError
from tnet_cli.model.config import TNetConfig


class NotIdentity:
    """Marks the settings that a run may be resumed with others of: they change its speed, place or memory.

    Whatever else is set makes another run. Of those that are marked only ``accumulate`` and ``skip_bad`` can change
    what is learnt: without them, whoever runs out of memory or meets an unreadable slide would have to begin anew.
    """


class OnlyWhether:
    """Marks the settings of which it makes another run whether they are given, and not what they say: places."""


def identity_of(settings: BaseModel) -> dict[str, Any]:
    """Return the settings that make a run what it is, as JSON values.

    They are all that are not marked ``NotIdentity``; of those marked ``OnlyWhether``, whether they are given.
    """
    values = settings.model_dump(mode="json", exclude=_marked(settings, NotIdentity))
    return values | {name: values[name] is not None for name in _marked(settings, OnlyWhether)}


def _marked(settings: BaseModel, mark: type) -> set[str]:
    fields = type(settings).model_fields.items()
    return {name for name, field in fields if any(each is mark for each in field.metadata)}


class TrainingSettings(BaseModel):
    """Settings of a training run; the weights of the objective are the paper's.

    Attributes:
        patches_per_slide: Annotated and random patches of each processing level that enter the pool for each slide.
        warmup_steps: Steps in each round of the warm-up.
        rounds: Rounds of the warm-up on patches, none to leave it out; after each the patches that the current model
            attends to join the pool.
        warmup_learning_rate: Peak of a cosine schedule, as the other rates are.
        hard_epochs: Passes over the slides with hard attention and the paper's objective.
        batch_slides: Slides in one step with hard attention.
        hard_locations: Locations attended while training with hard attention, for each processing level after the
            first.
        reinforce_weight: Weight of both REINFORCE terms; lambda of the objective.
        slide_share: Share of the slide-level terms against the per-feature terms; w_c and w_r.
        annotation_weight: Weight of what annotations teach while training with hard attention.
        gradient_clip: Largest norm of the gradient while training with hard attention.
        colour_jitter: Largest relative change of a colour channel while training.
        lesion_share: Least share of a patch covered by annotations that labels it with the slide's class.
        normal_class: Class of what is not annotated; None where that is not known.
        annotations: Whether annotations teach; without them the warm-up on patches is left out, unless slide labels
            stand in for them.
        slide_labels_teach_patches: In the warm-up, the finest patches of a slide on which nothing is annotated take
            the slide's label. Wrong for the tissue that the classes share, where the classifier learns to be unsure.
        normalisation: ``frozen``: batch statistics are learnt in the warm-up and frozen after it; ``none``: no step
            ever uses the statistics of its batch. Where statistics are frozen before a step has been made, those of
            pretrained weights are kept and those of random weights are measured once on patches of all processing
            levels.
        backbone_weights: Pretrained weights of the backbone: ``torchvision`` or ``torchvision:NAME``, ``timm``, a
            ``.safetensors`` file, or ``hf://owner/repo``; random when None.
        views: In the warm-up, how many ways of turning, mirroring and tinting each patch has, so that what frozen
            encoders see of it is computed so many times at most; 0 for a new way whenever it is drawn.
        finest_weights: Of an encoder of the finest processing level's own, frozen: a preset of ``tnet models
            encoders``, or whatever else ``modelfile.encoders`` finds; None where one encoder serves all.
        features: Folder in which the features of frozen encoders are kept, for other runs too; None to compute them
            whenever they are needed. Runs with and without differ in the last digits.
        soft_steps: Steps of the warm-up with soft attention over random cells, which needs slide labels alone.
        exploration: Share of uniform choice in what locations are drawn from at the start of hard attention; it falls
            to zero in a straight line.
        staged_depth: Pairs (processing levels, epochs): hard attention that stops at fewer processing levels first.
        entropy_weight: Weight of the mean entropy of the grids' distributions, which is raised.
        sampling: ``gumbel`` draws locations without replacement: by stochastic beam search, or from every grid on its
            own where the model chooses so; ``gumbel_redrawn`` draws anew at each processing level; ``top_k`` takes the
            most probable, as the authors' released code does.
        credit: ``draw`` gives REINFORCE the log-probabilities of the draws, which is exact; ``cell`` those of the cells
            in their grids, as the authors' code does, which is so for ``top_k`` always.
        mixed_precision: Compute in half precision on CUDA where that is safe.
        accumulate: Parts that each batch is computed in, one after the other, with their gradients added up; more than
            one takes less memory. Means over what was looked at on slides are then weighted by the slides of a part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, lt=2**63)
    patches_per_slide: int = Field(default=12, ge=1, le=100_000)
    warmup_steps: int = Field(default=700, ge=1, le=10**8)
    rounds: int = Field(default=2, ge=0, le=1000)
    warmup_learning_rate: float = Field(default=2e-3, gt=0)
    batch_patches: int = Field(default=32, ge=2, le=65_536)
    hard_epochs: int = Field(default=2, ge=0, le=10**6)
    hard_learning_rate: float = Field(default=3e-4, gt=0)
    batch_slides: int = Field(default=4, ge=1, le=65_536)
    hard_locations: tuple[int, ...] = (6, 8, 12)
    reinforce_weight: float = Field(default=0.1, ge=0)
    slide_share: float = Field(default=0.2, ge=0, le=1)
    annotation_weight: float = Field(default=1.0, ge=0)
    gradient_clip: float = Field(default=5.0, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    colour_jitter: float = Field(default=0.08, ge=0, lt=1)
    lesion_share: float = Field(default=0.2, gt=0, le=1)
    normal_class: str | None = None
    annotations: bool = True
    slide_labels_teach_patches: bool = False
    normalisation: Literal["frozen", "none"] = "frozen"
    backbone_weights: str | None = Field(default=None, min_length=1)
    finest_weights: str | None = Field(default=None, min_length=1)
    views: int = Field(default=0, ge=0, le=1000)
    features: Annotated[str | None, OnlyWhether] = Field(default=None, min_length=1)
    soft_steps: int = Field(default=0, ge=0, le=10**8)
    soft_learning_rate: float = Field(default=1e-3, gt=0)
    exploration: float = Field(default=0.0, ge=0, lt=1)
    staged_depth: tuple[tuple[int, int], ...] = ()
    entropy_weight: float = Field(default=0.0, ge=0)
    sampling: Literal["gumbel", "gumbel_redrawn", "top_k"] = "gumbel"
    credit: Literal["draw", "cell"] = "draw"
    checkpoint_every: Annotated[int, NotIdentity] = Field(default=50, ge=1)
    readers: Annotated[int, NotIdentity] = Field(default=2, ge=1, le=1024)
    mixed_precision: bool = True
    accumulate: Annotated[int, NotIdentity] = Field(default=1, ge=1, le=65_536)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not all(1 <= k <= 100_000 for k in self.hard_locations):
            raise ValueError(f"hard_locations must lie between 1 and 100000, not {self.hard_locations}")
        if not all(depth >= 1 and 1 <= epochs <= 10**6 for depth, epochs in self.staged_depth):
            raise ValueError(f"staged_depth needs pairs of positive numbers, not {self.staged_depth}")
        return self

    def check_fit(self, config: TNetConfig) -> None:
        """Refuse a model that these settings do not fit.

        Raises:
            UsageError: it is none of slides, or of other classes or processing levels, or features are to be kept and
                no encoder of it is frozen.
        """
        if config.mpp is None:
            raise UsageError("training on slides needs a model with the micrometres per pixel of each processing level")
        views, given = config.processing_levels, len(self.hard_locations)
        if given != views - 1:
            raise UsageError(
                f"[training] hard_locations: {list(self.hard_locations)} has {given} numbers; "
                f"a model of {views} processing levels needs {views - 1}"
            )
        if config.cells_stand_alone and self.sampling == "gumbel" and config.choice == "beam":
            raise UsageError(
                "[training] sampling: gumbel draws paths, and with location_softmax = sigmoid each cell stands alone; "
                "give gumbel_redrawn or top_k"
            )
        if self.normal_class is not None and self.normal_class not in config.class_names:
            raise UsageError(f"normal_class {self.normal_class!r} is not among {', '.join(config.class_names)}")
        if self.features is not None and not any(encoder.frozen for encoder in config.encoders):
            raise UsageError(
                f"--features {self.features}: no encoder of this model is frozen, so there are no features to keep; "
                "give one with --finest, or leave --features out"
            )
        if any(depth >= views for depth, _ in self.staged_depth):
            raise UsageError(
                f"staged_depth names processing levels before all {views} are used; "
                f"found {', '.join(str(depth) for depth, _ in self.staged_depth)}"
            )
