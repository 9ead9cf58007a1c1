"""The report of a run: one page that holds everything, and that asks nothing of any network.

Made as a value from the run's rows; writes no file. The page's own script and style are named by their digests in its
content security policy, so that nothing a file name or an error message smuggles in could ever run.
"""

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from tnet_cli.report.templates import asset_text, content_hash, figure, render, visible

STATUSES = ("failed", "abstained", "no_tissue", "ok")
"""In the order of the page: what needs somebody comes first."""

BINS = 20
PLOT_WIDTH = 300
PLOT_HEIGHT = 96

SERVED_MARK = '<body data-viewer="">'
"""How the page begins; a server that opens deep zoom puts the address of its viewer between the last quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRow:
    """One slide of the table.

    Attributes:
        status: One of ``STATUSES``; anything else is shown as it is.
        probabilities: Class names and their probabilities.
        fraction_read: Pixels decoded over level-0 pixels.
        reasons: Why its answer does not count, in sentences without a full stop.
        overlay: Path of the overlay relative to the page, with ``/``, or None where there is none.
        thumbnail: WebP of the overlay's slide, or None.
    """

    slide: str
    path: str
    status: str
    prediction: str | None = None
    probability: float | None = None
    probabilities: tuple[tuple[str, float], ...] = ()
    fraction_read: float | None = None
    locations: int | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    reader: str | None = None
    seconds: float | None = None
    error: str | None = None
    reasons: tuple[str, ...] = ()
    overlay: str | None = None
    thumbnail: bytes | None = None
    thumbnail_size: tuple[int, int] = (0, 0)

    @property
    def rank(self) -> int:
        """Place of its status in the page's order."""
        return STATUSES.index(self.status) if self.status in STATUSES else 0

    @property
    def overlay_address(self) -> str | None:
        """The overlay as a relative address."""
        return None if self.overlay is None else quote(self.overlay, errors="replace")

    @property
    def slide_address(self) -> str:
        """The slide's name as the last part of an address."""
        return quote(self.slide, errors="replace")

    @property
    def thumbnail_address(self) -> Markup:
        """The thumbnail as a data address; base64 needs no escape."""
        return Markup("data:image/webp;base64,") + base64.b64encode(self.thumbnail or b"").decode()

    @property
    def error_text(self) -> str | None:
        """The error without the path it begins with, which stands in the same row."""
        return self.error.removeprefix(f"{self.path}: ") if self.error else None

    @property
    def words(self) -> str:
        """What the text filter looks at."""
        parts = (self.slide, self.path, self.prediction, self.error, *self.reasons)
        return visible(" ".join(part for part in parts if part)).lower()

    @property
    def was_looked_at(self) -> bool:
        """Whether the network has run on it."""
        return self.status in ("ok", "abstained")

    @property
    def probabilities_text(self) -> str:
        """Every class with its probability."""
        return ", ".join(f"{name} {share:.4f}" for name, share in self.probabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCard:
    """What the page says of the model.

    Attributes:
        calibration: How far its probabilities can be relied on, in a few words.
        facts: Names and values: classes, scales, licence, digest.
        training_data: A sentence for each source.
        metrics: Measured values by name, nested where one has parts.
    """

    name: str
    summary: str = ""
    intended_use: str = ""
    calibration: str = ""
    limits: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    training_data: tuple[str, ...] = ()
    metrics: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Everything the page says.

    Attributes:
        title: Name of the run's folder.
        rows: One for each input, in input order.
        facts: The run's version, options and machine.
        notices: Sentences to read before the rest.
    """

    title: str
    rows: Sequence[PageRow]
    class_names: tuple[str, ...] = ()
    card: PageCard | None = None
    facts: tuple[tuple[str, str], ...] = ()
    notices: tuple[str, ...] = ()


def render_page(page: RunPage) -> str:
    """Return one HTML document that needs no other file; only overlays opened by the reader come from beside it."""
    script, style = asset_text("report.js"), asset_text("report.css")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {content_hash(script)}",
            f"style-src {content_hash(style)}",
            # The overlays lie beside the page, on a disk or behind tnet's own server.
            "img-src data: 'self' file:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    numbered = list(enumerate(page.rows, start=1))
    statuses = Counter(row.status for row in page.rows)
    called = Counter(row.prediction for row in page.rows if row.prediction and row.status == "ok")
    # Rows may also show what is called of slides whose answer does not count; the filter finds these too.
    labelled = Counter(row.prediction for row in page.rows if row.prediction)
    names = dict.fromkeys((*page.class_names, *sorted(labelled)))
    calls = [
        (row.prediction, row.probability)
        for row in page.rows
        if row.status == "ok" and row.prediction and row.probability is not None
    ]
    return render(
        "report.html.j2",
        page=page,
        policy=policy,
        script=Markup(script),  # noqa: S704 - the package's own
        style=Markup(style),  # noqa: S704 - the package's own
        served_mark=Markup(SERVED_MARK),  # noqa: S704 - the package's own
        rows=sorted(numbered, key=lambda item: item[1].rank),
        statuses={name: statuses[name] for name in (*STATUSES, *sorted(set(statuses) - set(STATUSES)))},
        called={name: called[name] for name in names},
        labelled={name: labelled[name] for name in names},
        histograms=histograms(calls, page.class_names) if calls else [],
        plot=(PLOT_WIDTH, PLOT_HEIGHT),
        metrics=_metric_lines(page.card.metrics or {}) if page.card else [],
        words={"ok": "ok", "failed": "failed", "no_tissue": "no tissue", "abstained": "no answer"},
    )


def _metric_lines(metrics: dict[str, Any], depth: int = 0) -> list[tuple[int, str, str]]:
    """Return depth, name and value of every value, in order."""
    lines: list[tuple[int, str, str]] = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            lines.append((depth, str(name), ""))
            lines.extend(_metric_lines(value, depth + 1))
        elif isinstance(value, list | tuple):
            lines.append((depth, str(name), ", ".join(figure(item) for item in value)))
        else:
            lines.append((depth, str(name), figure(value)))
    return lines


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, in the plot's own units, y downwards."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """The probabilities of the slides that were called one class, as bars of equal width from 0 to 1.

    Attributes:
        highest: Slides that a bar of full height stands for; the same for all classes of a run.
        bars: The bins that are not empty.
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
        class_names: The order of what is returned, one for each class that was called or is named; classes that are
            not among these come last.
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
