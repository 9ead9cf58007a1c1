"""The report of a run, ``report.html``: gathered from what lies in the run's folder, written whole or not at all."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from tnet_cli.errors import TnetError
from tnet_cli.files import write_bytes_whole
from tnet_cli.inputs.names import OVERLAY
from tnet_cli.modelfile.card import CARD_KEY, calibration_error_of, calibration_words
from tnet_cli.report.page import PageCard, PageRow, RunPage, render_page
from tnet_cli.report.thumbnail import SMALL_PX, THUMBNAIL_PX, Thumbnail, thumbnail_in
from tnet_cli.results.layout import REPORT, SLIDES
from tnet_cli.results.reader import RunOnDisk, SlideRecord, read_run

THUMBNAILS_BYTES = 8_000_000
"""Room for all thumbnails of a page; overlays beyond it keep their link."""

MANY = 1600
"""A page with more overlays than this has small thumbnails, and one with four times as many half the room."""

_READERS = 8
"""Threads that read overlays; a run may lie on a share."""

_AT_ONCE = 64
"""Overlays that are read before the room left is looked at."""


def write_report(path: Path) -> Path:
    """Write or replace the report of the run in a folder.

    Args:
        path: The run's folder; the run may be unfinished.

    Returns:
        Where the page is.

    Raises:
        UsageError: the folder holds no run.
        TnetError: the page cannot be written.
    """
    text = report_text(read_run(path))
    target = path / REPORT
    try:
        # A name that is no valid text must not keep all others from being seen.
        write_bytes_whole(target, text.encode("utf-8", "replace"))
    except OSError as exc:
        raise TnetError(f"{target}: cannot be written: {exc.strerror or exc}; the tables are in {path}") from exc
    return target


def report_text(run: RunOnDisk) -> str:
    """Return the report as one HTML document."""
    thumbnails = _thumbnails(run.slides)
    rows = [_row(run, slide, thumbnails.get(slide.slide)) for slide in run.slides]
    card, lost = _card(run)
    notices = (None if run.is_finished else _UNFINISHED, _without_answer(run), lost)
    page = RunPage(
        title=run.path.resolve().name or str(run.path),
        rows=rows,
        class_names=run.class_names,
        card=card,
        facts=_facts(run),
        notices=tuple(notice for notice in notices if notice is not None),
    )
    return render_page(page)


def _without_answer(run: RunOnDisk) -> str | None:
    """Count the slides without an answer that counts, in a sentence; None where there is none."""
    count, slides = sum(bool(slide.reasons) for slide in run.slides), len(run.slides)
    if not count:
        return None
    return f"{count} of {slides} slide{'' if slides == 1 else 's'}: no answer that counts; the table says why."


_UNFINISHED = (
    "This run has not ended: it is still going or was interrupted. What was finished is shown; "
    "the same command again does the rest."
)


def _row(run: RunOnDisk, slide: SlideRecord, thumbnail: Thumbnail | None) -> PageRow:
    locations = slide.number("locations")
    shares = [(name, slide.number(f"prob_{name}")) for name in run.class_names]
    return PageRow(
        slide=slide.slide,
        path=slide.path,
        status=slide.text("status") or "unknown",
        prediction=slide.text("prediction"),
        probability=slide.number("probability"),
        probabilities=tuple((name, share) for name, share in shares if share is not None),
        fraction_read=slide.number("fraction_read"),
        locations=None if locations is None else int(locations),
        mpp=slide.number("mpp"),
        mpp_source=slide.text("mpp_source"),
        reader=slide.text("reader"),
        seconds=slide.number("seconds"),
        error=slide.text("error"),
        reasons=slide.reasons,
        overlay=f"{SLIDES}/{slide.slide}/{OVERLAY}" if slide.overlay else None,
        thumbnail=thumbnail[0] if thumbnail else None,
        thumbnail_size=thumbnail[1] if thumbnail else (0, 0),
    )


def _thumbnails(slides: Sequence[SlideRecord]) -> dict[str, Thumbnail]:
    """Take the thumbnails of overlays by their slides' names, until the page's room for them is used up."""
    overlays = [(slide.slide, slide.overlay) for slide in slides if slide.overlay]
    side_px = THUMBNAIL_PX if len(overlays) <= MANY else SMALL_PX
    thumbnails: dict[str, Thumbnail] = {}
    room = THUMBNAILS_BYTES if len(overlays) <= 4 * MANY else THUMBNAILS_BYTES // 2
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        for start in range(0, len(overlays), _AT_ONCE):
            some = overlays[start : start + _AT_ONCE]
            read = pool.map(lambda each: _thumbnail(each[1], side_px), some)
            for (name, _), thumbnail in zip(some, read, strict=True):
                if thumbnail:
                    # As base64 four bytes stand for three.
                    room -= len(thumbnail[0]) * 4 // 3
                    if room < 0:
                        return thumbnails
                    thumbnails[name] = thumbnail
    return thumbnails


def _thumbnail(overlay: Path, side_px: int) -> Thumbnail | None:
    """Return an overlay's thumbnail; None for a file that is no picture."""
    try:
        with Image.open(overlay, formats=["PNG"]) as page:
            return thumbnail_in(page, side_px)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _card(run: RunOnDisk) -> tuple[PageCard | None, str | None]:
    """Return what is known of the model, and a sentence when its file is not the one that was used.

    The card is taken from the run's record where it stands there, else from the model file, if it is still the same.
    """
    model = run.record.get("model")
    if not isinstance(model, dict) or not model.get("name"):
        return None, None
    known = PageCard(
        name=str(model["name"]),
        intended_use=str(run.record.get("intended_use") or ""),
        facts=_pairs({"file": model.get("path"), "SHA-256": model.get("sha256")}),
    )
    card = model.get("card")
    lost = None
    if not isinstance(card, dict):
        card, lost = _card_in_file(str(model.get("path")), str(model.get("sha256")))
    return (known, lost) if card is None else (_page_card(known, card), None)


def _card_in_file(path: str, digest: str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            return None, f"{path}: is another model file by now, so its card is not shown here."
        with safe_open(path, framework="numpy") as tensors:
            card = json.loads((tensors.metadata() or {})[CARD_KEY])
    except (OSError, ValueError, KeyError, RecursionError, SafetensorError):
        return None, f"{path}: the model file is not there any more or cannot be read, so its card is not shown here."
    return (card if isinstance(card, dict) else None), None


def _page_card(known: PageCard, card: dict[str, Any]) -> PageCard:
    network = card.get("network")
    network = network if isinstance(network, dict) else {}
    mpp = _items(network.get("mpp"))
    metrics = card.get("metrics")
    facts = {
        "classes": ", ".join(map(str, _items(network.get("class_names")))),
        "backbone": network.get("backbone"),
        "scales": " → ".join(map(str, mpp)) + " µm/px" if mpp else None,
        "temperature": card.get("temperature"),
        "bias": ", ".join(map(str, _items(card.get("bias")))),
        "licence": card.get("licence"),
        "written": f"{card.get('created')}, tnet {card.get('package_version')}",
    }
    return PageCard(
        name=known.name,
        summary=str(card.get("summary") or ""),
        intended_use=str(card.get("intended_use") or known.intended_use),
        calibration=calibration_words(calibration_error_of(metrics)),
        limits=tuple(map(str, _items(card.get("limits")))),
        facts=(*_pairs(facts), *known.facts),
        training_data=tuple(
            f"{source.get('name')} ({source.get('licence')}). {source.get('description') or ''}".strip()
            for source in _items(card.get("training_data"))
            if isinstance(source, dict)
        ),
        metrics=metrics if isinstance(metrics, dict) else None,
    )


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _facts(run: RunOnDisk) -> tuple[tuple[str, str], ...]:
    """Flatten the run's record to names and values; the model has its own section."""
    skipped = ("model", "intended_use", "slides")
    return _pairs({name: value for name, value in run.record.items() if name not in skipped})


def _pairs(values: dict[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        text = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            pairs.extend(_pairs(value, f"{text}: "))
        elif isinstance(value, list):
            pairs.append((text, ", ".join(map(str, value))))
        elif value not in (None, ""):
            pairs.append((text, str(value)))
    return tuple(pairs)
