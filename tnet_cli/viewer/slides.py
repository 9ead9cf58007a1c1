"""The slides of a run, opened when they are looked at: a few at a time, each closed when nobody reads it any more."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tnet_cli.errors import SlideError
from tnet_cli.inputs.formats import is_file
from tnet_cli.places import is_url
from tnet_cli.results.reader import SlideRecord
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

OPEN_SLIDES = 4


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    slide: Slide | None = None
    readers: int = 0


class OpenSlides:
    """Open slides of a run; the least recently used are closed first, but none while it is read.

    A cache of a library would drop a slide whoever reads it, and its order would have to be kept beside the readers.

    Args:
        run_path: The run's folder, beside which slides are looked for that were named by a relative path.
        most: Slides that stay open while nobody reads them.
    """

    def __init__(self, run_path: Path, most: int = OPEN_SLIDES) -> None:
        self._run_path = run_path
        self._most = most
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._closed = False

    @contextmanager
    def reading(self, record: SlideRecord) -> Iterator[Slide]:
        """Lend a slide of the run, open.

        Raises:
            SlideError: it is not where it was, is another slide by now, or cannot be opened.
        """
        with self._lock:
            if self._closed:
                raise SlideError(record.path, "is closed, since the viewer has ended")
            entry = self._entries.setdefault(record.slide, _Entry())
            self._entries.move_to_end(record.slide)
            entry.readers += 1
        try:
            with entry.lock:
                if entry.slide is None:
                    entry.slide = open_again(record, self._run_path)
            yield entry.slide
        finally:
            self._return(record.slide, entry)

    def close(self) -> None:
        """Close every slide that nobody reads, and the others as soon as they are returned."""
        with self._lock:
            self._closed = True
            self._shrink(0)

    def _return(self, name: str, entry: _Entry) -> None:
        with self._lock:
            entry.readers -= 1
            if entry.slide is None and entry.readers == 0:
                self._entries.pop(name, None)
            self._shrink(0 if self._closed else self._most)

    def _shrink(self, most: int) -> None:
        """Close the oldest slides that nobody reads, until at most so many are open. The lock is held."""
        for name in list(self._entries):
            if len(self._entries) <= most:
                return
            entry = self._entries[name]
            if entry.readers == 0:
                del self._entries[name]
                if entry.slide is not None:
                    entry.slide.close()


def open_again(record: SlideRecord, run_path: Path) -> Slide:
    """Open the slide of a run as it was opened then.

    Raises:
        SlideError: it is not where it was, is another slide by now, or cannot be opened.
    """
    slide = open_slide(find_again(record, run_path), reader=record.text("reader"), mpp=record.number("mpp"))
    was = (record.number("width"), record.number("height"))
    if None not in was and was != (slide.size.width, slide.size.height):
        found = f"{slide.size.width} x {slide.size.height} px"
        slide.close()
        raise SlideError(
            record.path,
            f"is another slide by now: it was {was[0]:.0f} x {was[1]:.0f} px when it was classified, and has {found}; "
            "classify it again",
        )
    return slide


def find_again(record: SlideRecord, run_path: Path) -> str:
    """Return where a slide of a run is now: a relative path is looked for here, and then beside the run's folder.

    Raises:
        SlideError: it is nowhere.
    """
    path = record.path
    if is_url(path):
        return path
    folders = [Path()] if Path(path).is_absolute() else [Path(), run_path, *run_path.resolve().parents]
    for folder in folders:
        if path and is_file(folder / path):
            return str(folder / path)
    raise SlideError(
        path or record.slide,
        "the slide is not there any more, so it cannot be opened for zooming; put it back where it was, "
        "or start tnet view in the folder where tnet classify was started",
    )
