"""What tnet says of one slide, and the row of the table it becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tnet_cli.files import rounded
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.slide.slide import Doubt

Status = Literal["ok", "failed", "no_tissue"]
Qc = Literal["out_of_domain"]


@dataclass(frozen=True, slots=True, eq=False)
class SlideEvidence:
    """What the network saw of a slide; for its pictures and for calibration, and not kept in any table.

    Attributes:
        thumbnail: uint8 (H, W, 3), the whole slide.
        patches: uint8 (H, W, 3) for each of the result's regions; none where they were not kept.
        features: Processing level -> float32 (N, D), of every region looked at there.
    """

    thumbnail: np.ndarray
    patches: tuple[np.ndarray, ...] = ()
    features: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideResult:
    """The outcome for one input, whatever it was.

    Attributes:
        slide: Name of the slide's folder of results: the file's name without suffix.
        path: As the user gave it.
        status: ``ok``, ``failed`` or ``no_tissue``.
        class_names: The model's classes, in its order.
        prediction: The class that was called, or None.
        probability: Its probability.
        probabilities: One for each class.
        logits: The network's own outputs, before temperature and softmax.
        locations: Attended locations, roots not included.
        pixels_read: Every pixel decoded from the file, thumbnail and whole tiles included.
        fraction_read: ``pixels_read`` over the level-0 pixels.
        error: One sentence when the slide failed.
        notes: Plain sentences the user should know of.
        doubts: What the reader of the slide had to assume or could not check; their sentences are among ``notes``.
        qc: ``out_of_domain`` where the slide is not of the kind the model knows; None else.
        warning: The sentence that goes with ``qc``; one of ``notes``.
        regions: Every region looked at, coarsest first.
        fingerprint: What the slide's content was known by before it was read; None where nobody could tell.
        evidence: What was seen of a slide that was classified; None once it has been drawn.
    """

    slide: str
    path: str
    status: Status
    class_names: tuple[str, ...]
    prediction: str | None = None
    probability: float | None = None
    probabilities: tuple[float, ...] = ()
    logits: tuple[float, ...] = ()
    size: Size | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    reader: str | None = None
    roots: int = 0
    locations: int = 0
    pixels_read: int = 0
    bytes_read: int = 0
    fraction_read: float | None = None
    seconds: float = 0.0
    error: str | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    qc: Qc | None = None
    warning: str | None = None
    regions: tuple[AttendedRegion, ...] = ()
    bounds: Region | None = None
    fingerprint: Fingerprint | None = None
    evidence: SlideEvidence | None = None

    def row(self) -> dict[str, Any]:
        """Return the slide's row of ``predictions.csv``: column -> value, None where there is nothing to say."""
        probabilities = self.probabilities or (None,) * len(self.class_names)
        return {
            "slide": self.slide,
            "path": self.path,
            "status": self.status,
            "prediction": self.prediction,
            "probability": rounded(self.probability),
            **{f"prob_{name}": rounded(p) for name, p in zip(self.class_names, probabilities, strict=True)},
            "mpp": self.mpp,
            "mpp_source": self.mpp_source,
            "reader": self.reader,
            "roots": self.roots,
            "locations": self.locations,
            "pixels_read": self.pixels_read,
            "fraction_read": rounded(self.fraction_read),
            "seconds": round(self.seconds, 3),
            "error": self.error,
            "qc": self.qc,
        }


@dataclass(frozen=True, slots=True)
class SlideRow:
    """What is kept of a slide while the run goes on.

    Attributes:
        values: The slide's row of ``predictions.csv``.
        notes: Plain sentences the user should know of.
        files: Bytes of each file in the slide's folder, by name.
    """

    values: dict[str, Any]
    notes: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """``ok``, ``failed`` or ``no_tissue``."""
        return str(self.values["status"])

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to try."""
        return self.status != "failed"


def prediction_columns(class_names: Sequence[str]) -> list[str]:
    """Return the columns of ``predictions.csv`` for a model's classes."""
    return list(SlideResult(slide="", path="", status="failed", class_names=tuple(class_names)).row())


def region_row(attended: AttendedRegion, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return a region's row of ``regions.csv``; boxes in level-0 pixels."""
    box = attended.region
    return {
        "minx": box.x,
        "miny": box.y,
        "width": box.width,
        "height": box.height,
        "processing_level": attended.processing_level,
        "mpp": rounded(attended.mpp),
        "location_probability": rounded(attended.location_probability),
        "path_probability": rounded(attended.path_probability),
        "weight": rounded(attended.weight),
        **{f"prob_{name}": rounded(p) for name, p in zip(class_names, attended.class_probabilities, strict=True)},
    }
