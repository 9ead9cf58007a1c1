"""The command ``tnet``: registers the commands and turns errors into a line and an exit code."""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tnet_cli.cli.bench import bench
from tnet_cli.cli.classify import classify
from tnet_cli.cli.demo import demo
from tnet_cli.cli.distill import distill
from tnet_cli.cli.evaluate import evaluate
from tnet_cli.cli.info import info
from tnet_cli.cli.models import models
from tnet_cli.cli.names import names
from tnet_cli.cli.synth import synth
from tnet_cli.cli.terminal import lenient_streams, note
from tnet_cli.cli.train import train
from tnet_cli.cli.view import view
from tnet_cli.errors import InterruptedRunError, RunStoppedError, TerminatedError, TnetError, printable
from tnet_cli.places import Place, scrubbed

_UsageError: type[Any] = typer.BadParameter.__base__ or typer.BadParameter
"""Of which ``BadParameter`` is the kind that typer shows."""


class _Commands(TyperGroup):
    """The commands; an interrupt that none of them has seen to is told in a sentence, and by which signal.

    What is said of a usage that is wrong holds what was given, but no secret of an address in it.
    """

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        self._given = places_in(args)
        with self._scrubbing():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        try:
            with self._scrubbing():
                return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            raise InterruptedRunError(exc, "what was finished is kept") from exc

    @contextmanager
    def _scrubbing(self) -> Iterator[None]:
        try:
            yield
        except _UsageError as exc:
            exc.message = printable(scrubbed(exc.message, *self._given), keep="\n")
            raise


def places_in(args: Sequence[str]) -> list[Place]:
    """Return what is given on a command line and may be an address, alone or as the value of an option."""
    return [Place(text) for arg in args for text in (arg, arg.partition("=")[2]) if text]


app = typer.Typer(
    cls=_Commands,
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
app.command()(distill)
app.command()(names)


def main(args: list[str] | None = None) -> None:
    """Run tnet with the given arguments, or those of the command line.

    SIGTERM, which batch systems send before they kill, and SIGHUP end a command as Ctrl-C does: each raises a
    ``TerminatedError`` in the main thread, which is a KeyboardInterrupt. What a command does on ``except
    KeyboardInterrupt`` or ``finally`` it therefore does for all three, and the ``InterruptedRunError`` that it makes of
    one has the exit code of its signal: 130, 143 or 129. A second signal interrupts what is done about the first.

    Raises:
        SystemExit: always; its code is the exit code.
    """
    # Before torch is imported: its threads, which wait for each other many times in each forward pass, else do so in a
    # loop, and keep a core from those that read and from other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What tifffile logs of damaged files, tnet says in a sentence of its own.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with lenient_streams() as answer_problem, _signals_interrupt() as received:
        code = _exit_code(args)
        problem = answer_problem()
        if problem is not None:
            note(f"tnet: the answer cannot be written to standard output: {problem.strerror or problem}")
            code = code or RunStoppedError.exit_code
    # By who does not want to wait for threads and workers to end well; and as a process of torchrun, since a thread of
    # its group may hold a tensor yet, and one that frees it while Python is taken down aborts the process.
    if args is None and (len(received) > 1 or "TORCHELASTIC_RUN_ID" in os.environ):
        os._exit(code)
    raise SystemExit(code)


def _exit_code(args: list[str] | None) -> int:
    try:
        app(args, prog_name="tnet")
    except SystemExit as end:
        return int(end.code or 0)
    except TnetError as error:
        note(f"tnet: {error}")
        return error.exit_code
    except Exception:  # noqa: BLE001  a bug, whose texts may hold an address
        said = scrubbed(traceback.format_exc(), *places_in(sys.argv[1:] if args is None else args))
        for line in said.rstrip().split("\n"):
            note(line)
        return 1
    return 0


@contextmanager
def _signals_interrupt() -> Iterator[list[int]]:
    """Have signals that ask the process to end raise in the main thread while the block runs.

    A signal that is ignored, as SIGHUP is under ``nohup``, stays so.

    Yields:
        What has been received.
    """
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError(number)

    earlier = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        earlier = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number, at in earlier.items() if at in {signal.SIG_DFL, signal.default_int_handler}]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, earlier[number])
