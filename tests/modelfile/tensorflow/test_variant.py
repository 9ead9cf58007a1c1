"""Which model a checkpoint is of: every variant of the authors' is told from its variables, anything else refused."""

import numpy as np
import pytest
import torch

from tests.tensor_bundle import authors_variables, renumber
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.tensorflow.names import to_state_dict
from tnet_cli.modelfile.tensorflow.variant import Variant, guess_variant

BIRDS = tuple(f"bird {number}" for number in range(7))


@pytest.fixture(scope="module")
def fmow() -> dict[str, np.ndarray]:
    return authors_variables(TNet(TNetConfig.fmow(tuple("abcd"))))


@pytest.mark.parametrize(
    # Channels of the location map and features, from the specification's tables.
    ("number", "channels", "length"),
    [(0, 80, 1280), (1, 40, 1280), (2, 48, 1408), (3, 48, 1536), (4, 56, 1792)],
)
def test_each_model_of_birds_is_told_and_every_weight_has_its_place(number, channels, length):
    network = TNet(TNetConfig.fine_grained(BIRDS, f"tf_efficientnet_b{number}"))
    renumber(network, torch.Generator().manual_seed(number))
    variables = authors_variables(network)
    assert variables["location_prediction/init/conv2d/kernel"].shape == (1, 1, channels, channels)
    assert variables["feature_posBurn/linear/kernel"].shape == (length // 4, length)
    assert variables["feat_weighting/se/dense_1/kernel"].shape == (length, length // 4)
    variant = guess_variant(variables)
    assert variant == Variant("birds", f"tf_efficientnet_b{number}", weighting=True, classes=7)
    assert variant.config(BIRDS) == network.config
    state = to_state_dict(variables)
    own = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert state.keys() == own.keys()
    for name, value in own.items():
        assert state[name].equal(value), name


def test_the_model_of_satellite_images(fmow):
    variant = guess_variant(fmow)
    assert variant == Variant("fmow", "tf_efficientnet_b0", weighting=False, classes=4)
    assert variant.config(tuple("abcd")) == TNetConfig.fmow(tuple("abcd"), image_px=448)
    assert variant.config(tuple("abcd"), 896) == TNetConfig.fmow(tuple("abcd"), image_px=896)
    with pytest.raises(ValueError, match="takes images of 448 or 896 px, not 500"):
        variant.config(tuple("abcd"), 500)


@pytest.mark.parametrize("classes", [200, 555])
def test_a_b0_that_averages_is_of_birds_when_it_has_their_classes(fmow, classes):
    kernel = np.zeros((1280, classes), np.float32)
    variant = guess_variant(fmow | {"feature_extraction/logits_layer/linear/kernel": kernel})
    assert (variant.family, variant.weighting) == ("birds", False)
    assert not variant.config(tuple(map(str, range(classes)))).weighting


def test_an_extra_step_in_the_names_of_the_scalings_is_no_matter(fmow):
    extra = {
        name.replace("prediction/height_", "prediction/meshgrid_positional_encoding/height_"): value
        for name, value in fmow.items()
    }
    assert extra.keys() != fmow.keys()
    assert to_state_dict(extra)["location.row_scaling"].equal(to_state_dict(fmow)["location.row_scaling"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {}, "holds no variables of the authors' TNet code"),
        (lambda v: {n: a for n, a in v.items() if "location_" not in n}, "it is a baseline network"),
        (lambda v: v | {"location_prediction_earlyLocs/conv2d/bias": np.zeros(3)}, "the BagNet model of ImageNet"),
        (lambda v: {n: a for n, a in v.items() if "part8" not in n}, "15 blocks and 1280 features"),
        (lambda v: {n: a for n, a in v.items() if "logits_layer" not in n}, "lacks the variable feature_ex.*logits"),
        (lambda v: v | {"feature_extraction/top/conv2d/kernel": np.zeros(3)}, "top/conv2d/kernel has 1 axes"),
    ],
)
def test_what_is_of_no_model_is_refused_with_the_reason(fmow, change, message):
    with pytest.raises(ValueError, match=message):
        guess_variant(change(fmow))


@pytest.mark.parametrize("name", ["feature_extraction/part9/kernel", "something/kernel", "kernel"])
def test_a_variable_without_a_place_is_named(name):
    with pytest.raises(ValueError, match="no place in TNet"):
        to_state_dict({name: np.zeros((2, 2), np.float32)})
