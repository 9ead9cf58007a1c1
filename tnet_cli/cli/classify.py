"""``tnet classify``: label slides, and show where the model looked."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tnet_cli import api
from tnet_cli.cli import options
from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, answer_json, note, slide_progress
from tnet_cli.inputs.options import TraversalOptions

if TYPE_CHECKING:
    from tnet_cli.results.result import SlideRow


@options.takes_traversal
def classify(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Slides, folders, patterns, URLs, manifests (.csv with a column 'slide')."
        ),
    ],
    *,
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")] = "tnet-out",
    model: options.Model = None,
    traversal: TraversalOptions,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Look only into the annotations of this GeoJSON, as QuPath exports it; for several slides a "
            "manifest's column 'roi'.",
            rich_help_panel=options.WHERE_TO_LOOK,
        ),
    ] = None,
    roi_class: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only those of this class.", rich_help_panel=options.WHERE_TO_LOOK),
    ] = None,
    per_roi: Annotated[
        bool,
        typer.Option(
            "--per-roi", help="A row for each of them, named SLIDE#REGION.", rich_help_panel=options.WHERE_TO_LOOK
        ),
    ] = False,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="PNG|GeoJSON",
            help="Where the tissue is, in place of what is found; for several slides a manifest's column 'mask'.",
            rich_help_panel=options.WHERE_TO_LOOK,
        ),
    ] = None,
    save_mask: Annotated[
        bool,
        typer.Option(
            "--save-mask", help="Write what could be looked at as mask.png.", rich_help_panel=options.WHERE_TO_LOOK
        ),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N|mps", help="Where the network runs; several, with commas, share the slides."
        ),
    ] = "auto",
    batch_size: options.BatchSize = 16,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=1, help="Threads that read and decode; with --cluster local, processes."),
    ] = None,
    answer_anyway: Annotated[
        bool,
        typer.Option("--answer-anyway", help="Also give answers that do not count; their status stays 'abstained'."),
    ] = False,
    patient_rule: options.PatientRule = None,
    hash_names: Annotated[
        str | None,
        typer.Option(
            metavar="KEYFILE",
            help="Write keyed hashes in place of names and paths of slides and patients; 'tnet names' has them back.",
        ),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Draw an overlay for each slide.")] = True,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the run on one page, report.html.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do everything again, in place of what is in the folder.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first slide that fails.")] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Search folders with all those below them.")
    ] = True,
    slide_timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Give up a slide that hangs for so long; 0 for never.")
    ] = 600,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|local", help="Share the slides among the workers of a Dask cluster, or of this machine."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")] = False,
) -> None:
    """Classify slides: label, probability and an overlay that shows where the model looked."""
    load("classification.run")

    def on_answer(row: "SlideRow", calibration: str, picture: Path | None) -> None:
        answer(describe(row, calibration, picture))

    with slide_progress(None if as_json else on_answer) as progress:
        run = api.classify(
            inputs,
            out=out,
            model=model,
            **asdict(traversal),
            roi=roi,
            roi_class=roi_class,
            per_roi=per_roi,
            mask=mask,
            save_mask=save_mask,
            device=device,
            batch_size=batch_size,
            workers=workers,
            answer_anyway=answer_anyway,
            patient_rule=patient_rule,
            hash_names=hash_names,
            overlay=overlay,
            report=report,
            overwrite=overwrite,
            fail_fast=fail_fast,
            recursive=recursive,
            slide_timeout_s=slide_timeout,
            cluster=cluster,
            progress=progress,
        )
    if as_json:
        answer_json({"run": run.record, "slides": [row.values for row in run.rows]})
    else:
        note(f"results: {out}; review them in {run.page}" if run.page else f"results: {out}")
    if run.skipped:
        note(f"{run.skipped} of {run.inputs} slides were done before and have not changed; they were skipped")
    if run.abstained:
        note(without_answer(run.abstained, len(run.rows)))
    run.raise_for_failures()


def describe(row: "SlideRow", calibration: str, overlay: Path | None) -> str:
    """Return the line of a slide's answer, or of why there is none.

    Args:
        calibration: How far the probability can be relied on.
    """
    said = row.values
    if not row.was_looked_at:
        return f"{said['slide']}: {said['error'] if row.status == 'no_tissue' else 'failed'}"
    parts = [f"NO ANSWER: {'; '.join(row.reasons)}"] if row.status == "abstained" else []
    if said["prediction"] is not None:
        asked = "asked for anyway, does not count: " if parts else ""
        parts.append(f"{asked}{said['prediction']}, probability {said['probability']:.3f} ({calibration})")
    if "score" in row.kept:
        parts.append(row.kept["score"])
    count = said["locations"]
    parts.append(f"{count} location{'' if count == 1 else 's'}, {share_read(said['fraction_read'])}")
    parts.append(f"{said['seconds']:.1f} s")
    if overlay:
        parts.append(f"overlay: {overlay}")
    return f"{said['slide']}: {'; '.join(parts)}"


def without_answer(abstained: int, slides: int) -> str:
    """Count the slides without an answer that counts, in a sentence."""
    return f"{abstained} of {slides} slide{'' if slides == 1 else 's'}: no answer that counts (status 'abstained')"


def share_read(fraction: float | None) -> str:
    """Say how much of a slide was read: per cent with two significant figures, or all of it."""
    if fraction is None or fraction >= 1:
        return "read whole"
    return f"{'> 99' if fraction >= 0.99 else f'{100 * fraction:.2g}'} % of the slide read"
