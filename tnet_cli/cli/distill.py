"""``tnet distill``: from a patch model that a lab trusts to a model that says the same from one or two per cent."""

from typing import Annotated

import typer

from tnet_cli.cli import options
from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, answer_json, note
from tnet_cli.cli.training_progress import training_progress
from tnet_cli.errors import InterruptedRunError
from tnet_cli.places import Place


def distill(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Slides, folders, patterns, URLs, manifests; no labels are needed."),
    ],
    *,
    teacher: Annotated[
        str,
        typer.Option(
            metavar="DIR|hf://owner/repo|MODEL",
            help="Patch model: a folder of the WSInfer zoo's kind, the same on the hub, or a model of tnet.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="RUN", help="Folder for the model and all of the run.")],
    target: Annotated[
        str | None,
        typer.Option(metavar="CLASS,...", help="The teacher's classes that are sought.  [default: its last of two]"),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            metavar="top:K|area|mean",
            help="A slide's score: mean of the K highest responses, share of tissue above --threshold, mean response.",
        ),
    ] = "top:10",
    threshold: Annotated[float, typer.Option(metavar="P", help="From here a patch is positive, for area.")] = 0.5,
    call_at: Annotated[
        float | None,
        typer.Option(
            metavar="S", help="Score from which the teacher calls a slide.  [default: top 0.5, area 0.01, mean 0.05]"
        ),
    ] = None,
    score: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the training slides' tissue that the teacher scores.")
    ] = 1.0,
    locations: Annotated[
        int, typer.Option(min=2, help="Patches of the teacher that are looked at on a slide, random ones included.")
    ] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 600,
    finder: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET|FILE",
            help="Encoder that begins to look for places: as for tnet train --finest, with a map.  "
            "[default: a small one, at random]",
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Of the model.  [default: that of its teacher]")
    ] = None,
    trust_torchscript: Annotated[
        bool,
        typer.Option("--trust-torchscript", help="Run a teacher that is a TorchScript program, whatever it does."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 16,
    workers: options.Workers = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in the folder; otherwise it is continued.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a line.")] = False,
) -> None:
    """Distil a patch model you trust: its verdict on a slide, from one or two per cent of the slide's pixels."""
    load("distillation.run")
    from tnet_cli.distillation.folder import DistillRequest
    from tnet_cli.distillation.run import run_distill
    from tnet_cli.files import path_given

    request = DistillRequest(
        inputs=[Place(each) for each in inputs],
        teacher=teacher,
        out=path_given(out),
        targets=tuple(name.strip() for name in (target or "").split(",") if name.strip()),
        rule=rule,
        threshold=threshold,
        call_at=call_at,
        score=score,
        locations=locations,
        steps=steps,
        finder=finder,
        licence=licence,
        trust_torchscript=trust_torchscript,
        seed=seed,
        device=device,
        batch_size=batch_size,
        workers=workers,
        overwrite=overwrite,
    )
    try:
        with training_progress() as progress:
            report = run_distill(request, progress)
    except KeyboardInterrupt as interrupted:
        how = f"what was scored and learnt is kept; run the same command again to go on with it in {out}"
        raise InterruptedRunError(interrupted, how) from interrupted
    if report.was_done:
        note(f"{out} was done before; give another folder, or begin again with --overwrite")
    if as_json:
        answer_json({"run": report.record, "model": str(report.model), "agreement": report.agreement})
    else:
        answer(report.line())
    report.raise_for_failures()
