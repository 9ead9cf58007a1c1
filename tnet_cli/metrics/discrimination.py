"""How well the classes are told apart: from labels, calls and probabilities to figures with intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from tnet_cli.metrics.bootstrap import Resampling, bootstrapped
from tnet_cli.metrics.estimate import Estimate, UndefinedMetricError, wilson
from tnet_cli.metrics.predictions import Answers

Figure = Callable[[Answers, np.ndarray], float]
"""Answers and the indices of the slides that count, int64 (M,), some of them repeated -> a figure."""


def accuracy(answers: Answers) -> Estimate:
    """Share of slides that are called what they are labelled, right / N, with Wilson's interval over slides."""
    return wilson(answers.right, len(answers))


def accuracy_over_patients(answers: Answers, resampling: Resampling) -> Estimate:
    """Return the accuracy with its bootstrap interval, which knows that slides of one patient are alike."""
    return _bootstrapped(_share_right, answers, resampling)


def balanced_accuracy(answers: Answers, resampling: Resampling) -> Estimate:
    """Mean over the classes that occur of the recall, the share of a class that is called right.

    BA = (1/C) Σ_c TP_c / n_c. Source: K. H. Brodersen et al., ICPR 2010, 3121-3124; it equals scikit-learn's
    ``balanced_accuracy_score``. Undefined when fewer than two classes occur.
    """
    return _bootstrapped(_balanced_accuracy, answers, resampling)


def auroc(answers: Answers, resampling: Resampling) -> Estimate:
    """Area under the receiver operating characteristic: P(s⁺ > s⁻) + P(s⁺ = s⁻)/2, for the probability s of a class.

    Of two classes, that of the last; of more, the mean over the classes that occur of each against the rest (macro).
    Source: J. A. Hanley and B. J. McNeil, Radiology 143 (1982) 29-36; it equals scikit-learn's ``roc_auc_score``.
    Undefined when fewer than two classes occur.
    """
    return _noting_absent_classes(_bootstrapped(_over_classes(_auroc_of), answers, resampling), answers)


def average_precision(answers: Answers, resampling: Resampling) -> Estimate:
    """Σ_k (R_k − R_{k−1}) P_k over the thresholds, with precision P and recall R: area under precision against recall.

    Without interpolation; classes as for ``auroc``. It equals scikit-learn's ``average_precision_score``. Undefined
    when fewer than two classes occur.
    """
    return _noting_absent_classes(_bootstrapped(_over_classes(_average_precision_of), answers, resampling), answers)


def confusion_matrix(answers: Answers) -> np.ndarray:
    """Return int64 (C, C): slides labelled with the class of the row that were called the class of the column."""
    table = np.zeros((len(answers.class_names),) * 2, dtype=np.int64)
    np.add.at(table, (answers.truth, answers.called), 1)
    return table


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class in the per-class table.

    Attributes:
        name: The class.
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


def per_class(answers: Answers) -> list[ClassFigures]:
    """Return the per-class table, in the order of the classes."""
    table = confusion_matrix(answers)
    everything = np.arange(len(answers))
    rows = []
    for index, name in enumerate(answers.class_names):
        support, called, right = int(table[index].sum()), int(table[:, index].sum()), int(table[index, index])
        f1 = (
            Estimate(value=2 * right / (called + support))
            if called + support
            else Estimate.undefined(f"no slide is labelled or called {name}")
        )
        rows.append(
            ClassFigures(
                name=name,
                support=support,
                called=called,
                precision=wilson(right, called, nothing=f"no slide was called {name}"),
                recall=wilson(right, support, nothing=f"no slide is labelled {name}"),
                f1=f1,
                auroc=_point(_auroc_of, answers, everything, index),
                average_precision=_point(_average_precision_of, answers, everything, index),
            )
        )
    return rows


def _bootstrapped(figure: Figure, answers: Answers, resampling: Resampling) -> Estimate:
    if len(answers) == 0:
        return Estimate.undefined("no slide could be judged")
    return bootstrapped(lambda slides: figure(answers, slides), len(answers), resampling)


def _share_right(answers: Answers, slides: np.ndarray) -> float:
    return float(np.mean(answers.truth[slides] == answers.called[slides]))


def _balanced_accuracy(answers: Answers, slides: np.ndarray) -> float:
    truth, called = answers.truth[slides], answers.called[slides]
    return float(np.mean([np.mean(called[truth == each] == each) for each in _classes_in(truth)]))


ClassFigure = Callable[[Answers, np.ndarray, int], float]
"""Answers, indices of slides and a class -> a figure of the class against the rest."""


def _auroc_of(answers: Answers, slides: np.ndarray, of_class: int) -> float:
    is_class = _against_the_rest(answers, slides, of_class)
    # By ranks, ties sharing theirs (Mann and Whitney): scikit-learn takes a hundred times as long to check its
    # arguments, and the bootstrap asks a thousand times for each class.
    ranks = rankdata(answers.probabilities[slides, of_class])
    positive = int(is_class.sum())
    negative = len(is_class) - positive
    return float((ranks[is_class].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _average_precision_of(answers: Answers, slides: np.ndarray, of_class: int) -> float:
    is_class = _against_the_rest(answers, slides, of_class)
    stated = answers.probabilities[slides, of_class]
    order = np.argsort(-stated)
    found = np.cumsum(is_class[order])
    # A threshold takes in all slides of one probability, so only the last of these counts.
    last = np.append(np.flatnonzero(np.diff(stated[order])), len(order) - 1)
    gained = np.diff(found[last], prepend=0) / found[-1]
    return float(np.sum(gained * found[last] / (last + 1)))


def _against_the_rest(answers: Answers, slides: np.ndarray, of_class: int) -> np.ndarray:
    is_class = answers.truth[slides] == of_class
    name = answers.class_names[of_class]
    if not is_class.any():
        raise UndefinedMetricError(f"no slide is labelled {name}")
    if is_class.all():
        raise UndefinedMetricError(f"every slide is labelled {name}")
    return np.asarray(is_class)


def _over_classes(of_class: ClassFigure) -> Figure:
    """Make a figure of a class against the rest one of all classes: that of the last of two, else the mean."""

    def figure(answers: Answers, slides: np.ndarray) -> float:
        occurring = _classes_in(answers.truth[slides])
        if answers.is_binary:
            return of_class(answers, slides, 1)
        return float(np.mean([of_class(answers, slides, int(each)) for each in occurring]))

    return figure


def _classes_in(truth: np.ndarray) -> np.ndarray:
    occurring = np.unique(truth)
    if len(occurring) < 2:
        raise UndefinedMetricError("the judged slides are all of one class")
    return occurring


def _noting_absent_classes(estimate: Estimate, answers: Answers) -> Estimate:
    absent = [name for index, name in enumerate(answers.class_names) if not (answers.truth == index).any()]
    if estimate.value is None or not absent:
        return estimate
    note = f"mean over the classes that occur; no slide is labelled {', '.join(absent)}"
    return Estimate(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        method=estimate.method,
        reason="; ".join(filter(None, [note, estimate.reason])),
    )


def _point(figure: ClassFigure, answers: Answers, slides: np.ndarray, of_class: int) -> Estimate:
    try:
        return Estimate(value=figure(answers, slides, of_class))
    except UndefinedMetricError as undefined:
        return Estimate.undefined(str(undefined))
