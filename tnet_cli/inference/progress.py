"""What a long run tells while it goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Not when the program starts: it brings numpy.
    from tnet_cli.results.result import SlideRow

VALIDATION = "validation "


@dataclass(frozen=True, slots=True)
class StepReport:
    """Metrics of some steps of training.

    Attributes:
        stage: Name of the stage; ``validation <stage>`` for metrics of the validation slides.
        step: Steps done in the stage.
        steps: Steps in the stage.
        terms: Mean of each term since the last report, by name.
    """

    stage: str
    step: int
    steps: int
    terms: dict[str, float]

    @property
    def is_validation(self) -> bool:
        """Whether the metrics are those of the validation slides."""
        return self.stage.startswith(VALIDATION)

    @property
    def trained_stage(self) -> str:
        """Name of the stage, also where it is validated."""
        return self.stage.removeprefix(VALIDATION)


class Progress:
    """Told of a run as it goes, and does nothing; whoever wants to know overrides what is of interest.

    Methods may be called many times a second, and ``reduce`` from several threads at once.
    """

    def note(self, text: str) -> None:
        """Take a sentence worth knowing: what was ignored, is given twice, or waited for."""

    def start(self, slides: int, introduction: str) -> None:
        """Take the number of slides to do, and which model it is and what it is for."""

    def slide_done(self, row: Mapping[str, Any]) -> None:
        """Take the row of a slide that has ended, as in ``predictions.csv``; what is kept of it is written."""

    def answer(self, row: "SlideRow", calibration: str, overlay: Path | None) -> None:
        """Take what a run says of a slide as soon as it is there, of those first that were done before.

        Args:
            calibration: How far its probability can be relied on, in a few words.
            overlay: Its file, or None where there is none.
        """

    def look(self, processing_level: int, patches: int) -> None:
        """Take that a batch went through the network: the processing level of its last patch, and how many."""

    def reduce(self, done: int, total: int) -> None:
        """Take how many rows of a slide without a pyramid are reduced, of how many."""

    def step(self, report: StepReport) -> None:
        """Take the metrics of some steps of training."""
