"""Temperature, threshold and domain fitted on a calibration split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.evaluation.domain_fitting import LevelFeatures, fit_domain
from tnet_cli.evaluation.judge import ArmRun
from tnet_cli.metrics.calibration import (
    Fitted,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    stated_and_true,
)
from tnet_cli.metrics.estimate import rounded
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.modelfile.card import ModelCard


@dataclass(frozen=True, slots=True)
class Fit:
    """What was fitted on the calibration split.

    Attributes:
        split: Its name.
        run: What the judged arm found on it.
        before: The model's card.
        card: The card with the fitted temperature and threshold.
        temperature: Fitted, or kept for a reason.
        threshold: Fitted on the probabilities of the new temperature, or kept for a reason.
        domain: Where the features of the calibration split lie; empty where it has too few slides to say.
    """

    split: str
    run: ArmRun
    before: ModelCard
    card: ModelCard
    temperature: Fitted
    threshold: Fitted
    domain: tuple[FeatureDomain, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json`` and in the card."""
        return {
            "split": self.split,
            "slides": len(self.run.slides),
            "judged": len(self.run.judged),
            "temperature": _fitted(self.before.temperature, self.temperature),
            "threshold": _fitted(self.before.threshold, self.threshold),
            "domain": self.card.domain.model_dump() if self.domain and self.card.domain else None,
            "criterion": "temperature: least negative log-likelihood; threshold: greatest Youden index, "
            "which is the greatest balanced accuracy",
            "before": _quality(self.run, self.before),
            "after": _quality(self.run, self.card),
        }


def _fitted(before: float, fitted: Fitted) -> dict[str, Any]:
    return {"before": before, "value": fitted.value, "reason": fitted.reason}


def _quality(run: ArmRun, card: ModelCard) -> dict[str, Any]:
    answers = run.answers(card)
    if len(answers) == 0:
        return {"negative_log_likelihood": None, "expected_calibration_error": None}
    error = expected_calibration_error(reliability(*stated_and_true(answers)))
    likelihood = negative_log_likelihood(answers.logits, answers.truth, card.temperature)
    return {"negative_log_likelihood": rounded(likelihood), "expected_calibration_error": rounded(error.value)}


def fit_card(run: ArmRun, card: ModelCard, split: str, features: Sequence[LevelFeatures] = ()) -> Fit:
    """Fit temperature, then threshold, on what an arm found on the calibration split, and where its features lie.

    Args:
        run: On the calibration split.
        card: The model's card.
        split: The split's name.
        features: Of each slide of the split.
    """
    answers = run.answers(card)
    temperature = fit_temperature(answers.logits, answers.truth, otherwise=card.temperature)
    scaled = card.model_copy(update={"temperature": temperature.value})
    if len(answers):
        at_this_temperature = run.answers(scaled)
        threshold = choose_threshold(
            at_this_temperature.probabilities, at_this_temperature.truth, otherwise=card.threshold
        )
    else:
        threshold = Fitted(card.threshold, "no slide of the calibration split could be judged")
    fitted = scaled.model_copy(update={"threshold": threshold.value})
    domain: tuple[FeatureDomain, ...] = ()
    if (found := fit_domain(features, card.network.processing_levels)) is not None:
        domain, limits = found
        fitted = fitted.model_copy(update={"domain": limits})
    return Fit(
        split=split, run=run, before=card, card=fitted, temperature=temperature, threshold=threshold, domain=domain
    )


def check_model_target(path: Path, model: Path, *, overwrite: bool) -> None:
    """Refuse a place for the calibrated model before any slide is opened.

    Raises:
        UsageError: the path does not end in ``.safetensors``, is the model itself, or exists and may not be replaced.
    """
    if path.suffix != ".safetensors":
        raise UsageError(f"--save-model {path}: expected a file ending in .safetensors")
    if path.exists() and path.resolve() == model.resolve():
        raise UsageError(f"--save-model {path}: is the model that is evaluated; give another file")
    for file in (path, path.with_suffix(".md")):
        if file.is_dir() or (file.exists() and not overwrite):
            raise UsageError(f"--save-model {path}: {file} exists; give another file, or replace it with --overwrite")
