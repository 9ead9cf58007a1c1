"""A whole run of ``tnet train``: a manifest in, a folder with a model, its card, curves and figures out."""

import csv
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import DISTRIBUTION, UsageError
from tnet_cli.files import write_json, write_text_whole
from tnet_cli.inference.device import choose_device, describe_machine, usable_cores
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.modelfile import load_model, save_model
from tnet_cli.training import folder as run_folder
from tnet_cli.training.config_file import ConfigTables, TrainConfig
from tnet_cli.training.curves import draw_curves
from tnet_cli.training.fitting import VALIDATION_STAGE, Fitting, StepReport, fit
from tnet_cli.training.folder import TrainingFolder
from tnet_cli.training.manifest import TrainingManifest
from tnet_cli.training.measurement import folds_table, pooled_metrics, validate
from tnet_cli.training.metrics_log import MetricsLog
from tnet_cli.training.splits import DataSplit, fold_slides, fold_table, split_slides, split_table
from tnet_cli.training.training_card import training_card


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
    classes: tuple[str, ...] | None = None
    normal_class: str | None = None
    folds: int | None = None
    validation_share: float | None = None
    skip_bad: bool | None = None
    overwrite: bool = False

    def tables(self) -> ConfigTables:
        """Read the configuration and put the options over it.

        Raises:
            UsageError: it cannot be followed.
        """
        return ConfigTables.read(
            self.config,
            self.overrides,
            {
                "training.seed": self.seed,
                "training.normal_class": self.normal_class,
                "model.backbone": self.backbone,
                "data.classes": self.classes,
                "data.folds": self.folds,
                "data.validation_share": self.validation_share,
                "data.skip_bad": self.skip_bad,
            },
        )


def _nobody(_text: str) -> None:
    """Take a sentence that nobody wants to hear."""


def _no_step(_report: StepReport) -> None:
    """Take a report that nobody wants to hear."""


@dataclass(frozen=True, slots=True)
class TrainEvents:
    """What a run tells while it goes.

    Attributes:
        on_step: Figures of some steps.
        on_note: One sentence the user should know: what is trained on, a slide left out, a resumed run.
    """

    on_step: Callable[[StepReport], None] = _no_step
    on_note: Callable[[str], None] = _nobody


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What became of a run.

    Attributes:
        record: What ``run.json`` holds.
        models: The model file, or one for each fold.
        validation: Figures of the validation slides, all folds together; None when there were none.
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
    """What all folds of a run share."""

    request: TrainRequest
    config: TrainConfig
    manifest: TrainingManifest
    device: torch.device
    events: TrainEvents
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
            | {
                "gpu": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
            },
            "classes": list(self.manifest.class_names),
            "slides": split,
            "notes": list(notes),
        }


def run_train(request: TrainRequest, events: TrainEvents | None = None) -> TrainReport:
    """Train as asked, and go on where an interrupted run of the same command stopped.

    Args:
        request: The options.
        events: Who wants to know how it goes.

    Raises:
        UsageError: the options or the configuration cannot be followed, or the folder holds another run.
        ManifestError: the manifest cannot be used.
        SlideError: a slide cannot be read.
        ModelFileError: pretrained weights cannot be used.
    """
    tables = request.tables()
    device = choose_device(request.device)
    manifest = TrainingManifest.read(request.manifest, tables.data.classes, tables.training.normal_class)
    config = tables.complete(manifest.class_names, on_gpu=device.type == "cuda")
    _check_network(config)
    run = _Run(request, config, manifest, device, events or TrainEvents())
    folder = TrainingFolder(request.out)
    if config.data.folds is not None:
        splits = fold_slides(manifest, folds=config.data.folds, seed=config.split_seed)
    else:
        share = config.data.validation_share
        splits = (split_slides(manifest, validation_share=share, seed=config.split_seed),)
    if run.writes:
        # Nothing of an earlier run is replaced before everything that can be checked has been.
        if request.overwrite:
            folder.clear()
        folder.check(config, manifest.digest)
    torch.set_num_threads(usable_cores())
    name = request.out.resolve().name
    return _train_one(run, folder, splits[0], name) if len(splits) == 1 else _train_folds(run, folder, splits, name)


def _check_network(config: TrainConfig) -> None:
    """Build the network once, to name what is wrong with it before any slide is read."""
    try:
        TNet(config.network)
    except ValueError as exc:
        raise UsageError(f"[model] {exc}") from exc


def _train_folds(run: _Run, folder: TrainingFolder, splits: Sequence[DataSplit], name: str) -> TrainReport:
    was_done = folder.is_done
    record = run.record({"folds": len(splits)} | run.manifest.count(), [])
    record = folder.record() if folder.has_begun else record
    if run.writes and not was_done:
        folder.begin(run.config, fold_table(splits), record)
    # A fold by itself is a run without folds.
    alone = replace(run, config=replace(run.config, data=run.config.data.model_copy(update={"folds": None})))
    reports = []
    for number, split in enumerate(splits, start=1):
        part = folder.fold(number)
        if run.writes:
            run.events.on_note(f"fold {number} of {len(splits)}")
            part.check(alone.config, run.manifest.digest)
        reports.append(_train_one(alone, part, split, f"{name}-fold-{number}"))
    models = tuple(report.models[0] for report in reports)
    if was_done and all(report.was_done for report in reports):
        return TrainReport(record, models, record.get("validation"), was_done=True, speaks=run.writes)
    if not run.writes:
        return TrainReport(record, models, None, speaks=False)
    figures = [report.validation or {} for report in reports]
    measured = [pair for number in range(1, len(splits) + 1) for pair in _measured(folder.fold(number))]
    validation = pooled_metrics(figures, measured, run.manifest.class_names)
    record |= {"finished": _now(), "validation": validation}
    write_text_whole(folder.path / run_folder.FOLDS, folds_table(figures))
    write_json(folder.path / run_folder.RECORD, record)
    return TrainReport(record, models, validation)


def _measured(folder: TrainingFolder) -> list[tuple[str, str]]:
    """Return label and prediction of a fold's validation slides."""
    with (folder.path / run_folder.VALIDATION).open(newline="", encoding="utf-8") as file:
        return [(row["label"], row["prediction"]) for row in csv.DictReader(file) if row["status"] == "ok"]


def _train_one(run: _Run, folder: TrainingFolder, split: DataSplit, name: str) -> TrainReport:
    """Train one model into a folder, or say what is there when that is done."""
    model_path = folder.path / run_folder.MODEL
    record = folder.record()
    # Another process than the first may find the record of a run that the first is about to replace.
    if folder.is_done and model_path.exists() and (run.writes or not run.request.overwrite):
        return TrainReport(record, (model_path,), record.get("validation"), was_done=True, speaks=run.writes)
    notes = [*split.notes, *_advice(run, split)]
    fresh = run.record({key: run.manifest.count(getattr(split, key)) for key in ("train", "validation", "test")}, notes)
    record = record | {"resumed": [*record.get("resumed", []), fresh["started"]]} if folder.has_begun else fresh
    if run.writes:
        for sentence in (_description(run, split), *notes):
            run.events.on_note(sentence)
        folder.begin(run.config, split_table(split), record)
    network = _fit(run, folder, split, name)
    if not run.writes:
        return TrainReport(record, (model_path,), None, speaks=False)
    # Written before it is measured: what has cost a night is not lost to a bad validation slide.
    save_model(network, training_card(name, run.config, network.config, run.manifest, split, None), model_path)
    figures = None
    if split.validation:
        validation = validate(load_model(model_path), split.validation, run.device)
        write_text_whole(folder.path / run_folder.VALIDATION, validation.table())
        figures = validation.metrics()
        card = training_card(name, run.config, network.config, run.manifest, split, figures)
        save_model(network, card, model_path)
    record |= {"finished": _now(), "validation": figures}
    write_json(folder.path / run_folder.RECORD, record)
    return TrainReport(record, (model_path,), figures)


def _fit(run: _Run, folder: TrainingFolder, split: DataSplit, name: str) -> TNet:
    fitting = Fitting(
        slides=[slide.entry for slide in split.train],
        validation=[slide.entry for slide in split.validation],
        network=run.config.network,
        settings=run.config.training,
        checkpoints=folder.path / run_folder.CHECKPOINTS,
        device=run.device,
        skip_bad=run.config.data.skip_bad,
    )
    if not run.writes:
        return fit(fitting, _no_step, run.events.on_note)
    with closing(MetricsLog(folder.path / run_folder.METRICS, folder.path / run_folder.BOARD)) as log:
        recorder = _Recorder(log, folder.path / run_folder.CURVES, name, run.events.on_step)
        network = fit(fitting, recorder.step, run.events.on_note)
        recorder.draw()
    return network


@dataclass(slots=True)
class _Recorder:
    """Writes every report down, and draws the curves after each stage."""

    log: MetricsLog
    curves: Path
    title: str
    on_step: Callable[[StepReport], None]
    stage: str | None = None

    def step(self, report: StepReport) -> None:
        """Take a report."""
        stage = report.stage.removeprefix(VALIDATION_STAGE)
        if self.stage not in {None, stage}:
            self.draw()
        self.stage = stage
        self.log.add(report)
        self.on_step(report)

    def draw(self) -> None:
        """Draw what has been reported."""
        draw_curves(self.log.reports(), self.curves, self.title)


def _description(run: _Run, split: DataSplit) -> str:
    def counted(part: str) -> str:
        slides = getattr(split, part)
        counts = ", ".join(f"{count} {label}" for label, count in run.manifest.count(slides).items())
        return f"{len(slides)} slides for {'training' if part == 'train' else part} ({counts})"

    parts = [counted(part) for part in ("train", "validation", "test") if getattr(split, part)]
    return f"{'; '.join(parts)}; {run.config.network.backbone} on {run.device}"


def _advice(run: _Run, split: DataSplit) -> list[str]:
    """Say what will probably make training fail to learn."""
    annotated = any(slide.entry.annotation is not None for slide in split.train)
    if annotated and run.config.training.normal_class is None:
        advice = (
            "there are annotations but no normal class, so tissue outside of them teaches nothing; "
            "name the class of what is not annotated with --normal-class"
        )
        return [advice]
    return []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
