"""Importing whole checkpoints: what is wrong with one is a sentence, and nothing is written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.authors_forward import Extractor
from tests.tensor_bundle import authors_variables, shake, write_bundle
from tnet_cli.errors import ManifestError, ModelFileError, UsageError
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.modelfile.tensorflow.bundle import open_bundle
from tnet_cli.modelfile.tensorflow.import_model import ImportReport, import_model
from tnet_cli.modelfile.tensorflow.names import read_variables

Variables = dict[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> TNet:
    torch.manual_seed(2)
    return shake(TNet(TNetConfig.fine_grained(("a", "b", "c"))), seed=2)


@pytest.fixture(scope="module")
def variables(network: TNet) -> Variables:
    return authors_variables(network)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "to" / "birds.safetensors"


@pytest.fixture
def imported(tmp_path: Path, out: Path) -> Callable[..., ImportReport]:
    """Write variables as a checkpoint and import it."""

    def write_and_import(variables: Variables, **options: Any) -> ImportReport:
        return import_model(write_bundle(tmp_path / "from" / "ckpt-1", variables), out, **options)

    return write_and_import


def test_an_imported_model_gives_the_same_logits_to_the_last_digit(network, variables, imported, out):
    report = imported(variables)
    assert report.card.network == network.config.model_copy(update={"class_names": ("class_0", "class_1", "class_2")})
    assert "give their names with --classes" in report.notes[0]
    assert report.weights == sum(parameter.numel() for parameter in network.parameters())
    loaded = load_model(out)
    assert loaded.card == report.card
    with torch.inference_mode():
        patches, positions = torch.rand(2, 3, 157, 157), torch.tensor([[0, 0, 0], [3, 1, 1]])
        everywhere = torch.ones(2, 25, dtype=torch.bool)
        ours, theirs = (each.look(patches, positions, everywhere) for each in (loaded.network, network))
        assert ours.features.equal(theirs.features)
        torch.testing.assert_close(ours.cell_log_probs, theirs.cell_log_probs, rtol=0, atol=0)
        assert loaded.network.classify([ours.features]).logits.equal(network.classify([theirs.features]).logits)


def test_the_names_are_those_of_the_reference_checkpoint(shared):
    listed = json.loads((shared / "reference" / "parity" / "fmow_448_variables.json").read_text())["variables"]
    shapes = {each["key"]: tuple(each["shape"]) for each in listed if each["key"] != "baseline_var"}
    written = authors_variables(TNet(TNetConfig.fmow(tuple(map(str, range(62))))))
    assert {name: value.shape for name, value in written.items()} == shapes


def test_the_extractor_these_tests_trust_is_the_authors(shared):
    parity = shared / "reference" / "parity"
    extractor = Extractor(read_variables(open_bundle(parity / "ckpt_fmow" / "ckpt-123")))
    with np.load(parity / "fmow_448.npz") as tensors:
        patch, cells = tensors["level1_input"][0], tensors["level1_loc_features"][0]
        vector = tensors["level1_features_raw"][0].ravel()
    ours, maps = extractor(patch, "part5_block3")
    np.testing.assert_allclose(ours, vector, rtol=0, atol=2e-5)
    np.testing.assert_allclose(maps[2::4, 2::4], cells, rtol=0, atol=5e-5)


def without(name: str) -> Callable[[Variables], Variables]:
    return lambda variables: {key: value for key, value in variables.items() if name not in key}


def changed(name: str, value: np.ndarray) -> Callable[[Variables], Variables]:
    return lambda variables: variables | {name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("location_prediction/final/conv2d/bias"), r"but lacks location\.final\.bias; is the checkpoint whole"),
        (without("height_scaling/bias"), r"but lacks location\.row_scaling"),
        (without("part3_block2/"), "an extractor of 15 blocks"),
        (without("feat_weighting/se"), r"but lacks weighting\.excite\.bias and 3 more"),
        (changed("location_prediction/more/kernel", np.ones((2, 2))), "no place in TNet"),
        (
            changed("feature_posBurn/linear/bias", np.ones(7)),
            r"position\.project\.bias has shape \(7,\), expected \(1280,\)",
        ),
        (changed("feature_posBurn/linear/bias", np.full(1280, np.nan)), "holds values that are not finite"),
        (lambda variables: {}, "holds no variables of the authors' TNet code"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(variables, imported, tmp_path, out, change, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        imported(change(variables))
    assert str(tmp_path / "from" / "ckpt-1") in str(caught.value)
    assert caught.value.exit_code == 4
    assert not out.exists()


def test_a_b0_that_averages_and_has_no_birds_classes_is_the_satellite_model(variables, imported):
    network = imported(without("feat_weighting/")(variables)).card.network
    assert (network.grid, network.cell_fraction, network.weighting) == (3, 0.5, False)


def test_nothing_of_the_users_is_replaced_unasked(variables, imported, out):
    out.parent.mkdir()
    card = out.with_suffix(".md")
    for file, what in ((card, "the card of one"), (out, "a model of tnet")):
        file.write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(UsageError, match=rf"{file.name} exists and is not {what}; give another file"):
                imported(variables, overwrite=overwrite)
        assert file.read_text() == "mine"
        file.rename(out.parent / f"mine{file.suffix}")
        file.symlink_to(out.parent / f"mine{file.suffix}")
        with pytest.raises(UsageError, match=f"{file.name} exists and is not"):
            imported(variables, overwrite=True)
        file.unlink()
    imported(variables)
    with pytest.raises(UsageError, match=r"birds\.safetensors exists; give another file, or replace it"):
        imported(variables)
    imported(variables, overwrite=True)
    assert card.read_text().startswith("# birds")
    assert [(out.parent / f"mine{suffix}").read_text() for suffix in (".md", ".safetensors")] == ["mine", "mine"]


def test_options_that_do_not_fit(variables, imported, tmp_path, out):
    with pytest.raises(UsageError, match="--image-px 896: this model takes images of 448 px, not 896"):
        imported(variables, image_px=896)
    (tmp_path / "names.txt").write_text("crow\nwren\n")
    with pytest.raises(ManifestError, match="lists 2 class names, but the model has 3 classes"):
        imported(variables, classes=tmp_path / "names.txt")
    assert not out.exists()
