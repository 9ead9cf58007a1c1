"""``tnet demo``: make a gigapixel slide and classify it, with nothing to download."""

from pathlib import Path
from typing import Annotated

import typer

from tnet_cli import api
from tnet_cli.cli.classify import describe, without_answer
from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, counting, note, slide_progress
from tnet_cli.errors import UsageError
from tnet_cli.inputs.options import DEMO_MODEL


def demo(
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder for the slide and the results.")] = (
        "tnet-demo"
    ),
    size: Annotated[int, typer.Option(min=4000, max=100_000, help="Side of the slide in pixels.")] = 38_730,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same slide.")] = 1,
) -> None:
    """Make a synthetic slide of 1.5 gigapixels, classify it with the bundled model of such slides, and draw it."""
    load("classification.run")
    from tnet_cli.files import claim, path_given
    from tnet_cli.results.layout import RunDirectory
    from tnet_cli.synth.synthesis import folder_of_slides, write_synthetic_slide

    folder = path_given(out)
    if RunDirectory(folder).check() and _holds_other_slides(folder):
        raise UsageError(f"{folder}: holds results of slides that are no demo's; give another folder with --out")
    claim(folder, folder_of_slides("demo", "demo-[0-9]*px-[0-9]*"))
    path = folder / f"demo-{size}px-{seed}.tif"
    with counting(f"rendering a slide of {size} x {size} px") as rendering:
        made = write_synthetic_slide(path, seed=seed, side_px=size, label="lesion", on_progress=rendering)
    note(f"made {path}, whose true label is {made.label}")
    with slide_progress() as progress:
        report = api.classify(path, out=folder, model=DEMO_MODEL, overwrite=True, progress=progress)
    answer(describe(report.rows[0], report.calibration, report.overlays[0]))
    if report.abstained:
        note(without_answer(report.abstained, 1))
    report.raise_for_failures()


def _holds_other_slides(folder: Path) -> bool:
    """Whether the run in a folder has slides that no demo drew there."""
    from tnet_cli.results.reader import read_run

    try:
        paths = [Path(slide.path) for slide in read_run(folder).slides]
    except UsageError:  # an earlier demo was killed before there was anything to read
        return False
    return any(not path.name.startswith("demo-") or path.parent.resolve() != folder.resolve() for path in paths)
