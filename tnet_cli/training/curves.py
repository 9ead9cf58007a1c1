"""``curves.png``: loss and accuracy over the steps of a run, stage by stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tnet_cli.files import written_whole
from tnet_cli.report.colours import OKABE_ITO
from tnet_cli.training.fitting import VALIDATION_STAGE, StepReport

WIDTH_IN, HEIGHT_IN, DPI = 9, 6, 130
# Okabe and Ito's colours, which colour-blind readers can tell apart, and three of Tol's: as many as there are terms.
COLOURS = (*OKABE_ITO.values(), "#999999", "#882255", "#332288", "#999933")
Curve = list[tuple[float, float]]


def draw_curves(reports: Sequence[StepReport], path: Path, title: str) -> None:
    """Draw what the reports say into a PNG of two panels.

    Args:
        reports: In the order they were made; validation figures have the stage ``validation <stage>``.
        path: The PNG to write or replace.
        title: Above the panels.
    """
    # matplotlib takes most of a second to import. Figure alone draws without any window system.
    from matplotlib.figure import Figure

    starts = _starts(reports)
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    curves = _curves(reports, starts)
    colours: dict[str, str] = {}
    for name, pieces in sorted(curves.items()):
        is_accuracy = "accuracy" in name
        panel = lower if is_accuracy else upper
        is_validation = name.startswith(VALIDATION_STAGE)
        kind = name.removeprefix(VALIDATION_STAGE)
        colour = colours.setdefault(kind, COLOURS[len(colours) % len(COLOURS)])
        for number, piece in enumerate(pieces):
            panel.plot(
                *zip(*piece, strict=True),
                color=colour,
                linestyle="--" if is_validation else "-",
                marker="o" if is_validation or len(piece) == 1 else None,
                markersize=4,
                linewidth=1.4,
                label=None if number else name.replace("_", " "),
            )
    _furnish(upper, "loss, by term", starts)
    _furnish(lower, "accuracy", starts, named=False)
    lower.set_ylim(-0.03, 1.03)
    lower.set_xlabel("steps since the start, all stages")
    figure.suptitle(title, fontsize=11)
    with written_whole(path) as draft:
        figure.savefig(draft, format="png")


def _starts(reports: Sequence[StepReport]) -> dict[str, int]:
    """Return how many steps were done before each stage of training."""
    starts: dict[str, int] = {}
    done = 0
    for report in reports:
        stage = report.stage.removeprefix(VALIDATION_STAGE)
        if stage not in starts:
            starts[stage] = done
            done += report.steps
    return starts


def _curves(reports: Sequence[StepReport], starts: dict[str, int]) -> dict[str, list[Curve]]:
    """Return the pieces of every curve by name, one piece a stage; a validation's pieces hang together."""
    curves: dict[str, list[Curve]] = {}
    latest: dict[str, str] = {}
    for report in reports:
        is_validation = report.stage.startswith(VALIDATION_STAGE)
        stage = report.stage.removeprefix(VALIDATION_STAGE)
        for term, value in report.terms.items():
            if term == "baseline":
                continue
            name = f"{VALIDATION_STAGE}{term}" if is_validation else term
            pieces = curves.setdefault(name, [])
            if not pieces or (latest[name] != stage and not is_validation):
                pieces.append([])
            latest[name] = stage
            pieces[-1].append((starts[stage] + report.step, value))
    return curves


def _furnish(panel: Any, label: str, starts: dict[str, int], *, named: bool = True) -> None:
    panel.set_ylabel(label)
    panel.grid(visible=True, color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    for stage, start in starts.items():
        panel.axvline(start, color="#888888", linewidth=0.8, linestyle=":")
        if named:
            panel.annotate(
                stage, (start, 1), xycoords=("data", "axes fraction"), xytext=(3, 2), textcoords="offset points",
                fontsize=8, color="#555555",
            )  # fmt: skip
    if panel.get_legend_handles_labels()[0]:
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
