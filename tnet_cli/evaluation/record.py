"""What an evaluation writes of itself as JSON: ``metrics.json`` and ``run.json``."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from tnet_cli.errors import DISTRIBUTION
from tnet_cli.evaluation.arms import ARMS
from tnet_cli.evaluation.calibrate import Fit
from tnet_cli.evaluation.judge import JudgedSlide
from tnet_cli.evaluation.localisation import ON_THE_LESION
from tnet_cli.evaluation.metrics import Metrics
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.selection import Selection
from tnet_cli.files import rounded
from tnet_cli.inference.device import describe_machine, reader_threads
from tnet_cli.inputs.inputs import split_name
from tnet_cli.metrics.calibration import BINS
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel


def run_record(
    request: EvaluateRequest, model: LoadedModel, device: torch.device, metrics: Metrics | None, seconds: float
) -> dict[str, Any]:
    """Return what ``run.json`` says: where the evaluation ran and what it took, which another need not take again.

    Args:
        metrics: None while the evaluation has not come to its end.
    """
    machine = {
        "device": str(device),
        "batch_size": request.batch_size,
        "workers": reader_threads(request.workers),
    }
    return {
        "version": version(DISTRIBUTION),
        "finished": datetime.now(UTC).isoformat(timespec="seconds") if metrics else None,
        "model": {"name": model.card.name, "path": str(model.path), "sha256": model.digest},
        "calibrated_model": str(request.calibrated_model) if request.calibrated_model else None,
        "intended_use": model.card.intended_use,
        "manifest": str(request.manifest),
        "options": options_record(request, model) | machine,
        "machine": describe_machine(),
        "arms": {each.arm: each.cost() for each in metrics.arms} if metrics else {},
        "seconds": round(seconds, 3) if metrics else None,
    }


def options_record(request: EvaluateRequest, model: LoadedModel) -> dict[str, Any]:
    """Return the options that, with the model, the manifest and its slides, all metrics depend on."""
    traversal = request.traversal.record(model.card.network.locations)
    return traversal | {
        "arms": list(request.arms),
        "locations": None if request.traversal.budget else traversal["locations"],
        "budgets": list(request.budgets),
        "calibrate": request.calibrate and split_name(request.calibrate),
        "bootstrap": request.bootstrap,
        "seed": request.seed,
    }


def metrics_record(
    request: EvaluateRequest,
    model: LoadedModel,
    selection: Selection,
    metrics: Metrics,
    card: ModelCard,
    *,
    fit: Fit | None,
    failures: Sequence[tuple[str, JudgedSlide]],
) -> dict[str, Any]:
    """Return what ``metrics.json`` says: the question, all metrics, and the slides that gave none.

    Args:
        request: What was asked.
        model: As it was before calibration.
        selection: The rows.
        metrics: Of the judged slides.
        card: Whose calibration decided.
        fit: Where these come from, or None when they are the model's own.
        failures: Every slide that failed, in whichever arm.
    """
    run, predictions = metrics.arms[0].run, metrics.arms[0].predictions
    class_names, is_binary = predictions.class_names, predictions.is_binary
    patients = {row.patient for row in selection.judged if row.patient}
    return {
        "model": {"name": model.card.name, "sha256": model.digest},
        "manifest": request.manifest.name,
        "split": selection.split,
        "options": options_record(request, model),
        "slides": {
            "listed": len(selection.judged),
            "judged": len(predictions),
            "abstained": len(run.of_status("abstained")),
            "failed": len(run.of_status("failed")),
            "no_tissue": len(run.of_status("no_tissue")),
            "by_label": dict(sorted(Counter(str(row.label) for row in selection.judged).items())),
            "patients": len(patients) or None,
        },
        "failed": [
            {name: slide.row.values[name] for name in ("slide", "path")} | {"arm": arm, "error": slide.error}
            for arm, slide in failures
        ],
        "no_tissue": [
            {name: slide.row.values[name] for name in ("slide", "path")} for slide in run.of_status("no_tissue")
        ],
        "abstained": [
            {name: slide.row.values[name] for name in ("slide", "path", "qc")} for slide in run.of_status("abstained")
        ],
        "classes": list(class_names),
        "positive_class": class_names[1] if is_binary else None,
        "decision": {
            "temperature": card.temperature,
            "bias": list(card.bias),
            "from": f"fitted on the split {fit.split!r}" if fit else "the model's card",
        },
        "accuracy": metrics.arms[0].accuracy.record(),
        "coverage": metrics.arms[0].coverage.record(),
        "accuracy_anyway": metrics.arms[0].accuracy_anyway.record(),
        "accuracy_of_listed": metrics.accuracy_of_listed.record(),
        "accuracy_over_patients": metrics.accuracy_over_patients.record(),
        "balanced_accuracy": metrics.balanced_accuracy.record(),
        "auroc": metrics.arms[0].auroc.record(),
        "average_precision": metrics.arms[0].average_precision.record(),
        "confusion_matrix": {"rows": "label", "columns": "called", "counts": metrics.confusion.tolist()},
        "per_class": [each.record() for each in metrics.classes],
        "calibration": _calibration(metrics),
        "fit": fit.record() if fit else None,
        "arms": [each.record() | {"looks_at": ARMS[each.arm]} for each in metrics.arms],
        "curve": [each.record() for each in metrics.curve],
        "by_patient": metrics.patients and metrics.patients.record(),
        "localisation": _localisation(metrics),
    }


def _calibration(metrics: Metrics) -> dict[str, Any]:
    predictions = metrics.arms[0].predictions
    positive = f"the probability of {predictions.class_names[1]}" if predictions.is_binary else None
    return {
        "of": positive or "the greatest probability",
        "bins": f"{BINS} of equal width",
        "expected_calibration_error": metrics.calibration_error.record(),
        "brier_score": metrics.brier.record(),
        "negative_log_likelihood": metrics.negative_log_likelihood.record(),
        "reliability": [
            {
                "low": rounded(each.low),
                "high": rounded(each.high),
                "count": each.count,
                "mean_probability": rounded(each.mean_probability),
                "observed": each.observed.record(),
            }
            for each in metrics.reliability
        ],
    }


def _localisation(metrics: Metrics) -> dict[str, Any]:
    if not metrics.localisation:
        return {"reason": "no judged slide has an annotation with an area", "arms": {}}
    return {
        "reason": None,
        "on_the_lesion": f"annotations cover at least {ON_THE_LESION:g} of the location, or it holds as much of a "
        "lesion that is smaller",
        "arms": {arm: found.record() for arm, found in metrics.localisation.items()},
    }
