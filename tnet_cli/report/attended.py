"""A region the network looked at: where, how finely, and what came of it."""

from dataclasses import dataclass

from tnet_cli.geometry import Region


@dataclass(frozen=True, slots=True)
class AttendedRegion:
    """One region the network looked at.

    Attributes:
        region: Level-0 pixels of the slide; may reach beyond it.
        processing_level: 0 is the coarsest, that of the roots.
        mpp: Micrometres per pixel the network saw, or None for an image without scale.
        location_probability: Probability of the cell within its grid; for a root its share of the tissue.
        path_probability: Product of these along the path from the root.
        weight: Share in the slide's feature vector; the weights of a slide sum to one.
        class_probabilities: From this region's own features, in the order of the model's classes.
        is_location: Whether it counts as an attended location, as a root does only where it is of the finest view.
    """

    region: Region
    processing_level: int
    mpp: float | None
    location_probability: float
    path_probability: float
    weight: float
    class_probabilities: tuple[float, ...]
    is_location: bool = True
