"""What a long run tells while it goes."""


class Progress:
    """Told of a run as it goes, and does nothing; whoever wants to know overrides what is of interest.

    Methods may be called many times a second.
    """

    def note(self, text: str) -> None:
        """Take a sentence worth knowing: what was ignored, is given twice, or waited for."""

    def start(self, slides: int, introduction: str) -> None:
        """Take the number of slides to do, and which model it is and what it is for."""

    def slide_done(self) -> None:
        """Take that a slide has ended and what is kept of it is written."""

    def look(self, processing_level: int, patches: int) -> None:
        """Take that a batch went through the network: the processing level of its last patch, and how many."""

    def reduce(self, done: int, total: int) -> None:
        """Take how many rows of a slide without a pyramid are reduced, of how many."""
