"""A tiny model for synthetic slides, and slides for it."""

from collections.abc import Callable

import pytest

from tests.model_files import save_random, tiny_network
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.modelfile.modelfile import LoadedModel, load_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], LoadedModel]:
    """Load a model with random weights: three processing levels of 64 px patches."""
    path = save_random(tmp_path_factory.mktemp("models"), tiny_network(), seed=5)
    return lambda: load_model(path)


@pytest.fixture(scope="session")
def entries(small_labelled_slides) -> list[SlideInput]:
    """Four slides of 1000 px, benign and with a lesion in turn."""
    return read_manifest(small_labelled_slides)
