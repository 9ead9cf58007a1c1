"""Options that several commands have, with one name, one range and one line of help."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from tnet_cli.errors import UsageError
from tnet_cli.inputs.options import DEFAULT_MODEL, MODEL_VARIABLE, TraversalOptions

WHERE_TO_LOOK = "Where to look"
"""Group of options in the help."""

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FILE|hf://owner/repo",
        help=f"Bundled model, model file or hub repository.  [default: ${MODEL_VARIABLE}, else {DEFAULT_MODEL}]",
    ),
]
Mpp = Annotated[
    float | None, typer.Option(help="Micrometres per pixel of the slides, in place of what their files say.")
]
Reader = Annotated[str | None, typer.Option(metavar="openslide|tifffile|pillow", help="Force a reader.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where the network runs.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Patches in one forward pass.")]
Workers = Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Threads that read and decode.")]


PatientRule = Annotated[
    str | None,
    typer.Option(
        metavar="max|mean",
        help="How slides make an answer for a patient, where a manifest names patients: the slide least like the "
        "model's first class, or the mean.  [default: max]",
    ),
]


def _traversal(
    locations: Annotated[
        str | None,
        typer.Option(metavar="K,K,...", help="Locations to attend at each processing level, coarse to fine."),
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Locations to attend in all.")] = None,
    stop_at: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="CHANGE",
            help="Attend the most probable locations first, and end before the budget when the probabilities move by "
            "less than this.",
        ),
    ] = None,
    mpp: Mpp = None,
    reader: Reader = None,
) -> TraversalOptions:
    return TraversalOptions(
        locations=whole_numbers("--locations", locations, example="8,16,16"),
        budget=budget,
        stop_at=stop_at,
        mpp=mpp,
        reader=reader,
    )


def takes_traversal(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a traversal, where its parameter ``traversal`` stands; it is handed that instead.

    So each of them is declared once, above, for every command that has them.
    """
    own, shared = inspect.signature(command).parameters, inspect.signature(_traversal).parameters
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.items()
        for each in (shared.values() if name == "traversal" else [parameter])
    ]

    @wraps(command)
    def run(**given: Any) -> None:
        chosen = _traversal(**{name: given.pop(name) for name in shared})
        command(traversal=chosen, **given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


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
