"""A whole run of ``tnet distill``: slides and a teacher in, a model file out, with how well both agree."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tnet_cli.distillation.architecture import (
    SAMPLE_SHARE,
    card_of,
    class_names_for,
    distilled_config,
    distilled_network,
)
from tnet_cli.distillation.folder import (
    CHECKPOINTS,
    DISTILLATION,
    PATCHES,
    SCORES,
    DistillRequest,
    now,
    opened_folder,
    write_splits,
)
from tnet_cli.distillation.targets import coarse_patches
from tnet_cli.distillation.train import learn_responses
from tnet_cli.distillation.verdicts import CALL_AT, fit_logistic, rule_of
from tnet_cli.errors import SlideError, UsageError, raise_for_failed
from tnet_cli.files import held_by_command, read_record, write_json
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.device import choose_device, reader_threads, usable_cores
from tnet_cli.inference.limits import LevelFeatures, fit_domain, fit_sharpness
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inference.trust import slide_sharpness
from tnet_cli.inference.verdict import responses_of, values_of
from tnet_cli.inputs.inputs import SlideInput, find_inputs
from tnet_cli.inputs.roi import refuse_limits
from tnet_cli.learning.agreement import AGREEMENT, compared, write_agreement
from tnet_cli.learning.kept import KeptReads, key_of
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.teacher_scores import TeacherScores, gather_scores, scores_key, teacher_score
from tnet_cli.metrics.agreement import agreement_of
from tnet_cli.metrics.bootstrap import patient_or_slide
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import MODEL_FILE, ModelCard, TrainingData, Verdict, card_name
from tnet_cli.modelfile.encoders import FoundEncoder, encoder_from
from tnet_cli.modelfile.modelfile import LoadedModel, copy_model, load_model, save_model
from tnet_cli.modelfile.zoo import UNKNOWN_LICENCE, PatchModel, load_patch_model
from tnet_cli.results.layout import RUN_RECORD
from tnet_cli.results.result import SlideResult

AGREEMENT_SHARE = 0.2
"""Of the patients, those whose slides are kept apart to say how well the model agrees."""

FEWEST_SLIDES = 2


@dataclass(frozen=True, slots=True)
class DistillReport:
    """What became of a distillation.

    Attributes:
        record: What ``run.json`` holds.
        agreement: On the slides that were kept apart; None where there are none.
        failures: Path and sentence of each slide that could not be used.
        slides: How many there were.
        was_done: Whether an earlier run had ended.
    """

    record: dict[str, Any]
    model: Path
    agreement: dict[str, Any] | None
    failures: tuple[tuple[str, str], ...]
    slides: int
    was_done: bool = False

    def line(self) -> str:
        """Return the answer in one line."""
        return f"{self.model}: {self.record.get('said') or 'no slides were kept apart, so its agreement is not known'}"

    def raise_for_failures(self) -> None:
        """Turn slides that could not be used into an error as ``errors.raise_for_failed`` does."""
        raise_for_failed(list(self.failures), self.slides, file=RUN_RECORD)


def run_distill(request: DistillRequest, progress: Progress | None = None) -> DistillReport:
    """Distil a teacher into a model that reads little; the same command goes on where it was interrupted.

    Raises:
        UsageError: an option cannot be followed, or the folder holds another run.
        ModelFileError: the teacher cannot be used.
        ManifestError: a manifest cannot be used.
        SlideError: no slide can be used.
        TrainingError: the loss is not finite any more, or memory does not suffice.
        RunStoppedError: the device or the storage answers no more.
    """
    progress = progress or Progress()
    request.check()
    held_by_command(request.out, DISTILLATION)
    device = choose_device(request.device)
    teacher = load_patch_model(request.teacher, trust_torchscript=request.trust_torchscript)
    for sentence in _warnings(teacher):
        progress.note(sentence)
    targets = request.targets or (teacher.classes[-1:] if len(teacher.classes) <= 2 else ())
    class_names = class_names_for(teacher, targets)
    rule, k = rule_of(request.rule)
    drawn = 0 if rule == "top" else round(SAMPLE_SHARE * request.locations)
    finder = None if request.finder is None else encoder_from(request.finder, (0,))
    config = distilled_config(teacher, class_names, request.locations - drawn, finder)
    call_at = request.call_at if request.call_at is not None else CALL_AT[rule]
    verdict = Verdict.model_validate(
        {"rule": rule, "k": k, "threshold": request.threshold, "targets": targets, "call_at": call_at}
        | {"slope": 1.0, "intercept": 0.0, "sample": drawn, "teacher": teacher.card()}
    )
    inputs = find_inputs(list(request.inputs), out=request.out, on_note=progress.note)
    refuse_limits(inputs, "tnet distill")
    if len(inputs) < FEWEST_SLIDES:
        raise UsageError(f"{len(inputs)} slide is too few to learn from; give at least {FEWEST_SLIDES}")
    with opened_folder(request, config, verdict, inputs) as (record, was_done):
        if was_done:
            failures = tuple((path, said) for path, said in record.get("failed", {}).items())
            agreement = read_record(request.out / AGREEMENT) or None
            return DistillReport(record, request.out / MODEL_FILE, agreement, failures, len(inputs), was_done=True)
        return _Distillation(request, teacher, finder, config, verdict, inputs, device, progress).run(record)


def _warnings(teacher: PatchModel) -> list[str]:
    if teacher.forbids_derived_models:
        said = f"the licence of {teacher.name} ({teacher.licence}) forbids models that are made of it or learn from it"
        return [f"{said}; distil it only if its owner allows that"]
    if teacher.licence == UNKNOWN_LICENCE:
        return [f"{teacher.name} states no licence; whether a model may learn from it you must know yourself"]
    return []


@dataclass(frozen=True, slots=True)
class _Looked:
    """A slide that the distilled model has looked at, without the pixels it has seen."""

    result: SlideResult
    features: LevelFeatures
    sharpness: float | None


@dataclass(frozen=True, slots=True)
class _Distillation:
    """One run under way; attributes as of ``run_distill``."""

    request: DistillRequest
    teacher: PatchModel
    finder: FoundEncoder | None
    config: TNetConfig
    verdict: Verdict
    inputs: Sequence[SlideInput]
    device: torch.device
    progress: Progress

    def run(self, record: dict[str, Any]) -> DistillReport:
        """Score, learn, fit, compare and write."""
        out, request = self.request.out, self.request
        torch.set_num_threads(usable_cores())
        torch.manual_seed(request.seed)
        network = distilled_network(self.config, self.teacher, self.finder)
        provisional = self._card(self.verdict, ())
        kept_apart = _kept_apart(self.inputs, request.seed)
        write_splits(out, self.inputs, kept_apart)
        write_json(out / RUN_RECORD, record)
        # A copy, since what looks fast has its normalisation folded away.
        model = LoadedModel(deepcopy(network).eval(), provisional, self.verdict.teacher.digest, out / MODEL_FILE)
        kept = KeptReads(out / SCORES)
        # Those kept apart are scored whole, to be compared with.
        shares = [1.0 if number in kept_apart else request.score for number in range(len(self.inputs))]
        scores, failures = gather_scores(
            self.inputs, model, kept, self._engine, self.progress, shares=shares, seed=request.seed
        )
        learn_from = [position for position in scores if position not in kept_apart]
        if not learn_from:
            (path, problem), *_ = failures
            raise SlideError.saying(path, problem)
        keys = self._patches(scores, learn_from)
        settings = TrainingSettings(seed=request.seed, rounds=0, hard_epochs=0, readers=reader_threads(request.workers))
        learn_responses(
            network,
            keys,
            KeptReads(out / PATCHES),
            settings,
            steps=request.steps,
            pretrained=self.finder is not None,
            run_digest=key_of(record["identity"], keys),
            folder=out / CHECKPOINTS,
            device=self.device,
            progress=self.progress,
        )
        # Written before it is measured: what has cost a night is not lost to a bad slide.
        save_model(network.cpu(), provisional, out / MODEL_FILE)
        agreement = self._finish(scores, learn_from, sorted(kept_apart & scores.keys()), record)
        record |= {"finished": now(), "failed": dict(failures)}
        write_json(out / RUN_RECORD, record)
        KeptReads(out / PATCHES).clear()
        return DistillReport(record, out / MODEL_FILE, agreement, tuple(failures), len(self.inputs))

    @property
    def _engine(self) -> EngineOptions:
        readers = reader_threads(self.request.workers)
        return EngineOptions(device=self.device, batch_size=self.request.batch_size, readers=readers)

    def _patches(self, scores: dict[int, TeacherScores], positions: Sequence[int]) -> list[str]:
        """Read what the coarse encoders learn from, unless it is kept; return its keys."""
        kept, keys = KeptReads(self.request.out / PATCHES), []
        for number, position in enumerate(positions, start=1):
            entry, found = self.inputs[position], scores[position]
            known = scores_key(entry, self.config, self.verdict.teacher.digest, self.request.score, self.request.seed)
            asked = [self.verdict.rule, self.verdict.threshold, self.verdict.targets]
            key = key_of("patches", known or now(), asked, self.request.seed, position)
            if kept.get(key, leave_out=("pixels",)) is None:
                responses = responses_of(self.verdict, found.probabilities)
                rng = np.random.default_rng([self.request.seed, position])
                values = values_of(self.verdict, responses)
                kept.put(key, coarse_patches(entry, self.config, found, responses, values, rng))
            keys.append(key)
            self.progress.step(StepReport("coarse patches", number, len(positions), {}))
        return keys

    def _finish(
        self, scores: dict[int, TeacherScores], learn_from: Sequence[int], apart: Sequence[int], record: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Fit verdict and limits on the slides that were learnt from, compare on the others, and write the model."""
        out = self.request.out
        model = load_model(out / MODEL_FILE)
        results = self._results(model, [*learn_from, *apart])
        fitted = [number for number in learn_from if number in results]
        said = [results[number].result.score for number in fitted]
        called = [teacher_score(self.verdict, scores[number]) >= self.verdict.call_at for number in fitted]
        slope, intercept, was_fitted = fit_logistic(
            [each.value for each in said if each is not None], called, self.verdict.call_at
        )
        verdict = self.verdict.model_copy(update={"slope": slope, "intercept": intercept})
        card = self._card(verdict, _LIMITS if was_fitted else (_NOT_FITTED, *_LIMITS))
        domain = fit_domain([results[number].features for number in fitted], self.config.processing_levels - 1)
        sharpness = [sharp for number in fitted if (sharp := results[number].sharpness) is not None]
        update: dict[str, Any] = {"least_sharpness": fit_sharpness(sharpness)}
        update |= {} if domain is None else {"domain": domain[1]}
        card = card.model_copy(update=update)
        rows = [
            compared(self.inputs[number], verdict, scores[number], _judged_again(results[number].result, verdict))
            for number in apart
            if number in results
        ]
        agreement = None
        if rows:
            found = agreement_of(rows, seed=self.request.seed)
            agreement = write_agreement(out, found, rows, verdict)
            record["said"] = found.words(verdict.teacher.name)
            card = card.model_copy(update={"metrics": {"agreement with the teacher": agreement}})
        copy_model(out / MODEL_FILE, card, out / MODEL_FILE, domain=() if domain is None else domain[0])
        return agreement

    def _results(self, model: LoadedModel, positions: Sequence[int]) -> dict[int, _Looked]:
        """Look at slides with the model; return the results of those that could be judged."""
        found: dict[int, _Looked] = {}
        entries = [self.inputs[position] for position in positions]
        for done, (number, result) in enumerate(classify_slides(entries, model, engine=self._engine), start=1):
            if result.score is not None and result.evidence is not None:
                features, sharp = result.evidence.features, slide_sharpness(result, self.config)
                # Without its patches, of which a thousand slides would fill the memory.
                found[positions[number]] = _Looked(replace(result, evidence=None), features, sharp)
            self.progress.step(StepReport("agreement", done, len(entries), {}))
        return found

    def _card(self, verdict: Verdict, limits: tuple[str, ...]) -> ModelCard:
        request = self.request
        card = card_of(
            card_name(request.out.resolve().name, "distilled"),
            self.config,
            verdict,
            licence=request.licence or f"that of its teacher: {self.teacher.licence}",
            limits=limits,
        )
        data = TrainingData(
            name=f"scores of {self.teacher.name}",
            licence=self.teacher.licence,
            description=f"{len(self.inputs)} slides, seed {request.seed}. {self.teacher.attribution}".strip(),
        )
        return card.model_copy(update={"training_data": (data,)})


_NOT_FITTED = "Nearly all of its training slides have the same verdict, so its probabilities are not fitted to any."
_LIMITS = (
    "It says what its teacher would say, with that one's mistakes, and misses what lies where it does not look.",
    "How well it agrees was measured on slides from the same source as those it learnt from; others may fare worse.",
)


def _judged_again(result: SlideResult, verdict: Verdict) -> SlideResult:
    """Return a result with the logits of a verdict that was fitted after it was made."""
    score = result.score
    if score is None:
        return result
    return replace(result, logits=(0.0, verdict.slope * score.value + verdict.intercept))


def _kept_apart(inputs: Sequence[SlideInput], seed: int) -> set[int]:
    """Choose the slides that are compared at the end: all of some patients, at least one where there are three."""
    groups: dict[str, list[int]] = {}
    for number, entry in enumerate(inputs):
        groups.setdefault(patient_or_slide(entry.patient, entry.name), []).append(number)
    names = sorted(groups)
    count = max(1, round(AGREEMENT_SHARE * len(names))) if len(names) > FEWEST_SLIDES else 0
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    return {number for index in chosen for number in groups[names[index]]}
