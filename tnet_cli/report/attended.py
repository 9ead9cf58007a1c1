"""A region the network looked at, as the report needs it: where, how finely, and what came of it."""

from dataclasses import dataclass

from tnet_cli.geometry import Region


@dataclass(frozen=True, slots=True)
class AttendedRegion:
    """One region the network looked at.

    Attributes:
        region: Level-0 pixels; may reach beyond the slide.
        processing_level: 0 is the coarsest, that of the roots.
        mpp: Micrometres per pixel the network saw, or None for an image without scale.
        weight: Share in the slide's feature vector, in [0, 1].
        path_probability: Product of the location probabilities from the root, in [0, 1].
        class_probabilities: From this region's own features, in the order of the model's classes.
    """

    region: Region
    processing_level: int
    mpp: float | None
    weight: float
    path_probability: float
    class_probabilities: tuple[float, ...]
