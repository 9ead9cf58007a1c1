"""What a user may say of how slides are read and traversed: held by every request, and by what names its results."""

from dataclasses import asdict, dataclass
from typing import Any


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
    """

    locations: tuple[int, ...] | None = None
    budget: int | None = None
    stop_at: float | None = None
    mpp: float | None = None
    reader: str | None = None

    def record(self, default_locations: tuple[int, ...]) -> dict[str, Any]:
        """Return what is written of them: name -> JSON value, the model's locations where none were given."""
        return asdict(self) | {"locations": list(self.locations or default_locations)}
