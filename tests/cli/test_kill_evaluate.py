"""Evaluations that are killed: the next does what is missing, and nothing tells the result from an undisturbed one."""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.test_kill import Runner, runner, timed_kills  # noqa: F401 (a fixture)
from tests.model_files import save_random, tiny_network

TIMES = {"seconds", "seconds_per_slide"}


@pytest.fixture(scope="module")
def command(small_labelled_slides, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """An evaluation of two slides and a damaged one, calibrated on two, without its folder."""
    folder = tmp_path_factory.mktemp("killed-evaluations")
    with small_labelled_slides.open(newline="") as file:
        listed = list(csv.DictReader(file))
    (folder / "damaged.tif").write_bytes(b"this is no slide")
    splits = zip(listed, ("test", "test", "validation", "validation"), strict=True)
    rows = [
        {column: small_labelled_slides.parent / row[column] for column in ("slide", "annotation")}
        | {"label": row["label"], "split": split}
        for row, split in splits
    ]
    rows.append({"slide": folder / "damaged.tif", "annotation": "", "label": "lesion", "split": "test"})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    model = save_random(folder, tiny_network(), seed=5)
    what = ["--arms", "tnet,random,coarse", "--budgets", "2,4", "--calibrate", "validation", "--bootstrap", "50"]
    return ["evaluate", folder / "labels.csv", "-m", model, "--device", "cpu", *what]


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, command, tmp_path_factory) -> tuple[Path, float]:  # noqa: F811 (the fixture)
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    started = time.monotonic()
    assert runner.run(*command, "-o", out) == 6
    return out, time.monotonic() - started


def results_in(out: Path) -> dict[str, object]:
    """Return what an evaluation has found: rows of tables, and the bytes of metrics, plots and model."""
    found: dict[str, object] = {}
    for path in out.iterdir():
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                found[path.name] = [row | dict.fromkeys(TIMES & row.keys(), "") for row in csv.DictReader(file)]
        elif path.name not in {"run.json", ".tnet"}:
            found[path.name] = path.read_bytes()
    return found


def kill_and_resume(runner: Runner, command, expected: Path, out: Path, kills: list[dict[str, Any]]) -> int:  # noqa: F811
    """Kill an evaluation at each of the given moments, then let it finish; return how many of the kills hit."""
    codes = [runner.run(*command, "-o", out, **kill) for kill in kills]
    assert set(codes) <= {-9, 6}
    assert runner.run(*command, "-o", out) == 6
    assert results_in(out) == results_in(expected)
    return codes.count(-9)


@pytest.mark.slow
def test_killed_it_goes_on(runner, command, undisturbed, tmp_path):  # noqa: F811
    expected, lasts_s = undisturbed
    kills = [*timed_kills(7, 1, 0.9 * lasts_s), {"at_step": 25}, {"at_step": 40}]
    assert kill_and_resume(runner, command, expected, tmp_path / "out", kills) >= 2


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200, 207))
def test_killed_often(runner, command, undisturbed, tmp_path, seed, record_property):  # noqa: F811
    steps = [{"at_step": int(step)} for step in np.random.default_rng(seed).integers(1, 40, 3)]
    # The first is alone: what it leaves undone may end before another moment of an undisturbed run.
    kills = timed_kills(seed, 1, 0.9 * undisturbed[1]) + steps
    hits = kill_and_resume(runner, command, undisturbed[0], tmp_path / "out", kills)
    record_property("kills", hits)
    assert hits >= 3
