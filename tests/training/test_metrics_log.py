"""``metrics.csv`` and ``curves.png``."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tnet_cli.errors import UsageError
from tnet_cli.inference.progress import StepReport
from tnet_cli.training import metrics_log
from tnet_cli.training.metrics_log import COLOURS, MetricsLog, draw_curves


def rows_in(path: Path) -> list[tuple[str, ...]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[0] == "time"
    return [tuple(header[1:]), *(tuple(row[1:]) for row in rows)]


def test_every_report_is_on_disk_at_once_and_new_terms_widen_the_table(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(tmp_path)
    log.step(StepReport("a", 1, 2, {"x": 0.5}))
    assert rows_in(path) == [("stage", "step", "steps", "x"), ("a", "1", "2", "0.5")]
    log.step(StepReport("a", 2, 2, {"x": 0.25}))
    log.step(StepReport("b", 1, 9, {"y": 3.0, "x": float("nan")}))
    assert rows_in(path) == [
        ("stage", "step", "steps", "x", "y"),
        ("a", "1", "2", "0.5", ""),
        ("a", "2", "2", "0.25", ""),
        ("b", "1", "9", "nan", "3"),
    ]
    assert [report.terms for report in log.reports()[:2]] == [{"x": 0.5}, {"x": 0.25}]
    log.close()


@pytest.mark.parametrize("torn", ["", "2026-01-01T00:00:00+00:00,b,3", "2026-01-01T00:00:00+00:00,b,3\n", "\ufffd"])
def test_a_resumed_run_takes_the_place_of_what_it_repeats(tmp_path, torn):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(tmp_path)
    for stage, step in (("a", 10), ("a", 20), ("validation a", 20), ("b", 1), ("b", 2)):
        log.step(StepReport(stage, step, 20, {"x": step}))
    with path.open("a") as file:
        file.write(torn)
    resumed = MetricsLog(tmp_path)
    assert [(report.stage, report.step) for report in resumed.reports()][-1] == ("b", 2)
    resumed.step(StepReport("a", 15, 20, {"x": 15}))
    assert [row[:2] for row in rows_in(path)[1:]] == [("a", "10"), ("a", "15")]
    resumed.step(StepReport("validation a", 15, 20, {"x": 1}))
    resumed.step(StepReport("a", 20, 20, {"x": 1}))
    assert [row[:2] for row in rows_in(path)[1:]] == [("a", "10"), ("a", "15"), ("validation a", "15"), ("a", "20")]


def test_tensorboard_is_told_where_it_is_installed(tmp_path, monkeypatch):
    told: list[tuple[object, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: Path) -> None:
            told.append(("open", folder.name))

        def add_scalar(self, *what: object) -> None:
            told.append(what)

        def close(self) -> None:
            told.append(("close",))

    monkeypatch.setattr(metrics_log, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    log = MetricsLog(tmp_path)
    log.step(StepReport("a", 4, 8, {"x": 0.5, "y": 2.0}))
    log.close()
    assert told == [("open", "tensorboard"), ("a/x", 0.5, 4), ("a/y", 2.0, 4), ("close",)]
    monkeypatch.setattr(metrics_log, "find_spec", lambda name: None)
    told.clear()
    MetricsLog(tmp_path).close()
    assert told == []


def test_curves_show_loss_above_and_accuracy_below(tmp_path):
    path = tmp_path / "curves.png"
    reports = [
        *(StepReport("warm-up", step, 100, {"patch": 1 - step / 200}) for step in range(10, 101, 10)),
        *(StepReport("hard", step, 50, {"accuracy": step / 50, "patch": 0.4}) for step in range(10, 51, 10)),
        StepReport("validation hard", 50, 50, {"accuracy": 0.8}),
    ]
    draw_curves(reports, path, "a run")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)

    def rows_with(colour: str) -> np.ndarray:
        wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
        return np.flatnonzero((np.abs(pixels - wanted).max(axis=2) < 12).sum(axis=1) > 3)

    accuracy, loss = rows_with(COLOURS[0]), rows_with(COLOURS[1])
    assert accuracy.min() > loss.max()
    assert loss.max() < len(pixels) / 2 + 20
    draw_curves([], path, "nothing yet")
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("content", [b"a table of mine\n1\n", "time,stage,step,steps\n".encode("utf-16"), b"time,\0\n"])
def test_what_is_no_table_of_metrics_is_not_replaced(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(UsageError, match=r"metrics\.csv: .*; move it away to go on without"):
        MetricsLog(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == content
