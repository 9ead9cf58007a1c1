"""``tnet view``: look at a run in the browser, and zoom into its slides."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tnet_cli.cli.terminal import answer, note


def view(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run of tnet classify.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
) -> None:
    """Serve a run's folder to the browser on this machine: the review, and deep zoom with the attended boxes."""
    import webbrowser

    from tnet_cli.files import temporary_file
    from tnet_cli.viewer.server import leading_to, run_server

    with run_server(directory, port=port) as server, temporary_file(leading_to(server.address), suffix=".html") as page:
        answer(server.address)
        sys.stdout.flush()
        note("Ctrl-C ends it; the link shows the run to whoever has it")
        # By way of a file that only this user reads: everybody on a machine sees how a browser was started.
        if browser and not webbrowser.open(page.as_uri()):
            note("no browser could be opened; open the address yourself")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            # The way such a server is ended: nothing was cut short.
            note("ended")
