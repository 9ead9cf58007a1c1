"""What a user may say of how slides are read and traversed: held by every request, and by what names its results."""

import os
from dataclasses import asdict, dataclass
from typing import Any

from tnet_cli.errors import UsageError

DEFAULT_MODEL = "colorectal-neoplasia"
"""The bundled model of real tissue, which is taken where none is named."""

DEMO_MODEL = "synthetic-demo"
"""The bundled model of synthetic slides; its answer for any other slide does not count."""

MODEL_VARIABLE = "TNET_MODEL"


def named_model(name: object | None) -> str:
    """Return the model that a user names; where none is named that of ``TNET_MODEL``, else the bundled one."""
    return str(name or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraversalOptions:
    """How slides are read and traversed; with the model and the slide itself, all that a result depends on.

    Attributes:
        locations: Attended locations for each processing level after the first; None for the model's default.
        budget: Attended locations in all, shared out as the model's default is; excludes ``locations``.
        stop_at: Attend the most probable locations of any processing level first, and end when no class's probability
            moves by as much any more (``inference.stopping``); None for the traversal of the paper.
        mpp: Micrometres per pixel of every slide, in place of what its file says; a manifest's column comes first.
        reader: Forces a slide backend.

    Raises:
        UsageError: a number is out of its range.
    """

    locations: tuple[int, ...] | None = None
    budget: int | None = None
    stop_at: float | None = None
    mpp: float | None = None
    reader: str | None = None

    def __post_init__(self) -> None:
        at_least(1, budget=self.budget)
        at_least(0, stop_at=self.stop_at)
        if self.stop_at is not None and self.stop_at > 1:
            raise UsageError(f"--stop-at {self.stop_at:g}: expected a change of probability, from 0 to 1")

    def record(self, default_locations: tuple[int, ...]) -> dict[str, Any]:
        """Return what is written of them: name -> JSON value, the model's locations where none were given."""
        return asdict(self) | {"locations": list(self.locations or default_locations)}


def at_least(least: int, **options: float | None) -> None:
    """Refuse options that are given and too small.

    Raises:
        UsageError: one is.
    """
    for name, value in options.items():
        if value is not None and not value >= least:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: expected at least {least}")
