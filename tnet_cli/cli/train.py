"""``tnet train``: from one CSV of labelled slides to a model file with its card."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tnet_cli import api
from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, answer_json, note
from tnet_cli.cli.training_progress import training_progress
from tnet_cli.errors import InterruptedRunError

if TYPE_CHECKING:
    from tnet_cli.training.run import TrainReport


def train(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST.csv", help="Columns slide, label and optionally patient, split, mpp, annotation."
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="RUN", help="Folder for the model and everything of the run.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE.toml", help="Tables [model], [training], [data], [card]; every run writes one."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Put one value over the file's; may be given often."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="tnet_small, a torchvision classifier, or timm:NAME.  [model.backbone]"),
    ] = None,
    finest: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET|FILE",
            help="Frozen encoder of the finest view: tnet models encoders.  [model.finest]",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Keep what frozen encoders see of slides here, for this run and others.  [training.features]",
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="All classes in the order of the model.  [data.classes]")
    ] = None,
    normal_class: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Class of what is not annotated; comes first.  [training.normal_class]"),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(metavar="K", help="Cross-validate: train K models, by patient.  [data.folds]")
    ] = None,
    validation_share: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="Share to validate on, where the manifest has no split.  [data.validation_share]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything random.  [training.seed]")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where the network runs.")] = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave slides out that cannot be read, with a line for each.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in the folder; otherwise it is continued.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a line.")] = False,
) -> None:
    """Train a model on labelled slides. The same command again goes on where it was interrupted."""
    load("training.run")
    try:
        with training_progress() as progress:
            report = api.train(
                manifest,
                out,
                config=config,
                overrides=overrides or (),
                seed=seed,
                device=device,
                backbone=backbone,
                finest=finest,
                features=features,
                classes=None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
                normal_class=normal_class,
                folds=folds,
                validation_share=validation_share,
                # Not given means: as the configuration says.
                skip_bad=skip_bad or None,
                overwrite=overwrite,
                progress=progress,
            )
    except KeyboardInterrupt as interrupted:
        how = f"run the same command again to go on from the last checkpoint in {out}"
        raise InterruptedRunError(interrupted, how) from interrupted
    if not report.speaks:
        return
    if report.was_done:
        note(f"{out} was done before; train into another folder, or again from the beginning with --overwrite")
    if as_json:
        answer_json({"run": report.record, "models": [str(path) for path in report.models]})
    else:
        answer(describe(report, out))


def describe(report: "TrainReport", out: str) -> str:
    """Return the line that ends a run: the model, and how good it was on its validation slides."""
    metrics = report.validation or {}
    is_one = len(report.models) == 1
    what = str(report.models[0]) if is_one else f"{len(report.models)} models in {out}/fold-*"
    if "accuracy" not in metrics:
        return f"{what}: no slides to validate on, so its accuracy is not known"
    low, high = metrics["Wilson 95 %"]
    kind = "validation" if is_one else "cross-validation"
    line = f"{what}: {kind} accuracy {metrics['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}"
    line += f", {metrics['slides'] - metrics['not classified']} slides)"
    if not is_one:
        mean, spread = metrics["mean of folds"], metrics["standard deviation of folds"]
        line += f"; mean of folds {mean:.3f}, standard deviation {spread:.3f}"
    return line
