"""``tnet evaluate``: say how good a model is on labelled slides, and how sure that is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tnet_cli import api
from tnet_cli.cli import options
from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, answer_json, slide_progress
from tnet_cli.cli.training_progress import training_progress
from tnet_cli.errors import UsageError
from tnet_cli.inputs.options import TraversalOptions, named_model
from tnet_cli.places import Place


@options.takes_traversal
def evaluate(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST.csv",
            help="Columns slide, label; perhaps patient, split, annotation, mpp. With --teacher any INPUT of classify.",
            readable=False,  # said in the sentence of manifests, with their exit code
        ),
    ],
    *,
    model: options.Model = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|hf://owner/repo|MODEL",
            help="Judge a distilled model by its teacher on every tile instead of by labels.",
        ),
    ] = None,
    trust_torchscript: Annotated[
        bool, typer.Option("--trust-torchscript", help="Run a teacher that is a TorchScript program.")
    ] = False,
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")] = "tnet-evaluation",
    arms: Annotated[
        str,
        typer.Option(
            metavar="tnet,random,coarse,exhaustive",
            help="What to look at, with the same weights; the first is judged in full; --stop-at holds for tnet.",
        ),
    ] = "tnet",
    traversal: TraversalOptions,
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
            help="Fit probabilities, and what slides have an answer, on this split; store it in a new model file.",
        ),
    ] = None,
    save_model: Annotated[
        str | None, typer.Option(metavar="FILE", help="That model file.  [default: model.safetensors in --out]")
    ] = None,
    patient_rule: options.PatientRule = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws for the intervals; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and of random locations.")] = 0,
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
    wanted_budgets = options.whole_numbers("--budgets", budgets, example="24,48,96") or ()
    if any(number < 1 for number in wanted_budgets):
        raise UsageError(f"--budgets {budgets}: a budget is at least 1")
    if teacher is not None:
        named = {"--budgets": budgets, "--split": split, "--calibrate": calibrate, "--save-model": save_model}
        named |= {"--patient-rule": patient_rule}
        named |= {"--arms": None if arms == "tnet" else arms, "--overwrite": "given" if overwrite else None}
        if given := [option for option, value in named.items() if value is not None]:
            raise UsageError(f"{given[0]}: is for judging by labels, and does not go with --teacher")
        _compare(
            *(manifest, model, teacher, out, traversal),
            trust_torchscript=trust_torchscript,
            bootstrap=bootstrap,
            seed=seed,
            device=device,
            batch_size=batch_size,
            workers=workers,
            as_json=as_json,
        )
        return
    load("evaluation.run")
    with slide_progress() as progress:
        report = api.evaluate(
            manifest,
            model,
            out=out,
            arms=[arm.strip() for arm in arms.split(",")],
            **asdict(traversal),
            budgets=wanted_budgets,
            split=split,
            calibrate=calibrate,
            save_model=save_model,
            patient_rule=patient_rule,
            bootstrap=bootstrap,
            seed=seed,
            device=device,
            batch_size=batch_size,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        answer_json(report.record)
    else:
        answer(report.line())
    report.raise_for_failures()


def _compare(
    inputs: Path,
    model: str | None,
    teacher: str,
    out: str,
    traversal: TraversalOptions,
    *,
    as_json: bool,
    **engine: Any,
) -> None:
    """Compare a distilled model with its teacher."""
    load("evaluation.agreement")
    from tnet_cli.evaluation.agreement import AgreementRequest, run_agreement
    from tnet_cli.files import path_given

    request = AgreementRequest(
        inputs=[Place(str(inputs))],
        model=named_model(model),
        teacher=teacher,
        out=path_given(out),
        traversal=traversal,
        **engine,
    )
    with training_progress() as progress:
        report = run_agreement(request, progress)
    if as_json:
        answer_json(report.record)
    else:
        answer(report.said)
    report.raise_for_failures()
