"""What was measured of one arm on one slide, and what was asked."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ArmKind = Literal["tnet", "early", "random", "every-tile", "decode", "forward"]

ARMS: dict[ArmKind, str] = {
    "tnet": "the attended locations",
    "early": "best-first, until the answer stands still",
    "random": "as many at random",
    "every-tile": "every tissue tile at the finest resolution",
    "decode": "floor: decoding what was attended",
    "forward": "floor: the forward passes of what was attended",
}
"""Kind -> what it is, in words."""

FLOOR: tuple[ArmKind, ...] = ("decode", "forward")
"""What a traversal cannot do without; the slower of the two is the least it could take."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to look at a slide.

    Attributes:
        kind: One of ``ARMS``.
        budget: Locations in all; None for the model's default, and for every tile.
        stop_at: Of the stopping rule; for ``early`` alone.
    """

    kind: ArmKind
    budget: int | None = None
    stop_at: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One arm on one slide; everything here can be sent to another process.

    Attributes:
        arm: What is measured.
        slide: Path or address.
        model: The model file.
        device: Name of where the network runs.
        batch_size: Patches in one forward pass.
        readers: Threads that read and decode.
        rounds: How often it is done; the run of the median wall time is the one told of.
        mpp: Micrometres per pixel where the file does not say.
    """

    arm: Arm
    slide: str
    model: Path
    device: str
    batch_size: int
    readers: int
    rounds: int
    mpp: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one arm took on one slide; the process, torch and the weights were there before.

    Attributes:
        arm: One of ``ARMS``.
        budget: As asked.
        side_px: Square root of the slide's level-0 area.
        seconds: Wall time from opening the slide to the answer; for the floor that of its one thing.
        traversal_seconds: Of it, from the first region wanted to the answer.
        cpu_seconds: Processor time of all threads in ``seconds``.
        locations: Attended locations; tiles for every tile.
        forward_passes: Patches that went through the network.
        tiles_decoded: Tiles or strips of the file.
        pixels_read: Pixels decoded, whole tiles.
        fraction_read: These as a share of the level-0 pixels.
        bytes_read: Compressed bytes fetched; 0 where the reader does not tell.
        traversal_over: For the floor: how many times its wall time a traversal took that was done just before it, in
            the same process; the median of the rounds.
        peak_mb: Most resident memory of the process.
        over_torch_mb: Of it, what came after importing torch.
        prediction: The class called; for every tile by the mean of the tiles' probabilities.
        probability: Of that class.
    """

    arm: ArmKind
    budget: int | None
    side_px: float
    seconds: float
    traversal_seconds: float | None
    cpu_seconds: float
    locations: int
    forward_passes: int
    tiles_decoded: int
    pixels_read: int
    fraction_read: float
    bytes_read: int
    traversal_over: float | None = None
    peak_mb: float = 0.0
    over_torch_mb: float = 0.0
    prediction: str | None = None
    probability: float | None = None

    def document(self) -> dict[str, Any]:
        """Return it as it stands in the document of ``--json``."""
        return asdict(self)
