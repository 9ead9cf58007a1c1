"""Predictions made by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.model_files import card_of
from tnet_cli.evaluation.judge import predictions_from_logits
from tnet_cli.metrics.predictions import Predictions
from tnet_cli.model.config import TNetConfig


@pytest.fixture
def make_predictions() -> Callable[..., Predictions]:
    """Make predictions of logits or, for two classes, of probabilities of the last."""

    def make(
        truth: Sequence[int],
        *,
        logits: np.ndarray | None = None,
        probabilities: Sequence[float] | None = None,
        patients: Sequence[str] | None = None,
        classes: tuple[str, ...] = ("benign", "lesion"),
        temperature: float = 1.0,
    ) -> Predictions:
        if logits is None:
            of_last = np.asarray(probabilities, dtype=np.float64)
            logits = np.stack([np.zeros(len(of_last)), np.log(of_last) - np.log1p(-of_last)], axis=1)
        card = card_of(TNetConfig.slide(classes)).model_copy(update={"temperature": temperature})
        names = patients if patients is not None else [str(number) for number in range(len(truth))]
        return predictions_from_logits(logits, truth, names, card)

    return make
