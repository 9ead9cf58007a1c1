"""What ``tnet info`` says of slides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tnet_cli.errors import PartialFailureError, SlideError
from tnet_cli.inputs.inputs import find_inputs
from tnet_cli.slide.opening import open_slide
from tnet_cli.urls import redacted


@dataclass(frozen=True, slots=True)
class DescriptionReport:
    """Descriptions of slides, and the errors of those that could not be opened.

    Attributes:
        descriptions: One document for each input, in order; a slide that failed has ``path`` and ``error`` only.
        errors: What went wrong, in order.
    """

    descriptions: list[dict[str, Any]]
    errors: list[SlideError]

    def raise_for_failures(self) -> None:
        """Turn failures into the error whose exit code says so.

        Raises:
            SlideError: the only slide failed.
            PartialFailureError: some of several failed.
        """
        if not self.errors:
            return
        if len(self.descriptions) == 1:
            raise self.errors[0]
        named = "; ".join(str(error) for error in self.errors)
        raise PartialFailureError(f"{len(self.errors)} of {len(self.descriptions)} slides failed: {named}")


def describe_slides(
    paths: Sequence[str],
    *,
    reader: str | None = None,
    recursive: bool = True,
    on_note: Callable[[str], None] | None = None,
) -> DescriptionReport:
    """Open each slide and describe it; one that cannot be opened does not stop the others.

    Args:
        paths: Slides, and what else ``find_inputs`` takes.
        reader: Forces a slide backend.
        recursive: Whether folders are searched with those below them.
        on_note: Told what was left out.

    Raises:
        ManifestError: a manifest cannot be used.
        UsageError: the inputs hold no slide.
    """
    descriptions: list[dict[str, Any]] = []
    errors: list[SlideError] = []
    for entry in find_inputs(paths, recursive=recursive, on_note=on_note):
        try:
            descriptions.append(describe_slide(entry.path, reader=reader, mpp=entry.mpp))
        except SlideError as error:
            errors.append(error)
            descriptions.append({"path": entry.shown_path, "error": str(error)})
    return DescriptionReport(descriptions, errors)


def describe_slide(path: str, *, reader: str | None = None, mpp: float | None = None) -> dict[str, Any]:
    """Describe one slide as a JSON document.

    Raises:
        SlideError: it cannot be opened.
    """
    with open_slide(path, reader=reader, mpp=mpp) as slide:
        return {
            "path": redacted(path),
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
