"""Slides described, as ``tnet info`` prints them."""

from collections.abc import Sequence
from typing import Any

from tnet_cli.errors import SlideError
from tnet_cli.inputs.discovery import NoteFunction
from tnet_cli.inputs.inputs import SlideInput, find_inputs
from tnet_cli.slide.opening import open_slide


def describe_slides(
    paths: Sequence[str], *, reader: str | None, recursive: bool, on_note: NoteFunction
) -> list[dict[str, Any]]:
    """Open each slide that ``find_inputs`` finds, and describe it; one that cannot be opened stops no other.

    Returns:
        A JSON document for each slide, in order; that of one that cannot be opened has ``path`` and ``error`` only.

    Raises:
        ManifestError: a manifest cannot be used.
        UsageError: the inputs hold no slide.
    """
    return [_description(entry, reader) for entry in find_inputs(paths, recursive=recursive, on_note=on_note)]


def _description(entry: SlideInput, reader: str | None) -> dict[str, Any]:
    try:
        with open_slide(entry.path, reader=reader, mpp=entry.mpp) as slide:
            return {
                "path": entry.shown_path,
                "reader": slide.reader,
                "vendor": slide.vendor,
                "width": slide.size.width,
                "height": slide.size.height,
                "mpp": slide.mpp,
                "mpp_source": slide.mpp_source,
                "pyramid": [f"{stored.size.width} x {stored.size.height}" for stored in slide.pyramid],
                "bounds": [slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height],
                "associated_images": list(slide.associated_images),
            }
    except SlideError as error:
        return {"path": entry.shown_path, "error": str(error)}
