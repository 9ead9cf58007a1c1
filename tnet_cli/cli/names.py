"""``tnet names``: the table of a run under hashed names, with the names again."""

from pathlib import Path
from typing import Annotated

import typer

from tnet_cli.cli.terminal import answer, note
from tnet_cli.errors import UsageError


def names(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run of 'tnet classify --hash-names'.")],
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="The same slides, folders or manifests as given to it.")
    ],
    hash_names: Annotated[
        Path | None,
        typer.Option("--hash-names", metavar="KEYFILE", help="The key of that run.", show_default=False),
    ] = None,
) -> None:
    """Print the predictions of a run under hashed names with the names of the slides, by its key."""
    from tnet_cli.files import table_text
    from tnet_cli.inputs.inputs import find_inputs
    from tnet_cli.inputs.pseudonyms import Pseudonyms
    from tnet_cli.results.names import table_with_names

    if hash_names is None:
        raise UsageError("tnet names needs the key of the run; give it with --hash-names KEYFILE")
    pseudonyms = Pseudonyms.read(hash_names)
    columns, rows, unknown = table_with_names(run, find_inputs(inputs, out=run, on_note=note), pseudonyms)
    for line in table_text(columns, rows).splitlines():
        answer(line)
    if unknown:
        note(f"{unknown} of {len(rows)} rows are of slides that are not among these inputs, or of another key")
