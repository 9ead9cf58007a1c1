"""From the answers of the arms to the plots the report package draws."""

from collections.abc import Sequence

import numpy as np
from sklearn import metrics

from tnet_cli.evaluation.arms import ARMS
from tnet_cli.evaluation.judge import ArmSummary
from tnet_cli.metrics.calibration import BINS, ReliabilityBin, expected_calibration_error
from tnet_cli.metrics.discrimination import confusion_matrix
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.metrics.predictions import Answers
from tnet_cli.report.plots import (
    Curve,
    Point,
    Series,
    confusion_plot,
    locations_plot,
    precision_recall_plot,
    reliability_plot,
    roc_plot,
)

Judgement = tuple[str, Answers, Estimate]
"""An arm, its answers, and its figure with interval for the legend."""


def roc_picture(arms: Sequence[Judgement], threshold: float) -> bytes | None:
    """Draw the ROC of each arm, or of each class of the first arm when there are more than two.

    Args:
        arms: With their AUROC; the first is judged in full.
        threshold: Of the decision, marked on the first arm's curve of two classes.

    Returns:
        A PNG, or None when fewer than two classes occur.
    """
    curves = []
    for answers, of_class, text, colour in _drawn(arms, "AUROC"):
        false, true, _ = metrics.roc_curve(answers.truth == of_class, answers.probabilities[:, of_class])
        curves.append(Curve(false, true, text, colour))
    if not curves:
        return None
    return roc_plot(curves, _operating(arms[0][1], threshold, "roc"))


def precision_recall_picture(arms: Sequence[Judgement], threshold: float) -> bytes | None:
    """Draw precision against recall; arguments and result as for ``roc_picture``, with the average precision."""
    curves = []
    for answers, of_class, text, colour in _drawn(arms, "AP"):
        precision, recall, _ = metrics.precision_recall_curve(
            answers.truth == of_class, answers.probabilities[:, of_class]
        )
        curves.append(Curve(recall[::-1], precision[::-1], text, colour))
    if not curves:
        return None
    first = arms[0][1]
    prevalence = float(np.mean(first.truth == 1)) if first.is_binary else None
    return precision_recall_plot(curves, prevalence, _operating(first, threshold, "precision-recall"))


def _drawn(arms: Sequence[Judgement], figure: str) -> list[tuple[Answers, int, str, int]]:
    """Return answers, class, words and colour of each curve."""
    usable = [arm for arm in arms if len(np.unique(arm[1].truth)) > 1]
    if not usable:
        return []
    first = usable[0][1]
    if first.is_binary:
        return [
            (answers, 1, f"{name}, {figure} {estimate.words()}", list(ARMS).index(name))
            for name, answers, estimate in usable
        ]
    return [
        (first, of_class, first.class_names[of_class], number)
        for number, of_class in enumerate(int(each) for each in np.unique(first.truth))
    ]


def _operating(answers: Answers, threshold: float, plot: str) -> tuple[float, float, str] | None:
    """Return where the decision threshold stands: x, y and words."""
    if not answers.is_binary or len(np.unique(answers.truth)) < 2:
        return None
    positive, called = answers.truth == 1, answers.called == 1
    sensitivity = float(called[positive].mean())
    words = f"decision threshold {threshold:.3g}"
    if plot == "roc":
        return float(called[~positive].mean()), sensitivity, words
    return (sensitivity, float(positive[called].mean()), words) if called.any() else None


def confusion_picture(answers: Answers) -> bytes | None:
    """Draw the confusion matrix; None without slides."""
    return confusion_plot(confusion_matrix(answers), answers.class_names) if len(answers) else None


def reliability_picture(answers: Answers, bins: list[ReliabilityBin]) -> bytes | None:
    """Draw the reliability diagram; None without slides."""
    if len(answers) == 0:
        return None
    points = [
        Point(x, y, each.observed.low or 0.0, each.observed.high or 0.0)
        for each in bins
        if (x := each.mean_probability) is not None and (y := each.observed.value) is not None
    ]
    binary = answers.is_binary
    error = expected_calibration_error(bins).value or 0.0
    return reliability_plot(
        points,
        np.array([each.count for each in bins]),
        np.linspace(0, 1, len(bins) + 1),
        stated=f"Stated probability of {answers.class_names[1]}"
        if binary
        else "Stated probability of the likeliest class",
        observed=f"Share labelled {answers.class_names[1]}" if binary else "Share for which it is the label",
        summary=f"ECE {error:.3f} ({BINS} bins)\n{len(answers)} slides",
    )


def locations_picture(curve: Sequence[ArmSummary], arms: Sequence[ArmSummary]) -> bytes | None:
    """Draw accuracy against locations.

    Args:
        curve: One for each budget and arm that was run.
        arms: The arms at the model's or the user's own locations; those no budget changes are drawn across.

    Returns:
        A PNG, or None when no point can be drawn.
    """
    order = list(ARMS)
    series = []
    for name in dict.fromkeys(summary.arm for summary in curve):
        points = tuple(point for summary in curve if summary.arm == name and (point := _point(summary)) and point.x > 0)
        if points:
            series.append(Series(points, name, order.index(name)))
    budgeted = {each.arm for each in curve}
    levels = [
        Series((point,), f"{each.arm} ({_locations(each)})", order.index(each.arm))
        for each in arms
        if each.arm not in budgeted and each.arm in {"coarse", "exhaustive"} and (point := _point(each))
    ]
    return locations_plot(series, levels) if series else None


def _point(summary: ArmSummary) -> Point | None:
    estimate = summary.accuracy
    if estimate.value is None or estimate.low is None or estimate.high is None or summary.locations is None:
        return None
    return Point(summary.locations, estimate.value, estimate.low, estimate.high)


def _locations(summary: ArmSummary) -> str:
    return f"{summary.locations:.0f} locations" if summary.locations else "no location"
