"""The demonstration: a synthetic gigapixel slide, classified with the bundled model."""

from collections.abc import Callable
from pathlib import Path

from tnet_cli.classification.run import RunEvents, RunReport, RunRequest, run_classify
from tnet_cli.modelfile.modelfile import DEFAULT_MODEL
from tnet_cli.synth.synthesis import SyntheticSlide, write_synthetic_slide


def make_demo_slide(
    out: Path, *, side_px: int, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> SyntheticSlide:
    """Render the demonstration's slide, one with a lesion, into a folder.

    Args:
        out: The folder.
        side_px: Side of the slide in level-0 pixels.
        seed: Names the slide.
        on_progress: Told how much of the slide is rendered.
    """
    path = out / f"demo-{side_px}px-{seed}.tif"
    return write_synthetic_slide(path, seed=seed, side_px=side_px, label="lesion", on_progress=on_progress)


def classify_demo_slide(
    slide: SyntheticSlide,
    out: Path,
    *,
    on_start: Callable[[int, str], None] | None = None,
    on_look: Callable[[int, int], None] | None = None,
) -> RunReport:
    """Classify the demonstration's slide and write its results into the same folder."""
    request = RunRequest(inputs=[str(slide.path)], out=out, model=DEFAULT_MODEL, overwrite=True)
    return run_classify(request, RunEvents(on_start=on_start, on_look=on_look))
