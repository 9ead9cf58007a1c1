"""A whole run of ``tnet bench``: every arm on every slide, each in a process of its own, one after the other."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from tnet_cli.benchmark.arms import FLOOR, ArmKind, ArmRequest, Measurement, measure_alone
from tnet_cli.errors import DISTRIBUTION, UsageError
from tnet_cli.files import write_bytes_whole
from tnet_cli.inference.device import choose_device, describe_machine, reader_threads
from tnet_cli.inference.traversal_job import refuse_unfit
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import find_model, read_card
from tnet_cli.places import Place
from tnet_cli.report.plots import SOFTWARE, ScalingLine, scaling_plot


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """The options of ``tnet bench``.

    Attributes:
        slides: Paths or addresses.
        model: Bundled name, file or hub address.
        budgets: Attended locations in all, a row each; the model's default when empty.
        stop_at: Of the stopping rule of a further row, with the greatest of the budgets; None for no such row.
        rounds: How often everything but every cell is measured.
        every_tile: Whether every finest cell with tissue is read too, which may take minutes.
        workers: Threads that read and decode; None for one a core.
        plot: Where the picture of time and memory against the slides' side is written, or None.
    """

    slides: Sequence[Place]
    model: str
    budgets: tuple[int, ...] = ()
    stop_at: float | None = None
    rounds: int = 3
    every_tile: bool = True
    mpp: float | None = None
    device: str = "auto"
    batch_size: int = 16
    workers: int | None = None
    plot: Path | None = None


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One row of the table.

    Attributes:
        to_every_tile: How many times less wall time it took than every cell; None where that was not measured.
        to_floor: A traversal's wall time over that of the floor, the slower of decoding alone and forward passes alone,
            measured side by side; None for what has no floor.
    """

    measured: Measurement
    to_every_tile: float | None = None
    to_floor: float | None = None

    def record(self) -> dict[str, Any]:
        """Return it as it stands in the document of ``--json``."""
        return asdict(self.measured) | {
            "times_faster_than_every_tile": self.to_every_tile,
            "to_floor": self.to_floor,
        }


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured.

    Attributes:
        slides: Path of each slide and its rows.
        record: What ``--json`` prints: model, machine, options and rows.
    """

    slides: tuple[tuple[str, tuple[BenchRow, ...]], ...]
    record: dict[str, Any]


def run_bench(
    request: BenchRequest,
    on_progress: Callable[[int, int], None],
    *,
    measured_by: Callable[[ArmRequest], Measurement] = measure_alone,
) -> BenchReport:
    """Measure every arm on every slide.

    Args:
        request: What is asked.
        on_progress: Told how many measurements of how many are done.
        measured_by: Measures one arm; in a process of its own unless given.

    Raises:
        UsageError: the model is one of ordinary images, a budget does not fit it, or one slide is to be plotted.
        ModelFileError: the model cannot be used.
        SlideError: a slide cannot be read, or shows no tissue.
    """
    model = find_model(request.model)
    card = read_card(model)
    _check(request, card)
    device = choose_device(request.device)
    arms = _arms(request)
    measured: dict[Place, list[Measurement]] = {slide: [] for slide in request.slides}
    for slide, of_slide in measured.items():
        for arm, traversal in arms:
            asked = ArmRequest(
                arm=arm,
                slide=slide,
                model=model,
                traversal=traversal,
                device=str(device),
                batch_size=request.batch_size,
                readers=reader_threads(request.workers),
                rounds=1 if arm == "every-tile" else request.rounds,
            )
            of_slide.append(measured_by(asked))
            on_progress(sum(map(len, measured.values())), len(measured) * len(arms))
    slides = tuple((str(slide), _compared(each)) for slide, each in measured.items())
    if request.plot is not None:
        write_bytes_whole(request.plot, scaling_plot(_lines(slides)))
    record = {
        "version": version(DISTRIBUTION),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": card.name,
        "machine": describe_machine(),
        "options": {
            "rounds": request.rounds,
            "batch_size": request.batch_size,
            "workers": reader_threads(request.workers),
            "device": str(device),
            "stop_at": request.stop_at,
        },
        "slides": [{"slide": slide, "rows": [row.record() for row in rows]} for slide, rows in slides],
    }
    return BenchReport(slides=slides, record=record)


def _check(request: BenchRequest, card: ModelCard) -> None:
    network = card.network
    if network.mpp is None:
        raise UsageError(f"{card.name} is a model of ordinary images; tnet bench measures models of slides")
    least = len(network.locations)
    if request.budgets and min(request.budgets) < least:
        raise UsageError(f"--budgets: the least for this model is {least}, one location a processing level")
    if request.stop_at is not None and network.choice == "per_grid":
        raise UsageError("--stop-at does not go with a model that chooses locations for each grid")
    refuse_unfit(TraversalOptions(stop_at=request.stop_at), network)
    if request.plot is not None and len(set(request.slides)) < 2:
        raise UsageError("--plot draws time and memory against the slide's side; give slides of several sizes")
    if request.plot is not None and os.path.lexists(request.plot) and not _is_plot(request.plot):
        raise UsageError(f"--plot {request.plot}: exists and is no plot of tnet; give another file")


def _is_plot(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get("Software") == SOFTWARE
    except (OSError, ValueError):
        return False


def _arms(request: BenchRequest) -> list[tuple[ArmKind, TraversalOptions]]:
    """Return each arm with its budget, in the order of the rows."""
    default = TraversalOptions(mpp=request.mpp)
    budgeted = [replace(default, budget=budget) for budget in request.budgets] or [default]
    arms: list[tuple[ArmKind, TraversalOptions]] = [(arm, each) for each in budgeted for arm in ("tnet", *FLOOR)]
    if request.stop_at is not None:
        arms.append(("early", replace(budgeted[-1], stop_at=request.stop_at)))
    arms.append(("random", budgeted[-1]))
    return [*arms, ("every-tile", default)] if request.every_tile else arms


def _compared(measured: Sequence[Measurement]) -> tuple[BenchRow, ...]:
    """Set the measurements of one slide against each other."""
    of = {(each.arm, each.budget): each for each in measured}
    everything = of.get(("every-tile", None))
    rows = []
    for each in measured:
        row = BenchRow(each)
        if everything is not None and each.arm in {"tnet", "early", "random"}:
            row = replace(row, to_every_tile=everything.seconds / each.seconds)
        floor = [of[kind, each.budget] for kind in FLOOR if (kind, each.budget) in of]
        over = [part.traversal_over for part in floor if part.traversal_over is not None]
        if each.arm == "tnet" and over:
            row = replace(row, to_floor=min(over))
        rows.append(row)
    return tuple(rows)


def _lines(slides: Sequence[tuple[str, tuple[BenchRow, ...]]]) -> list[ScalingLine]:
    """Return what the plot shows: every arm but the floor against the side of the slides."""
    rows = [row.measured for _, of_slide in slides for row in of_slide if row.measured.arm not in FLOOR]
    lines = []
    for arm, budget in dict.fromkeys((row.arm, row.budget) for row in rows):
        mine = sorted((row for row in rows if (row.arm, row.budget) == (arm, budget)), key=lambda row: row.side_px)
        lines.append(
            ScalingLine(
                text=arm_text(arm, budget),
                sides_px=tuple(row.side_px for row in mine),
                seconds=tuple(row.seconds for row in mine),
                peak_mb=tuple(row.peak_mb for row in mine),
            )
        )
    return lines


def arm_text(arm: str, budget: int | None) -> str:
    """Return the name of a row: the arm, and its budget where it was asked for one."""
    return arm if budget is None else f"{arm}, {budget}"
