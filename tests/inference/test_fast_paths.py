"""What makes a run fast changes no answer: not tifffile, not batches, threads and slides in flight, not folding."""

import numpy as np
import pytest

from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import DEMO_MODEL, TraversalOptions
from tnet_cli.modelfile.modelfile import find_model, load_model
from tnet_cli.places import Place


@pytest.fixture(scope="module")
def inputs(drawn_slide):
    labels = ("benign", "lesion")
    return [SlideInput(path=Place(drawn_slide(seed=5, side_px=6000, label=label)), name=label) for label in labels]


def results(inputs, options, engine=None):
    """Classify with the bundled model, and return the results in the order of the inputs."""
    ended = dict(classify_slides(inputs, load_model(find_model(DEMO_MODEL)), options, engine))
    return [ended[position] for position in range(len(inputs))]


@pytest.mark.parametrize("stop_at", [None, 0.002])
def test_the_plain_way_gives_the_same_answer_from_the_same_regions(inputs, monkeypatch, stop_at):
    fast = results(inputs, TraversalOptions(budget=40, stop_at=stop_at))
    monkeypatch.setattr("tnet_cli.inference.classify.fold_normalisation", lambda network: None)
    plain = results(
        inputs,
        TraversalOptions(budget=40, stop_at=stop_at, reader="openslide"),
        EngineOptions(batch_size=1, readers=1, slides_in_flight=1),
    )
    for one, other in zip(fast, plain, strict=True):
        assert (one.reader, other.reader) == ("tifffile", "openslide")
        assert one.prediction == other.prediction
        assert one.probability == pytest.approx(other.probability, abs=1e-4)
        assert {region.region for region in one.regions} == {region.region for region in other.regions}
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-3)
