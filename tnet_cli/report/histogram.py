"""How sure the model was, class by class: bars of equal width from 0 to 1."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BINS = 20

PLOT_WIDTH = 300
PLOT_HEIGHT = 96


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, in the plot's own units, y downwards.

    Attributes:
        text: What it stands for.
    """

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """The probabilities of the slides that were called one class.

    Attributes:
        class_name: That class.
        count: Its slides.
        highest: Slides that a bar of full height stands for; the same for all classes of a run.
        bars: The bins that are not empty.
        text: The whole in a sentence.
    """

    class_name: str
    count: int
    highest: int
    bars: tuple[Bar, ...]
    text: str


def histograms(calls: Iterable[tuple[str, float]], class_names: Sequence[str]) -> list[Histogram]:
    """Count the probabilities of the called class.

    Args:
        calls: The called class and its probability in [0, 1], one for each slide.
        class_names: The order of the answer; classes that are not among them come last.

    Returns:
        One for each class that was called or is named.
    """
    counts = {name: [0] * BINS for name in class_names}
    for name, probability in calls:
        counts.setdefault(name, [0] * BINS)[min(BINS - 1, max(0, int(probability * BINS)))] += 1
    highest = max((count for bins in counts.values() for count in bins), default=0)
    return [_histogram(name, bins, max(1, highest)) for name, bins in counts.items()]


def _histogram(name: str, bins: list[int], highest: int) -> Histogram:
    bars = []
    for index, count in enumerate(bins):
        if not count:
            continue
        height = max(2.0, PLOT_HEIGHT * count / highest)
        slides = "slide" if count == 1 else "slides"
        text = f"{index / BINS:.2f} to {(index + 1) / BINS:.2f}: {count} {slides}"
        width = PLOT_WIDTH / BINS
        bars.append(
            Bar(round(index * width + 0.5, 2), round(PLOT_HEIGHT - height, 2), width - 1, round(height, 2), text)
        )
    total = sum(bins)
    said = "; ".join(bar.text for bar in bars) or "none"
    return Histogram(name, total, highest, tuple(bars), f"{total} slides called {name}, by probability: {said}")
