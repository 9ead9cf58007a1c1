"""The plot of what a slide costs against its size: wall time and memory, for each way to look at it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tnet_cli.report.plots import MARKERS, SERIES_COLOURS, empty_figure, png_of

WIDTH_IN, HEIGHT_IN = 7.2, 3.0


@dataclass(frozen=True, slots=True)
class ScalingLine:
    """One way to look at slides.

    Attributes:
        text: In the legend.
        sides_px: Of the slides, ascending.
        seconds: Wall time of each.
        peak_mb: Most resident memory of each.
    """

    text: str
    sides_px: tuple[float, ...]
    seconds: tuple[float, ...]
    peak_mb: tuple[float, ...]


def scaling_plot(lines: Sequence[ScalingLine]) -> bytes:
    """Draw wall time and memory against the side of the slide; return a PNG.

    Args:
        lines: The first is drawn above the others.
    """
    from matplotlib.ticker import FuncFormatter

    with empty_figure(WIDTH_IN, HEIGHT_IN) as figure:
        time, memory = figure.subplots(1, 2)
        for number, line in enumerate(lines):
            style: dict[str, Any] = {
                "color": SERIES_COLOURS[number % len(SERIES_COLOURS)],
                "marker": MARKERS[number % len(MARKERS)],
                "markersize": 4,
                "zorder": 3 if number == 0 else 2,
            }
            time.plot(line.sides_px, line.seconds, label=line.text, **style)
            memory.plot(line.sides_px, line.peak_mb, **style)
        time.set(ylabel="Wall time of a slide, s", yscale="log")
        memory.set(ylabel="Peak memory of the process, MB", ylim=(0, None))
        for axes in (time, memory):
            axes.set(xlabel="Side of the slide, px", xlim=(0, None))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda side, _: f"{side:,.0f}".replace(",", " ")))
            axes.grid(visible=True, axis="y", linewidth=0.4, alpha=0.5)
        time.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        time.legend(loc="best")
        return png_of(figure)
