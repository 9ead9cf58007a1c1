"""Validation: slides that are not trained on, traversed and classified as a user's would be."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from tnet_cli.errors import SlideError
from tnet_cli.inference.classify import look_with
from tnet_cli.inference.engine import TraversalResult, drive
from tnet_cli.inference.traversal_job import slide_job
from tnet_cli.learning.slides import TrainingSlide
from tnet_cli.learning.state import Course
from tnet_cli.model.choice import TopK
from tnet_cli.slide.opening import open_slide
from tnet_cli.training.rollout import all_features

BATCH_PATCHES = 16


def validate(course: Course, slides: Sequence[TrainingSlide], depth: int | None) -> dict[str, float]:
    """Return accuracy and mean cross-entropy of slides, in evaluation mode with the model's own budget.

    Args:
        course: Its network is left in evaluation mode.
        slides: Labelled slides; each process takes its share of them.
        depth: Processing levels to descend; all of the model's when None.

    Returns:
        ``accuracy`` in [0, 1] and ``loss`` in nats, over the slides that could be read; NaN where none could.

    Raises:
        SlideError: a slide cannot be read, and bad slides are not to be skipped.
    """
    network, config = course.network, course.network.config
    network.eval()
    look = look_with(network, course.device)
    tally = torch.zeros(3, dtype=torch.float64)  # slides, right ones, summed loss
    for entry in course.group.share(slides):
        slide = entry.down_to(depth)
        locations = config.locations[: slide.scale.processing_levels - 1]
        try:
            with open_slide(slide.entry.path, mpp=slide.entry.mpp) as handle:
                job = slide_job(handle, slide.preparation, config, locations, TopK())
                readers = course.settings.readers
                ((_, traversed),) = drive([job], look, batch_size=BATCH_PATCHES, readers=readers)
            if not isinstance(traversed, TraversalResult):
                raise traversed
        except SlideError as error:
            course.leave_out(error)
            continue
        with torch.inference_mode():
            logits = network.classify([all_features(traversed.traversal)]).logits.float().cpu()
        loss = functional.cross_entropy(logits, torch.tensor([slide.label]))
        tally += torch.tensor([1.0, float(logits.argmax() == slide.label), float(loss)], dtype=torch.float64)
    count, right, loss_sum = course.group.total(tally).tolist()
    if not count:
        return {"accuracy": float("nan"), "loss": float("nan")}
    return {"accuracy": right / count, "loss": loss_sum / count}
