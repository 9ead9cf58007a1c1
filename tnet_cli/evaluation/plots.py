"""The plots of an evaluation: from its metrics to what the report package draws."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from tnet_cli.evaluation.arms import ARMS, BUDGETED_ARMS
from tnet_cli.evaluation.metrics import ArmMetrics, Metrics
from tnet_cli.metrics.calibration import BINS
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.metrics.predictions import Predictions
from tnet_cli.report.plots import (
    Curve,
    Point,
    Series,
    confusion_plot,
    coverage_plot,
    locations_plot,
    precision_recall_plot,
    reliability_plot,
    roc_plot,
)


def _roc(metrics: Metrics) -> bytes | None:
    curves = []
    for predictions, of_class, text, colour in _drawn(metrics.arms, "AUROC", lambda arm: arm.auroc):
        false, true, _ = roc_curve(predictions.truth == of_class, predictions.probabilities[:, of_class])
        curves.append(Curve(false, true, text, colour))
    return roc_plot(curves, _operating(metrics, "roc")) if curves else None


def _precision_recall(metrics: Metrics) -> bytes | None:
    curves = []
    for predictions, of_class, text, colour in _drawn(metrics.arms, "AP", lambda arm: arm.average_precision):
        precision, recall, _ = precision_recall_curve(
            predictions.truth == of_class, predictions.probabilities[:, of_class]
        )
        curves.append(Curve(recall[::-1], precision[::-1], text, colour))
    if not curves:
        return None
    first = metrics.arms[0].predictions
    prevalence = float(np.mean(first.truth == 1)) if first.is_binary else None
    return precision_recall_plot(curves, prevalence, _operating(metrics, "precision-recall"))


def _drawn(
    arms: Sequence[ArmMetrics], name: str, area: Callable[[ArmMetrics], Estimate]
) -> list[tuple[Predictions, int, str, int]]:
    """Return predictions, class, words and colour of each curve: of each arm, or of each class where there are more."""
    usable = [arm for arm in arms if len(np.unique(arm.predictions.truth)) > 1]
    if not usable:
        return []
    first = usable[0].predictions
    if first.is_binary:
        return [
            (arm.predictions, 1, f"{arm.arm}, {name} {area(arm).words()}", list(ARMS).index(arm.arm)) for arm in usable
        ]
    return [
        (first, of_class, first.class_names[of_class], number)
        for number, of_class in enumerate(int(each) for each in np.unique(first.truth))
    ]


def _operating(metrics: Metrics, plot: str) -> tuple[float, float, str] | None:
    """Return where the most probable class is called, on the first arm's curve of two classes: x, y and words."""
    predictions = metrics.arms[0].predictions
    if not predictions.is_binary or len(np.unique(predictions.truth)) < 2:
        return None
    positive, called = predictions.truth == 1, predictions.called == 1
    sensitivity = float(called[positive].mean())
    words = "the most probable class"
    if plot == "roc":
        return float(called[~positive].mean()), sensitivity, words
    return (sensitivity, float(positive[called].mean()), words) if called.any() else None


def _confusion(metrics: Metrics) -> bytes | None:
    predictions = metrics.arms[0].predictions
    return confusion_plot(metrics.confusion, predictions.class_names) if len(predictions) else None


def _reliability(metrics: Metrics) -> bytes | None:
    predictions, bins = metrics.arms[0].predictions, metrics.reliability
    if len(predictions) == 0:
        return None
    points = [
        Point(x, y, each.observed.low or 0.0, each.observed.high or 0.0)
        for each in bins
        if (x := each.mean_probability) is not None and (y := each.observed.value) is not None
    ]
    stated, observed = "Stated probability of the likeliest class", "Share for which it is the label"
    if predictions.is_binary:
        positive = predictions.class_names[1]
        stated, observed = f"Stated probability of {positive}", f"Share labelled {positive}"
    return reliability_plot(
        points,
        np.array([each.count for each in bins]),
        np.linspace(0, 1, len(bins) + 1),
        stated=stated,
        observed=observed,
        summary=f"ECE {metrics.calibration_error.value or 0.0:.3f} ({BINS} bins)\n{len(predictions)} slides",
    )


def _accuracy_by_locations(metrics: Metrics) -> bytes | None:
    """Draw the curve, and across it the arms that no budget changes, at the locations that they attend."""
    order = list(ARMS)
    series = []
    for name in dict.fromkeys(each.arm for each in metrics.curve):
        of_arm = [_point(each) for each in metrics.curve if each.arm == name]
        points = tuple(point for point in of_arm if point is not None and point.x > 0)
        if points:
            series.append(Series(points, name, order.index(name)))
    across = [
        Series((point,), f"{each.arm} ({_locations(each)})", order.index(each.arm))
        for each in metrics.arms
        if each.arm not in BUDGETED_ARMS and (point := _point(each)) is not None
    ]
    return locations_plot(series, across) if series else None


def _accuracy_by_coverage(metrics: Metrics) -> bytes | None:
    """Draw each arm's accuracy over the surest share of the slides that it looked at, those without an answer last."""
    curves, answered = [], []
    for each in metrics.arms:
        right, looked_at = each.right_by_sureness, len(each.right_by_sureness)
        if looked_at:
            shares = np.arange(1, looked_at + 1) / looked_at
            curves.append(
                Curve(shares, right.cumsum() / np.arange(1, looked_at + 1), each.arm, list(ARMS).index(each.arm))
            )
        if len(each.predictions) and each.accuracy.value is not None:
            answered.append((len(each.predictions) / looked_at, each.accuracy.value))
    return coverage_plot(curves, answered[0] if answered else None) if curves else None


def _point(arm: ArmMetrics) -> Point | None:
    estimate, locations = arm.accuracy, arm.locations
    if estimate.value is None or estimate.low is None or estimate.high is None or locations is None:
        return None
    return Point(locations, estimate.value, estimate.low, estimate.high)


def _locations(arm: ArmMetrics) -> str:
    return f"{arm.locations:.0f} locations" if arm.locations else "no location"


PLOTS: dict[str, Callable[[Metrics], bytes | None]] = {
    "roc.png": _roc,
    "precision_recall.png": _precision_recall,
    "confusion_matrix.png": _confusion,
    "reliability.png": _reliability,
    "accuracy_by_locations.png": _accuracy_by_locations,
    "accuracy_by_coverage.png": _accuracy_by_coverage,
}
"""File -> draws it from metrics: a PNG, or None where there is nothing to draw."""
