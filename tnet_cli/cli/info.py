"""``tnet info``: describe slides."""

from typing import Annotated

import typer

from tnet_cli.cli import options
from tnet_cli.cli.terminal import answer, answer_json, note
from tnet_cli.errors import raise_for_failed


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

    slides = describe_slides(paths, reader=reader, recursive=recursive, on_note=note)
    if as_json:
        answer_json({"slides": slides})
    else:
        for slide in slides:
            for name, value in slide.items():
                answer(f"{name}: {_as_text(value)}")
    raise_for_failed([(slide["path"], slide["error"]) for slide in slides if "error" in slide], len(slides))


def _as_text(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)
