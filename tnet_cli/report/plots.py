"""Plots of an evaluation, fit for a paper: one column wide, 300 dots per inch, colours for every kind of vision.

It knows numbers and words only. matplotlib is imported when the first plot is drawn, and draws without a screen.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tnet_cli.report.colours import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, HEIGHT_IN, DOTS_PER_INCH = 3.5, 3.3, 300
LEGEND_LINE_IN = 0.145
MARGIN_IN = 0.03

SOFTWARE = "tnet"
"""What the pictures say that made them."""
APART = 1.02

SERIES_COLOURS = tuple(OKABE_ITO.values())
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.2)), (0, (6, 2, 1.2, 2)))
GUIDE = "#8A9099"
GUIDE_LINE: dict[str, Any] = {"color": GUIDE, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
FEW_CLASSES = 7
MOST_CELLS_WITH_TEXT = 16
MOST_NAMES = 60
PAGE_IN = 7.2
LONGEST_NAME = 18

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{axis}tick.labelsize": 7.5 for axis in "xy"},
    **{f"{axis}tick.major.width": 0.7 for axis in "xy"},
    **{f"{axis}tick.major.size": 3 for axis in "xy"},
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.4,
}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A line of a plot; x and y are float (M,).

    Attributes:
        text: In the legend.
        colour: Place in the palette, so that the same thing has the same colour in every plot.
    """

    x: np.ndarray
    y: np.ndarray
    text: str
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """A point with an interval along y; without one, ``low`` and ``high`` equal ``y``."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together, at least one; text and colour as of a ``Curve``."""

    points: tuple[Point, ...]
    text: str
    colour: int


def roc_plot(curves: Sequence[Curve], operating: tuple[float, float, str] | None) -> bytes:
    """Draw true positives against false positives, both as rates; return a PNG, as all plots do.

    Args:
        curves: The most important first; more than seven are drawn thin and grey, without a legend.
        operating: False positive rate, true positive rate and words of where classes are called, or None.
    """
    with empty_figure(height_in=_beside_legend(len(curves))) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], **GUIDE_LINE)
        _draw_curves(axes, curves)
        _draw_operating(axes, operating)
        axes.set(xlabel="1 − specificity", ylabel="Sensitivity")
        _unit_square(axes)
        legend(figure, axes, len(curves))
        return png_of(figure)


def precision_recall_plot(
    curves: Sequence[Curve], prevalence: float | None, operating: tuple[float, float, str] | None
) -> bytes:
    """Draw precision against recall, as steps.

    Args:
        curves: x is recall, rising; y precision, that of the recall reached. The most important first.
        prevalence: Precision of calling at random, or None.
        operating: Recall, precision and words of where classes are called, or None.
    """
    with empty_figure(height_in=_beside_legend(len(curves))) as figure:
        axes = figure.subplots()
        if prevalence is not None:
            words = f"at random, {prevalence:.3f}"
            axes.axhline(prevalence, **GUIDE_LINE, label=words)
        _draw_curves(axes, curves, steps=True)
        _draw_operating(axes, operating)
        axes.set(xlabel="Recall", ylabel="Precision")
        _unit_square(axes)
        legend(figure, axes, len(curves))
        return png_of(figure)


def confusion_plot(counts: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Draw a confusion matrix: counts, and shades and per cent by row.

    Args:
        counts: int (C, C): row the label, column what was called.
    """
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape, dtype=np.float64), where=rows > 0)
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in class_names]
    side = min(max(HEIGHT_IN, 0.42 * len(names) + 1.1), PAGE_IN)
    if len(names) > MOST_NAMES:
        names = []
    with empty_figure(width_in=side * 1.12, height_in=side) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        lie = len(names) <= 4 and all(len(name) <= 9 for name in names)
        axes.set_xticks(range(len(names)), names, rotation=0 if lie else 90)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="Called" if names else f"Called ({len(counts)} classes)", ylabel="Label")
        axes.tick_params(length=0, labelsize=min(7.5, 72 * 0.6 * side / max(1, len(names))))
        axes.spines[:].set_visible(False)
        if len(counts) <= MOST_CELLS_WITH_TEXT:
            _write_cells(axes, counts, shares, size=9 if len(counts) <= 4 else 6)
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04, ticks=[0, 0.5, 1])
        bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
        bar.set_label("Share of the label")
        bar.outline.set_visible(False)
        return png_of(figure)


def reliability_plot(
    points: Sequence[Point], counts: np.ndarray, edges: np.ndarray, *, stated: str, observed: str, summary: str
) -> bytes:
    """Draw what came true against what was stated, above how often each was stated.

    Args:
        points: One for each bin with slides in it.
        counts: int (B,), slides in each bin.
        edges: float (B + 1,).
        stated: Label of x.
        observed: Label of y.
        summary: Words in the corner.
    """
    with empty_figure(height_in=HEIGHT_IN + 0.7) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot([0, 1], [0, 1], **GUIDE_LINE)
        _draw_points(axes, points, SERIES_COLOURS[0], "o")
        axes.set(ylabel=observed, ylim=(-0.03, 1.03), xlim=(-0.02, 1.02))
        axes.text(0.02, 0.98, summary, transform=axes.transAxes, va="top", size=7.5)
        below.bar(
            edges[:-1], counts, width=np.diff(edges), align="edge", color="#A9C9E2", edgecolor="white", linewidth=0.8
        )
        below.set(xlabel=stated, ylabel="Slides")
        below.yaxis.get_major_locator().set_params(integer=True, nbins=3)
        figure.align_ylabels([axes, below])
        return png_of(figure)


def locations_plot(series: Sequence[Series], across: Sequence[Series]) -> bytes:
    """Draw accuracy against the mean number of attended locations.

    Args:
        series: The arms that a budget changes; x above 0.
        across: The other arms, one point each, drawn across the plot.
    """
    with empty_figure(height_in=3.2) as figure:
        axes = figure.subplots()
        from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator, PercentFormatter

        axes.set_xscale("log", base=2)
        for number, each in enumerate(series):
            # A hair apart, so that intervals at the same number of locations stand side by side.
            shift = APART ** (number - (len(series) - 1) / 2)
            points = [Point(point.x * shift, point.y, point.low, point.high) for point in each.points]
            _draw_points(axes, points, SERIES_COLOURS[each.colour], MARKERS[number], label=each.text, above=-number)
        for each in across:
            colour, point = SERIES_COLOURS[each.colour], each.points[0]
            axes.axhline(point.y, color=colour, linewidth=1.1, linestyle=(0, (5, 2)), label=each.text, zorder=2)
        every_x = sorted({point.x for each in series for point in each.points})
        axes.xaxis.set_major_locator(FixedLocator(_spread(every_x)))
        axes.set_xlim(every_x[0] / 1.15, every_x[-1] * 1.15)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set(xlabel="Attended locations per slide (mean)", ylabel="Accuracy")
        low = min(point.low for each in (*series, *across) for point in each.points)
        axes.set_ylim(max(-0.02, math.floor(low * 10) / 10 - 0.02), 1.02)
        axes.grid(axis="y", color="#E3E6EA", linewidth=0.6)
        axes.set_axisbelow(True)
        legend(figure, axes, len(series), columns=2)
        return png_of(figure)


def coverage_plot(curves: Sequence[Curve], answered: tuple[float, float] | None) -> bytes:
    """Draw accuracy against the share of slides that are answered, the surest first.

    Args:
        curves: The most important first.
        answered: Share and accuracy of the slides that have an answer, or None.
    """
    with empty_figure(height_in=_beside_legend(len(curves))) as figure:
        axes = figure.subplots()
        _draw_curves(axes, curves)
        _draw_operating(axes, None if answered is None else (*answered, "slides with an answer"))
        axes.set(xlabel="Share of slides answered, the surest first", ylabel="Accuracy")
        _unit_square(axes)
        legend(figure, axes, len(curves))
        return png_of(figure)


@dataclass(frozen=True, slots=True)
class ScalingLine:
    """One way to look at slides: the sides of these, ascending, and wall time and most resident memory of each."""

    text: str
    sides_px: tuple[float, ...]
    seconds: tuple[float, ...]
    peak_mb: tuple[float, ...]


def scaling_plot(lines: Sequence[ScalingLine]) -> bytes:
    """Draw wall time and memory against the side of the slide, the first line above the others."""
    from matplotlib.ticker import FuncFormatter

    with empty_figure(width_in=PAGE_IN, height_in=3.0) as figure:
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


def _spread(values: Sequence[float]) -> list[float]:
    """Keep the values that stand far enough apart on a logarithmic axis for their labels, the last among them."""
    kept: list[float] = []
    for value in reversed(values):
        if not kept or kept[-1] / value >= 1.25:
            kept.append(value)
    return kept[::-1]


def _beside_legend(curves: int) -> float:
    """Return a height in inches that leaves the axes their size above whatever stands in the legend."""
    return HEIGHT_IN + (LEGEND_LINE_IN * (curves + 2) if curves <= FEW_CLASSES else 0.2)


@contextmanager
def empty_figure(*, width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> Iterator["Figure"]:
    """Give an empty figure in the plots' style, on the Agg canvas; the style holds while the block runs."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(cast("Any", STYLE)):
        figure = Figure(figsize=(width_in, height_in), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def png_of(figure: "Figure") -> bytes:
    """Return a figure as the bytes of a PNG."""
    file = io.BytesIO()
    # No software version in the file: the same numbers give the same picture. By the name it is known to be tnet's.
    # Cut to what is drawn: labels are never lost, and no white is left around axes of a fixed shape.
    figure.savefig(file, format="png", metadata={"Software": SOFTWARE}, bbox_inches="tight", pad_inches=MARGIN_IN)
    return file.getvalue()


def _draw_curves(axes: "Axes", curves: Sequence[Curve], *, steps: bool = False) -> None:
    for number, curve in enumerate(curves):
        is_one_of_few = len(curves) <= FEW_CLASSES
        axes.plot(
            curve.x,
            curve.y,
            color=SERIES_COLOURS[curve.colour % len(SERIES_COLOURS)] if is_one_of_few else GUIDE,
            # The first is broad and solid, the others thin and dashed upon it: all are seen where they run together.
            linewidth=(2.6 if number == 0 else 1.2) if is_one_of_few else 0.6,
            linestyle=DASHES[number % len(DASHES)] if is_one_of_few else "-",
            drawstyle="steps-pre" if steps else "default",
            zorder=3 + number if is_one_of_few else 2,
            label=curve.text,
            clip_on=False,
            solid_capstyle="butt",
        )


def _draw_operating(axes: "Axes", operating: tuple[float, float, str] | None) -> None:
    if operating is None:
        return
    x, y, words = operating
    axes.plot(x, y, "o", ms=5.5, mfc="white", mec="#1C1E21", mew=1.4, zorder=20, label=words, clip_on=False)


def _draw_points(
    axes: "Axes", points: Sequence[Point], colour: str, marker: str, *, label: str | None = None, above: float = 0
) -> None:
    ordered = sorted(points, key=lambda point: point.x)
    x, y, low, high = (np.array([getattr(point, name) for point in ordered]) for name in ("x", "y", "low", "high"))
    axes.errorbar(
        x,
        y,
        yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
        color=colour,
        linewidth=1.3,
        elinewidth=0.8,
        capsize=2,
        capthick=0.8,
        marker=marker,
        markersize=4,
        label=label,
        zorder=5 + above / 10,
    )


def _write_cells(axes: "Axes", counts: np.ndarray, shares: np.ndarray, *, size: float) -> None:
    for row, column in np.ndindex(*counts.shape):
        share = float(shares[row, column])
        text = f"{counts[row, column]}" if len(counts) > FEW_CLASSES else f"{counts[row, column]}\n{100 * share:.0f} %"
        axes.text(column, row, text, ha="center", va="center", size=size, color="white" if share > 0.55 else "#1C1E21")


def _unit_square(axes: "Axes") -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.margins(0)


def legend(figure: "Figure", axes: "Axes", curves: int, *, columns: int = 1) -> None:
    """Put the legend above the axes, where it hides nothing, in the order in which things were drawn."""
    if curves > FEW_CLASSES:
        axes.set_title(f"{curves} classes, each against the rest", color=GUIDE)
        return
    handles, texts = axes.get_legend_handles_labels()
    is_guide = [getattr(handle, "get_color", lambda: None)() == GUIDE for handle in handles]
    # In more than one column the lines across a plot stand after its points.
    is_line = [columns > 1 and hasattr(handle, "get_color") for handle in handles]
    order = sorted(range(len(handles)), key=lambda index: (is_guide[index], is_line[index]))
    figure.legend(
        [handles[index] for index in order],
        [texts[index] for index in order],
        loc="outside upper left",
        ncols=columns,
        borderaxespad=0.1,
        labelspacing=0.3,
    )
