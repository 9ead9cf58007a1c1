"""What can go wrong for a user, each kind with its exit code.

TnetError                      1  anything tnet itself reports
├── UsageError                 2  options that cannot be followed
├── SlideError                 3  a slide cannot be opened or read, or lacks what is needed
│   ├── UnreadableRegionError  3  one region of an open slide cannot be decoded
│   ├── UnsupportedSlideError  3  one reader cannot decode the slide's pixels; another may
│   └── MissingMppError        3  the micrometres per pixel are unknown or implausible
├── ModelFileError             4  a model file is missing, damaged or of another architecture
├── ManifestError              5  a manifest or its labels are wrong
├── PartialFailureError        6  some slides failed, the others are done
│   └── RunStoppedError        6  a run had to stop; what was finished is kept
├── InterruptedRunError      130  a run was interrupted, by SIGTERM: 143; what was finished is kept
└── TrainingError              1  learning cannot go on: the loss is not finite, or memory does not suffice

TerminatedError, a KeyboardInterrupt and not a TnetError, is what other signals than that of Ctrl-C raise in a command.

A message names the file, what was found, what was expected and what to do. It is shown to the user as one line.
"""

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tnet_cli.places import Place, redacted, scrubbed

_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal would obey, or what would turn lines and their direction about: controls, not text."""


RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""A cell that begins with one of these is no text to a spreadsheet, but a formula, which may run a program."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with its control characters written out, as ``\u001b``: fit for one line of a terminal.

    Args:
        keep: Those that may stay, such as the ends of lines. In a JSON document the others then mean the same.
    """
    return _UNSHOWABLE.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def holds_controls(text: str, *, allowed: str = "") -> bool:
    """Tell a text that cannot be shown as it is."""
    return any(found[0] not in allowed for found in _UNSHOWABLE.finditer(text))


DISTRIBUTION = "tnet-cli"
"""The name on the package index, where ``tnet`` is another project."""


def install_hint(extra: str) -> str:
    """Say how an optional part of tnet is installed."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


class TnetError(Exception):
    """An error that is shown to the user as one sentence: without a traceback, and without secrets of addresses."""

    exit_code = 1

    def __init__(self, sentence: str) -> None:
        super().__init__(scrubbed(sentence))


class SlideError(TnetError):
    """A slide that cannot be opened or read, or that lacks a property that is needed."""

    exit_code = 3

    def __init__(self, path: str | Path | Place, problem: str) -> None:
        self.path = redacted(path)
        super().__init__(f"{self.path}: {problem}")
        self.problem = scrubbed(problem)

    @classmethod
    def saying(cls, path: str | Path | Place, sentence: str) -> Self:
        """Return the error of a slide whose sentence is whole already, as a row of a table has it."""
        error = cls(path, "")
        error.args = (scrubbed(sentence),)
        return error


class UnreadableRegionError(SlideError):
    """One region of a slide that is open cannot be decoded."""


class UnsupportedSlideError(SlideError):
    """One reader cannot decode the slide's pixels; another may."""


class MissingMppError(SlideError):
    """The slide's micrometres per pixel are unknown or implausible."""


class ModelFileError(TnetError):
    """A model file that is missing, damaged, or of another architecture than expected."""

    exit_code = 4


class ManifestError(TnetError):
    """A manifest, or the labels in it, that cannot be used."""

    exit_code = 5


class PartialFailureError(TnetError):
    """Some slides of a run failed; the others are done and both are listed."""

    exit_code = 6


class RunStoppedError(PartialFailureError):
    """A run that cannot go on, because the disk is full or the device is lost; what was finished is kept."""


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end by another signal than that of Ctrl-C, SIGTERM or SIGHUP.

    Whoever ends well on Ctrl-C ends as well on these, by the same ``except KeyboardInterrupt``.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


class InterruptedRunError(TnetError):
    """A run that was interrupted; what was finished is kept. Raise it from the interrupt.

    Args:
        interrupt: By Ctrl-C, or a ``TerminatedError``; the exit code is 128 and the number of its signal.
        said: What is kept, and how to go on.
    """

    def __init__(self, interrupt: KeyboardInterrupt, said: str) -> None:
        by = interrupt.signal if isinstance(interrupt, TerminatedError) else signal.SIGINT
        super().__init__(f"{'interrupted' if by == signal.SIGINT else f'ended by {by.name}'}; {said}")
        self.exit_code = 128 + by


class UsageError(TnetError):
    """Options that cannot be followed: an unknown device, an output folder that holds another run."""

    exit_code = 2


class TrainingError(TnetError):
    """Training that cannot go on: the loss is not finite any more, or memory does not suffice."""


NAMED = 5
"""Failed slides that an error names; more are for a file."""


def raise_for_failed(failed: Sequence[tuple[str, str]], slides: int, *, file: str | None = None) -> None:
    """Turn failed slides into the error whose exit code says so; none of them is no error.

    Args:
        failed: Path and sentence of each.
        slides: How many slides there were.
        file: Lists all of them; without it the error names them all.

    Raises:
        SlideError: the only slide failed.
        PartialFailureError: some of several slides failed.
    """
    if not failed:
        return
    if slides == 1:
        raise SlideError.saying(*failed[0])
    count = NAMED if file else len(failed)
    named = "; ".join(sentence for _, sentence in failed[:count])
    more = f"; and {len(failed) - count} more, see {file}" if len(failed) > count else ""
    raise PartialFailureError(f"{len(failed)} of {slides} slides failed: {named}{more}")
