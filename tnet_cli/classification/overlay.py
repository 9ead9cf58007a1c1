"""From a slide's outcome to its pictures: the values the report package draws."""

from PIL.Image import Image

from tnet_cli.inference.outcome import Outcome
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.report.overlay import OverlayPatch, OverlaySubject, draw_overlay
from tnet_cli.results.result import attended_regions

PATCHES_SHOWN = 12


def overlay_of(outcome: Outcome, card: ModelCard) -> Image | None:
    """Draw the overlay of a slide that was classified; None for one that was not."""
    result = outcome.result
    if result.status != "ok" or outcome.thumbnail is None or result.size is None:
        return None
    regions = attended_regions(result)
    shown = [
        OverlayPatch(attended=region, pixels=pixels)
        for region, pixels in zip(regions, outcome.patches, strict=True)
        if region.processing_level > 0
    ]
    shown.sort(key=lambda patch: -patch.attended.weight)
    subject = OverlaySubject(
        slide_name=result.slide,
        slide_size=result.size,
        mpp=result.mpp,
        class_names=result.class_names,
        probabilities=result.probabilities,
        prediction=result.prediction or "",
        model_name=card.name,
        intended_use=card.intended_use,
        location_count=result.locations,
        fraction_read=result.fraction_read or 0.0,
        seconds=result.seconds,
        warning=result.warning,
    )
    return draw_overlay(outcome.thumbnail, subject, regions, shown[:PATCHES_SHOWN])
