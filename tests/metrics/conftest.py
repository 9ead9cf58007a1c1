"""Answers made by hand, and a tiny model for synthetic slides."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.model_files import card_of, save_random, tiny_network
from tnet_cli.evaluation.judge import answers_from_logits
from tnet_cli.metrics.predictions import Answers
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.modelfile import LoadedModel, load_model


@pytest.fixture
def make_answers() -> Callable[..., Answers]:
    """Make answers of logits or, for two classes, of probabilities of the last."""

    def make(
        truth: Sequence[int],
        *,
        logits: np.ndarray | None = None,
        probabilities: Sequence[float] | None = None,
        patients: Sequence[str] | None = None,
        classes: tuple[str, ...] = ("benign", "lesion"),
        temperature: float = 1.0,
        threshold: float = 0.5,
    ) -> Answers:
        if logits is None:
            of_last = np.asarray(probabilities, dtype=np.float64)
            logits = np.stack([np.zeros(len(of_last)), np.log(of_last) - np.log1p(-of_last)], axis=1)
        card = card_of(TNetConfig.slide(classes)).model_copy(
            update={"temperature": temperature, "threshold": threshold}
        )
        names = patients if patients is not None else [str(number) for number in range(len(truth))]
        return answers_from_logits(logits, truth, names, card)

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], LoadedModel]:
    """Load a model with random weights: three processing levels of 64 px patches."""
    path = save_random(tmp_path_factory.mktemp("models"), tiny_network(), seed=5)
    return lambda: load_model(path)
