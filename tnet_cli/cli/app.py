"""The command ``tnet``: registers the commands and turns errors into a line and an exit code."""

import logging
import sys
from typing import Annotated

import typer

from tnet_cli.cli.bench import bench
from tnet_cli.cli.classify import classify
from tnet_cli.cli.demo import demo
from tnet_cli.cli.evaluate import evaluate
from tnet_cli.cli.info import info
from tnet_cli.cli.models import models
from tnet_cli.cli.synth import synth
from tnet_cli.cli.train import train
from tnet_cli.cli.view import view
from tnet_cli.errors import TnetError

app = typer.Typer(
    name="tnet",
    help="Classify gigapixel images by reading only the regions that look informative.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: drawing it with boxes would cost as much as all the rest of starting up.
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from tnet_cli.errors import DISTRIBUTION

        typer.echo(f"tnet {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Classify gigapixel images by reading only the regions that look informative."""


app.command()(classify)
app.command()(evaluate)
app.command()(info)
app.command()(demo)
app.command()(synth)
app.command()(view)
app.add_typer(models)
app.command()(bench)
app.command()(train)


def main(args: list[str] | None = None) -> None:
    """Run tnet with the given arguments, or those of the command line.

    Raises:
        SystemExit: always; its code is the exit code.
    """
    # What tifffile logs of damaged files, tnet says in a sentence of its own.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        app(args, prog_name="tnet")
    except TnetError as error:
        sys.stderr.write(f"tnet: {error}\n")
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        sys.stderr.write("tnet: interrupted; what was finished is kept\n")
        raise SystemExit(130) from error
