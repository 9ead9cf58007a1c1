"""``tnet synth``: make labelled slides that look like H&E, to try tnet and to train on."""

from typing import Annotated

import typer

from tnet_cli.cli.terminal import answer, counting


def synth(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder for the slides and labels.csv.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of slides.")],
    size: Annotated[int, typer.Option(min=2000, max=100_000, help="Side of a slide in pixels.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same slides.")] = 0,
    mpp: Annotated[float, typer.Option(min=0.2, max=1.0, help="Micrometres per pixel.")] = 0.5,
    workers: Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Processes that render.")] = None,
) -> None:
    """Make synthetic H&E-like slides with labels.csv and the lesions' outlines as GeoJSON."""
    from tnet_cli.files import path_given
    from tnet_cli.synth.synthesis import synthesize

    folder = path_given(directory, "DIR")
    with counting("rendering slides") as progress:
        slides = synthesize(
            folder, count=count, side_px=size, seed=seed, mpp=mpp, workers=workers, on_progress=progress
        )
    answer(f"{len(slides)} slides and labels.csv in {directory}")
