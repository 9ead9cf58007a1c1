"""``tnet info``: describe slides."""

from typing import Annotated

import typer

from tnet_cli.cli import options
from tnet_cli.cli.terminal import answer, answer_json, note


def info(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Slides, folders, patterns, manifests.")],
    reader: options.Reader = None,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Search folders with all those below them.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Describe slides: size, scale, pyramid levels, reader, associated images."""
    from tnet_cli.inputs.describe import describe_slides

    report = describe_slides(paths, reader=reader, recursive=recursive, on_note=note)
    if as_json:
        answer_json({"slides": report.descriptions})
    else:
        for description in report.descriptions:
            for name, value in description.items():
                answer(f"{name}: {_as_text(value)}")
    report.raise_for_failures()


def _as_text(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)
