"""Validation: what is said while training, and of the model as it is stored."""

import pytest

from tests.tiny_training import CONFIG, Told, settings_with, state_of
from tnet_cli.training.train import train
from tnet_cli.training.validation import WILSON, accuracy_metrics, validation_metrics


def test_validation_is_what_evaluation_would_say(tiny_inputs, tiny_slides):
    told = Told()
    settings = settings_with(rounds=0, hard_epochs=2)
    network = train(tiny_inputs[:2], CONFIG, settings, validation=tiny_inputs, progress=told)
    reports = [report for report in told.reports if report.is_validation]
    assert [(report.stage, report.step, report.steps) for report in reports] == [
        ("validation hard attention", 1, 2),
        ("validation hard attention", 2, 2),
    ]
    state = state_of(tiny_slides, settings)
    state.network.load_state_dict(network.state_dict())
    assert validation_metrics(state, tiny_slides, None) == reports[-1].terms
    assert not state.network.training
    shallow = validation_metrics(state, tiny_slides, 1)
    assert shallow is not None
    assert set(shallow) == {"accuracy", "loss"}
    assert shallow != reports[-1].terms


def test_accuracy_comes_with_wilsons_interval():
    metrics = accuracy_metrics([("a", "a")] * 8 + [("b", "a"), ("b", "b")], ["a", "b", "c"])
    z, n, p = 1.959964, 10, 0.9
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5,
    )
    assert metrics["accuracy"] == pytest.approx(0.9)
    assert metrics[WILSON] == pytest.approx([middle - half, middle + half], abs=1e-6)
    assert metrics["balanced accuracy"] == pytest.approx(0.75)
    assert metrics["right of each class"] == {"a": "8 of 8", "b": "1 of 2"}
    assert accuracy_metrics([], ["a", "b"]) == {}
