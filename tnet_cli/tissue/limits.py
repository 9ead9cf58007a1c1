"""What a user says of where to look on a slide: a mask in place of the one that is found, and regions of interest."""

from dataclasses import dataclass

import numpy as np

from tnet_cli.geometry import Region
from tnet_cli.tissue.tissue import TissueMask


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Where to look on one slide, as its user says.

    Attributes:
        mask: Where the tissue is; None to find it on the thumbnail.
        within: Where a region of interest is: nothing outside it counts, and nothing outside it is shown to the
            network. None for the whole slide.
        parts: The box of each region of interest, level-0 pixels, on the slide; none without ``within``.
        words: What is to be said of them in a sentence: ``the region of interest (roi.geojson)``.
    """

    mask: TissueMask | None
    within: TissueMask | None
    parts: tuple[Region, ...]
    words: str

    def applied(self, tissue: TissueMask) -> TissueMask:
        """Return the part of a mask that lies in the regions of interest; all of it where there are none.

        Returns:
            A mask with the pixels of ``within``, set where their centres are tissue and of a region.
        """
        if self.within is None:
            return tissue
        shape, own = self.within.mask.shape, tissue.mask.shape
        rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(shape, own, strict=True))
        here = tissue.mask[rows[:, None], columns]
        return TissueMask(self.within.mask & here, tissue.slide_size)
