"""What the viewer's server gives: the report, the page of a slide, tiles and the run's own files, each as bytes.

Nothing is found by joining an address to a folder unseen: a slide is one of those the run names, an asset one of ours,
and a file one whose real place is inside the run's folder.
"""

import math
import os
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from tnet_cli.errors import TnetError, UsageError
from tnet_cli.geometry import Region
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.drawing import percent
from tnet_cli.report.page import SERVED_MARK
from tnet_cli.report.templates import asset_text
from tnet_cli.report.viewer_page import ViewerPage, render_viewer
from tnet_cli.results.html_report import report_text
from tnet_cli.results.layout import PREDICTIONS, RUN_RECORD
from tnet_cli.results.reader import SlideRecord, finite, read_regions, read_run
from tnet_cli.viewer.deepzoom import TILE_PX, DeepZoom, tile_jpeg
from tnet_cli.viewer.slides import OpenSlides

HTML = "text/html; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"

_ASSETS = {
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "openseadragon.min.js": ("openseadragon/openseadragon.min.js", "text/javascript; charset=utf-8"),
    "LICENSE.txt": ("openseadragon/LICENSE.txt", PLAIN),
}

_FILE_TYPES = {
    ".png": "image/png",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".geojson": "application/geo+json",
}
"""What the browser may show of the run's files; all others are bytes to save."""

_SERVED = SERVED_MARK.encode()

_TILE = re.compile(r"/tiles/(.+)/(\d{1,3})/(\d{1,9})_(\d{1,9})\.jpeg")

_VIEWER_POLICY = (
    # The digest admits the one style that OpenSeadragon puts into the page.
    "default-src 'none'; script-src 'self'; "
    "style-src 'self' 'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent: the body, or the file that holds it, and headers beside those of every response."""

    status: int
    content_type: str
    body: bytes | Path
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, sentence: str) -> Response:
    """Return a response that is one sentence."""
    return Response(status, PLAIN, f"{sentence}\n".encode("utf-8", "replace"))


class _RunNow:
    """What a run's folder held when its tables were of a version; raises UsageError when that is no run."""

    def __init__(self, path: Path, version: tuple[float, ...]) -> None:
        self.version = version
        self.run = read_run(path)
        self.by_name = {slide.slide: slide for slide in self.run.slides}

    @cached_property
    def report(self) -> bytes:
        """The report as HTML.

        Made anew and not taken from the folder: what lies there could be anything, and would run in the browser.
        """
        return report_text(self.run).encode("utf-8", "replace")


class RunPages:
    """The pages of one run, made from what its folder holds when they are asked for.

    Args:
        base: What the addresses that pages name begin with, and end before the slash of those that are answered.

    Raises:
        UsageError: it holds no run.
    """

    def __init__(self, path: Path, *, base: str = "/") -> None:
        self.base = base
        self._path = path
        self._real_path = path.resolve()
        self._slides = OpenSlides(path)
        self._lock = threading.Lock()
        # More than the processors can decode would only wait with their pixels in memory.
        self._decoding = threading.Semaphore((os.cpu_count() or 1) + 1)
        self._now = _RunNow(path, _version_on_disk(path))

    def close(self) -> None:
        """Close the slides."""
        self._slides.close()

    def answer(self, address: str) -> Response:
        """Answer a request for an address: the decoded path, which begins with a slash."""
        if address in ("/", "/report.html"):
            report = self._current().report.replace(_SERVED, _SERVED.replace(b'""', f'"{self.base}view/"'.encode()), 1)
            return Response(200, HTML, report, {"Content-Security-Policy": "frame-ancestors 'none'"})
        if address.startswith("/viewer/"):
            return _asset(address.removeprefix("/viewer/"))
        if address.startswith("/view/"):
            return self._slide_page(address.removeprefix("/view/"))
        tile = _TILE.fullmatch(address)
        if tile:
            return self._tile(tile[1], int(tile[2]), int(tile[3]), int(tile[4]))
        return self._file(address)

    def _current(self) -> _RunNow:
        """Return the run as it is now: one that is still going has more rows each time."""
        with self._lock:
            version = _version_on_disk(self._path)
            if version != self._now.version:
                with suppress(UsageError):  # while a run is replaced its folder holds none; the last is shown till then
                    self._now = _RunNow(self._path, version)
            return self._now

    def _slide_page(self, name: str) -> Response:
        now = self._current()
        record = now.by_name.get(name)
        if record is None:
            return refusal(404, f"{name}: no such slide in this run")
        names = list(now.by_name)
        at = names.index(name)
        page = ViewerPage(
            slide=name,
            path=record.path,
            says=_says(record),
            notice=record.text("error"),
            reasons=record.reasons,
            base=self.base,
            tiles_address=f"{self.base}tiles/{quote(name, errors='replace')}/",
            overlay_address=self._file_address(record),
            previous_address=self._page_address(names[at - 1]) if at else None,
            next_address=self._page_address(names[at + 1]) if at + 1 < len(names) else None,
        )
        try:
            with self._slides.reading(record) as slide:
                zoom = DeepZoom(slide.size)
                page = replace(
                    page,
                    size=slide.size,
                    mpp=slide.mpp,
                    tile_px=TILE_PX,
                    # Nobody needs the slide in less than one tile.
                    first_zoom_level=min(zoom.last_zoom_level, (TILE_PX - 1).bit_length()),
                    last_zoom_level=zoom.last_zoom_level,
                    regions=tuple(_regions(record, now.run.class_names)),
                    class_names=now.run.class_names,
                )
        except TnetError as error:
            page = replace(page, notice=record.text("error") or str(error))
        text = render_viewer(page)
        return Response(200, HTML, text.encode("utf-8", "replace"), {"Content-Security-Policy": _VIEWER_POLICY})

    def _page_address(self, name: str) -> str:
        return f"{self.base}view/{quote(name, errors='replace')}"

    def _file_address(self, record: SlideRecord) -> str | None:
        overlay = record.overlay
        if overlay is None:
            return None
        return f"{self.base}{quote(overlay.relative_to(self._path).as_posix(), errors='replace')}"

    def _tile(self, name: str, zoom_level: int, column: int, row: int) -> Response:
        record = self._current().by_name.get(name)
        if record is None:
            return refusal(404, f"{name}: no such slide in this run")
        try:
            with self._decoding, self._slides.reading(record) as slide:
                data = tile_jpeg(slide, zoom_level, column, row)
        except TnetError as error:
            return refusal(404, str(error))
        return refusal(404, "no such tile") if data is None else Response(200, "image/jpeg", data)

    def _file(self, address: str) -> Response:
        nothing = refusal(404, "no such file in this run")
        parts = PurePosixPath(address).parts[1:]
        # A name that begins with a dot is a file that is being written, or none of ours.
        if not parts or "\0" in address or "\\" in address or any(part.startswith(".") for part in parts):
            return nothing
        try:
            real = self._path.joinpath(*parts).resolve(strict=True)
            if not real.is_relative_to(self._real_path) or not real.is_file():
                return nothing
        except (OSError, ValueError, RuntimeError):
            return nothing
        content_type = _FILE_TYPES.get(real.suffix.lower())
        if content_type is None:
            return Response(200, "application/octet-stream", real, {"Content-Disposition": "attachment"})
        return Response(200, content_type, real)


def _asset(name: str) -> Response:
    if name not in _ASSETS:
        return refusal(404, "no such file")
    path, content_type = _ASSETS[name]
    return Response(200, content_type, asset_text(path).encode())


def _version_on_disk(run: Path) -> tuple[float, ...]:
    """Return when the run's tables were written, zero for one that is not there."""
    times = []
    for name in (PREDICTIONS, RUN_RECORD):
        try:
            times.append((run / name).stat().st_mtime)
        except OSError:
            times.append(0.0)
    return tuple(times)


def _says(record: SlideRecord) -> str:
    prediction, probability = record.text("prediction"), record.number("probability")
    words = {"failed": "failed", "no_tissue": "no tissue found", "abstained": "no answer"}
    said = [words.get(record.text("status") or "", "")]
    if prediction and probability is not None:
        asked = "asked for anyway, does not count: " if record.reasons else ""
        said.append(f"{asked}{prediction}, probability {probability:.3f} ({record.calibration})")
    if record.was_looked_at:
        share = record.number("fraction_read")
        said.append("" if share is None else "read whole" if share >= 1 else f"{percent(share)} read")
    return "; ".join(filter(None, said))


def _regions(record: SlideRecord, class_names: Iterable[str]) -> Iterable[AttendedRegion]:
    """Read the regions of a slide; a row that is no box is left out, and a number that is none is NaN."""
    rows = read_regions(record)
    steps = [finite(row.get("processing_level")) for row in rows]
    coarsest = min((step for step in steps if step is not None), default=0.0)
    # Roots are counted among the locations only where they are of the finest view.
    counts_roots = record.number("locations") == len(rows)
    columns = ("minx", "miny", "width", "height", "processing_level", "location_probability", "path_probability")
    for row in rows:
        found = (finite(row.get(column)) for column in (*columns, "weight", *(f"prob_{name}" for name in class_names)))
        numbers = [math.nan if number is None else number for number in found]
        x, y, width, height, processing_level, location, path, weight, *classes = numbers
        if any(map(math.isnan, numbers[:5])) or min(width, height) < 1:
            continue
        yield AttendedRegion(
            region=Region(int(x), int(y), int(width), int(height)),
            processing_level=max(0, int(processing_level)),
            mpp=finite(row.get("mpp")),
            location_probability=location,
            path_probability=path,
            weight=weight,
            class_probabilities=tuple(classes),
            is_location=counts_roots or processing_level > coarsest,
        )
