"""``tnet demo``: make a gigapixel slide and classify it, with nothing to download."""

from pathlib import Path
from typing import Annotated

import typer

from tnet_cli import api
from tnet_cli.cli.classify import describe
from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, counting, note, slide_progress
from tnet_cli.inputs.options import DEMO_MODEL


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the slide and the results.")] = Path("tnet-demo"),
    size: Annotated[int, typer.Option(min=4000, max=100_000, help="Side of the slide in pixels.")] = 38_730,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same slide.")] = 1,
) -> None:
    """Make a synthetic slide of 1.5 gigapixels, classify it with the bundled model of such slides, and draw it."""
    load("classification.run")
    from tnet_cli.synth.synthesis import write_synthetic_slide

    path = out / f"demo-{size}px-{seed}.tif"
    with counting(f"rendering a slide of {size} x {size} px") as rendering:
        made = write_synthetic_slide(path, seed=seed, side_px=size, label="lesion", on_progress=rendering)
    note(f"made {path}, whose true label is {made.label}")
    with slide_progress() as progress:
        report = api.classify(path, out=out, model=DEMO_MODEL, overwrite=True, progress=progress)
    answer(describe(report.rows[0], report.calibration, report.overlays[0]))
    report.raise_for_failures()
