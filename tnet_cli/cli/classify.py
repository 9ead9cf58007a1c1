"""``tnet classify``: label slides, and show where the model looked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tnet_cli.cli.terminal import answer, answer_json, note, slide_progress
from tnet_cli.errors import UsageError

if TYPE_CHECKING:
    from tnet_cli.pipeline.result import SlideResult


def classify(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Slides, folders, patterns, URLs, manifests (.csv with a column 'slide')."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("tnet-out"),
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME|FILE|hf://owner/repo", help="Bundled model, model file or hub repository."
        ),
    ] = "synthetic-demo",
    locations: Annotated[
        str | None,
        typer.Option(metavar="K,K,...", help="Locations to attend at each processing level, coarse to fine."),
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Locations to attend in all.")] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of the slides, where the file does not say.")
    ] = None,
    reader: Annotated[str | None, typer.Option(metavar="openslide|tifffile|pillow", help="Force a reader.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where the network runs.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Patches in one forward pass.")] = 16,
    workers: Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Threads that read and decode.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Draw an overlay for each slide.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the table of another run in the folder.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first slide that fails.")] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Search folders with all those below them.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")] = False,
) -> None:
    """Classify slides: label, probability and an overlay that shows where the model looked."""
    from tnet_cli.pipeline.classify_run import RunEvents, RunRequest, run_classify

    request = RunRequest(
        inputs=inputs,
        out=out,
        model=model,
        locations=_numbers(locations),
        budget=budget,
        mpp=mpp,
        reader=reader,
        device=device,
        batch_size=batch_size,
        workers=workers,
        overlay=overlay,
        overwrite=overwrite,
        fail_fast=fail_fast,
        recursive=recursive,
    )
    with slide_progress() as progress:
        report = run_classify(
            request,
            RunEvents(
                on_note=progress.note,
                on_start=progress.start,
                on_slide=lambda _result, _overlay: progress.slide_done(),
                on_look=progress.look,
                on_reduce=progress.reduce,
            ),
        )
    if as_json:
        answer_json({"run": report.record, "slides": [result.row() for result in report.results]})
    else:
        for result, picture in zip(report.results, report.overlays, strict=True):
            answer(describe(result, picture))
            for line in result.notes:
                note(f"{result.slide}: {line}")
        note(f"results: {out}")
    report.raise_for_failures()


def describe(result: "SlideResult", overlay: Path | None) -> str:
    """Return the line of a slide's answer."""
    if result.status == "no_tissue":
        return f"{result.slide}: no tissue found"
    if result.status == "failed" or result.probability is None:
        return f"{result.slide}: failed"
    line = (
        f"{result.slide}: {result.prediction}, probability {result.probability:.3f}; "
        f"{result.locations} locations, {percent(result.fraction_read or 0)} of the slide read, {result.seconds:.1f} s"
    )
    return f"{line}; overlay: {overlay}" if overlay else line


def percent(fraction: float) -> str:
    """Write a fraction as per cent with two significant figures."""
    return f"{100 * fraction:.2g} %" if fraction < 0.995 else f"{100 * fraction:.0f} %"


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise UsageError(f"--locations {text}: expected whole numbers with commas between, such as 8,16,16") from exc
