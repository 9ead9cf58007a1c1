"""Accuracy, AUROC, average precision and tables against scikit-learn and by hand; intervals."""

import numpy as np
import pytest
from sklearn import metrics

from tnet_cli.metrics.bootstrap import patient_or_slide, resample_patients
from tnet_cli.metrics.discrimination import (
    accuracy,
    accuracy_over_patients,
    auroc,
    average_precision,
    balanced_accuracy,
    confusion_matrix,
    per_class,
)
from tnet_cli.metrics.estimate import Estimate, wilson

NO_DRAWS = {"count": 0, "seed": 0}


def some_predictions(make_predictions, rng, classes, slides=90, decimals=3):
    truth = rng.integers(0, len(classes), slides)
    truth[: len(classes)] = range(len(classes))
    logits = rng.normal(size=(slides, len(classes)))
    logits[np.arange(slides), truth] += 0.8
    # Rounded, so that there are ties.
    return make_predictions(list(truth), logits=np.round(logits, decimals), classes=classes)


def test_wilson_by_hand():
    # p = 8/10, z = 1.959964: centre (0.8 + 0.192073) / 1.384146, half width 0.226605.
    estimate = wilson(8, 10)
    assert estimate.value == 0.8
    assert (estimate.low, estimate.high) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 0, nothing="none").value is None
    assert wilson(5, 5).high == 1.0
    assert wilson(5, 5).low == pytest.approx(5 / (5 + 1.959964**2), abs=1e-6)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_two_classes_against_scikit_learn(make_predictions, rng, decimals):
    predictions = some_predictions(make_predictions, rng, ("benign", "lesion"), decimals=decimals)
    resampling = resample_patients(predictions.truth, predictions.patients, **NO_DRAWS)
    truth, lesion = predictions.truth, predictions.probabilities[:, 1]
    assert accuracy(predictions).value == metrics.accuracy_score(truth, predictions.called)
    assert balanced_accuracy(predictions, resampling).value == pytest.approx(
        metrics.balanced_accuracy_score(truth, predictions.called)
    )
    assert auroc(predictions, resampling).value == pytest.approx(metrics.roc_auc_score(truth, lesion))
    assert average_precision(predictions, resampling).value == pytest.approx(
        metrics.average_precision_score(truth, lesion)
    )
    assert np.array_equal(confusion_matrix(predictions), metrics.confusion_matrix(truth, predictions.called))


def test_more_classes_against_scikit_learn(make_predictions, rng):
    predictions = some_predictions(make_predictions, rng, ("a", "b", "c", "d"), slides=200)
    resampling = resample_patients(predictions.truth, predictions.patients, **NO_DRAWS)
    assert auroc(predictions, resampling).value == pytest.approx(
        metrics.roc_auc_score(predictions.truth, predictions.probabilities, multi_class="ovr")
    )
    each = np.eye(4)[predictions.truth]
    assert average_precision(predictions, resampling).value == pytest.approx(
        metrics.average_precision_score(each, predictions.probabilities)
    )
    precision, recall, f1, support = metrics.precision_recall_fscore_support(predictions.truth, predictions.called)
    for index, row in enumerate(per_class(predictions)):
        assert row.name == "abcd"[index]
        assert row.support == support[index]
        assert row.precision.value == pytest.approx(precision[index])
        assert row.recall.value == pytest.approx(recall[index])
        assert row.f1.value == pytest.approx(f1[index])
        assert row.auroc.value == pytest.approx(
            metrics.roc_auc_score(predictions.truth == index, predictions.probabilities[:, index])
        )


def test_auroc_and_average_precision_by_hand(make_predictions):
    # Of the four pairs of a lesion and a benign slide, the lesion stands above in three; one is tied.
    predictions = make_predictions([1, 0, 1, 0], probabilities=[0.9, 0.3, 0.3, 0.1])
    resampling = resample_patients(predictions.truth, predictions.patients, **NO_DRAWS)
    assert auroc(predictions, resampling).value == pytest.approx((2 + 0.5 + 1) / 4)
    # Recall 1/2 at precision 1, then both slides of 0.3 at once: recall 1 at precision 2/3.
    assert average_precision(predictions, resampling).value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_one_class_leaves_metrics_undefined_with_a_reason(make_predictions):
    predictions = make_predictions([1, 1], probabilities=[0.9, 0.2])
    resampling = resample_patients(predictions.truth, predictions.patients, count=10, seed=0)
    for metric in (auroc, average_precision, balanced_accuracy):
        estimate = metric(predictions, resampling)
        assert estimate.value is None
        assert estimate.reason == "the judged slides are all of one class"
        assert estimate.words() == "undefined"
    assert accuracy(predictions).value == 0.5
    benign = per_class(predictions)[0]
    assert benign.recall.reason == "no slide is labelled benign"


def test_a_class_that_does_not_occur_is_left_out_of_the_mean_and_named(make_predictions, rng):
    logits = rng.normal(size=(6, 3))
    predictions = make_predictions([0, 0, 0, 2, 2, 2], logits=logits, classes=("a", "b", "c"))
    estimate = auroc(predictions, resample_patients(predictions.truth, predictions.patients, **NO_DRAWS))
    of_each = [metrics.roc_auc_score(predictions.truth == c, predictions.probabilities[:, c]) for c in (0, 2)]
    assert estimate.value == pytest.approx(np.mean(of_each))
    assert "no slide is labelled b" in str(estimate.reason)


def test_no_slides_at_all(make_predictions):
    predictions = make_predictions([], logits=np.zeros((0, 2)))
    resampling = resample_patients(predictions.truth, predictions.patients, count=5, seed=0)
    assert accuracy(predictions).reason == "no slide could be judged"
    assert auroc(predictions, resampling).reason == "no slide could be judged"


def test_draws_keep_patients_whole_and_classes_as_many(make_predictions):
    truth = np.array([0, 0, 0, 1, 1, 1, 1])
    patients = ["p", "p", "q", "r", "r", "r", "s"]
    resampling = resample_patients(truth, patients, count=200, seed=1)
    sizes = set()
    for draw in resampling.draws():
        counts = np.bincount(draw, minlength=7)
        assert counts[0] == counts[1]
        assert counts[3] == counts[4] == counts[5]
        # Two patients of each class in every draw.
        assert counts[0] + counts[2] == 2
        assert counts[3] + counts[6] == 2
        sizes.add(len(draw))
    assert len(sizes) > 2
    again = resample_patients(truth, patients, count=200, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(resampling.draws(), again.draws(), strict=True))
    other = resample_patients(truth, patients, count=200, seed=2)
    assert not all(np.array_equal(a, b) for a, b in zip(resampling.draws(), other.draws(), strict=True))


def test_the_interval_is_that_of_the_draws(make_predictions, rng):
    predictions = some_predictions(make_predictions, rng, ("benign", "lesion"), slides=60)
    resampling = resample_patients(predictions.truth, predictions.patients, count=100, seed=4)
    estimate = auroc(predictions, resampling)
    drawn = [
        metrics.roc_auc_score(predictions.truth[draw], predictions.probabilities[draw, 1])
        for draw in resampling.draws()
    ]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert estimate.method == "bootstrap over patients"


def test_slides_of_one_patient_are_worth_less_than_as_many_patients(make_predictions, rng):
    # Ten patients with eight slides each, all right or all wrong together.
    truth = np.repeat(np.arange(10) % 2, 8)
    right = np.repeat(np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1], dtype=bool), 8)
    probabilities = np.where(truth == right, 0.8, 0.2)
    patients = [f"p{number}" for number in np.repeat(np.arange(10), 8)]
    predictions = make_predictions(list(truth), probabilities=probabilities, patients=patients)
    interval = accuracy_over_patients(predictions, resample_patients(truth, patients, count=500, seed=0))
    over_slides = accuracy(predictions)
    assert interval.value == over_slides.value
    assert interval.low is not None
    assert interval.high is not None
    assert over_slides.low is not None
    assert over_slides.high is not None
    assert interval.high - interval.low > 1.5 * (over_slides.high - over_slides.low)


def test_too_few_patients_for_an_interval():
    resampling = resample_patients(np.array([0, 0, 1]), ["a", "b", "c"], count=10, seed=0)
    assert "at least 2 patients of each class" in str(resampling.obstacle)


def test_slides_without_patient_are_apart():
    assert patient_or_slide(None, "x") != patient_or_slide(None, "y")
    assert patient_or_slide("p", "x") == patient_or_slide("p", "y")


def test_an_interval_without_width_is_not_shown():
    estimate = Estimate(value=1.0, low=1.0, high=1.0, method="bootstrap over patients", reason="every draw the same")
    assert estimate.words() == "1.000"
    assert estimate.record()["interval_95"] == [1.0, 1.0]
    assert Estimate(value=0.9, low=0.8, high=0.95).words() == "0.900 (0.800 to 0.950)"
