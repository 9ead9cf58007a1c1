"""The statistics of normalisation, for stages that see one processing level at a time and so cannot learn them."""

from tnet_cli.learning.state import Course, random_source
from tnet_cli.training.warmup import fill_pool, measure_statistics


def measure_if_new(course: Course, number: int) -> None:
    """Measure the statistics of normalisation where neither a warm-up nor pretraining has; drop the pool of patches.

    Args:
        course: Its network is changed in place.
        number: Of the stage; a run that begins with it has had no warm-up on patches.
    """
    if number == 0 and not course.pretrained:
        fill_pool(course, random_source(course.settings.seed, number, 0))
        measure_statistics(course)
    course.pool.clear()
