"""Validation on slides that are not trained on: while training, and at its end with the model as it is stored."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tnet_cli.errors import SlideError
from tnet_cli.files import table_text
from tnet_cli.inference.classify import EngineOptions, classify_slides, look_with
from tnet_cli.inference.device import reader_threads
from tnet_cli.inference.traversal_job import TraversalJob
from tnet_cli.learning.frozen_features import FrozenFeatures
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.state import TrainingState
from tnet_cli.metrics.estimate import wilson
from tnet_cli.model.choice import TopK
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.result import SlideResult, prediction_columns
from tnet_cli.slide.slide import Slide
from tnet_cli.training.manifest import LabelledSlide
from tnet_cli.training.rollout import all_features

BATCH_PATCHES = 16

WILSON = "Wilson 95 %"
FOLD_COLUMNS = ("fold", "slides", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy")


def validation_metrics(
    state: TrainingState, slides: Sequence[TrainingSlide], depth: int | None
) -> dict[str, float] | None:
    """Return accuracy and mean cross-entropy of slides, traversed and classified as a user's would be.

    Args:
        state: Its network is left in evaluation mode; each process takes its share of the slides.
        depth: Processing levels to descend; all of the model's when None.

    Returns:
        ``accuracy`` in [0, 1] and ``loss`` in nats, over the slides that could be read; NaN where none could. None
        where a signal asked to stop before all slides were done, in all processes alike.

    Raises:
        SlideError: a slide cannot be read, and bad slides are not to be skipped.
    """
    network, readers = state.network.eval(), state.settings.readers
    kept = _Kept.of(state)
    tally = torch.zeros(3, dtype=torch.float64)  # slides, right ones, summed loss
    for slide in state.group.share(slides):
        if state.interruption.requested:
            break
        try:
            result = slide.down_to(depth).traverse(
                kept.look,
                network.config,
                (),
                TopK(),
                batch_size=BATCH_PATCHES,
                readers=readers,
                served=partial(kept.serve, slide),
            )
        except SlideError as error:
            state.leave_out(error)
            continue
        state.tell_doubts(slide)
        with torch.inference_mode():
            logits = (
                network.classify([all_features(result.traversal)], closest=[result.traversal.closest])
                .logits.float()
                .cpu()
            )
        loss = functional.cross_entropy(logits, torch.tensor([slide.label]))
        tally += torch.tensor([1.0, float(logits.argmax() == slide.label), float(loss)], dtype=torch.float64)
    if state.group.agreed(state.interruption.requested):
        return None
    count, right, loss_sum = state.group.total(tally).tolist()
    if not count:
        return {"accuracy": float("nan"), "loss": float("nan")}
    return {"accuracy": right / count, "loss": loss_sum / count}


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Looks at validation slides in evaluation mode, and at what is kept of the features of frozen encoders.

    Patches are read and computed here as they are when slides are classified, not as in a step of training.
    """

    network: TNet
    device: torch.device
    features: FrozenFeatures | None

    @classmethod
    def of(cls, state: TrainingState) -> Self:
        """Return what looks with a run's network."""
        network, device, of_steps = state.network, state.device, state.features
        if of_steps is None or state.settings.features is None:
            return cls(network, device, None)
        features = FrozenFeatures.of(
            network,
            Path(state.settings.features),
            device,
            side_px=lambda number: network.config.encoders[number].input_px,
            digests=of_steps.digests,
        )
        return cls(network, device, features)

    def look(self, patches: Tensor, positions: np.ndarray, allowed: np.ndarray | None) -> Look:
        """Look as the engine asks for it."""
        if self.features is not None and (encoded := self.features.encode(patches, positions)) is not None:
            return encoded
        return look_with(self.network, self.device)(patches, positions, allowed)

    def serve(self, slide: TrainingSlide, job: TraversalJob, handle: Slide) -> TraversalJob:
        """Return the job with what is kept of its slide."""
        if self.features is None:
            return job
        return self.features.serve(job, self.features.of_slide(slide, handle), self._finish)

    def _finish(
        self,
        processing_level: int,
        vectors: Tensor,
        cells: Tensor | None,
        positions: np.ndarray,
        allowed: np.ndarray | None,
    ) -> Look:
        with torch.inference_mode():
            seen = self.network.look_at_encoded(
                processing_level,
                vectors,
                cells,
                torch.from_numpy(positions).to(self.device),
                None if allowed is None else torch.from_numpy(allowed).to(self.device),
            )
            log_probs = None if seen.cell_log_probs is None else seen.cell_log_probs.cpu()
            return Look(features=seen.features, cell_log_probs=log_probs)


@dataclass(frozen=True, slots=True)
class Validation:
    """What a model said of the validation slides, one result for each in the order of the manifest."""

    class_names: tuple[str, ...]
    slides: tuple[LabelledSlide, ...]
    results: tuple[SlideResult, ...]

    @property
    def judged(self) -> list[tuple[str, str]]:
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
        """Return counts and metrics for the card; metrics are left out when no slide could be classified."""
        counts: dict[str, Any] = {
            "slides": len(self.slides),
            "patients": len({slide.group for slide in self.slides}),
            "not classified": len(self.slides) - len(self.judged),
        }
        return counts | accuracy_metrics(self.judged, self.class_names)


def validate(model: LoadedModel, slides: Sequence[LabelledSlide], device: torch.device) -> Validation:
    """Classify the validation slides with the model as it is stored."""
    engine = EngineOptions(device=device, readers=reader_threads(None))
    results = dict(classify_slides([slide.entry for slide in slides], model, engine=engine))
    return Validation(
        class_names=model.card.network.class_names,
        slides=tuple(slides),
        results=tuple(results[position] for position in sorted(results)),
    )


def accuracy_metrics(judged: Sequence[tuple[str, str]], class_names: Sequence[str]) -> dict[str, Any]:
    """Return accuracy with its Wilson interval, balanced accuracy, and how many of each class were right.

    Args:
        judged: Label and prediction of each slide; nothing is returned when there is none.
    """
    if not judged:
        return {}
    accuracy = wilson(sum(label == prediction for label, prediction in judged), len(judged))
    recalls = {}
    for name in class_names:
        predictions = [prediction for label, prediction in judged if label == name]
        if predictions:
            recalls[name] = (predictions.count(name), len(predictions))
    return {
        "accuracy": accuracy.value,
        WILSON: [accuracy.low, accuracy.high],
        "balanced accuracy": sum(hits / count for hits, count in recalls.values()) / len(recalls),
        "right of each class": {name: f"{hits} of {count}" for name, (hits, count) in recalls.items()},
    }


def pooled_metrics(
    folds: Sequence[dict[str, Any]], judged: Sequence[tuple[str, str]], class_names: Sequence[str]
) -> dict[str, Any]:
    """Return the metrics of all folds together, every slide having validated once, and their mean and spread.

    Args:
        folds: Metrics of each.
        judged: Label and prediction of the slides of all folds.
    """
    accuracies = [fold["accuracy"] for fold in folds if "accuracy" in fold]
    return {
        "slides": sum(fold.get("slides", 0) for fold in folds),
        "not classified": sum(fold.get("not classified", 0) for fold in folds),
        **accuracy_metrics(judged, class_names),
        "mean of folds": statistics.fmean(accuracies) if accuracies else None,
        "standard deviation of folds": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    }


def folds_table(folds: Sequence[dict[str, Any]]) -> str:
    """Return ``folds.csv``: a row for each fold, then their mean and standard deviation."""
    rows: list[dict[str, Any]] = []
    for number, fold in enumerate(folds, start=1):
        measured = (fold.get("accuracy"), *fold.get(WILSON, (None, None)), fold.get("balanced accuracy"))
        rows.append(dict(zip(FOLD_COLUMNS, (number, fold.get("slides"), *measured), strict=True)))
    summary: list[dict[str, Any]] = []
    for label, summarise, least in (("mean", statistics.fmean, 1), ("standard deviation", statistics.stdev, 2)):
        row: dict[str, Any] = {"fold": label}
        for column in ("slides", "accuracy", "balanced_accuracy"):
            values = [row[column] for row in rows if row[column] is not None]
            row[column] = summarise(values) if len(values) >= least else None
        summary.append(row)
    return table_text(FOLD_COLUMNS, rows + summary)
