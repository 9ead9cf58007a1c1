"""Module by module against the authors' numbers, from the slice of them that stands in the repository.

Tolerances as in test_parity.py: 1e-5 for probabilities, 2e-5 for features, 1e-4 for logits.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tnet_cli.model.backbone import build_backbone
from tnet_cli.model.choice import TopK
from tnet_cli.model.classification import Classification
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.location import Location
from tnet_cli.model.position import Position, encode_position
from tnet_cli.modelfile.tensorflow.names import to_state_dict

SLICE = Path(__file__).parent / "data" / "published_slice.npz"
CONFIG = TNetConfig.fmow(tuple(f"class {number}" for number in range(6)), image_px=896)


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    with np.load(SLICE) as tensors:
        return dict(tensors)


@pytest.fixture(scope="module")
def weights(numbers) -> dict[str, torch.Tensor]:
    return to_state_dict({name.removeprefix("variable|"): v for name, v in numbers.items() if "variable|" in name})


def of_module(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("step", "k"), [(1, 2), (2, 1)])
def test_the_location_module_gives_the_published_probabilities_and_cells(numbers, weights, step, k):
    location = Location(CONFIG, channels=80)
    location.load_state_dict(of_module(weights, "location."))
    cells = torch.from_numpy(numbers[f"level{step}_loc_features"]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        log_probs = location(cells, torch.ones(len(cells), 9, dtype=torch.bool))
    np.testing.assert_allclose(log_probs.exp(), numbers[f"level{step}_location_probs"], rtol=0, atol=1e-5)
    chosen = [TopK()(row.double().numpy(), k) for row in log_probs]
    np.testing.assert_array_equal(chosen, numbers[f"level{step}_selected"])


def test_the_positional_module_gives_the_published_features(numbers, weights):
    position = Position(CONFIG, feature_length=24)
    position.load_state_dict(of_module(weights, "position."))
    triplets = torch.from_numpy(numbers["level3_pos"]).long()
    assert triplets[:, 2].tolist() == [2, 2, 2, 2]
    np.testing.assert_allclose(encode_position(triplets, 320), numbers["level3_f_pos"], rtol=0, atol=1e-6)
    with torch.inference_mode():
        features = position(torch.from_numpy(numbers["level3_features_raw"]), triplets)
    np.testing.assert_allclose(features, numbers["level3_features_pos"], rtol=0, atol=2e-5)


def test_the_classifier_gives_the_published_logits(numbers, weights):
    classification = Classification(1280, 6, dropout=0.5).eval()
    classification.load_state_dict(of_module(weights, "classification."))
    with torch.inference_mode():
        logits = classification(torch.from_numpy(numbers["features_final"]))
    np.testing.assert_allclose(logits, numbers["logits"], rtol=0, atol=1e-4)


def test_the_stem_pads_and_normalises_as_published(numbers, weights):
    stem = build_backbone("tf_efficientnet_b0", 64).get_submodule("network.features.0").eval()
    stem.load_state_dict(of_module(weights, "feature.backbone.network.features.0."))
    corner = torch.from_numpy(numbers["stem_input"]).permute(2, 0, 1).unsqueeze(0)
    with torch.inference_mode():
        maps = stem(corner)[0].permute(1, 2, 0)
    np.testing.assert_allclose(maps, numbers["stem_output"], rtol=0, atol=2e-5)
