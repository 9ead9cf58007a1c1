"""How ``tnet classify`` looks at slides, in whichever process: classify, draw and write as one plan says."""

import hashlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tnet_cli.classification.writing import Pictures, drawn, write_drawn, written
from tnet_cli.inference.classify import classify_slides
from tnet_cli.inference.progress import Progress
from tnet_cli.inference.worker import Keep, Rows, WorkerPlan
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.results.layout import RunDirectory
from tnet_cli.results.result import SlideResult, SlideRow


@dataclass(frozen=True, kw_only=True)
class ClassificationPlan(WorkerPlan):
    """What a process needs to know to classify slides.

    Attributes:
        overlay: Whether overlays are drawn.
        save_mask: Whether what could be attended is kept as a picture.
        answer_anyway: Whether answers that do not count are given with the others.
        writers: Threads that draw and write, on the run's own machine.
    """

    overlay: bool
    save_mask: bool
    answer_anyway: bool
    writers: int = 1

    @property
    def key(self) -> str:
        """Names everything a result depends on."""
        shown = f"{self.overlay} {self.save_mask} {self.answer_anyway}"
        said = f"{self.digest} {self.options} {self.engine} {self.device} {shown} {self.package}"
        return hashlib.sha256(said.encode()).hexdigest()[:24]

    def rows(
        self, model: LoadedModel, slides: Iterable[SlideInput], out: Path, progress: Progress, keep: Keep | None = None
    ) -> Rows:
        """Classify slides, and draw and write them in threads; raises as ``classify_slides``, and OSError."""
        directory = RunDirectory(out)

        def write(number: int, result: SlideResult) -> tuple[SlideRow, Fingerprint | None]:
            row = write_drawn(directory, *self.drawn(result, model))
            if keep is not None:
                keep(number, row, result.fingerprint)
            return row, result.fingerprint

        results = classify_slides(slides, model, self.options, self.own_engine, progress=progress)
        return written(results, write, threads=self.writers)

    def row_of(self, result: SlideResult, out: Path) -> SlideRow:
        """Write the folder of a slide that has failed, and return its row."""
        return write_drawn(RunDirectory(out), result, {})

    def drawn(self, result: SlideResult, model: LoadedModel) -> tuple[SlideResult, Pictures]:
        """Return a result without what it is drawn from, and its pictures, as the plan wants them."""
        return drawn(result, model.card, overlay=self.overlay, mask=self.save_mask, answer_anyway=self.answer_anyway)


def classify_on_worker(plan: ClassificationPlan, entry: SlideInput) -> tuple[SlideResult, Pictures]:
    """Classify and draw one slide on a worker of a cluster.

    Returns:
        The slide's result, and its pictures.

    Raises:
        UsageError: the worker has another version of tnet, or not the device that is asked for.
    """
    model = plan.model
    with closing(classify_slides([entry], model, plan.options, plan.own_engine)) as results:
        ((_, result),) = results
    return plan.drawn(result, model)
