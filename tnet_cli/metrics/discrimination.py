"""How well the classes are told apart: from labels, calls and probabilities to metrics with intervals."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from tnet_cli.files import rounded
from tnet_cli.metrics.bootstrap import Resampling, bootstrapped
from tnet_cli.metrics.estimate import Estimate, UndefinedMetricError, wilson
from tnet_cli.metrics.predictions import Predictions

ClassMetric = Callable[[Predictions, np.ndarray, int], float]
"""Predictions, the indices of the slides that count, int64 (M,), some of them repeated, and a class -> how well it is
told from the rest."""


def accuracy(predictions: Predictions) -> Estimate:
    """Share of slides that are called what they are labelled, right / N, with Wilson's interval over slides."""
    return wilson(predictions.right, len(predictions))


def accuracy_over_patients(predictions: Predictions, resampling: Resampling) -> Estimate:
    """Return the accuracy with its bootstrap interval, which knows that slides of one patient are alike."""
    right = predictions.truth == predictions.called
    return bootstrapped(lambda slides: float(np.mean(right[slides])), len(right), resampling)


def balanced_accuracy(predictions: Predictions, resampling: Resampling) -> Estimate:
    """Mean over the classes that occur of the recall, the share of a class that is called right.

    BA = (1/C) Σ_c TP_c / n_c. Source: K. H. Brodersen et al., ICPR 2010, 3121-3124; it equals scikit-learn's
    ``balanced_accuracy_score``. Undefined when fewer than two classes occur.
    """

    def mean_recall(slides: np.ndarray) -> float:
        truth, called = predictions.truth[slides], predictions.called[slides]
        return float(np.mean([np.mean(called[truth == each] == each) for each in _classes_in(truth)]))

    return bootstrapped(mean_recall, len(predictions), resampling)


def auroc(predictions: Predictions, resampling: Resampling) -> Estimate:
    """Area under the receiver operating characteristic: P(s⁺ > s⁻) + P(s⁺ = s⁻)/2, for the probability s of a class.

    Of two classes, that of the last; of more, the mean over the classes that occur of each against the rest (macro).
    Source: J. A. Hanley and B. J. McNeil, Radiology 143 (1982) 29-36; it equals scikit-learn's ``roc_auc_score``.
    Undefined when fewer than two classes occur.
    """
    return _over_classes(_auroc_of, predictions, resampling)


def average_precision(predictions: Predictions, resampling: Resampling) -> Estimate:
    """Σ_k (R_k − R_{k−1}) P_k over the thresholds, with precision P and recall R: area under precision against recall.

    Without interpolation; classes as for ``auroc``. It equals scikit-learn's ``average_precision_score``. Undefined
    when fewer than two classes occur.
    """
    return _over_classes(_average_precision_of, predictions, resampling)


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Return int64 (C, C): slides labelled with the class of the row that were called the class of the column."""
    table = np.zeros((len(predictions.class_names),) * 2, dtype=np.int64)
    np.add.at(table, (predictions.truth, predictions.called), 1)
    return table


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class in the per-class table.

    Attributes:
        support: Slides labelled with it.
        called: Slides called it.
        precision: TP / called, with Wilson's interval; undefined when nothing was called it.
        recall: TP / support, with Wilson's interval; undefined when no slide is labelled with it. Of two classes, that
            of the last is the sensitivity and that of the first the specificity.
        f1: 2 TP / (called + support); undefined when both are 0.
        auroc: Against the rest, without interval.
        average_precision: Against the rest, without interval.
    """

    name: str
    support: int
    called: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    auroc: Estimate
    average_precision: Estimate

    def record(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json``."""
        counts = {"class": self.name, "support": self.support, "called": self.called}
        measured = ("precision", "recall", "f1", "auroc", "average_precision")
        return counts | {name: getattr(self, name).record() for name in measured}

    def cells(self) -> dict[str, Any]:
        """Return its row of ``per_class.csv``."""
        return {
            "class": self.name,
            "support": self.support,
            "called": self.called,
            **self.precision.cells("precision"),
            **self.recall.cells("recall"),
            "f1": rounded(self.f1.value),
            "auroc": rounded(self.auroc.value),
            "average_precision": rounded(self.average_precision.value),
        }


def per_class(predictions: Predictions) -> list[ClassMetrics]:
    """Return the per-class table, in the order of the classes."""
    table = confusion_matrix(predictions)
    rows = []
    for index, name in enumerate(predictions.class_names):
        support, called, right = int(table[index].sum()), int(table[:, index].sum()), int(table[index, index])
        f1 = (
            Estimate(value=2 * right / (called + support))
            if called + support
            else Estimate.undefined(f"no slide is labelled or called {name}")
        )
        rows.append(
            ClassMetrics(
                name=name,
                support=support,
                called=called,
                precision=wilson(right, called, nothing=f"no slide was called {name}"),
                recall=wilson(right, support, nothing=f"no slide is labelled {name}"),
                f1=f1,
                auroc=_of_class(_auroc_of, predictions, index),
                average_precision=_of_class(_average_precision_of, predictions, index),
            )
        )
    return rows


def _auroc_of(predictions: Predictions, slides: np.ndarray, of_class: int) -> float:
    is_class = _against_the_rest(predictions, slides, of_class)
    # By ranks, ties sharing theirs (Mann and Whitney): scikit-learn takes a hundred times as long to check its
    # arguments, and the bootstrap asks a thousand times for each class.
    ranks = rankdata(predictions.probabilities[slides, of_class])
    positive = int(is_class.sum())
    negative = len(is_class) - positive
    return float((ranks[is_class].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _average_precision_of(predictions: Predictions, slides: np.ndarray, of_class: int) -> float:
    is_class = _against_the_rest(predictions, slides, of_class)
    stated = predictions.probabilities[slides, of_class]
    order = np.argsort(-stated)
    found = np.cumsum(is_class[order])
    # A threshold takes in all slides of one probability, so only the last of these counts.
    last = np.append(np.flatnonzero(np.diff(stated[order])), len(order) - 1)
    gained = np.diff(found[last], prepend=0) / found[-1]
    return float(np.sum(gained * found[last] / (last + 1)))


def _against_the_rest(predictions: Predictions, slides: np.ndarray, of_class: int) -> np.ndarray:
    is_class = predictions.truth[slides] == of_class
    name = predictions.class_names[of_class]
    if not is_class.any():
        raise UndefinedMetricError(f"no slide is labelled {name}")
    if is_class.all():
        raise UndefinedMetricError(f"every slide is labelled {name}")
    return np.asarray(is_class)


def _over_classes(of_class: ClassMetric, predictions: Predictions, resampling: Resampling) -> Estimate:
    """Estimate a metric of a class against the rest for all classes: that of the last of two, else the mean.

    Classes that do not occur, and so have no part in the mean, are named.
    """

    def metric(slides: np.ndarray) -> float:
        occurring = _classes_in(predictions.truth[slides])
        if predictions.is_binary:
            return of_class(predictions, slides, 1)
        return float(np.mean([of_class(predictions, slides, int(each)) for each in occurring]))

    estimate = bootstrapped(metric, len(predictions), resampling)
    absent = [name for index, name in enumerate(predictions.class_names) if not (predictions.truth == index).any()]
    if estimate.value is None or not absent:
        return estimate
    note = f"mean over the classes that occur; no slide is labelled {', '.join(absent)}"
    return replace(estimate, reason="; ".join(filter(None, [note, estimate.reason])))


def _classes_in(truth: np.ndarray) -> np.ndarray:
    occurring = np.unique(truth)
    if len(occurring) < 2:
        raise UndefinedMetricError("the judged slides are all of one class")
    return occurring


def _of_class(metric: ClassMetric, predictions: Predictions, of_class: int) -> Estimate:
    try:
        return Estimate(value=metric(predictions, np.arange(len(predictions)), of_class))
    except UndefinedMetricError as undefined:
        return Estimate.undefined(str(undefined))
