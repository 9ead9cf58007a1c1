"""What a model answered on labelled slides, as arrays: all that the metrics know of slides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet_cli.pipeline.card import ModelCard
from tnet_cli.pipeline.result import softmax


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Labels and answers of N slides, C classes.

    Attributes:
        class_names: The model's classes, in its order. Of two, the last is the one to be found ("positive").
        truth: int64 (N,), index of the label.
        called: int64 (N,), index of the class that was called.
        probabilities: float64 (N, C), each row summing to one.
        logits: float64 (N, C), before temperature and softmax.
        patients: N names; a slide without one has a name of its own.
    """

    class_names: tuple[str, ...]
    truth: np.ndarray
    called: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray
    patients: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many slides were judged."""
        return len(self.truth)

    @property
    def right(self) -> int:
        """How many slides were called what they are labelled."""
        return int(np.count_nonzero(self.truth == self.called))

    @property
    def is_binary(self) -> bool:
        """Whether the model knows two classes."""
        return len(self.class_names) == 2


def answers_from_logits(logits: np.ndarray, truth: Sequence[int], patients: Sequence[str], card: ModelCard) -> Answers:
    """Turn logits into answers by a card's temperature and decision threshold.

    Args:
        logits: float (N, C).
        truth: N indices of the labels.
        patients: N names.
        card: Its ``network.class_names``, ``temperature`` and ``threshold`` decide.
    """
    class_names = card.network.class_names
    table = np.asarray(logits, dtype=np.float64).reshape(len(truth), len(class_names))
    probabilities = softmax(table, card.temperature)
    called = [card.decide([float(p) for p in row]) for row in probabilities]
    return Answers(
        class_names=class_names,
        truth=np.asarray(truth, dtype=np.int64),
        called=np.asarray(called, dtype=np.int64),
        probabilities=probabilities,
        logits=table,
        patients=tuple(patients),
    )
