"""What a model predicted of labelled slides, as arrays: all that the metrics know of slides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Labels and predictions of N slides, C classes.

    Attributes:
        class_names: The model's classes, in its order. Of two, the last is the one to be found ("positive").
        truth: int64 (N,), index of the label.
        called: int64 (N,), index of the class that was called.
        probabilities: float64 (N, C), each row summing to one.
        logits: float64 (N, C), before calibration and softmax.
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


def softmax(logits: np.ndarray, temperature: float, bias: Sequence[float] = ()) -> np.ndarray:
    """Return class probabilities.

    Args:
        logits: (..., C) float.
        temperature: Divides the logits first.
        bias: Is added to them then, one for each class; none for zero.

    Returns:
        (..., C) float64, each row summing to one.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature + np.asarray(bias or 0.0, dtype=np.float64)
    raised = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
