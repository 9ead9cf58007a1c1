"""What the honest baseline looks at, and what it says where there is nothing."""

from dataclasses import replace

import numpy as np
import pytest

from tnet_cli.errors import SlideError
from tnet_cli.inference.every_cell import every_cell_job
from tnet_cli.inference.prepare import prepare
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.slide.opening import open_slide
from tnet_cli.tissue.tissue import TissueMask


def test_a_slide_without_tissue_in_any_finest_cell_says_so(drawn_slide, untrained_model):
    network = load_model(untrained_model).card.network
    with open_slide(drawn_slide(seed=5, side_px=1500)) as slide:
        preparation = prepare(slide, network)
        none = TissueMask(mask=np.zeros_like(preparation.tissue.mask), slide_size=slide.size)
        with pytest.raises(SlideError, match="shows no tissue at the finest resolution"):
            every_cell_job(slide, replace(preparation, tissue=none), network)
