"""The plot of a distilled model's agreement with its teacher."""

from collections.abc import Sequence

from tnet_cli.report.plots import GUIDE_LINE, SERIES_COLOURS, Point, empty_figure, legend, png_of


def agreement_plot(
    points: Sequence[Point], is_called: Sequence[bool], *, call_at: float, axis: str, summary: str
) -> bytes:
    """Draw a model's score against its teacher's, a point a slide.

    Args:
        points: The teacher's score along x, the model's with its interval along y.
        is_called: Whether the model calls each.
        call_at: From where the teacher calls a slide.
        axis: What the score is.
    """
    with empty_figure() as figure:
        axes = figure.add_subplot()
        highest = max([call_at, *(max(point.x, point.high) for point in points)]) * 1.08
        axes.plot([0, highest], [0, highest], **GUIDE_LINE)
        axes.axvline(call_at, **GUIDE_LINE)
        for called, text, colour, marker in ((True, "called", 5, "s"), (False, "not called", 4, "o")):
            mine = [point for point, each in zip(points, is_called, strict=True) if each == called]
            if mine:
                axes.errorbar(
                    [point.x for point in mine],
                    [point.y for point in mine],
                    [[point.y - point.low for point in mine], [point.high - point.y for point in mine]],
                    fmt=marker,
                    markersize=3,
                    elinewidth=0.6,
                    color=SERIES_COLOURS[colour],
                    label=f"{text} by the model ({len(mine)})",
                )
        axes.set(
            xlim=(-0.03 * highest, highest),
            ylim=(-0.03 * highest, highest),
            xlabel=f"Teacher on every tile: {axis}",
            ylabel=f"Model: {axis}",
        )
        axes.set_title(summary)
        legend(figure, axes, 2)
        return png_of(figure)
