"""Temperature, bias, domain and sharpness fitted on a calibration split."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.evaluation.judge import ArmRun
from tnet_cli.files import rounded
from tnet_cli.inference.limits import LevelFeatures, fit_domain, fit_sharpness
from tnet_cli.metrics.calibration import (
    Calibration,
    expected_calibration_error,
    fit_calibration,
    negative_log_likelihood,
    reliability,
    stated_and_true,
)
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import refuse_taken_target


@dataclass(frozen=True, slots=True)
class Fit:
    """What was fitted on the calibration split.

    Attributes:
        split: Its name.
        run: What the judged arm found on it.
        before: The model's card.
        card: The card with what was fitted.
        calibration: Of the probabilities.
        digest: Names what it was fitted to.
        domain: Where the features of the calibration split lie; empty where it has too few slides to say.
    """

    split: str
    run: ArmRun
    before: ModelCard
    card: ModelCard
    calibration: Calibration
    digest: str
    domain: tuple[FeatureDomain, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json`` and in the card."""
        before, fitted = self.before, self.calibration
        return {
            "split": self.split,
            "slides": len(self.run.slides),
            "judged": len(self.run.judged),
            "temperature": {
                "before": before.temperature,
                "value": fitted.temperature,
                "reason": fitted.temperature_kept,
            },
            "bias": {"before": list(before.bias), "value": list(fitted.bias), "reason": fitted.bias_kept},
            "domain": self.card.domain.model_dump() if self.domain and self.card.domain else None,
            "least_sharpness": self.card.least_sharpness,
            "criterion": "least negative log-likelihood",
            "before": _quality(self.run, before),
            "after": _quality(self.run, self.card),
        }


def _quality(run: ArmRun, card: ModelCard) -> dict[str, Any]:
    predictions = run.predictions(card)
    if len(predictions) == 0:
        return {"negative_log_likelihood": None, "expected_calibration_error": None}
    error = expected_calibration_error(reliability(*stated_and_true(predictions)))
    likelihood = negative_log_likelihood(predictions.logits, predictions.truth, card.temperature, card.bias)
    return {"negative_log_likelihood": rounded(likelihood), "expected_calibration_error": rounded(error.value)}


def fit_card(
    run: ArmRun,
    card: ModelCard,
    split: str,
    features: Sequence[LevelFeatures] = (),
    sharpness: Sequence[float] = (),
) -> Fit:
    """Fit temperature and bias to what an arm found on the calibration split, where its features lie, how sharp it is.

    Args:
        run: On the calibration split.
        card: The model's card.
        split: The split's name.
        features: Of each slide of the split.
        sharpness: Of each slide of the split that has one.
    """
    predictions = run.predictions(card)
    own = Calibration(temperature=card.temperature, bias=card.bias)
    calibration = fit_calibration(predictions.logits, predictions.truth, predictions.class_names, own)
    update: dict[str, Any] = {"temperature": calibration.temperature, "bias": calibration.bias}
    domain: tuple[FeatureDomain, ...] = ()
    # What a teacher looks at has no features, but probabilities.
    levels_with_features = card.network.processing_levels - card.network.is_distilled
    if (found := fit_domain(features, levels_with_features)) is not None:
        domain, update["domain"] = found
    if (least := fit_sharpness(sharpness)) is not None:
        update["least_sharpness"] = least
    # Not of what was fitted, whose last digits depend on the number of threads.
    digest = hashlib.sha256(repr((predictions.logits.tolist(), predictions.truth.tolist(), list(sharpness))).encode())
    for each in features:
        for processing_level in sorted(each):
            digest.update(each[processing_level].tobytes())
    return Fit(split, run, card, card.model_copy(update=update), calibration, digest.hexdigest()[:16], domain)


def check_model_target(path: Path, model: Path, *, overwrite: bool) -> None:
    """Refuse a place for the calibrated model before any slide is opened.

    Raises:
        UsageError: the path does not end in ``.safetensors``, is the model itself, exists and may not be replaced, or
            lies where nothing can be written.
    """
    if os.path.exists(path) and os.path.samefile(path, model):  # noqa: PTH110, PTH121 (in whoever's folder it is)
        raise UsageError(f"--save-model {path}: is the model that is evaluated; give another file")
    refuse_taken_target(path, "--save-model", overwrite=overwrite)
    folder = next(each for each in path.absolute().parents if os.path.exists(each))  # noqa: PTH110
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(f"--save-model {path}: nothing can be written into {folder}; give another file")
