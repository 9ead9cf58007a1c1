"""Temperature and threshold fitted on a calibration split, and the model file that carries them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.pipeline.atomic import write_text_whole, written_whole
from tnet_cli.pipeline.card import ModelCard
from tnet_cli.pipeline.card_text import card_as_markdown
from tnet_cli.pipeline.evaluation.calibration import (
    Fitted,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    stated_and_true,
)
from tnet_cli.pipeline.evaluation.estimate import rounded
from tnet_cli.pipeline.evaluation.judging import ArmRun
from tnet_cli.pipeline.model_file import CARD_KEY


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
    """

    split: str
    run: ArmRun
    before: ModelCard
    card: ModelCard
    temperature: Fitted
    threshold: Fitted

    def document(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json`` and in the card."""
        return {
            "split": self.split,
            "slides": len(self.run.slides),
            "judged": len(self.run.judged),
            "temperature": _fitted(self.before.temperature, self.temperature),
            "threshold": _fitted(self.before.threshold, self.threshold),
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


def fit_card(run: ArmRun, card: ModelCard, split: str) -> Fit:
    """Fit temperature, then threshold, on what an arm found on the calibration split.

    Args:
        run: On the calibration split.
        card: The model's card.
        split: The split's name.
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
    return Fit(split=split, run=run, before=card, card=fitted, temperature=temperature, threshold=threshold)


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


def save_calibrated(model: Path, card: ModelCard, target: Path) -> None:
    """Copy a model file, tensors to the byte, with another card; write the card as Markdown beside it.

    Args:
        model: The file of the model that was calibrated.
        card: Differs from the file's in temperature, threshold and metrics.
        target: ``NAME.safetensors``.

    Raises:
        OSError: a file cannot be read or written.
    """
    blob = model.read_bytes()
    # The format: length of the header in eight bytes, the header as JSON, then the tensors.
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:start])
    header["__metadata__"][CARD_KEY] = json.dumps(card.model_dump(mode="json"), sort_keys=True)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of eight
    with written_whole(target) as draft, draft.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(blob)[start:])
    write_text_whole(target.with_suffix(".md"), card_as_markdown(card))
