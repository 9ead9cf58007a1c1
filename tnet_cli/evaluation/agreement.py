"""A whole run of ``tnet evaluate --teacher``: how well a distilled model agrees with its teacher on other slides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

from tnet_cli.errors import ModelFileError, SlideError, UsageError, raise_for_failed
from tnet_cli.files import FolderKind, held_by_command, rounded, write_json
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.device import choose_device, reader_threads
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inputs.inputs import find_inputs
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.inputs.roi import refuse_limits
from tnet_cli.learning.agreement import AGREEMENT, AGREEMENT_PLOT, AGREEMENT_TABLE, compared, write_agreement
from tnet_cli.learning.kept import KeptReads
from tnet_cli.learning.teacher_scores import gather_scores
from tnet_cli.metrics.agreement import SlideAgreement, agreement_of
from tnet_cli.modelfile.modelfile import find_model, load_model
from tnet_cli.modelfile.zoo import load_patch_model
from tnet_cli.places import Place
from tnet_cli.results.layout import HOLDER, LOCK, RunDirectory
from tnet_cli.results.lock import locked

SCORES = "scores"
COMPARISON = FolderKind("evaluate --teacher", (AGREEMENT, AGREEMENT_TABLE, AGREEMENT_PLOT, f"{SCORES}/", LOCK, HOLDER))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRequest:
    """The options of ``tnet evaluate --teacher``.

    Attributes:
        inputs: Slides, folders, patterns, URLs or manifests; labels are judged by where there are any.
        model: Distilled, by name, file or hub address.
        teacher: As for ``tnet distill``; the very one that the model was distilled from, which the model holds.
        traversal: How the model reads and traverses.
        bootstrap: Draws for the intervals.
    """

    inputs: Sequence[Place]
    model: str
    teacher: str
    out: Path
    traversal: TraversalOptions
    trust_torchscript: bool = False
    bootstrap: int = 1000
    seed: int = 0
    device: str = "auto"
    batch_size: int = 16
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """What was found: ``record`` is what ``agreement.json`` holds, ``said`` the answer in one line."""

    record: dict[str, Any]
    said: str
    failures: tuple[tuple[str, str], ...]
    slides: int

    def raise_for_failures(self) -> None:
        """Turn slides that could not be compared into an error as ``errors.raise_for_failed`` does."""
        raise_for_failed(list(self.failures), self.slides, file=AGREEMENT)


def run_agreement(request: AgreementRequest, progress: Progress | None = None) -> AgreementReport:
    """Compare a distilled model with its teacher on every tile; slides that were scored before are not scored again.

    Raises:
        UsageError: the model is not distilled, or the folder is another command's.
        ModelFileError: the model or the teacher cannot be used.
        ManifestError: a manifest cannot be used.
        SlideError: no slide can be compared.
        RunStoppedError: the device or the storage answers no more.
    """
    progress = progress or Progress()
    held_by_command(request.out, COMPARISON)
    device = choose_device(request.device)
    model = load_model(find_model(request.model))
    verdict = model.card.verdict
    if verdict is None:
        raise UsageError(f"--teacher: {model.card.name} was not distilled from a patch model, so it has no teacher")
    teacher = load_patch_model(request.teacher, trust_torchscript=request.trust_torchscript)
    if teacher.classes != verdict.teacher.classes:
        raise ModelFileError(
            f"{request.teacher}: has the classes {', '.join(teacher.classes)}, and the teacher of {model.card.name} "
            f"{', '.join(verdict.teacher.classes)}"
        )
    if teacher.digest != verdict.teacher.digest:
        raise ModelFileError(
            f"{request.teacher}: has other weights than the teacher that {model.card.name} was distilled from "
            f"(SHA-256 {teacher.digest[:12]}, not {verdict.teacher.digest[:12]}); give that one"
        )
    inputs = find_inputs(list(request.inputs), out=request.out, on_note=progress.note)
    refuse_limits(inputs, "tnet evaluate --teacher")
    readers = reader_threads(request.workers)
    engine = EngineOptions(device=device, batch_size=request.batch_size, readers=readers)
    directory = RunDirectory(request.out, COMPARISON)
    directory.make()
    with locked(directory):
        scores, failures = gather_scores(inputs, model, KeptReads(request.out / SCORES), engine, progress)
        rows: list[SlideAgreement] = []
        labelled: list[tuple[SlideAgreement, str | None]] = []
        for number, result in classify_slides(inputs, model, request.traversal, engine):
            progress.step(StepReport("model", len(rows) + 1, len(inputs), {}))
            if number not in scores:
                continue
            if result.score is None:
                failures.append((inputs[number].shown_path, result.error or "was not looked at"))
                continue
            row = compared(inputs[number], verdict, scores[number], replace(result, evidence=None))
            rows.append(row)
            labelled.append((row, inputs[number].label))
        if not rows:
            (path, problem), *_ = failures
            raise SlideError.saying(path, problem)
        found = agreement_of(rows, draws=request.bootstrap, seed=request.seed)
        record = write_agreement(request.out, found, rows, verdict)
        if (auroc := _auroc(labelled, model.card.network.class_names)) is not None:
            record |= {"auroc_of_labels": auroc}
            write_json(request.out / AGREEMENT, record)
    said = f"{model.card.name} {found.words(teacher.name)}; results: {request.out}"
    return AgreementReport(record, said, tuple(failures), len(inputs))


def _auroc(
    labelled: Sequence[tuple[SlideAgreement, str | None]], class_names: tuple[str, ...]
) -> dict[str, float | None] | None:
    """Return how well both scores tell the labels apart; None where labels do not name both classes."""
    known = [(row, label == class_names[1]) for row, label in labelled if label in class_names]
    truth = [positive for _, positive in known]
    if len(set(truth)) < len(class_names):
        return None
    return {
        "teacher": rounded(float(roc_auc_score(truth, [row.teacher_score for row, _ in known]))),
        "model": rounded(float(roc_auc_score(truth, [row.score for row, _ in known]))),
        "slides": len(known),
    }
