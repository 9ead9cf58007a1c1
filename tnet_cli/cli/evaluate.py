"""``tnet evaluate``: say how good a model is on labelled slides, and how sure that is."""

from pathlib import Path
from typing import Annotated

import typer

from tnet_cli.cli import options
from tnet_cli.cli.loading import loading
from tnet_cli.cli.terminal import answer, answer_json, slide_progress
from tnet_cli.errors import UsageError


def evaluate(
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST.csv", help="Columns slide, label; perhaps patient, split, annotation, mpp."),
    ],
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("tnet-evaluation"),
    arms: Annotated[
        str,
        typer.Option(
            metavar="tnet,random,coarse,exhaustive",
            help="What to look at, with the same weights; the first is judged in full.",
        ),
    ] = "tnet",
    locations: options.Locations = None,
    budget: options.Budget = None,
    stop_at: Annotated[
        float | None,
        options.stop_at(
            "Arm tnet attends the most probable locations first, and ends when the probabilities move by less."
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Budgets of a curve of accuracy against locations, run in one pass."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Rows to judge, by the manifest's column split; 'all' for all.  [default: test, if there are splits]"
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Fit temperature and decision threshold on this split, and store them in a new model file.",
        ),
    ] = None,
    save_model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="That model file.  [default: model.safetensors in --out]")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws for the intervals; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and of random locations.")] = 0,
    mpp: options.Mpp = None,
    reader: options.Reader = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 16,
    workers: options.Workers = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the results of an earlier evaluation.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print metrics.json and run.json as one document instead of a line.")
    ] = False,
) -> None:
    """Evaluate a model on labelled slides: metrics with intervals, tables and plots."""
    # What is wrong in the options is said before the heavy imports.
    wanted_locations = options.whole_numbers("--locations", locations, example="8,16,16")
    wanted_budgets = tuple(sorted(set(options.whole_numbers("--budgets", budgets, example="8,16,16") or ())))
    if any(number < 1 for number in wanted_budgets):
        raise UsageError(f"--budgets {budgets}: a budget is at least 1")

    with loading():
        from tnet_cli.evaluation.arms import parse_arms
        from tnet_cli.evaluation.request import EvaluateEvents, EvaluateRequest
        from tnet_cli.evaluation.run import run_evaluation

    request = EvaluateRequest(
        manifest=manifest,
        model=model,
        out=out,
        arms=parse_arms(arms),
        locations=wanted_locations,
        budget=budget,
        stop_at=stop_at,
        budgets=wanted_budgets,
        split=split,
        calibrate=calibrate,
        save_model=save_model,
        bootstrap=bootstrap,
        seed=seed,
        mpp=mpp,
        reader=reader,
        device=device,
        batch_size=batch_size,
        workers=workers,
        overwrite=overwrite,
    )
    with slide_progress() as progress:
        report = run_evaluation(
            request,
            EvaluateEvents(
                on_note=progress.note,
                on_start=progress.start,
                on_slide=lambda _slide: progress.slide_done(),
                on_look=progress.look,
                on_reduce=progress.reduce,
            ),
        )
    if as_json:
        answer_json(report.document)
    else:
        answer(report.line())
    report.raise_for_failures()
