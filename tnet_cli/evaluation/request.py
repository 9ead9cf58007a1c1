"""What the user asked of ``tnet evaluate``, checked against the model before any slide is opened."""

from dataclasses import dataclass, field
from pathlib import Path

from tnet_cli.errors import UsageError
from tnet_cli.evaluation.arms import ARMS, BUDGETED_ARMS, options_of
from tnet_cli.evaluation.curve import CurvePoint
from tnet_cli.inference.traversal_job import refuse_unfit
from tnet_cli.inputs.options import TraversalOptions, at_least
from tnet_cli.metrics.patients import patient_rule
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import MODEL_FILE
from tnet_cli.slide.mpp import PLAUSIBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """The options of ``tnet evaluate``.

    Attributes:
        model: Bundled name, file or hub address.
        arms: Some of ``arms.ARMS``; the first is judged in full, the others are compared with it.
        traversal: How slides are read and traversed; ``stop_at`` holds for the arm ``tnet``.
        budgets: Of the accuracy-against-locations curve, ascending.
        split: The split to judge, ``all`` for every row, or None for ``test`` where the manifest has splits.
        calibrate: The split to fit calibration, domain and sharpness on, or None.
        save_model: Where to write a copy of the model with these in its card; None for ``model.safetensors`` in
            ``out``.
        patient_rule: What makes one answer of those of a patient's slides, or None for the default.
        bootstrap: Draws of the bootstrap; 0 for none.
        seed: Of the bootstrap and of the random arm.
        workers: Threads that read and decode; None for one a core.
    """

    manifest: Path
    model: str
    out: Path
    arms: tuple[str, ...] = ("tnet",)
    traversal: TraversalOptions = field(default_factory=TraversalOptions)
    budgets: tuple[int, ...] = ()
    split: str | None = None
    calibrate: str | None = None
    save_model: Path | None = None
    patient_rule: str | None = None
    bootstrap: int = 1000
    seed: int = 0
    device: str = "auto"
    batch_size: int = 16
    workers: int | None = None
    overwrite: bool = False

    @property
    def curve_arms(self) -> tuple[str, ...]:
        """The arms the curve is drawn for: those asked for that a budget changes."""
        return tuple(arm for arm in self.arms if arm in BUDGETED_ARMS) if self.budgets else ()

    @property
    def curve_points(self) -> tuple[CurvePoint, ...]:
        """The points of the curve."""
        return tuple(CurvePoint(arm, budget) for arm in self.curve_arms for budget in self.budgets)

    @property
    def calibrated_model(self) -> Path | None:
        """Where the calibrated model is written, or None without calibration."""
        if self.calibrate is None:
            return None
        return self.save_model or self.out / MODEL_FILE

    def check(self) -> None:
        """Refuse options that exclude one another.

        Raises:
            UsageError: they do, or an arm is unknown or named twice.
        """
        for arm in self.arms:
            if arm not in ARMS:
                expected = ", ".join(ARMS)
                raise UsageError(f"--arms {','.join(self.arms)}: unknown arm {arm!r}; expected some of {expected}")
        if len(set(self.arms)) < len(self.arms):
            raise UsageError(f"--arms {','.join(self.arms)}: name each arm once")
        at_least(1, batch_size=self.batch_size, workers=self.workers, budgets=min(self.budgets, default=None))
        patient_rule(self.patient_rule)
        at_least(0, bootstrap=self.bootstrap, seed=self.seed)
        if self.save_model is not None and self.calibrate is None:
            raise UsageError("--save-model writes what --calibrate fits; give the split to calibrate on")
        if self.budgets and not self.curve_arms:
            raise UsageError(f"--budgets needs an arm that a budget changes: {' or '.join(BUDGETED_ARMS)}")

    def check_against(self, config: TNetConfig) -> None:
        """Refuse options that do not fit a model, so that no slide could follow them.

        Raises:
            UsageError: they do not fit.
        """
        for arm in self.arms:
            refuse_unfit(options_of(arm, self.traversal, config), config)
        if config.is_distilled and "coarse" in self.arms:
            raise UsageError(
                "--arms coarse: a distilled model has no answer before its finest view; leave that arm out"
            )
        mpp = self.traversal.mpp
        if mpp is not None and not PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]:
            raise UsageError(f"--mpp {mpp:g}: no slide has that scale; expected {PLAUSIBLE[0]:g} to {PLAUSIBLE[1]:g}")
        if self.budgets and config.choice == "per_grid":
            raise UsageError("--budgets: this model chooses locations for each grid, so no budget can be shared out")
        least = len(config.locations)
        if self.budgets and self.budgets[0] < least:
            raise UsageError(
                f"--budgets {','.join(map(str, self.budgets))}: the least for this model is {least}, "
                "one location a processing level"
            )
