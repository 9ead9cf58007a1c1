"""How good a trained model is on the slides that were set aside."""

import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from tnet_cli.files import table_text
from tnet_cli.inference.classify import ClassifyOptions, classify_slides
from tnet_cli.inference.device import reader_threads
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.layout import prediction_columns
from tnet_cli.results.result import SlideResult
from tnet_cli.training.manifest import LabelledSlide

WILSON = "Wilson 95 %"
FOLD_COLUMNS = ("fold", "slides", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy")


@dataclass(frozen=True, slots=True)
class Validation:
    """What a model said of the validation slides.

    Attributes:
        class_names: In the order of the logits.
        slides: The slides, in the order of the manifest.
        results: One for each.
    """

    class_names: tuple[str, ...]
    slides: tuple[LabelledSlide, ...]
    results: tuple[SlideResult, ...]

    @property
    def measured(self) -> list[tuple[str, str]]:
        """Label and prediction of every slide that was classified."""
        return [
            (slide.label, result.prediction)
            for slide, result in zip(self.slides, self.results, strict=True)
            if result.status == "ok" and result.prediction is not None
        ]

    def table(self) -> str:
        """Return the predictions as CSV text: the columns of ``predictions.csv``, and the label."""
        columns = prediction_columns(self.class_names)
        columns.insert(columns.index("prediction"), "label")
        rows = [result.row() | {"label": slide.label} for slide, result in zip(self.slides, self.results, strict=True)]
        return table_text(columns, rows)

    def metrics(self) -> dict[str, Any]:
        """Return counts and figures for the card; figures are left out when no slide could be classified."""
        figures: dict[str, Any] = {
            "slides": len(self.slides),
            "patients": len({slide.group for slide in self.slides}),
            "not classified": len(self.slides) - len(self.measured),
        }
        return figures | accuracy_metrics(self.measured, self.class_names)


def accuracy_metrics(measured: Sequence[tuple[str, str]], class_names: Sequence[str]) -> dict[str, Any]:
    """Return accuracy with its Wilson interval, balanced accuracy, and how many of each class were right.

    Args:
        measured: Label and prediction of each slide; nothing is returned when there is none.
        class_names: In the order of the logits.
    """
    from scipy.stats import binomtest

    if not measured:
        return {}
    right = sum(label == prediction for label, prediction in measured)
    interval = binomtest(right, len(measured)).proportion_ci(method="wilson")
    recalls = {}
    for name in class_names:
        answers = [prediction for label, prediction in measured if label == name]
        if answers:
            recalls[name] = (answers.count(name), len(answers))
    return {
        "accuracy": right / len(measured),
        WILSON: [float(interval.low), float(interval.high)],
        "balanced accuracy": sum(hits / count for hits, count in recalls.values()) / len(recalls),
        "right of each class": {name: f"{hits} of {count}" for name, (hits, count) in recalls.items()},
    }


def pooled_metrics(
    figures: Sequence[dict[str, Any]], measured: Sequence[tuple[str, str]], class_names: Sequence[str]
) -> dict[str, Any]:
    """Return the figures of all folds together, every slide having validated once, and their mean and spread.

    Args:
        figures: Those of each fold.
        measured: Label and prediction of the slides of all folds.
        class_names: In the order of the logits.
    """
    accuracies = [figure["accuracy"] for figure in figures if "accuracy" in figure]
    return {
        "slides": sum(figure.get("slides", 0) for figure in figures),
        "not classified": sum(figure.get("not classified", 0) for figure in figures),
        **accuracy_metrics(measured, class_names),
        "mean of folds": statistics.fmean(accuracies) if accuracies else None,
        "standard deviation of folds": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    }


def folds_table(figures: Sequence[dict[str, Any]]) -> str:
    """Return ``folds.csv``: a row for each fold, then their mean and standard deviation."""
    rows: list[dict[str, Any]] = []
    for number, figure in enumerate(figures, start=1):
        low, high = figure.get(WILSON, (None, None))
        accuracies = {"accuracy": figure.get("accuracy"), "balanced_accuracy": figure.get("balanced accuracy")}
        rows.append(
            {"fold": number, "slides": figure.get("slides"), "accuracy_low": low, "accuracy_high": high} | accuracies
        )
    summary: list[dict[str, Any]] = []
    for label, summarise, least in (("mean", statistics.fmean, 1), ("standard deviation", statistics.stdev, 2)):
        row: dict[str, Any] = {"fold": label}
        for column in ("slides", "accuracy", "balanced_accuracy"):
            values = [row[column] for row in rows if row.get(column) is not None]
            row[column] = summarise(values) if len(values) >= least else None
        summary.append(row)
    return table_text(FOLD_COLUMNS, rows + summary)


def validate(model: LoadedModel, slides: Sequence[LabelledSlide], device: torch.device) -> Validation:
    """Classify the validation slides with the model as it is stored.

    Args:
        model: Loaded from its file; its normalisation is folded.
        slides: Labelled slides.
        device: Where the network runs.
    """
    options = ClassifyOptions(device=device, readers=reader_threads(None))
    results: dict[int, SlideResult] = {}
    with closing(classify_slides([slide.entry for slide in slides], model, options)) as outcomes:
        for position, outcome in outcomes:
            results[position] = outcome.result
    return Validation(
        class_names=model.card.network.class_names,
        slides=tuple(slides),
        results=tuple(results[position] for position in sorted(results)),
    )
