"""Whether the attention goes where a pathologist drew the lesion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnet_cli.inputs.annotation import read_annotation
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.metrics.bootstrap import bootstrapped, resample_patients
from tnet_cli.metrics.estimate import Estimate, wilson
from tnet_cli.results.result import SlideResult

ON_THE_LESION = 0.2
"""A location lies on the lesion when annotations cover this share of it: what gives a patch the lesion's class in
training. A lesion smaller than a location counts where a location holds this share of the lesion."""


@dataclass(frozen=True, slots=True)
class SlideLocalisation:
    """Where the attended locations of one lesion slide lie.

    Attributes:
        finest_locations: Attended locations of the finest processing level that was reached; 0 when no location was.
        on_lesion: Those of them that lie on the lesion.
    """

    finest_locations: int
    on_lesion: int

    @property
    def share(self) -> float | None:
        """Share of the finest locations that lie on the lesion; None without any."""
        return self.on_lesion / self.finest_locations if self.finest_locations else None

    @property
    def is_hit(self) -> bool:
        """Whether at least one of them does."""
        return self.on_lesion > 0


def localise(result: SlideResult, entry: SlideInput) -> SlideLocalisation | None:
    """Compare the finest attended locations of a slide with its annotation.

    Args:
        result: With its regions, level-0 pixels.
        entry: With its annotation, whose frame is that of the slide's bounds.

    Returns:
        None for a slide that was not judged, has no annotation, or an annotation without area.

    Raises:
        ManifestError: the annotation cannot be read.
    """
    if result.status != "ok" or entry.annotation is None or result.size is None:
        return None
    origin = (result.bounds.x, result.bounds.y) if result.bounds else (0, 0)
    annotated = read_annotation(entry.annotation, result.size, origin=origin)
    if annotated.is_empty:
        return None
    finest = max(region.processing_level for region in result.regions)
    attended = [region.region for region in result.regions if region.processing_level == finest and finest > 0]
    if not attended:
        return SlideLocalisation(finest_locations=0, on_lesion=0)
    areas = np.array([region.area for region in attended], dtype=np.float64)
    lesion_px = annotated.area_px
    covered_px = np.asarray(annotated.fractions(attended)) * areas
    on_lesion = int(np.count_nonzero(covered_px >= ON_THE_LESION * np.minimum(areas, lesion_px)))
    return SlideLocalisation(finest_locations=len(attended), on_lesion=on_lesion)


@dataclass(frozen=True, slots=True)
class Localisation:
    """Localisation of one arm over all lesion slides: judged slides whose annotation has an area.

    Attributes:
        share_on_lesion: Mean over slides of the share of the attended finest locations that lie on the lesion, with
            the bootstrap interval over patients.
        hit_rate: Share of slides with at least one attended finest location on the lesion, with Wilson's interval.
    """

    lesion_slides: int
    share_on_lesion: Estimate
    hit_rate: Estimate

    def record(self) -> dict[str, Any]:
        """Return it as it stands in ``metrics.json``."""
        return {
            "lesion_slides": self.lesion_slides,
            "share_on_lesion": self.share_on_lesion.record(),
            "hit_rate": self.hit_rate.record(),
        }


def summarise_localisation(
    lesions: Sequence[SlideLocalisation], patients: Sequence[str], *, draws: int, seed: int
) -> Localisation:
    """Sum up one arm.

    Args:
        lesions: Of each lesion slide.
        patients: Of each of them; slides of one name are drawn together.
        draws: Of the bootstrap; 0 for none.
        seed: Names the draws.
    """
    if not lesions:
        missing = Estimate.undefined("no judged slide has an annotation with an area")
        return Localisation(lesion_slides=0, share_on_lesion=missing, hit_rate=missing)
    attended = [number for number, found in enumerate(lesions) if found.finest_locations]
    if not attended:
        missing = Estimate.undefined("this arm attends no location")
        return Localisation(lesion_slides=len(lesions), share_on_lesion=missing, hit_rate=missing)
    shares = np.array([lesions[number].share for number in attended], dtype=np.float64)
    one_class = np.zeros(len(attended), dtype=np.int64)
    resampling = resample_patients(one_class, [patients[number] for number in attended], count=draws, seed=seed)
    return Localisation(
        lesion_slides=len(lesions),
        share_on_lesion=bootstrapped(lambda slides: float(shares[slides].mean()), len(shares), resampling),
        hit_rate=wilson(sum(found.is_hit for found in lesions), len(lesions)),
    )
