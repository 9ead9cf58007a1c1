"""Options that several commands have, with one name, one range and one line of help."""

from typing import Annotated, Any

import typer

from tnet_cli.errors import UsageError

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="NAME|FILE|hf://owner/repo", help="Bundled model, model file or hub repository."
    ),
]
Locations = Annotated[
    str | None,
    typer.Option(metavar="K,K,...", help="Locations to attend at each processing level, coarse to fine."),
]
Budget = Annotated[int | None, typer.Option(min=1, help="Locations to attend in all.")]
Mpp = Annotated[float | None, typer.Option(help="Micrometres per pixel of the slides, where the file does not say.")]
Reader = Annotated[str | None, typer.Option(metavar="openslide|tifffile|pillow", help="Force a reader.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where the network runs.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Patches in one forward pass.")]
Workers = Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Threads that read and decode.")]


def stop_at(does: str) -> Any:
    """Return the option ``--stop-at``; its line of help says what the command does with it."""
    return typer.Option(min=0, max=1, metavar="CHANGE", help=does)


def whole_numbers(option: str, text: str | None, *, example: str) -> tuple[int, ...] | None:
    """Read the whole numbers of an option, with commas between; None where it was not given.

    Raises:
        UsageError: the text is something else.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise UsageError(f"{option} {text}: expected whole numbers with commas between, such as {example}") from exc
