"""What the user asked of ``tnet evaluate``, checked against the model before any slide is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tnet_cli.errors import UsageError
from tnet_cli.evaluation.arms import BUDGETED_ARMS
from tnet_cli.evaluation.curve import CurvePoint
from tnet_cli.evaluation.folder import MODEL
from tnet_cli.evaluation.judge import JudgedSlide
from tnet_cli.inference.prepare import Scale, choose_locations
from tnet_cli.model.config import TNetConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """The options of ``tnet evaluate``.

    Attributes:
        manifest: The table of labelled slides.
        model: Bundled name, file or hub address.
        out: Folder for the results.
        arms: Some of ``arms.ARMS``; the first is judged in full, the others are compared with it.
        locations: Attended locations for each processing level after the first; None for the model's default.
        budget: Attended locations in all; excludes ``locations``.
        stop_at: Of the stopping rule of the arm ``tnet``, or None for the traversal of the paper.
        budgets: Of the accuracy-against-locations curve, ascending.
        split: The split to judge, ``all`` for every row, or None for ``test`` where the manifest has splits.
        calibrate: The split to fit temperature and threshold on, or None.
        save_model: Where to write a copy of the model with these in its card; None for ``model.safetensors`` in
            ``out``.
        bootstrap: Draws of the bootstrap; 0 for none.
        seed: Of the bootstrap and of the random arm.
        mpp: Micrometres per pixel where neither the file nor the manifest says.
        reader: Forces a slide backend.
        device: Where the network runs.
        batch_size: Patches in one forward pass.
        workers: Threads that read and decode; None for one a core.
        overwrite: Whether results of an earlier run may be replaced.
    """

    manifest: Path
    model: str
    out: Path
    arms: tuple[str, ...] = ("tnet",)
    locations: tuple[int, ...] | None = None
    budget: int | None = None
    stop_at: float | None = None
    budgets: tuple[int, ...] = ()
    split: str | None = None
    calibrate: str | None = None
    save_model: Path | None = None
    bootstrap: int = 1000
    seed: int = 0
    mpp: float | None = None
    reader: str | None = None
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
        return self.save_model or self.out / MODEL

    def check(self) -> None:
        """Refuse options that exclude one another.

        Raises:
            UsageError: they do.
        """
        if self.locations is not None and self.budget is not None:
            raise UsageError("--locations and --budget exclude each other; give one")
        if self.locations is not None and self.stop_at is not None:
            raise UsageError("--locations and --stop-at exclude each other; give --budget with --stop-at")
        if self.save_model is not None and self.calibrate is None:
            raise UsageError("--save-model writes what --calibrate fits; give the split to calibrate on")
        if self.budgets and not self.curve_arms:
            raise UsageError(f"--budgets needs an arm that a budget changes: {' or '.join(BUDGETED_ARMS)}")

    def check_against(self, config: TNetConfig) -> None:
        """Refuse locations and budgets that do not fit a model, which no slide could then follow.

        Raises:
            UsageError: they do not fit.
        """
        every_level = Scale(
            root_side_px=1, finest_side_px=1, processing_levels=config.processing_levels, mpp=(), notes=()
        )
        choose_locations(config, every_level, self.locations, self.budget)
        if self.budgets and config.choice == "per_grid":
            raise UsageError("--budgets: this model chooses locations for each grid, so no budget can be shared out")
        least = len(config.locations)
        if self.budgets and self.budgets[0] < least:
            raise UsageError(
                f"--budgets {','.join(map(str, self.budgets))}: the least for this model is {least}, "
                "one location a processing level"
            )


@dataclass(frozen=True, slots=True)
class EvaluateEvents:
    """What an evaluation tells while it goes; each may be called many times a second.

    Attributes:
        on_note: A sentence about the manifest.
        on_start: How often a slide is classified in all, and which model it is and what for.
        on_slide: A slide has ended.
        on_look: Processing level and number of the patches of a batch.
        on_reduce: Rows done and to do, while a slide without a pyramid is reduced.
    """

    on_note: Callable[[str], None] | None = None
    on_start: Callable[[int, str], None] | None = None
    on_slide: Callable[[JudgedSlide], None] | None = None
    on_look: Callable[[int, int], None] | None = None
    on_reduce: Callable[[int, int], None] | None = None
