"""What a training run is asked to do."""

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """Settings of a training run; the weights of the objective are the paper's.

    Attributes:
        seed: Of everything random.
        patches_per_slide: Annotated and random patches of each processing level that enter the pool for each slide.
        warmup_steps: Steps in each round of the warm-up.
        rounds: Rounds of the warm-up; after each the patches that the current model attends to join the pool.
        warmup_learning_rate: Peak of a cosine schedule.
        batch_patches: Patches in one step of the warm-up.
        hard_epochs: Passes over the slides with hard attention and the paper's objective.
        hard_learning_rate: Peak of a cosine schedule.
        batch_slides: Slides in one step with hard attention.
        hard_locations: Locations attended while training with hard attention, for each processing level after the
            first.
        reinforce_weight: Weight of both REINFORCE terms; lambda of the objective.
        slide_share: Share of the slide-level terms against the per-feature terms; w_c and w_r.
        annotation_weight: Weight of what annotations teach while training with hard attention.
        gradient_clip: Largest norm of the gradient while training with hard attention.
        weight_decay: Of AdamW.
        colour_jitter: Largest relative change of a colour channel while training.
        lesion_share: Least share of a patch covered by annotations that labels it with the slide's class.
        normal_class: Class of what is not annotated; None where that is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    patches_per_slide: int = Field(default=12, ge=1)
    warmup_steps: int = Field(default=700, ge=1)
    rounds: int = Field(default=2, ge=1)
    warmup_learning_rate: float = Field(default=2e-3, gt=0)
    batch_patches: int = Field(default=32, ge=2)
    hard_epochs: int = Field(default=2, ge=0)
    hard_learning_rate: float = Field(default=3e-4, gt=0)
    batch_slides: int = Field(default=4, ge=1)
    hard_locations: tuple[int, ...] = (6, 8, 12)
    reinforce_weight: float = Field(default=0.1, ge=0)
    slide_share: float = Field(default=0.2, ge=0, le=1)
    annotation_weight: float = Field(default=1.0, ge=0)
    gradient_clip: float = Field(default=5.0, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    colour_jitter: float = Field(default=0.08, ge=0, lt=1)
    lesion_share: float = Field(default=0.2, gt=0, le=1)
    normal_class: str | None = None
