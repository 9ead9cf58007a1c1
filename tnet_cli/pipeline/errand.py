"""The errand of one slide: its traversal, and how its regions are read."""

import numpy as np

from tnet_cli.geometry import Region
from tnet_cli.model.choice import Chooser
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.traversal import traverse
from tnet_cli.pipeline.flight import Errand
from tnet_cli.pipeline.preparation import Preparation, plan_traversal
from tnet_cli.slide.slide import Slide


def slide_errand(
    slide: Slide, preparation: Preparation, config: TNetConfig, locations: tuple[int, ...], chooser: Chooser
) -> Errand:
    """Return what the engine needs to traverse a slide.

    Args:
        slide: Open until the errand has ended.
        preparation: Of this slide for this model.
        config: The model's configuration.
        locations: Attended locations for each processing level after the first.
        chooser: How they are chosen.
    """

    def read(region: Region) -> np.ndarray:
        return slide.read(region, config.base_px, config.base_px)

    return Errand(
        traversal=traverse(
            preparation.root_regions,
            preparation.root_log_probs,
            plan_traversal(config, preparation.scale, locations, chooser),
            preparation.allowed(),
        ),
        read=read,
    )
