"""An evaluation as the documents ``metrics.json`` and ``run.json``."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from tnet_cli.errors import DISTRIBUTION
from tnet_cli.evaluation.arms import ARMS
from tnet_cli.evaluation.calibrate import Fit
from tnet_cli.evaluation.judge import ArmSummary, JudgedSlide
from tnet_cli.evaluation.localisation import ON_THE_LESION
from tnet_cli.evaluation.metrics import Figures
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.selection import Selection
from tnet_cli.inference.device import describe_machine, reader_threads
from tnet_cli.metrics.calibration import BINS
from tnet_cli.metrics.discrimination import ClassFigures
from tnet_cli.metrics.estimate import rounded
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel


def run_document(
    request: EvaluateRequest,
    model: LoadedModel,
    device: torch.device,
    arms: Sequence[ArmSummary],
    seconds: float,
) -> dict[str, Any]:
    """Return what ``run.json`` says: where the evaluation ran and what it took, which another need not take again."""
    return {
        "version": version(DISTRIBUTION),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {"name": model.card.name, "path": str(model.path), "sha256": model.digest},
        "calibrated_model": str(request.calibrated_model) if request.calibrated_model else None,
        "intended_use": model.card.intended_use,
        "manifest": str(request.manifest),
        "options": _options(request, model)
        | {
            "device": str(device),
            "batch_size": request.batch_size,
            "workers": reader_threads(request.workers),
        },
        "machine": describe_machine(),
        "arms": {summary.arm: summary.cost() for summary in arms},
        "seconds": round(seconds, 3),
    }


def asked_document(request: EvaluateRequest, model: LoadedModel, selection: Selection) -> dict[str, Any]:
    """Return what ``metrics.json`` says of the question: the model, the slides and the options its figures rest on."""
    return {
        "model": {"name": model.card.name, "sha256": model.digest},
        "manifest": request.manifest.name,
        "split": selection.split,
        "options": _options(request, model),
    }


def _options(request: EvaluateRequest, model: LoadedModel) -> dict[str, Any]:
    locations = request.locations or model.card.network.locations
    return {
        "arms": list(request.arms),
        "locations": None if request.budget else list(locations),
        "budget": request.budget,
        "stop_at": request.stop_at,
        "budgets": list(request.budgets),
        "calibrate": request.calibrate,
        "bootstrap": request.bootstrap,
        "seed": request.seed,
        "mpp": request.mpp,
        "reader": request.reader,
    }


def evaluation_document(
    figures: Figures,
    card: ModelCard,
    *,
    fit: Fit | None,
    selection: Selection,
    failures: Sequence[tuple[str, JudgedSlide]],
) -> dict[str, Any]:
    """Return all figures, and the slides that gave none.

    Args:
        figures: Of the judged slides.
        card: Whose temperature and threshold decided.
        fit: Where these come from, or None when they are the model's own.
        selection: The rows.
        failures: Every slide that failed, in whichever arm.
    """
    run = figures.run
    patients = {row.patient for row in selection.judged if row.patient}
    return {
        "slides": {
            "listed": len(selection.judged),
            "judged": len(figures.answers),
            "failed": len(run.of_status("failed")),
            "no_tissue": len(run.of_status("no_tissue")),
            "by_label": dict(sorted(Counter(str(row.label) for row in selection.judged).items())),
            "patients": len(patients) or None,
        },
        "failed": [
            {"slide": slide.result.slide, "path": slide.entry.path, "arm": arm, "error": slide.result.error}
            for arm, slide in failures
        ],
        "no_tissue": [{"slide": slide.result.slide, "path": slide.entry.path} for slide in run.of_status("no_tissue")],
        "classes": list(figures.answers.class_names),
        "positive_class": figures.answers.class_names[1] if figures.answers.is_binary else None,
        "decision": {
            "temperature": card.temperature,
            "threshold": card.threshold if figures.answers.is_binary else None,
            "from": f"fitted on the split {fit.split!r}" if fit else "the model's card",
        },
        "accuracy": figures.accuracy.document(),
        "accuracy_of_listed": figures.accuracy_of_listed.document(),
        "accuracy_over_patients": figures.accuracy_over_patients.document(),
        "balanced_accuracy": figures.balanced_accuracy.document(),
        "auroc": figures.auroc.document(),
        "average_precision": figures.average_precision.document(),
        "confusion_matrix": {"rows": "label", "columns": "called", "counts": figures.confusion.tolist()},
        "per_class": [_class_document(each) for each in figures.classes],
        "calibration": _calibration_document(figures),
        "fit": fit.document() if fit else None,
        "arms": [summary.document() | {"looks_at": ARMS[summary.arm]} for summary in figures.arms],
        "curve": [summary.document() for summary in figures.curve],
        "localisation": _localisation_document(figures),
    }


def _class_document(figures: ClassFigures) -> dict[str, Any]:
    return {
        "class": figures.name,
        "support": figures.support,
        "called": figures.called,
        "precision": figures.precision.document(),
        "recall": figures.recall.document(),
        "f1": figures.f1.document(),
        "auroc": figures.auroc.document(),
        "average_precision": figures.average_precision.document(),
    }


def _calibration_document(figures: Figures) -> dict[str, Any]:
    binary = figures.answers.is_binary
    return {
        "of": f"the probability of {figures.answers.class_names[1]}" if binary else "the greatest probability",
        "bins": f"{BINS} of equal width",
        "expected_calibration_error": figures.calibration_error.document(),
        "brier_score": figures.brier.document(),
        "negative_log_likelihood": figures.likelihood.document(),
        "reliability": [
            {
                "low": rounded(each.low),
                "high": rounded(each.high),
                "count": each.count,
                "mean_probability": rounded(each.mean_probability),
                "observed": each.observed.document(),
            }
            for each in figures.reliability
        ],
    }


def _localisation_document(figures: Figures) -> dict[str, Any]:
    if not figures.lesions:
        return {"reason": "no judged slide has an annotation with an area", "arms": {}}
    return {
        "reason": None,
        "on_the_lesion": f"annotations cover at least {ON_THE_LESION:g} of the location, or it holds as much of a "
        "lesion that is smaller",
        "arms": {arm: found.document() for arm, found in figures.localisation.items()},
    }
