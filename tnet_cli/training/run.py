"""A whole run of ``tnet train``: a manifest in, a folder with a model, its card, curves and metrics out."""

import csv
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import DISTRIBUTION, RunStoppedError, UsageError, printable
from tnet_cli.files import held_by_command, write_json, write_text_whole
from tnet_cli.inference.device import choose_device, describe_machine, usable_cores
from tnet_cli.inference.progress import Progress
from tnet_cli.learning.distributed import own_device, process_group
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import MODEL_FILE, ModelCard, TrainingData, card_name
from tnet_cli.modelfile.modelfile import load_model, save_model
from tnet_cli.modelfile.presets import PRESETS
from tnet_cli.results.layout import RUN_RECORD
from tnet_cli.training.config_file import ConfigTables, TrainConfig
from tnet_cli.training.folder import CHECKPOINTS, FOLDS, TRAINING, VALIDATION, TrainingFolder
from tnet_cli.training.manifest import TrainingManifest
from tnet_cli.training.metrics_log import MetricsLog
from tnet_cli.training.splits import DataSplit, fold_slides, fold_table, split_slides, split_table
from tnet_cli.training.train import train
from tnet_cli.training.validation import folds_table, pooled_metrics, validate

FitFunction = Callable[..., TNet]
"""Trains one model; arguments and result as of ``training.train.train``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What the user asked of ``tnet train``; the fields are its options, None where one was not given."""

    manifest: Path
    out: Path
    config: Path | None = None
    overrides: Sequence[str] = ()
    seed: int | None = None
    device: str = "auto"
    backbone: str | None = None
    finest: str | None = None
    features: str | None = None
    classes: tuple[str, ...] | None = None
    normal_class: str | None = None
    folds: int | None = None
    validation_share: float | None = None
    skip_bad: bool | None = None
    overwrite: bool = False

    def over_the_configuration(self) -> dict[str, Any]:
        """Return the options that are keys of the configuration too."""
        training, data = ("seed", "normal_class", "features"), ("classes", "folds", "validation_share", "skip_bad")
        options = {f"training.{name}": getattr(self, name) for name in training}
        options |= {f"data.{name}": getattr(self, name) for name in data}
        return options | {f"model.{name}": getattr(self, name) for name in ("backbone", "finest")}


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What became of a run.

    Attributes:
        record: What ``run.json`` holds.
        models: One, or one for each fold.
        validation: Metrics of the validation slides, all folds together; None when there were none.
        was_done: Whether everything was done before, by the same command.
        speaks: Whether this process is the one that wrote; of several under torchrun only the first is.
    """

    record: dict[str, Any]
    models: tuple[Path, ...]
    validation: dict[str, Any] | None
    was_done: bool = False
    speaks: bool = True


@dataclass(frozen=True, slots=True)
class _Run:
    """What all folds of a run share; attributes as of ``run_train``."""

    request: TrainRequest
    config: TrainConfig
    manifest: TrainingManifest
    device: torch.device
    progress: Progress
    fit: FitFunction
    # Of several processes under torchrun, the first writes; the others only compute.
    writes: bool = field(default_factory=lambda: os.environ.get("RANK", "0") == "0")

    def record(self, split: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
        """Return what ``run.json`` says before the first step."""
        return {
            "version": version(DISTRIBUTION),
            "started": _now(),
            "finished": None,
            "manifest": {"path": str(self.request.manifest), "digest": self.manifest.digest},
            "settings": self.config.digest,
            "options": {"device": str(self.device), "skip_bad": self.config.data.skip_bad},
            "machine": describe_machine()
            | {"gpu": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None},
            "classes": list(self.manifest.class_names),
            "slides": split,
            "notes": list(notes),
        }


def run_train(request: TrainRequest, progress: Progress | None = None, *, fit: FitFunction = train) -> TrainReport:
    """Train as asked, and go on where an interrupted run of the same command stopped.

    Args:
        progress: Told what is trained on, of slides left out, of a resumed run, and of steps.
        fit: Trains one model.

    Raises:
        UsageError: the options or the configuration cannot be followed, or the folder holds another run.
        ManifestError: the manifest cannot be used.
        SlideError: a slide cannot be read.
        ModelFileError: pretrained weights cannot be used.
        RunStoppedError: the disk is full, or the folder cannot be written to any more.
    """
    held_by_command(request.out, TRAINING)
    tables = ConfigTables.read(request.config, request.overrides, request.over_the_configuration())
    device = choose_device(request.device)
    progress = progress or Progress()
    manifest = TrainingManifest.read(
        request.manifest, tables.data.classes, tables.training.normal_class, on_note=progress.note
    )
    config = tables.complete(manifest.class_names, on_gpu=device.type == "cuda")
    try:
        TNet(config.network)  # names what is wrong with it before any slide is read
    except ValueError as exc:
        raise UsageError(f"[model] {exc}") from exc
    folder, data, seed = TrainingFolder(request.out), config.data, config.split_seed
    manifest = folder.named_as_before(manifest)
    run = _Run(request, config, manifest, device, progress, fit)
    if data.folds is not None:
        splits = fold_slides(manifest, folds=data.folds, seed=seed)
    else:
        splits = (split_slides(manifest, validation_share=data.validation_share, seed=seed),)
    if run.writes:
        # Nothing of an earlier run is replaced before everything that can be checked has been.
        if request.overwrite:
            folder.clear()
        folder.check(config, manifest.digest)
    torch.set_num_threads(usable_cores())
    name = request.out.resolve().name
    try:
        if len(splits) == 1:
            return _train_one(run, folder, splits[0], name)
        # One group for all folds: the same processes joining again can meet what is left of the group before, and hang.
        with process_group(own_device(device)):
            return _train_folds(run, folder, splits, name)
    except OSError as exc:
        raise RunStoppedError(
            f"{exc.filename or request.out}: cannot be written or read: {exc.strerror or exc}; what was finished is "
            "kept, and the same command goes on with it"
        ) from exc


def _train_folds(run: _Run, folder: TrainingFolder, splits: Sequence[DataSplit], name: str) -> TrainReport:
    was_done = folder.is_done
    record = run.record({"folds": len(splits)} | run.manifest.count(), [])
    record = folder.record() if folder.has_begun else record
    if run.writes and not was_done:
        folder.begin(run.config, run.manifest, fold_table(splits), record)
    # A fold by itself is a run without folds.
    alone = replace(run, config=replace(run.config, data=run.config.data.model_copy(update={"folds": None})))
    reports = []
    for number, split in enumerate(splits, start=1):
        part = folder.fold(number)
        if run.writes:
            run.progress.note(f"fold {number} of {len(splits)}")
            part.check(alone.config, run.manifest.digest)
        reports.append(_train_one(alone, part, split, f"{name}-fold-{number}"))
    models = tuple(report.models[0] for report in reports)
    if was_done and all(report.was_done for report in reports):
        return TrainReport(record, models, record.get("validation"), was_done=True, speaks=run.writes)
    if not run.writes:
        return TrainReport(record, models, None, speaks=False)
    metrics, judged = [report.validation or {} for report in reports], []
    for model in models:
        with model.with_name(VALIDATION).open(newline="", encoding="utf-8") as file:
            judged += [(row["label"], row["prediction"]) for row in csv.DictReader(file) if row["status"] == "ok"]
    validation = pooled_metrics(metrics, judged, run.manifest.class_names)
    record |= {"finished": _now(), "validation": validation}
    write_text_whole(folder.path / FOLDS, folds_table(metrics))
    write_json(folder.path / RUN_RECORD, record)
    return TrainReport(record, models, validation)


def _train_one(run: _Run, folder: TrainingFolder, split: DataSplit, name: str) -> TrainReport:
    """Train one model into a folder, or say what is there when that is done."""
    model_path = folder.path / MODEL_FILE
    record = folder.record()
    # Another process than the first may find the record of a run that the first is about to replace.
    if folder.is_done and model_path.exists() and (run.writes or not run.request.overwrite):
        return TrainReport(record, (model_path,), record.get("validation"), was_done=True, speaks=run.writes)
    notes = [*split.notes, *_advice(run, split)]
    fresh = run.record({part: run.manifest.count(slides) for part, slides in split.parts.items()}, notes)
    record = record | {"resumed": [*record.get("resumed", []), fresh["started"]]} if folder.has_begun else fresh
    if run.writes:
        for sentence in (_description(run, split), *notes):
            run.progress.note(sentence)
        folder.begin(run.config, run.manifest, split_table(split), record)
    network = _fit(run, folder, split, name)
    if not run.writes:
        return TrainReport(record, (model_path,), None, speaks=False)
    # Written before it is measured: what has cost a night is not lost to a bad validation slide.
    save_model(network, _card(run, split, name, None), model_path)
    metrics = None
    if split.validation:
        validation = validate(load_model(model_path), split.validation, run.device)
        write_text_whole(folder.path / VALIDATION, validation.table())
        metrics = validation.metrics()
        save_model(network, _card(run, split, name, metrics), model_path)
    record |= {"finished": _now(), "validation": metrics}
    write_json(folder.path / RUN_RECORD, record)
    return TrainReport(record, (model_path,), metrics)


def _fit(run: _Run, folder: TrainingFolder, split: DataSplit, name: str) -> TNet:
    fit = partial(
        run.fit,
        [slide.entry for slide in split.train],
        run.config.network,
        run.config.training,
        validation=[slide.entry for slide in split.validation],
        folder=folder.path / CHECKPOINTS,
        device=run.device,
        skip_bad=run.config.data.skip_bad,
    )
    if not run.writes:
        return fit(progress=run.progress)
    with closing(MetricsLog(folder.path, name, run.progress)) as log:
        network = fit(progress=log)
        log.draw()
    return network


def _description(run: _Run, split: DataSplit) -> str:
    texts = []
    for part, slides in split.parts.items():
        counts = ", ".join(f"{count} {label}" for label, count in run.manifest.count(slides).items())
        if slides:
            texts.append(f"{len(slides)} slides for {'training' if part == 'train' else part} ({counts})")
    return f"{'; '.join(texts)}; {run.config.network.backbone} on {run.device}"


def _advice(run: _Run, split: DataSplit) -> list[str]:
    """Say what will probably make training fail to learn."""
    if run.config.training.normal_class is not None or not any(slide.entry.annotation for slide in split.train):
        return []
    advice = (
        "there are annotations but no normal class, so tissue outside of them teaches nothing; "
        "name the class of what is not annotated with --normal-class"
    )
    return [advice]


def _card(run: _Run, split: DataSplit, name: str, validation: dict[str, Any] | None) -> ModelCard:
    """Say what a model is, what it has learnt from, and how good it was on its validation slides."""
    config, manifest, card = run.config, run.manifest, run.config.card
    classes = config.network.class_names
    counts = ", ".join(f"{count} {label}" for label, count in manifest.count(split.train).items())
    patients = len({slide.entry.patient for slide in split.train if slide.entry.patient})
    whose = f" of {patients} patients" if patients else ""
    annotated = sum(slide.entry.annotation is not None for slide in split.train)
    description = (
        f"{len(split.train)} slides{whose} ({counts})"
        f"{f', {annotated} of them with annotations' if annotated else ''}; "
        f"manifest digest {manifest.digest[:12]}, settings digest {config.digest[:12]}, seed {config.training.seed}."
    )
    data = [TrainingData(name=printable(manifest.path.name), licence=card.data_licence, description=description)]
    if (source := config.training.finest_weights) is not None:
        terms = PRESETS[source].licence if source in PRESETS else "as its owner states"
        own = "Weights of the finest view, frozen; the model file holds them."
        data.append(TrainingData(name=printable(source), licence=terms, description=own))
    return ModelCard(
        name=card.name or card_name(name, "model"),
        summary=card.summary or f"Tells slides of {len(classes)} classes apart: {', '.join(classes)}.",
        intended_use=card.intended_use,
        limits=(*_limits(split, validation), *card.limits),
        licence=card.licence,
        training_data=tuple(data),
        metrics={"validation": validation} if validation else {},
        created=datetime.now(UTC).date(),
        package_version=version(DISTRIBUTION),
        network=config.network,
    )


def _limits(split: DataSplit, validation: dict[str, Any] | None) -> tuple[str, ...]:
    if validation is None or "accuracy" not in validation:
        return ("No slides were set aside to measure it on: nothing is known of how good it is.",)
    measured = (
        f"Measured on {validation['slides']} slides from the same manifest as those it was trained on; "
        "slides of other scanners, stainings or hospitals may fare worse."
    )
    limits = [measured]
    if validation["patients"] < validation["slides"]:
        limits.append("Some patients have several validation slides, so the interval is narrower than it should be.")
    if split.test:
        limits.append(f"The manifest's {len(split.test)} test slides were neither trained nor measured on.")
    return tuple(limits)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
